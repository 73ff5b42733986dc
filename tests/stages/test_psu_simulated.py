"""The PSU stage against a real BMC of ipmi_sim, read by the real ipmitool: shares, and supplies that have no row."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from probes import ipmi, psus, smbios
from probes.host import Host
from probes.psus import Place, Psu, PsuReading, Redundancy
from stages import psu, psu_places
from stages.outcome import Finding, Outcome, ReasonCode, Severity, Verdict
from stages.psu import Options
from stages.psu_judge import PsuReadings
from tests.support import round_trip
from tests.support.detection import detects, spares
from tests.support.ipmi_sim import Supply, simulated_bmc
from tests.support.recordings import text
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

needs_simulator = pytest.mark.skipif(
    not (shutil.which("ipmi_sim") and shutil.which("ipmitool")), reason="needs ipmi_sim (openipmi) and ipmitool"
)
LOAD = "import time; time.sleep(int(sys.argv[-1].rstrip('s')))\n"
ABSENT, SILENT, UNEVEN = ReasonCode.PSU_ABSENT, ReasonCode.BMC_UNREADABLE, ReasonCode.PSU_IMBALANCE


async def outcome_of(
    folder: Path, stand_ins: StandIns, *supplies: Supply, redundancy: bool = False, options: Options | None = None
) -> Outcome:
    root = folder / "root"
    (root / "dev").mkdir(parents=True)
    (root / "dev" / "ipmi0").touch()
    stand_ins.python("stress-ng", LOAD)
    context, _ = stage_context(folder / "evidence", Host(root=root, tools=stand_ins.tools()))
    asked = options or Options(duration_s=1.0)
    with simulated_bmc(folder / "bmc", stand_ins, supplies, redundancy=redundancy):
        return round_trip.judged(psu.STAGE, await psu.STAGE.run(context, asked), asked)


def told(findings: Sequence[Finding]) -> list[tuple[ReasonCode, Severity, str]]:
    return [(one.reason_code, one.severity, one.component) for one in findings]


@needs_simulator
@detects(ReasonCode.PSU_IMBALANCE, "simulated BMC (ipmi_sim) and real ipmitool: supplies of 400 and 200 W: a warning")
async def test_an_uneven_share_by_a_real_ipmitool(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins, Supply(400), Supply(200))
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert told(outcome.findings) == [(UNEVEN, Severity.WARNING, "psu:PSU1")]
    assert "PSU1 400 W, PSU2 200 W" in outcome.findings[0].message


@needs_simulator
@spares(ReasonCode.PSU_IMBALANCE, "simulated BMC (ipmi_sim) and real ipmitool: supplies of 320 and 280 W")
@spares(ReasonCode.PSU_ABSENT, "simulated BMC (ipmi_sim) and real ipmitool: two supplies that back each other up")
async def test_an_even_share_by_a_real_ipmitool(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins, Supply(320), Supply(280), redundancy=True)
    assert (outcome.verdict, outcome.findings) == (Verdict.PASS, ())
    assert outcome.coverage == {"psu:PSU1": 1.0, "psu:PSU2": 1.0}


@needs_simulator
@detects(
    ReasonCode.PSU_ABSENT, "simulated BMC (ipmi_sim): a redundancy sensor beside the row of one supply only: a warning"
)
async def test_a_second_supply_without_a_row(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins, Supply(240), redundancy=True)
    assert told(outcome.findings) == [(ABSENT, Severity.WARNING, "psu")]


@needs_simulator
@detects(
    ReasonCode.BMC_UNREADABLE, "simulated BMC (ipmi_sim): a second supply with a power sensor, and none of its state"
)
async def test_a_second_supply_without_a_state(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins, Supply(240), Supply(240, tells_state=False))
    assert outcome.verdict is Verdict.UNKNOWN
    assert told(outcome.errors) == [(SILENT, Severity.ERROR, "psu:PSU2")]


@needs_simulator
@spares(ReasonCode.PSU_ABSENT, "simulated BMC (ipmi_sim) of a machine with one supply")
@spares(ReasonCode.BMC_UNREADABLE, "simulated BMC (ipmi_sim) of a machine with one supply")
async def test_a_machine_with_one_supply(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins, Supply(240))
    assert (outcome.verdict, outcome.findings) == (Verdict.PASS, ())


# --- other sources, on readings --------------------------------------------------------------------------------------

ONE = PsuReading((Psu("PSU1", True, "Presence detected"),))


def judged(reading: PsuReading, *, expected: int | None = None, **more: object) -> Outcome:
    readings = PsuReadings(has_sensors=True, samples=(reading,), **more)  # type: ignore[arg-type]
    return round_trip.judged(psu.STAGE, readings, Options(expected_count=expected))


def test_parts_and_tables_that_name_more_supplies_leave_it_unknown() -> None:
    parts = {"PSU1 FRU": "S1", "PSU2 FRU": "S2", "Builtin FRU Device": "B"}
    for more in ({"serials": parts}, {"firmware": ("PSU1 (S1)", "PSU2 (S2)")}):
        outcome = judged(ONE, **more)
        assert outcome.verdict is Verdict.UNKNOWN
        assert told(outcome.errors) == [(SILENT, Severity.ERROR, "psu")]
    two = PsuReading((*ONE.supplies, Psu("PSU2", True, "Presence detected")))
    assert judged(two, serials=parts, firmware=("PSU0 (S1)", "PSU1 (S2)")).findings == ()
    assert judged(ONE, serials={"PSU1 FRU": "S1"}, firmware=("PSU1 (S1)",)).findings == ()


def test_a_place_whose_sensors_do_not_read_is_a_warning() -> None:
    place = PsuReading(ONE.supplies, places=(Place("PSU2", reads=False),))
    assert told(judged(place).findings) == [(ABSENT, Severity.WARNING, "psu:PSU2")]
    assert told(judged(place, expected=1).findings) == [(ABSENT, Severity.INFO, "psu:PSU2")]
    assert ReasonCode.PSU_ABSENT in {one.reason_code for one in judged(place, expected=2).errors}


def test_redundancy_is_no_riddle_where_one_supply_is_expected() -> None:
    alone = PsuReading(ONE.supplies, (Redundancy("PS Redundancy", "Fully Redundant"),))
    assert judged(alone, expected=1).findings == ()


def test_supplies_without_any_state_are_told() -> None:
    bare = PsuReading(places=(Place("PSU1", reads=True), Place("PSU2", reads=False)))
    outcome = judged(bare)
    assert told(outcome.findings) == [
        (SILENT, Severity.WARNING, "psu:PSU1"),
        (ABSENT, Severity.WARNING, "psu:PSU2"),
    ]


@pytest.mark.parametrize(
    "case", ["dell-r740xd", "dell-idrac", "dgx1-aclost", "hpe-ilo2", "node-psu2-absent", "sim-sound"]
)
def test_recorded_machines_have_no_supply_without_a_state(case: str) -> None:
    assert psus.reading_of(ipmi.rows(text("ipmitool", f"{case}-sdr.out"))).places == ()


TABLE = """Handle 0x0027, DMI type 39, 22 bytes
System Power Supply
\tLocation: {place}
\tName: PWR SPLY,750W
\tSerial Number: {serial}
\tModel Part Number: 0PJMDNA01
\tStatus: {status}
"""


def test_the_firmwares_tables() -> None:
    """The form of dmidecode 3.x; templates that vendors leave unfilled are no supplies."""
    filled = TABLE.format(place="PSU1", serial="CN1797251G0IRU", status="Present, OK")
    assert psu_places.of_firmware(smbios.parse(filled)) == ("PSU1 (CN1797251G0IRU)",)
    for other in (
        TABLE.format(place="PSU2", serial="Not Specified", status="Not Present"),
        TABLE.format(place="To Be Filled By O.E.M.", serial="To Be Filled By O.E.M.", status="Present, OK").replace(
            "0PJMDNA01", "To Be Filled By O.E.M."
        ),
        filled,
    ):
        assert len(psu_places.of_firmware(smbios.parse(filled + "\n" + other))) == 1

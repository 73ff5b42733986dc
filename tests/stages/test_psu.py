"""The PSU stage: the judge on recordings, and whole runs against stand-ins for ipmitool and the load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from probes import ipmi, psus
from probes.host import Host
from probes.ipmi import SelEntry
from probes.psus import Psu, PsuReading, Redundancy, UnitFault
from stages import psu, psu_samples
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from stages.psu import Options
from stages.psu_judge import PsuReadings
from stages.psu_samples import PsuSamples
from stages.runner import StageRun
from stages.stage import RunFacts
from tests.support import round_trip
from tests.support.detection import detects, spares
from tests.support.recordings import text
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns


def samples(*cases: str) -> PsuSamples:
    tables = (text("ipmitool", f"{case}-sdr.out") for case in cases)
    return PsuSamples([psus.reading_of(ipmi.rows(table)) for table in tables])


def judge(samples: PsuSamples, events: list[SelEntry], options: Options) -> Outcome:
    readings = PsuReadings(
        has_sensors=True,
        samples=tuple(samples.readings),
        failures=tuple(samples.failures),
        new_events=tuple(events),
    )
    return round_trip.judged(psu.STAGE, readings, options)


def errors(outcome: Outcome) -> list[tuple[ReasonCode, str]]:
    return [(finding.reason_code, finding.component) for finding in outcome.errors]


@spares(ReasonCode.PSU_FAILED, "recording of a simulated BMC (ipmi_sim) with two sound supplies")
@spares(ReasonCode.PSU_ABSENT, "recording of a simulated BMC (ipmi_sim) with two sound supplies")
@spares(ReasonCode.PSU_INPUT_LOST, "recording of a simulated BMC (ipmi_sim) with two sound supplies")
@spares(ReasonCode.PSU_REDUNDANCY_LOST, "recording of a simulated BMC (ipmi_sim) with two sound supplies")
def test_two_sound_supplies_pass() -> None:
    outcome = judge(samples("sim-sound", "sim-sound"), [], Options())
    assert outcome.verdict is Verdict.PASS
    assert outcome.coverage == {"psu:PSU1": 1.0, "psu:PSU2": 1.0}


@detects(
    ReasonCode.PSU_FAILED, "recording of a simulated BMC: supply 2 reports a failure, or predicts one, in one sample"
)
@detects(ReasonCode.PSU_ABSENT, "recording of a simulated BMC: supply 2 is gone in one sample")
@detects(ReasonCode.PSU_INPUT_LOST, "recording of a simulated BMC: supply 2 without input in one sample")
@detects(ReasonCode.PSU_REDUNDANCY_LOST, "recording of a simulated BMC: redundancy lost in one sample")
@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        ("sim-failed", ReasonCode.PSU_FAILED),
        ("sim-predictive", ReasonCode.PSU_FAILED),
        ("sim-aclost", ReasonCode.PSU_INPUT_LOST),
        ("sim-absent", ReasonCode.PSU_ABSENT),
    ],
)
def test_a_sick_supply_fails_even_in_one_sample(case: str, wanted: ReasonCode) -> None:
    outcome = judge(samples("sim-sound", case, "sim-sound"), [], Options())
    assert outcome.verdict is Verdict.FAIL
    assert (wanted, "psu:PSU2") in errors(outcome)
    assert (ReasonCode.PSU_REDUNDANCY_LOST, "psu:PSU Redundancy") in errors(outcome)


def test_a_supply_that_leaves_is_told_from_one_that_never_was_there() -> None:
    (left,) = [f for f in judge(samples("sim-sound", "sim-absent"), [], Options()).errors if "PSU2" in f.component]
    (never,) = [f for f in judge(samples("sim-absent"), [], Options()).errors if "PSU2" in f.component]
    assert "went away" in left.message
    assert "is not there" in never.message


def test_an_empty_place_is_no_fault_where_one_supply_is_all_expected() -> None:
    outcome = judge(samples("sim-absent"), [], Options(expected_count=1))
    assert outcome.verdict is Verdict.PASS
    assert {finding.severity for finding in outcome.findings} == {Severity.INFO}


def test_too_few_supplies_fail() -> None:
    outcome = judge(samples("sim-sound"), [], Options(expected_count=3))
    assert errors(outcome) == [(ReasonCode.PSU_ABSENT, "psu")]


def test_redundancy_may_be_switched_off_and_may_be_demanded() -> None:
    lost = PsuSamples([PsuReading((Psu("PSU1", True),), (Redundancy("PS Redundancy", "Redundancy Lost"),))])
    assert judge(lost, [], Options()).verdict is Verdict.FAIL
    assert judge(lost, [], Options(redundancy=False)).verdict is Verdict.PASS
    silent = PsuSamples([PsuReading((Psu("PSU1", True),))])
    assert judge(silent, [], Options(redundancy=True)).verdict is Verdict.UNKNOWN


@detects(
    ReasonCode.PSU_EVENT,
    "readings with new entries of the event log: failure, input lost, redundancy lost, supply gone",
)
@spares(ReasonCode.PSU_EVENT, "readings with new entries of the event log that tell of a repair or of temperature")
@pytest.mark.parametrize(
    ("entry", "bad"),
    [
        ("Power Supply PSU2 Status | Failure detected | Asserted", True),
        ("Power Supply #0x3b | Power Supply AC lost | Asserted", True),
        ("Power Supply PSU Redundancy | Redundancy Lost | Asserted", True),
        ("Power Supply PSU2 Status | Presence detected | Deasserted", True),
        ("Power Supply PSU2 Status | Predictive failure | Asserted", True),
        ("Power Supply PSU2 Status | Failure detected | Deasserted", False),
        ("Power Supply PSU2 Status | Presence detected | Asserted", False),
        ("Power Supply PSU Redundancy | Fully Redundant | Asserted", False),
        ("Power Supply PSU2 Status | Power Supply AC lost | Deasserted", False),
        ("Temperature CPU0 Temp | Upper Critical going high | Asserted", False),
        ("Power Supply PSU Redundancy | Redundancy Degraded from Fully Redundant | Asserted", True),
        ("Power Supply PSU2 Status | Power Supply Inactive | Asserted", False),
        ("Power Unit Pwr Unit Status | Soft-power control failure | Asserted", True),
    ],
)
def test_new_events(entry: str, bad: bool) -> None:
    outcome = judge(samples("sim-sound"), [SelEntry(7, entry)], Options())
    assert (ReasonCode.PSU_EVENT in {code for code, _ in errors(outcome)}) is bad


def shares(first: float, second: float) -> PsuSamples:
    return PsuSamples([PsuReading((Psu("PSU1", True, watts=first), Psu("PSU2", True, watts=second)))])


@detects(ReasonCode.PSU_IMBALANCE, "readings of two supplies with 400 and 200 W: a warning")
@spares(ReasonCode.PSU_IMBALANCE, "readings of two supplies with 330 and 270 W, and with 30 and 5 W")
@pytest.mark.parametrize(
    ("first", "second", "warned"), [(300, 300, False), (330, 270, False), (400, 200, True), (30, 5, False)]
)
def test_an_uneven_share_is_a_warning(first: float, second: float, warned: bool) -> None:
    outcome = judge(shares(first, second), [], Options())
    assert outcome.verdict is Verdict.PASS
    assert [finding.reason_code for finding in outcome.findings] == [ReasonCode.PSU_IMBALANCE] * warned


def test_a_bmc_that_mostly_does_not_answer_is_unknown() -> None:
    once = samples("sim-sound", "sim-sound")
    once.failures.append("silent")
    assert judge(once, [], Options()).verdict is Verdict.PASS
    often = samples("sim-sound")
    often.failures.append("silent")
    assert judge(often, [], Options()).verdict is Verdict.UNKNOWN


def test_a_bmc_without_supply_sensors() -> None:
    bare = PsuSamples([PsuReading()])
    assert judge(bare, [], Options()).verdict is Verdict.NOT_APPLICABLE
    assert judge(bare, [], Options(expected_count=2)).verdict is Verdict.UNKNOWN


def test_the_only_supply_of_a_running_machine_is_not_off() -> None:
    dead_entry = Psu("ACPI", True, "offline", source="power_supply")
    assert judge(PsuSamples([PsuReading((dead_entry,))]), [], Options()).verdict is Verdict.PASS
    other = Psu("ACPI2", True, "online", source="power_supply")
    assert judge(PsuSamples([PsuReading((dead_entry, other))]), [], Options()).verdict is Verdict.FAIL


def test_a_supply_of_the_kernels_class_that_does_not_say_whether_it_has_power_is_unknown() -> None:
    silent = Psu("ACPI", True, "", source="power_supply")
    outcome = judge(PsuSamples([PsuReading((silent,))]), [], Options())
    assert outcome.verdict is Verdict.UNKNOWN
    assert errors(outcome) == [(ReasonCode.OUTPUT_UNREADABLE, "psu:ACPI")]


def test_a_fault_of_the_power_unit_fails() -> None:
    unit = PsuReading((Psu("PSU1", True),), units=(UnitFault("Pwr Unit Status", "Failure detected"),))
    outcome = judge(PsuSamples([unit]), [], Options())
    assert errors(outcome) == [(ReasonCode.PSU_FAILED, "psu:Pwr Unit Status")]


def test_a_supply_whose_sensor_goes_away_fails() -> None:
    both, one = (Psu("PSU1", True), Psu("PSU2", True)), (Psu("PSU1", True),)
    outcome = judge(PsuSamples([PsuReading(both), PsuReading(one)]), [], Options())
    assert errors(outcome) == [(ReasonCode.PSU_ABSENT, "psu:PSU2")]


def test_a_supply_is_named_with_its_serial() -> None:
    failed = psus.reading_of(ipmi.rows(text("ipmitool", "sim-failed-sdr.out")))
    readings = PsuReadings(has_sensors=True, samples=(failed,), serials={"PSU2 FRU": "XY99", "Builtin FRU Device": "B"})
    outcome = round_trip.judged(psu.STAGE, readings, Options())
    assert outcome.message.startswith("Power supply PSU2 (serial XY99) reports a fault")


# --- whole runs ------------------------------------------------------------------------------------------------------

SOUND = text("ipmitool", "sim-sound-sdr.out")
FAILED = text("ipmitool", "sim-failed-sdr.out")
EVENTS = text("ipmitool", "sim-failed-sel.out")
LOAD = "import time; time.sleep(int(sys.argv[-1].rstrip('s')))\n"


def bmc(stand_ins: StandIns, table: str, sel_before: str = "", sel_after: str = "") -> None:
    seen = stand_ins.folder / "sel-read"
    stand_ins.python(
        "ipmitool",
        f"import pathlib; seen = pathlib.Path({str(seen)!r})\n"
        "if 'dump' in sys.argv: pathlib.Path(sys.argv[-1]).touch(); sys.exit(0)\n"
        "if 'sel' in sys.argv:\n"
        f"    sys.stdout.write({sel_after!r} if seen.exists() else {sel_before!r}); seen.touch(); sys.exit(0)\n"
        f"sys.stdout.write({table!r})\n",
    )


@pytest.fixture
def machine(tmp_path: Path, only_stand_ins: StandIns) -> Host:
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    (root / "dev" / "ipmi0").touch()
    only_stand_ins.python("stress-ng", LOAD)
    return Host(root=root, tools=only_stand_ins.tools())


async def outcome_of(tmp_path: Path, machine: Host, facts: RunFacts | None = None, **options: object) -> Outcome:
    context, _ = stage_context(tmp_path / "evidence", machine, facts=facts)
    asked = Options(**options)  # type: ignore[arg-type]
    return round_trip.judged(psu.STAGE, await psu.STAGE.run(context, asked), asked)


@spares(ReasonCode.BMC_UNREADABLE, "stand-in ipmitool that plays a sound BMC")
async def test_a_sound_machine_under_its_own_load(tmp_path: Path, machine: Host, only_stand_ins: StandIns) -> None:
    bmc(only_stand_ins, SOUND)
    outcome = await outcome_of(tmp_path, machine, duration_s=1.0)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert only_stand_ins.calls("stress-ng") == [["stress-ng", "--cpu", "0", "--timeout", "1s"]]
    assert psu_samples.earlier(tmp_path / "evidence") is not None


@detects(ReasonCode.PSU_FAILED, "stand-in ipmitool: a supply that fails under load, with its event")
@detects(ReasonCode.PSU_EVENT, "stand-in ipmitool: a supply that fails under load, with its event")
async def test_a_failed_supply_and_its_event(tmp_path: Path, machine: Host, only_stand_ins: StandIns) -> None:
    bmc(only_stand_ins, FAILED, "", EVENTS)
    outcome = await outcome_of(tmp_path, machine, duration_s=1.0)
    codes = [code for code, _ in errors(outcome)]
    assert outcome.verdict is Verdict.FAIL
    assert {ReasonCode.PSU_FAILED, ReasonCode.PSU_REDUNDANCY_LOST, ReasonCode.PSU_EVENT} <= set(codes)


@spares(ReasonCode.PSU_EVENT, "stand-in ipmitool: events of before the stage")
async def test_an_old_event_is_nobodys(tmp_path: Path, machine: Host, only_stand_ins: StandIns) -> None:
    bmc(only_stand_ins, SOUND, EVENTS, EVENTS)
    assert (await outcome_of(tmp_path, machine, duration_s=1.0)).verdict is Verdict.PASS


@detects(ReasonCode.BMC_UNREADABLE, "stand-in ipmitool that fails, prints garbage or crashes")
@pytest.mark.parametrize("body", ["sys.exit(1)\n", "print('garbage')\n", "os.kill(os.getpid(), 11)\n"])
async def test_a_bmc_that_cannot_be_read(tmp_path: Path, machine: Host, only_stand_ins: StandIns, body: str) -> None:
    only_stand_ins.python("ipmitool", body)
    outcome = await outcome_of(tmp_path, machine, duration_s=1.0)
    assert outcome.verdict is Verdict.UNKNOWN
    assert ReasonCode.BMC_UNREADABLE in {code for code, _ in errors(outcome)}


async def test_an_ipmitool_that_hangs_is_killed(
    tmp_path: Path, machine: Host, only_stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipmi, "SENSORS_LIMIT_S", 0.5)
    only_stand_ins.python("ipmitool", "import time; time.sleep(600)\n")
    outcome = await outcome_of(tmp_path, machine, duration_s=1.0)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "did not answer" in outcome.message


async def test_a_missing_ipmitool(tmp_path: Path, machine: Host) -> None:
    outcome = await outcome_of(tmp_path, machine, duration_s=1.0)
    assert [code for code, _ in errors(outcome)] == [ReasonCode.TOOL_MISSING]


@pytest.mark.parametrize("body", ["sys.exit(0)\n", "sys.exit(2)\n"])
async def test_supplies_without_load_are_not_tested(
    tmp_path: Path, machine: Host, only_stand_ins: StandIns, body: str
) -> None:
    bmc(only_stand_ins, SOUND)
    only_stand_ins.python("stress-ng", body)
    outcome = await outcome_of(tmp_path, machine, duration_s=2.0)
    assert outcome.verdict is Verdict.UNKNOWN
    assert errors(outcome) == [(ReasonCode.TOOL_FAILED, "psu")]


@pytest.mark.parametrize("stage", ["CPUStress", "GPU"])
async def test_the_samples_of_loading_stages_are_judged(
    tmp_path: Path, machine: Host, only_stand_ins: StandIns, stage: str
) -> None:
    bmc(only_stand_ins, SOUND)
    earlier = samples("sim-aclost")
    earlier.events_before = []
    folder = tmp_path / "cpu-evidence"
    folder.mkdir()
    (folder / psu_samples.FILE_NAME).write_text(earlier.to_json())
    facts = RunFacts(earlier_evidence={stage: folder})
    outcome = await outcome_of(tmp_path, machine, facts, duration_s=0.0)
    assert (ReasonCode.PSU_INPUT_LOST, "psu:PSU2") in errors(outcome)
    assert only_stand_ins.calls("stress-ng") == []


@pytest.mark.parametrize("left", [None, "{}", "not json"])
async def test_without_samples_under_load_nothing_passes(
    tmp_path: Path, machine: Host, only_stand_ins: StandIns, left: str | None
) -> None:
    bmc(only_stand_ins, SOUND)
    folder = tmp_path / "cpu-evidence"
    folder.mkdir()
    if left is not None:
        (folder / psu_samples.FILE_NAME).write_text(left)
    facts = RunFacts(earlier_evidence={"CPUStress": folder})
    outcome = await outcome_of(tmp_path, machine, facts, duration_s=0.0)
    assert errors(outcome) == [(ReasonCode.COVERAGE_LOW, "psu")]


async def test_no_bmc(tmp_path: Path, only_stand_ins: StandIns) -> None:
    bare = Host(root=tmp_path / "bare", tools=only_stand_ins.tools())
    assert (await outcome_of(tmp_path, bare)).verdict is Verdict.NOT_APPLICABLE
    assert (await outcome_of(tmp_path, bare, bmc_expected=True)).verdict is Verdict.UNKNOWN
    assert (await outcome_of(tmp_path, bare, expected_count=2)).verdict is Verdict.UNKNOWN
    (tmp_path / "bare/sys/firmware/dmi/entries/38-0").mkdir(parents=True)
    assert (await outcome_of(tmp_path, bare)).verdict is Verdict.UNKNOWN


async def test_a_cancel_ends_load_and_sampling(tmp_path: Path, machine: Host, only_stand_ins: StandIns) -> None:
    """The leak check of every async test does the rest."""
    only_stand_ins.python("ipmitool", "import time; time.sleep(600)\n")
    context, _ = stage_context(tmp_path / "evidence", machine)
    run = StageRun(psu.STAGE, {"duration_s": 60.0}, context)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

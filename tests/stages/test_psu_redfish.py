"""The PSU stage with Redfish: beside the local sensors or alone, and never a word of the password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from stages import psu, psu_redfish
from stages.options import parse_options
from stages.outcome import Outcome, ReasonCode, Verdict
from stages.runner import StageRun
from tests.support import round_trip
from tests.support.redfish_service import (
    BAY1,
    BAY2,
    PASSWORD,
    SUBSYSTEM,
    USER,
    RedfishService,
    says,
    two_sound_supplies,
)
from tests.support.stage_context import Remembering, stage_context
from tests.support.stand_ins import StandIns

LOAD = "import time; time.sleep(int(sys.argv[-1].rstrip('s')))\n"


@pytest.fixture
def machine(tmp_path: Path, only_stand_ins: StandIns) -> Host:
    """A machine without a BMC of its own to see."""
    only_stand_ins.python("stress-ng", LOAD)
    return Host(root=tmp_path / "root", tools=only_stand_ins.tools())


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return file


def parameters(service: RedfishService, password: Path, **more: Any) -> dict[str, Any]:
    return {
        "duration_s": 1.0,
        "redfish_url": f"https://127.0.0.1:{service.port}",
        "redfish_user": USER,
        "redfish_password_file": str(password),
        "redfish_fingerprint": service.certificate.fingerprint,
        **more,
    }


async def outcome_of(folder: Path, machine: Host, raw: dict[str, Any]) -> tuple[Outcome, Remembering]:
    context, listener = stage_context(folder / "evidence", machine)
    options = parse_options(psu.Options, "PSU", raw)
    return round_trip.judged(psu.STAGE, await psu.STAGE.run(context, options), options), listener


def errors(outcome: Outcome) -> list[tuple[ReasonCode, str]]:
    return [(finding.reason_code, finding.component) for finding in outcome.errors]


async def test_two_sound_supplies_pass_by_redfish_alone(tmp_path: Path, machine: Host, password: Path) -> None:
    with RedfishService(two_sound_supplies()).served(tmp_path) as service:
        outcome, listener = await outcome_of(tmp_path, machine, parameters(service, password))
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert outcome.headline == "2 power supplies sampled 1 times by Redfish"
    assert outcome.coverage == {"psu:Power Supply Bay 1": 1.0, "psu:Power Supply Bay 2": 1.0}
    assert ("power", "psu:Power Supply Bay 1", 937.4, "W") in listener.samples


CASES: list[tuple[str, dict[str, Any], tuple[ReasonCode, str]]] = [
    (BAY2, {"Status": {"State": "Enabled", "Health": "Critical"}}, (ReasonCode.PSU_FAILED, "psu:Power Supply Bay 2")),
    (BAY2, {"Status": {"State": "Absent"}}, (ReasonCode.PSU_ABSENT, "psu:Power Supply Bay 2")),
    (BAY1, {"LineInputStatus": "LossOfInput"}, (ReasonCode.PSU_INPUT_LOST, "psu:Power Supply Bay 1")),
    (
        SUBSYSTEM,
        {"PowerSupplyRedundancy": [{"Name": "Group", "Status": {"State": "Enabled", "Health": "Critical"}}]},
        (ReasonCode.PSU_REDUNDANCY_LOST, "psu:Group"),
    ),
    (BAY1, {"Status": {}, "LineInputStatus": None}, (ReasonCode.BMC_UNREADABLE, "psu:Power Supply Bay 1")),
]


@pytest.mark.parametrize(("path", "change", "wanted"), CASES)
async def test_a_sick_supply(
    tmp_path: Path, machine: Host, password: Path, path: str, change: dict[str, Any], wanted: tuple[ReasonCode, str]
) -> None:
    tree = two_sound_supplies()
    tree[path] |= change
    with RedfishService(tree).served(tmp_path) as service:
        outcome, _ = await outcome_of(tmp_path, machine, parameters(service, password))
    assert errors(outcome) == [wanted]
    if path == BAY2 and wanted[0] is ReasonCode.PSU_FAILED:
        assert "(serial 3488248)" in outcome.message


async def test_a_service_that_cannot_be_read_is_unknown(tmp_path: Path, machine: Host, password: Path) -> None:
    with RedfishService({}, {"/redfish/v1/": says(b"garbage")}).served(tmp_path) as service:
        outcome, _ = await outcome_of(tmp_path, machine, parameters(service, password))
        assert errors(outcome) == [(ReasonCode.BMC_UNREADABLE, "redfish")]
        assert outcome.verdict is Verdict.UNKNOWN
        for change in ({"redfish_password_file": "/nowhere"}, {"redfish_url": "bmc"}, {"redfish_fingerprint": "00"}):
            outcome, _ = await outcome_of(tmp_path, machine, parameters(service, password, **change))
            assert errors(outcome) == [(ReasonCode.BMC_UNREADABLE, "redfish")]


async def test_a_service_without_supplies_proves_nothing(tmp_path: Path, machine: Host, password: Path) -> None:
    tree = two_sound_supplies()
    tree["/redfish/v1/Chassis"]["Members"] = []
    with RedfishService(tree).served(tmp_path) as service:
        outcome, _ = await outcome_of(tmp_path, machine, parameters(service, password))
    assert outcome.verdict is Verdict.UNKNOWN


async def test_a_supply_that_vanishes_under_load_fails(tmp_path: Path, machine: Host, password: Path) -> None:
    whole, less = two_sound_supplies(), two_sound_supplies()
    less[f"{SUBSYSTEM}/PowerSupplies"]["Members"].pop()
    samples = []
    for tree in (whole, less):
        with RedfishService(tree).served(tmp_path) as service:
            options = parse_options(psu.Options, "PSU", parameters(service, password))
            context, _ = stage_context(tmp_path / "evidence", machine)
            watch = psu_redfish.watched(context, options)
            assert watch is not None
            await watch.take(context)
            samples += watch.samples
    readings = psu.PsuReadings(has_sensors=False, redfish=psu_redfish.RedfishReadings(tuple(samples)))
    outcome = round_trip.judged(psu.STAGE, readings, psu.Options())
    assert errors(outcome) == [(ReasonCode.PSU_ABSENT, "psu:Power Supply Bay 2")]


async def test_the_password_is_in_no_file_and_no_line(tmp_path: Path, machine: Host, password: Path) -> None:
    tree = two_sound_supplies()
    tree[BAY1]["Model"] = PASSWORD
    evidence = tmp_path / "evidence"
    with RedfishService(tree).served(tmp_path) as service:
        context, listener = stage_context(evidence, machine)
        outcome = await StageRun(psu.STAGE, parameters(service, password), context).run()
    files = [file for file in evidence.rglob("*") if file.is_file()]
    assert {"redfish.json", "readings.json", "options.json"} <= {file.name for file in files}
    for text in (*(file.read_text() for file in files), repr(listener.lines), repr(outcome)):
        assert PASSWORD not in text


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 1000, b"\xff\xfe\n"])
async def test_a_password_file_that_is_none(tmp_path: Path, machine: Host, password: Path, content: bytes) -> None:
    password.write_bytes(content)
    with RedfishService(two_sound_supplies()).served(tmp_path) as service:
        outcome, _ = await outcome_of(tmp_path, machine, parameters(service, password))
        assert service.seen == []
    assert outcome.verdict is Verdict.UNKNOWN

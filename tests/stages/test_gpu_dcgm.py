"""DCGM as one more sensor: its complaints are warnings that name the GPU, and whatever else it does is a note."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from probes.dcgm import DcgmHealth, gpus_of, health_of
from probes.host import Host
from probes.json_paths import parsed
from stages import gpu_dcgm_judge
from stages.outcome import Finding, Outcome, ReasonCode, Severity
from tests.support import nvml, recordings
from tests.support.detection import detects, spares
from tests.support.gpu_stage import H100, QUICK, errors, quick, run
from tests.support.stand_ins import StandIns

CODE = ReasonCode.GPU_DCGM_HEALTH
FIRST, SECOND = "GPU-d6a2c177-4cd8-8d01-0310-79f2720f37de", "GPU-75c4ee16-a840-6f6c-9a7b-5ed8f41598b8"
HEALTHY, SICK = (recordings.text("dcgmi", f"health-{name}.out") for name in ("healthy", "sick"))
DISCOVERY = recordings.text("dcgmi", "discovery-h100.out")


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One healthy H100, on which no load is run."""
    library = nvml.build(tmp_path / "libraries")
    nvml.script(library, {"uuid": FIRST})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    root = tmp_path / "host"
    nvml.pci_device(root, "0000:3b:00.0", *H100, "nvidia")
    return Host(root=root, tools=stand_ins.tools())


def dcgmi(stand_ins: StandIns, health: str, *, discovery: str = DISCOVERY, exit_code: int = 0) -> None:
    answers = {"health": health, "discovery": discovery}
    stand_ins.python("dcgmi", f"sys.stdout.write({answers!r}[sys.argv[1]]); sys.exit({exit_code})\n")


def of_dcgm(outcome: Outcome) -> list[Finding]:
    return [one for one in outcome.findings if one.reason_code is CODE or "DCGM" in one.message]


@spares(ReasonCode.GPU_DCGM_HEALTH, "dcgmi's answer of a real node with eight GPUs, all healthy")
async def test_a_gpu_that_dcgm_finds_healthy_has_no_finding_and_no_pass(
    machine: Host, stand_ins: StandIns, tmp_path: Path
) -> None:
    without, _ = await run(machine, tmp_path / "without")
    dcgmi(stand_ins, HEALTHY)
    outcome, _ = await run(machine, tmp_path / "with")
    assert outcome.findings == without.findings
    assert outcome.verdict is without.verdict
    assert stand_ins.calls("dcgmi") == [["dcgmi", "health", "--check", "--json"]]
    assert {one.name: one.value for one in outcome.measurements}["gpu_dcgm_incidents"] == 0


@detects(
    ReasonCode.GPU_DCGM_HEALTH,
    "made report of dcgmi on a GPU that got too hot and an NVSwitch with errors: a warning each",
)
@spares(ReasonCode.GPU_DCGM_HEALTH, "made report of dcgmi on a GPU held at its power limit, without NVLink: notes")
async def test_its_complaints_are_warnings_that_name_the_gpu(
    machine: Host, stand_ins: StandIns, tmp_path: Path
) -> None:
    dcgmi(stand_ins, SICK)
    outcome, _ = await run(machine, tmp_path)
    found = of_dcgm(outcome)
    hot, switch = (one for one in found if one.severity is Severity.WARNING)
    assert (hot.reason_code, hot.component) == (CODE, f"gpu:{SECOND}")
    assert hot.message == "DCGM reports the Thermal system of its GPU 1: Warning"
    assert hot.evidence.startswith("Detected clocks event due to thermal violation in GPU 1. Verify that the cooling")
    assert (switch.reason_code, switch.component) == (CODE, "gpu")
    assert "its NvSwitch 2: Failure" in switch.message
    assert {(one.severity, one.component) for one in found[:2]} == {(Severity.INFO, f"gpu:{FIRST}")}
    assert not [one for one in outcome.errors if one.reason_code is CODE]


async def test_it_changes_no_verdict(machine: Host, stand_ins: StandIns, tmp_path: Path) -> None:
    without, _ = await run(machine, tmp_path / "without")
    dcgmi(stand_ins, SICK)
    outcome, _ = await run(machine, tmp_path / "with")
    assert (outcome.verdict, errors(outcome)) == (without.verdict, errors(without))


NO_HELP = [
    ("no-engine", "Unable to connect to host engine"),
    ("unwatched", "Health watches not enabled"),
]


@pytest.mark.parametrize(("case", "words"), NO_HELP)
async def test_one_that_cannot_tell_is_a_note(
    machine: Host, stand_ins: StandIns, tmp_path: Path, case: str, words: str
) -> None:
    dcgmi(stand_ins, recordings.text("dcgmi", f"health-{case}.out"), exit_code=255)
    (one,) = of_dcgm((await run(machine, tmp_path))[0])
    assert (one.severity, one.component, one.reason_code) == (Severity.INFO, "gpu", ReasonCode.TOOL_FAILED)
    assert words in one.message


@pytest.mark.parametrize(
    "body",
    [
        "print('{')",
        "print('[]')",
        "print(json.dumps({'body': {'Overall Health': {'value': 'Splendid'}}}))",
        "sys.stdout.buffer.write(bytes(range(256)) * 99)",
        "os.kill(os.getpid(), 9)",
        "pass",
    ],
)
async def test_one_that_prints_garbage_or_dies_is_a_note(
    machine: Host, stand_ins: StandIns, tmp_path: Path, body: str
) -> None:
    stand_ins.python("dcgmi", f"{body}\n")
    (one,) = of_dcgm((await run(machine, tmp_path))[0])
    assert (one.severity, one.component) == (Severity.INFO, "gpu")


async def test_one_that_hangs_is_ended_and_is_a_note(machine: Host, stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.python("dcgmi", "import time; time.sleep(3600)\n")
    (one,) = of_dcgm((await run(machine, tmp_path, quick(answer_limit_s=10.0)))[0])
    assert one.severity is Severity.INFO
    assert "did not finish" in one.message


async def test_it_is_not_asked_where_the_operator_says_so(machine: Host, stand_ins: StandIns, tmp_path: Path) -> None:
    dcgmi(stand_ins, SICK)
    outcome, _ = await run(machine, tmp_path, replace(QUICK, dcgm=False))
    assert of_dcgm(outcome) == []
    assert stand_ins.calls("dcgmi") == []


async def test_a_gpu_whose_name_dcgm_does_not_tell_is_a_warning_too(
    machine: Host, stand_ins: StandIns, tmp_path: Path
) -> None:
    dcgmi(stand_ins, SICK, discovery="", exit_code=223)
    warned = [one for one in of_dcgm((await run(machine, tmp_path))[0]) if one.severity is Severity.WARNING]
    assert [one.component for one in warned] == ["gpu", "gpu"]


def test_gpus_are_told_by_dcgms_own_number() -> None:
    assert gpus_of(DISCOVERY) == {"0": FIRST, "1": SECOND}
    switches = DISCOVERY.replace("GPU ID", "Switch ID").replace("Device UUID: GPU", "Device UUID: SWX")
    assert gpus_of(switches) == {}


def test_a_machine_that_is_not_healthy_without_a_word_why_is_a_warning() -> None:
    document = json.loads(HEALTHY)
    document["body"]["Overall Health"]["value"] = "Failure"
    (finding,) = gpu_dcgm_judge.judge(DcgmHealth(*health_of(document)))
    assert (finding.severity, finding.component) == (Severity.WARNING, "gpu")
    assert finding.message == "DCGM reports the machine: Failure"


def test_an_entity_without_systems_is_judged_by_its_value() -> None:
    document = parsed(SICK)
    document["body"]["GPU"]["children"] = {"3": {"value": "Warning"}, "4": {"value": "Healthy"}}
    del document["body"]["NvSwitch"]
    _, incidents = health_of(document)
    assert [(one.entity, one.system, one.health) for one in incidents] == [("3", "", "Warning")]

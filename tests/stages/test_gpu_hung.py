"""A driver that hangs, dies or loses a GPU in the midst of the stage: the agent lives, and the GPU is named."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from probes.host import Host
from stages.outcome import ReasonCode, Verdict
from tests.support import nvml
from tests.support.detection import detects
from tests.support.gpu_stage import errors, many, quick, run, said
from tests.support.stand_ins import StandIns

SHORT = quick(duration_s=0.2)
PATIENT_S = 6.0
"""A busy machine takes seconds to start a reader that is not hung."""
HANGING = quick(duration_s=0.2, answer_limit_s=PATIENT_S)
FIRST, SICK, LAST = (f"pci:0000:{bus:02x}:00.0" for bus in (0x3B, 0x3C, 0x3D))


@pytest.mark.slow
@detects(ReasonCode.GPU_HUNG, "stand-in NVML of three H100, one of which never answers again in the midst of the stage")
async def test_the_gpu_at_which_the_driver_hangs_is_named(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{}, {"temperature": "60|61|hang"}, {"xid": "79"}])
    outcome, _ = await run(machine, tmp_path, HANGING)
    assert errors(outcome) == {
        (ReasonCode.GPU_HUNG, SICK),
        (ReasonCode.PROBE_ERROR, FIRST),
        (ReasonCode.PROBE_ERROR, LAST),
        (ReasonCode.GPU_XID, "gpu:G2"),  # what it told before is judged
    }
    assert outcome.verdict is Verdict.FAIL
    assert not nvml.hangs(library)


@pytest.mark.slow
async def test_the_agent_goes_on_while_the_driver_hangs(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{"power_mw": "hang"}])
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.05)
            beats += nvml.hangs(library)

    heart = asyncio.create_task(beat())
    try:
        outcome, _ = await run(machine, tmp_path, HANGING)
    finally:
        heart.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await heart
    assert errors(outcome) == {(ReasonCode.GPU_HUNG, FIRST)}
    assert beats > 5
    assert not nvml.hangs(library)


async def test_a_stage_that_is_cancelled_leaves_no_reader(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{"power_mw": "hang"}])
    stage = asyncio.create_task(run(machine, tmp_path, quick(answer_limit_s=600.0)))
    async with asyncio.timeout(60):
        while not nvml.hangs(library):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        stage.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage
    assert not nvml.hangs(library)


async def test_a_reader_that_dies_at_one_gpu_names_it(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{}, {"temperature": "60|crash"}])
    outcome, _ = await run(machine, tmp_path, SHORT)
    assert errors(outcome) == {(ReasonCode.TOOL_FAILED, SICK), (ReasonCode.PROBE_ERROR, FIRST)}
    assert outcome.verdict is Verdict.UNKNOWN


@detects(ReasonCode.GPU_MISSING, "stand-in NVML of an H100 that is lost in the midst of the stage, after XID 79")
async def test_a_gpu_that_falls_off_the_bus_is_named_by_its_uuid(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{}, {"handle": "ok|ok|ok|lost", "xid": "none|79"}])
    outcome, _ = await run(machine, tmp_path, SHORT)
    assert {(ReasonCode.GPU_MISSING, "gpu:G1"), (ReasonCode.GPU_XID, "gpu:G1")} <= errors(outcome)
    assert "lost" in said(outcome, ReasonCode.GPU_MISSING).lower()


@pytest.mark.parametrize("count", ["0", "1", "error"])
async def test_a_driver_that_lies_about_how_many_there_are(
    machine: Host, library: Path, tmp_path: Path, count: str
) -> None:
    many(machine, library, [{}, {}], gpus=count)
    outcome, _ = await run(machine, tmp_path, SHORT)
    assert outcome.verdict in {Verdict.FAIL, Verdict.UNKNOWN}
    assert {code for code, _ in errors(outcome)} & {ReasonCode.GPU_MISSING, ReasonCode.OUTPUT_UNREADABLE}


async def test_events_without_end_do_not_hold_the_stage(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [{"xid": "|".join(["13"] * 80)}, {"xid": "|".join(["79"] * 80)}])
    outcome, _ = await run(machine, tmp_path, SHORT)
    assert (ReasonCode.GPU_XID, "gpu:G1") in errors(outcome)


async def test_a_reader_that_cannot_start_is_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    nvml.pci_device(tmp_path, "0000:3b:00.0", "30200", "10DE:2330", "nvidia")
    outcome, _ = await run(Host(root=tmp_path, tools=stand_ins.tools()), tmp_path, SHORT)
    assert outcome.verdict is Verdict.UNKNOWN

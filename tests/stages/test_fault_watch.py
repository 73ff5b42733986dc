"""Faults that end a stage early: data lost by memory, a disk that leaves. The stage itself would go on for a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probes import counters, disks
from probes.notes import Notes
from stages import fault_watch, smart, storage
from stages.outcome import Outcome, ReasonCode, Verdict
from stages.runner import StageRun
from stages.stage import StageContext
from tests.stages.test_runner import Options, codes, stage
from tests.support.detection import detects
from tests.support.replay import host_in
from tests.support.stage_context import stage_context
from tests.support.trees import copy_of

DIMM = "sys/devices/system/edac/mc/mc0/dimm0"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fault_watch, "LOOK_S", 0.1)
    return copy_of("two-socket-raid", tmp_path)


async def ended_early(root: Path, evidence: Path, fault: Callable[[], object], **changes: object) -> Outcome:
    """What comes of a stage of a minute in which the fault arises at once."""

    async def run(context: StageContext, options: Options) -> Outcome:
        fault()
        await asyncio.sleep(60)
        return Outcome("all is well")

    context, _ = stage_context(evidence, host_in(root))
    started = time.monotonic()
    outcome = await asyncio.wait_for(StageRun(replace(stage(run), **changes), None, context).run(), 30)  # type: ignore[arg-type]
    assert time.monotonic() - started < 30
    return outcome


def puts(path: Path, text: str) -> Callable[[], object]:
    return lambda: path.write_text(text + "\n")


@detects(ReasonCode.ECC_UNCORRECTED, "recorded server of which one DIMM loses data: the stage ends early")
async def test_memory_that_loses_data_ends_the_stage(root: Path, tmp_path: Path) -> None:
    label = (root / DIMM / "dimm_label").read_text().strip()
    outcome = await ended_early(root, tmp_path / "e", puts(root / DIMM / "dimm_ue_count", "1"))
    assert outcome.verdict is Verdict.FAIL
    assert {(one.reason_code, one.component) for one in outcome.errors} == {
        (ReasonCode.ECC_UNCORRECTED, f"dimm:{label}")
    }
    assert "the stage was stopped" in outcome.message
    assert any("replace it" in one.message for one in outcome.errors), "and the counters are judged all the same"


@detects(ReasonCode.MCE_UNCORRECTED, "recorded server that counts a machine check exception: the stage ends early")
async def test_a_machine_check_exception_ends_the_stage(root: Path, tmp_path: Path) -> None:
    row = " MCE:          {}          0   Machine check exceptions"
    puts(root / "proc/interrupts", row.format(0))()
    outcome = await ended_early(root, tmp_path / "e", puts(root / "proc/interrupts", row.format(1)))
    assert set(codes(outcome)) == {ReasonCode.MCE_UNCORRECTED}


def with_bus_entry(root: Path) -> tuple[Path, str]:
    """The entry by which the kernel lists a disk of the recorded server, and the disk's component."""
    [disk] = disks.read(host_in(root), Notes())
    entry = root / "sys/dev/block" / str(disk.device_number)
    entry.parent.mkdir(parents=True)
    entry.touch()
    return entry, disk.component


@detects(ReasonCode.DISK_LOST, "recorded server whose disk leaves while another part is tested: the stage ends early")
async def test_a_disk_that_leaves_ends_a_stage_that_is_about_something_else(root: Path, tmp_path: Path) -> None:
    entry, component = with_bus_entry(root)
    outcome = await ended_early(root, tmp_path / "e", entry.unlink)
    assert (ReasonCode.DISK_LOST, component) in {(one.reason_code, one.component) for one in outcome.errors}
    assert outcome.verdict is Verdict.FAIL


async def test_a_stage_about_disks_goes_on_with_the_others(root: Path, tmp_path: Path) -> None:
    entry, _ = with_bus_entry(root)

    async def run(context: StageContext, options: Options) -> Outcome:
        entry.unlink()
        await asyncio.sleep(0.5)
        return Outcome("the others were tested")

    context, _ = stage_context(tmp_path / "e", host_in(root))
    outcome = await StageRun(replace(stage(run), follows_disks=True), None, context).run()
    assert outcome.headline == "the others were tested"
    assert storage.STAGE.follows_disks
    assert smart.STAGE.follows_disks


async def test_what_stood_before_and_what_cannot_be_read_end_nothing(root: Path) -> None:
    puts(root / DIMM / "dimm_ue_count", "3")()
    host = host_in(root)
    before = await counters.snapshot(host, limit_s=5.0)
    watch = asyncio.ensure_future(fault_watch.harm(host, before, {}, look_s=0.05))
    await asyncio.sleep(0.3)
    puts(root / DIMM / "dimm_ue_count", "no number")()
    await asyncio.sleep(0.3)
    assert not watch.done()
    puts(root / DIMM / "dimm_ue_count", "4")()
    assert (await asyncio.wait_for(watch, 10)).reason_code is ReasonCode.ECC_UNCORRECTED

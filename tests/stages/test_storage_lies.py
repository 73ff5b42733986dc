"""Disks that lie to the real fio and the real stamping process: each lie is caught, and called by its name.

The lies are told by a library that the test preloads into these programs; the product knows nothing of it. The guard
is not passed here (it would refuse a loop device): what is driven is what lies behind it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from probes import disks as disks_probe
from probes.host import Host
from probes.notes import Notes
from stages import stamps, storage_judge_write, storage_write
from stages.outcome import Finding, ReasonCode
from stages.storage_disk import Subject
from stages.storage_plan import Options
from stages.storage_readings import WriteRun
from stages.wipe_door import Writable
from stages.wipe_guard import Allowed
from tests.support.detection import detects, spares
from tests.support.loop_disks import MIB, LoopMachine, loop_machine
from tests.support.lying_disk import LyingTools
from tests.support.stand_ins import StandIns

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = 96 * MIB
"""More than the 64 MiB that are stamped without a gap."""
OPTIONS = Options(duration_s=2.0, write_fraction=0.05, retention_s=0.0, leave_blank=False)
FRAUD, MISMATCH = ReasonCode.DISK_CAPACITY_FRAUD, ReasonCode.DISK_VERIFY_MISMATCH
UNTOUCHED_BY_FIO = 1465 * 4096


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        made.add("sda", "SER-A", SIZE)
        yield made


async def write(machine: LoopMachine, fault: str, at: int, *, to: int = 0, nth: int = 0, **options: float) -> WriteRun:
    """The whole destructive test of a disk with that fault."""
    disk = machine.disks[0]
    host = Host(root=machine.root, tools=LyingTools.about(machine.tools, disk, fault, at, to=to, nth=nth))
    [found] = await disks_probe.collect(host, Notes())
    run = storage_write.Writing(Subject(found, found.component), size_bytes=SIZE)
    fd = os.open(disk.device, os.O_RDWR | os.O_DIRECT | os.O_EXCL)
    try:
        lent = Writable(fd, SIZE, Allowed("SER-A", by_override=False), None)
        changed = replace(OPTIONS, **options)  # type: ignore[arg-type]
        await storage_write.exercise(host, lent, run, changed, 1.0, lambda seconds: None)
    finally:
        os.close(fd)
    return run.done()


def findings(run: WriteRun) -> list[Finding]:
    return storage_judge_write.judge(run)[0]


def codes(run: WriteRun) -> set[ReasonCode]:
    return {finding.reason_code for finding in findings(run)}


@spares(ReasonCode.DISK_CAPACITY_FRAUD, "real loop device over that library while it does not lie")
@spares(ReasonCode.DISK_VERIFY_MISMATCH, "real loop device over that library while it does not lie")
async def test_without_a_lie_the_disk_passes(machine: LoopMachine) -> None:
    """The library is there and does nothing: what the other tests find is the lie."""
    run = await write(machine, "none", 0)
    assert findings(run) == []
    assert run.proof is not None
    assert run.proof.later is not None
    assert run.kept_bytes == run.verified_bytes == run.planned_bytes > 0.05 * SIZE


@detects(
    ReasonCode.DISK_CAPACITY_FRAUD,
    "real loop device that wraps round at a third of its size or near its end, by a library",
)
@pytest.mark.parametrize("real", [32 * MIB, 96 * MIB - 4096])
async def test_a_disk_that_wraps_round_is_a_fraud(machine: LoopMachine, real: int) -> None:
    run = await write(machine, "wrap", real)
    assert FRAUD in codes(run)
    text = next(one.message for one in findings(run) if one.reason_code is FRAUD)
    assert f"{real} bytes away" in text


@pytest.mark.parametrize("real", [32 * MIB])
async def test_a_disk_that_loses_what_is_behind_its_end_is_a_fraud(machine: LoopMachine, real: int) -> None:
    run = await write(machine, "beyond", real)
    assert FRAUD in codes(run)
    text = next(one.message for one in findings(run) if one.reason_code is FRAUD)
    assert f"nothing beyond byte {real}" in text


@detects(
    ReasonCode.DISK_VERIFY_MISMATCH,
    "real loop device that loses, keeps or misdirects a write, by a library under real fio",
)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [("drop", stamps.Kind.DROPPED), ("stuck", stamps.Kind.STUCK), ("misdirect", stamps.Kind.MISDIRECTED)],
)
@pytest.mark.parametrize("at", [6 * MIB, 84 * MIB])
async def test_a_write_that_is_lost_stuck_or_misdirected_is_found_by_fio_and_named(
    machine: LoopMachine, fault: str, kind: stamps.Kind, at: int
) -> None:
    """There fio writes for sure: the 64 blocks of its trial lie 1.5 MiB apart."""
    run = await write(machine, fault, at, to=at - 3 * MIB)
    assert codes(run) == {MISMATCH}
    assert kind in {one.kind for one in (*run.examined, *(run.proof.examples if run.proof else ()))}


@pytest.mark.parametrize(("fault", "kind"), [("drop", stamps.Kind.DROPPED), ("stuck", stamps.Kind.STUCK)])
async def test_what_fio_does_not_touch_the_stamps_do(machine: LoopMachine, fault: str, kind: stamps.Kind) -> None:
    """Of the first 64 MiB no block is left out, whatever part of the disk fio was given time for."""
    run = await write(machine, fault, UNTOUCHED_BY_FIO)
    assert run.mismatches == ()
    assert codes(run) == {MISMATCH}
    assert run.proof is not None
    assert [one.kind for one in run.proof.examples] == [kind]


async def test_data_that_flips_after_it_was_read_back_right_is_found_by_the_second_reading(
    machine: LoopMachine,
) -> None:
    # The trial's one reading of block 0, the main part's first; the main part's second is the third.
    run = await write(machine, "flip", 0, nth=3)
    assert run.mismatches == ()
    assert codes(run) == {MISMATCH}
    assert "changed later" in findings(run)[0].message


async def test_a_stamp_that_flips_later_is_found_by_its_second_reading(machine: LoopMachine) -> None:
    run = await write(machine, "flip", UNTOUCHED_BY_FIO, nth=2)
    assert run.changed == ()
    assert run.proof is not None
    assert run.proof.wrong == 0
    assert "changed later" in findings(run)[0].message


async def test_stale_data_of_an_earlier_run_is_not_taken_for_this_ones(machine: LoopMachine) -> None:
    """The earlier run left its data there (leave_blank=False); this time no write arrives at that block."""
    assert findings(await write(machine, "none", 0)) == []
    run = await write(machine, "stuck", 0)
    assert run.mismatches[0] == 0
    assert codes(run) == {MISMATCH}

"""A disk that the kernel holds down: real fio on a loop device that its control group throttles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import storage
from stages.outcome import ReasonCode, Severity
from stages.runner import StageRun
from tests.support.detection import detects
from tests.support.loop_disks import MIB, LoopMachine, loop_machine
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

BLKIO = Path("/sys/fs/cgroup/blkio")
LIMIT = "blkio.throttle.read_bps_device"
FLOOR_MB_S = 40.0
THROTTLED_MB_S = 6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not (BLKIO / LIMIT).exists(), reason="needs the blkio controller of cgroup v1"),
]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the test's own."""
    made = BLKIO / f"vetting-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        yield made


@detects(ReasonCode.DISK_SLOW, "real loop device that the kernel holds down to 6 MB/s (blkio)")
async def test_a_disk_that_the_kernel_holds_down_is_slow(
    machine: LoopMachine, stand_ins: StandIns, group: Path
) -> None:
    slow = machine.add("sda", "SLOW", 32 * MIB)
    (group / LIMIT).write_text(f"{slow.number} {THROTTLED_MB_S * 1000**2}\n")
    stand_ins.python(
        "fio",
        f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "os.execv('/usr/bin/fio', ['fio', *sys.argv[1:]])\n",
    )
    context, _ = stage_context(machine.root.parent / "evidence", machine.host)
    asked = {"duration_s": 2.0, "floor_ssd_mb_s": FLOOR_MB_S, "coverage_floor": 0.0, "unread_ceiling": 1.0}
    outcome = await StageRun(storage.STAGE, asked, context).run()
    found = [(one.component, one.severity) for one in outcome.findings if one.reason_code is ReasonCode.DISK_SLOW]
    assert found == [("disk:SLOW", Severity.ERROR)]
    rates = {one.component: one.value for one in outcome.measurements if one.name == "throughput"}
    assert rates["disk:SLOW"] < FLOOR_MB_S / 4

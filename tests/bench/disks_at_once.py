"""Whether many disks take longer than one: Storage over loop devices that the kernel throttles to a disk's speed.

    python tests/bench/disks_at_once.py FOLDER COUNT     seconds that the stage took, and its verdict, as JSON

Needs root and the blkio controller of cgroup v1 (`CGROUP`), in which this process and all it starts are put.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from probes.host import Host
from stages import storage
from stages.runner import StageRun
from tests.support.loop_disks import MIB, loop_machine
from tests.support.stage_context import stage_context

CGROUP = Path("/sys/fs/cgroup/blkio")
SIZE = 64 * MIB
BYTES_PER_S = 8_000_000
MANY = 8
OPTIONS = {
    "duration_s": 10.0,
    "until_covered": True,
    "coverage_floor": 1.0,
    "floor_hdd_mb_s": 0.0,
    "floor_ssd_mb_s": 0.0,
}


def ratio() -> float:
    """How much longer `MANY` disks take than one. Raises RuntimeError where that cannot be measured here."""
    if os.geteuid() != 0 or not (CGROUP / "blkio.throttle.read_bps_device").exists():
        raise RuntimeError("needs root and the blkio controller of cgroup v1")
    one, many = (_apart(count) for count in (1, MANY))
    return many / one


def _apart(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, __file__, folder, str(count)]
        done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    answer = json.loads(done.stdout)
    if answer["verdict"] != "pass":
        raise RuntimeError(f"Storage over {count} throttled disks: {answer}")
    return float(answer["s"])


def main(folder: Path, count: int) -> None:
    """One stage over `count` disks."""
    group = CGROUP / f"vetting-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        with loop_machine(folder / "machine", Host().tools) as machine:  # type: ignore[arg-type]
            for index in range(count):
                disk = machine.add(f"sd{chr(97 + index)}", f"SERIAL-{index}", SIZE)
                (group / "blkio.throttle.read_bps_device").write_text(f"{disk.number} {BYTES_PER_S}")
            context, _ = stage_context(folder / "evidence", machine.host)
            started = time.monotonic()
            outcome = asyncio.run(_run(context))
            took = time.monotonic() - started
    finally:
        (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
    told = [f"{finding.reason_code} {finding.component}" for finding in outcome.errors]
    sys.stdout.write(json.dumps({"s": took, "verdict": outcome.verdict, "errors": told}) + "\n")


async def _run(context):  # type: ignore[no-untyped-def]
    return await StageRun(storage.STAGE, OPTIONS, context).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

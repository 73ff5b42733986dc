"""Many disks at once: nobody waits for another, and nobody is called slow for the company it keeps.

The fio of these tests models buses: a disk gets its own rate or its share of the bus, whichever is less. All fio that
read a surface wait for each other, so that the test ends only if they truly run at once; what is counted is how many
ran beside each other, and no clock is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import storage
from stages.outcome import Outcome, ReasonCode, Severity
from stages.runner import StageRun
from tests.support.detection import detects, spares
from tests.support.loop_disks import MIB, LoopMachine, loop_machine
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

pytestmark = pytest.mark.root

OPTIONS = {"duration_s": 2.0, "coverage_floor": 0.01, "unread_ceiling": 1.0}
NEAR, FAR = "0000:00:1f.2", "0000:00:01.0"

MODEL = """
import time
folder, disks, bus_mb_s = {folder!r}, {disks!r}, {bus_mb_s}
words = [word.partition("=") for word in sys.argv[1:]]
names = [value for key, _, value in words if key == "--name"]
sizes = [int(value) for key, _, value in words if key == "--io_size"]
number = os.readlink("/proc/self/fd/" + dict((k, v) for k, _, v in words)["--filename"].rpartition("/")[2])
rdev = os.stat(number).st_rdev
bus, own = disks[f"{{os.major(rdev)}}:{{os.minor(rdev)}}"]
phase = "probe" if "sequential" in names else "surface" if "first" in names else "again"
open(f"{{folder}}/arrived-{{phase}}-{{bus}}-{{os.getpid()}}-{{rdev}}", "w").close()
here = f"{{folder}}/running-{{phase}}-{{bus}}-{{rdev}}"
open(here, "w").close()
deadline = time.monotonic() + 60
running = lambda: [one for one in os.listdir(folder) if one.startswith("running-")]
if phase != "again":
    arrived = lambda: len([one for one in os.listdir(folder) if one.startswith(f"arrived-{{phase}}-")])
    while arrived() < len(disks) and time.monotonic() < deadline:
        time.sleep(0.01)
    beside = len([one for one in disks.values() if one[0] == bus]) if arrived() == len(disks) else 0
    all_beside = arrived()
else:
    time.sleep(0.05)
    beside = len([one for one in running() if f"-{{bus}}-" in one])
    all_beside = beside
with open(f"{{folder}}/log", "a") as log:
    log.write(json.dumps([phase, bus, all_beside]) + "\\n")
rate = min(own, bus_mb_s / beside) * 1e6
jobs = []
for name, size in zip(names, sizes):
    ms = max(1, round(size / rate * 1000))
    read = {{"io_bytes": size, "runtime": ms, "clat_ns": {{"max": 2000000, "bins": {{"1000000": 9}}}}}}
    jobs.append({{"jobname": name, "error": 0, "read": read, "write": {{"io_bytes": 0, "runtime": 0}}}})
os.unlink(here)
print(json.dumps({{"fio version": "fio-3.33", "jobs": jobs}}))
"""


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        yield made


def model(machine: LoopMachine, stand_ins: StandIns, rates: dict[str, tuple[str, float]], bus_mb_s: float) -> Path:
    """Disks by serial, each on a bus and with a rate of its own; the folder with the log of who ran beside whom."""
    folder = machine.root.parent / "model"
    folder.mkdir()
    disks = {}
    for index, (serial, (bus, rate)) in enumerate(rates.items()):
        disk = machine.add(f"sd{chr(97 + index)}", serial, 64 * MIB, controller=bus)
        # The kernel counts no bytes for a fio that reads none.
        (machine.folder(disk) / "queue/iostats").write_text("0\n")
        disks[disk.number] = (bus, rate)
    stand_ins.python("fio", MODEL.format(folder=str(folder), disks=disks, bus_mb_s=bus_mb_s))
    return folder


async def run_stage(machine: LoopMachine, **parameters: object) -> Outcome:
    context, _ = stage_context(machine.root.parent / "evidence", machine.host)
    return await StageRun(storage.STAGE, OPTIONS | parameters, context).run()


def beside(folder: Path, phase: str) -> list[int]:
    """How many ran at once, for each fio of that phase."""
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return [count for one, _, count in lines if one == phase]


async def test_eight_disks_are_read_at_once_and_no_longer_than_one(machine: LoopMachine, stand_ins: StandIns) -> None:
    """Each waits until all eight are there: were they read in turns, the first would wait in vain."""
    folder = model(machine, stand_ins, {f"S{n}": (NEAR, 500.0) for n in range(8)}, bus_mb_s=8000)
    outcome = await run_stage(machine)
    assert not outcome.errors, outcome.errors
    assert beside(folder, "probe") == [8] * 8
    assert beside(folder, "surface") == [8] * 8
    assert not beside(folder, "again")


@detects(ReasonCode.DISK_SLOW, "stand-in fio: a disk of 30 MB/s among quick ones")
@spares(ReasonCode.DISK_SLOW, "stand-in fio: six quick disks that share a crowded bus with a slow one")
async def test_a_sound_disk_on_a_crowded_bus_is_not_slow_and_a_slow_one_is(
    machine: LoopMachine, stand_ins: StandIns
) -> None:
    """A quarter of the floor is what each gets beside the others; alone, all but one reach it by far."""
    rates = {f"S{n}": (NEAR, 500.0) for n in range(6)} | {"SLOW": (NEAR, 30.0), "FAR": (FAR, 500.0)}
    folder = model(machine, stand_ins, rates, bus_mb_s=280)
    outcome = await run_stage(machine)
    slow = [(one.component, one.severity) for one in outcome.findings if one.reason_code is ReasonCode.DISK_SLOW]
    assert slow == [("disk:SLOW", Severity.ERROR)]
    assert [one.component for one in outcome.errors] == ["disk:SLOW"]
    assert len(beside(folder, "again")) == 7
    assert set(beside(folder, "again")) == {1}, "a second look had company on its bus"
    rates_alone = {one.component: one.value for one in outcome.measurements if one.name == "throughput"}
    assert rates_alone["disk:S0"] > 200
    assert rates_alone["disk:SLOW"] < 50
    shared = {one.component: one.value for one in outcome.measurements if one.name == "throughput_beside_others"}
    assert shared["disk:S0"] < 50


async def test_two_buses_are_looked_at_again_at_once(machine: LoopMachine, stand_ins: StandIns) -> None:
    rates = {f"S{n}": (bus, 500.0) for n, bus in enumerate([NEAR, NEAR, NEAR, FAR, FAR, FAR])}
    folder = model(machine, stand_ins, rates, bus_mb_s=290)
    outcome = await run_stage(machine)
    assert not outcome.errors
    assert beside(folder, "again") == [1] * 6


def test_the_requests_of_many_disks_do_not_fill_the_memory() -> None:
    from stages.storage_write import MEMORY, SHALLOWEST, Writing, write_memory
    from tests.stages.test_storage_judge import SUBJECT

    for disks in (1, 2, 8, 60, 240):
        depth = Writing(SUBJECT, memory_bytes=write_memory(disks)).depth(4 * MIB)
        assert depth == SHALLOWEST or depth * disks * 4 * MIB <= MEMORY
    assert Writing(SUBJECT, memory_bytes=write_memory(8)).depth(4 * MIB) == 32

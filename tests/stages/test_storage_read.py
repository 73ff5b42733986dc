"""The stage that reads: real fio on loop devices that the test made, and stand-ins that fail in every way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from probes.host import Host
from stages import fio, storage
from stages.outcome import Finding, Outcome, ReasonCode, Verdict
from stages.runner import StageRun
from stages.stage import ExpectedDisk, RunFacts
from stages.storage_plan import edges, rest_of, spread
from tests.support.detection import detects, spares
from tests.support.loop_disks import MIB, LoopMachine, loop_machine
from tests.support.stage_context import Remembering, stage_context
from tests.support.stand_ins import StandIns

pytestmark = pytest.mark.root

# Loop devices on a busy machine have no speed that a test may rely on.
FAST = {"duration_s": 1.0, "floor_hdd_mb_s": 0.0, "floor_ssd_mb_s": 0.0, "coverage_floor": 0.01, "unread_ceiling": 1.0}


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        yield made


async def run_stage(
    machine: LoopMachine, facts: RunFacts | None = None, **parameters: object
) -> tuple[Outcome, Remembering]:
    evidence = machine.root.parent / "evidence"
    context, listener = stage_context(evidence, machine.host, facts=facts)
    return await StageRun(storage.STAGE, FAST | parameters, context).run(), listener


def codes(outcome: Outcome) -> set[ReasonCode]:
    return {finding.reason_code for finding in outcome.errors}


def fio_version() -> str:
    return subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def finding_of(outcome: Outcome, code: ReasonCode) -> Finding:
    return next(finding for finding in outcome.errors if finding.reason_code is code)


@spares(ReasonCode.DISK_IO_ERROR, "two sound real loop devices, read by the real fio")
@spares(ReasonCode.DISK_LOST, "two sound real loop devices")
@spares(ReasonCode.DISK_NOT_TESTED, "two sound real loop devices")
@spares(ReasonCode.COVERAGE_LOW, "two real loop devices, read as far as the profile asks")
@spares(ReasonCode.OUTPUT_UNREADABLE, "real fio on two loop devices")
@spares(ReasonCode.TOOL_FAILED, "real fio on two loop devices")
async def test_sound_disks_are_read_at_once_and_pass(machine: LoopMachine) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    machine.add("sdb", "SER-B", 16 * MIB + 512, rotational=True)
    outcome, listener = await run_stage(machine)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert set(outcome.coverage) == {"disk:SER-A", "disk:SER-B"}
    assert {one.name for one in outcome.measurements} == {
        *("throughput", "latency_p50", "latency_p999", "latency_max", "coverage", "longest_unread")
    }
    zones = json.loads((machine.root.parent / "evidence/zones.json").read_text())
    assert len(zones["disk:SER-A"]["zones"]) == 4
    assert {key for kind, key, _, unit in listener.samples if (kind, unit) == ("throughput", "MB/s")}
    assert listener.fractions
    assert outcome.tool_versions == {"fio": fio_version()}
    for disk in machine.disks:
        assert not any(disk.content())


@detects(ReasonCode.DISK_IO_ERROR, "real loop device whose second half cannot be read, from LBA 16384")
async def test_a_part_that_cannot_be_read_fails_with_its_lba(machine: LoopMachine) -> None:
    disk = machine.add("sda", "SER-A", 16 * MIB)
    machine.add("sdb", "SER-B", 16 * MIB)
    disk.truncate(8 * MIB)
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.FAIL
    finding = finding_of(outcome, ReasonCode.DISK_IO_ERROR)
    assert finding.component == "disk:SER-A"
    assert "LBA 16384" in finding.message
    assert all(one.component == "disk:SER-A" for one in outcome.errors)


@detects(ReasonCode.DISK_LOST, "bad drive 7: real loop device that shrinks to nothing while fio runs")
async def test_a_disk_that_shrinks_away_during_the_test_is_lost(machine: LoopMachine, stand_ins: StandIns) -> None:
    disk = machine.add("sda", "SER-A", 16 * MIB)
    stand_ins.python(
        "fio",
        f"""
import subprocess
argv = [word for word in sys.argv[1:]]
if "--name=first" in argv:
    os.truncate({str(disk.backing)!r}, 0)
    subprocess.run(["/usr/sbin/losetup", "-c", {str(disk.device)!r}], check=True)
os.execv("/usr/bin/fio", ["fio", *argv])
""",
    )
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.FAIL
    assert "size 0" in finding_of(outcome, ReasonCode.DISK_LOST).message


async def test_a_disk_that_leaves_while_others_are_read_is_lost(machine: LoopMachine, stand_ins: StandIns) -> None:
    """The last thing done to the slower disk is that the quicker one, read already, goes from sysfs."""
    gone = machine.add("sda", "SER-A", 16 * MIB)
    slow = machine.add("sdb", "SER-B", 16 * MIB)
    entry = machine.root / "sys/dev/block" / gone.number
    stand_ins.python(
        "fio",
        f"""
import subprocess, time
ended = subprocess.run(["/usr/bin/fio", *sys.argv[1:]])
fd = next(word.rpartition("/")[2] for word in sys.argv if word.startswith("--filename="))
number = os.fstat(int(fd)).st_rdev
here = f"{{os.major(number)}}:{{os.minor(number)}}"
mark = {str(machine.root / "read")!r}
if "--name=first" in sys.argv and here == {gone.number!r}:
    open(mark, "w").close()
elif "--name=first" in sys.argv and here == {slow.number!r}:
    while not os.path.exists(mark):
        time.sleep(0.05)
    time.sleep(0.5)
    os.unlink({str(entry)!r})
sys.exit(ended.returncode)
""",
    )
    outcome, _ = await run_stage(machine)
    finding = finding_of(outcome, ReasonCode.DISK_LOST)
    assert finding.component == "disk:SER-A"
    assert "left the bus" in finding.message


@detects(ReasonCode.DISK_IO_ERROR, "real loop device of which a made kernel log tells a time-out during the test")
async def test_the_kernels_word_about_a_disk_counts(machine: LoopMachine, stand_ins: StandIns) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    log = machine.root / "dev/kmsg"
    log.unlink()
    log.write_text("4,1,100,-;I/O error, dev sda, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0\n")
    line = "4,2,200,-;sd 0:0:0:0: [sda] tag#0 FAILED Result: hostbyte=DID_TIME_OUT driverbyte=DRIVER_OK\n"
    stand_ins.python(
        "fio", f"open({str(log)!r}, 'a').write({line!r})\nos.execv('/usr/bin/fio', ['fio', *sys.argv[1:]])\n"
    )
    outcome, _ = await run_stage(machine)
    finding = finding_of(outcome, ReasonCode.DISK_IO_ERROR)
    assert "DID_TIME_OUT" in finding.message
    assert "sector 8" not in finding.evidence


async def test_a_kernel_log_that_cannot_be_read_is_unknown(machine: LoopMachine) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    (machine.root / "dev/kmsg").unlink()
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.UNKNOWN
    # The second is from around the stage: the fault counters need that log as well.
    assert codes(outcome) == {ReasonCode.PROBE_ERROR, ReasonCode.OUTPUT_UNREADABLE}


SILENT_LIE = """
out = {"fio version": "fio-3.33", "jobs": []}
for word in sys.argv:
    if word.startswith("--name="):
        out["jobs"].append({"jobname": word[7:], "error": 0, "read": None, "write": {"io_bytes": 0, "runtime": 0}})
    if word.startswith("--io_size="):
        out["jobs"][-1]["read"] = {"io_bytes": int(word[10:]), "runtime": 10, "clat_ns": {}}
print(json.dumps(out))
"""


@detects(
    ReasonCode.OUTPUT_UNREADABLE,
    "stand-in fio that prints nothing, half of it, garbage, or claims reads that never were",
)
@detects(ReasonCode.TOOL_FAILED, "stand-in fio that crashes")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(0)", ReasonCode.OUTPUT_UNREADABLE),
        ("print('{\"jobs\": [')", ReasonCode.OUTPUT_UNREADABLE),
        ("print(json.dumps({'fio version': 'x', 'jobs': []}))", ReasonCode.COVERAGE_LOW),
        (SILENT_LIE, ReasonCode.OUTPUT_UNREADABLE),
        ("os.kill(os.getpid(), 11)", ReasonCode.TOOL_FAILED),
        ("print('\\x00\\xff' * 1000); sys.exit(3)", ReasonCode.OUTPUT_UNREADABLE),
    ],
)
async def test_a_fio_that_fails_or_lies_leaves_the_disk_unknown(
    machine: LoopMachine, stand_ins: StandIns, body: str, code: ReasonCode
) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    stand_ins.python("fio", body)
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.UNKNOWN, outcome.findings
    assert code in codes(outcome)


@detects(ReasonCode.TOOL_MISSING, "machine without fio")
async def test_without_fio_every_disk_is_unknown(tmp_path: Path, only_stand_ins: StandIns) -> None:
    with loop_machine(tmp_path / "machine", only_stand_ins.tools()) as machine:
        machine.add("sda", "SER-A", 16 * MIB)
        outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.UNKNOWN
    assert finding_of(outcome, ReasonCode.TOOL_MISSING).component == "disk:SER-A"


@detects(ReasonCode.COVERAGE_LOW, "real fio on a loop device, stopped after one block a zone")
async def test_too_little_time_for_the_floor_is_unknown_and_says_so(machine: LoopMachine, stand_ins: StandIns) -> None:
    """A slow disk: all that fio gets done in the time is one block a zone."""
    machine.add("sda", "SER-A", 16 * MIB)
    stand_ins.python(
        "fio",
        """
argv = [word for word in sys.argv[1:] if not word.startswith("--runtime")]
argv = [word if not word.startswith("--io_size") else "--io_size=" + argv[at - 3][5:] for at, word in enumerate(argv)]
os.execv("/usr/bin/fio", ["fio", *argv])
""",
    )
    outcome, _ = await run_stage(machine, coverage_floor=1.0)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "duration_s" in finding_of(outcome, ReasonCode.COVERAGE_LOW).message


HELD_UP = """
import pathlib
main = any(word == "--name=zone00" for word in sys.argv)
mark = pathlib.Path(__file__).with_name("held-up")
argv = sys.argv[1:]
if main and (not mark.exists() or {always}):
    mark.touch()
    block = next(word[5:] for word in argv if word.startswith("--bs="))
    at = argv.index("--name=zone00")
    argv[at:] = [word if not word.startswith("--io_size") else "--io_size=" + block for word in argv[at:]]
os.execv("/usr/bin/fio", ["fio", *argv])
"""
"""A fio whose zones are cut short after one block each."""


@spares(ReasonCode.COVERAGE_LOW, "a real loop device that stood still for a moment, read until it was covered")
async def test_zones_that_were_cut_short_are_read_to_their_end(machine: LoopMachine, stand_ins: StandIns) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    stand_ins.python("fio", HELD_UP.format(always=False))
    outcome, _ = await run_stage(machine, coverage_floor=1.0, until_covered=True, duration_s=10.0)
    assert outcome.verdict is Verdict.PASS, outcome.errors
    assert [one.value for one in outcome.measurements if one.name == "coverage"] == [1.0]


async def test_zones_that_are_cut_short_each_time_are_told(machine: LoopMachine, stand_ins: StandIns) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    stand_ins.python("fio", HELD_UP.format(always=True))
    outcome, _ = await run_stage(machine, coverage_floor=1.0, until_covered=True, duration_s=10.0)
    assert codes(outcome) == {ReasonCode.COVERAGE_LOW}


@pytest.mark.parametrize("skip", [0, 7 * 512])
def test_the_rest_of_a_zone_goes_on_where_it_was_cut(skip: int) -> None:
    def blocks(one: fio.Segment) -> list[int]:
        return [one.offset + index * (one.block + one.skip) for index in range(one.count)]

    zone = fio.Segment("zone03", 3 * MIB, MIB, 4096, 100, skip)
    rest = rest_of(zone, 41 * 4096 + 100)
    assert rest is not None
    assert blocks(zone)[41:] == blocks(rest)
    assert rest.offset + rest.length == zone.offset + zone.length
    assert rest_of(zone, zone.io_bytes) is None


@detects(ReasonCode.DISK_NOT_TESTED, "real loop device whose device node is gone, beside a sound one")
async def test_a_disk_that_cannot_be_opened_is_unknown_and_the_others_are_tested(machine: LoopMachine) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    machine.add("sdb", "SER-B", 16 * MIB)
    (machine.root / "dev/sdb").unlink()
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.UNKNOWN
    finding = finding_of(outcome, ReasonCode.DISK_NOT_TESTED)
    assert finding.component == "disk:SER-B"
    assert "No such file" in finding.message
    assert outcome.coverage["disk:SER-A"] > 0
    assert outcome.coverage["disk:SER-B"] == 0


async def test_this_machines_own_disks_are_judged_honestly(tmp_path: Path, host: Host) -> None:
    """Wherever the test runs: a disk is covered, or its name stands in an error."""
    context, _ = stage_context(tmp_path / "evidence", host)
    outcome = await StageRun(storage.STAGE, FAST, context).run()
    named = {finding.component for finding in outcome.errors}
    for component, covered in outcome.coverage.items():
        assert covered > 0 or component in named
    if not os.access("/dev/vda", os.R_OK) or outcome.coverage.get("disk:overlayblk") == 0:
        assert outcome.verdict is not Verdict.PASS


async def test_a_machine_without_disks(machine: LoopMachine) -> None:
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    outcome, _ = await run_stage(machine, RunFacts(expected_disks=(ExpectedDisk("SER-A", 1.0),)))
    assert outcome.verdict is Verdict.UNKNOWN
    assert finding_of(outcome, ReasonCode.DISK_NOT_TESTED).component == "disk:SER-A"


async def test_a_foreign_stick_is_named_and_not_judged(machine: LoopMachine) -> None:
    machine.add("sda", "STICK", 16 * MIB, removable=True)
    outcome, _ = await run_stage(machine)
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert [finding.component for finding in outcome.findings] == ["disk:STICK"]


async def test_two_disks_with_one_serial_are_both_shown(machine: LoopMachine) -> None:
    machine.add("sda", "SAME", 16 * MIB)
    machine.add("sdb", "SAME", 16 * MIB)
    outcome, _ = await run_stage(machine)
    assert set(outcome.coverage) == {"disk:SAME/sda", "disk:SAME/sdb"}


async def test_a_cancel_kills_fio_within_two_seconds(machine: LoopMachine, stand_ins: StandIns) -> None:
    machine.add("sda", "SER-A", 16 * MIB)
    started = machine.root / "started"
    stand_ins.python(
        "fio",
        f"""
import subprocess, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
open({str(started)!r}, "w").close()
time.sleep(300)
""",
    )
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    task = asyncio.ensure_future(run_stage(machine))
    while not started.exists():  # noqa: ASYNC110  # another process makes it
        await asyncio.sleep(0.02)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 2
    assert not {child.pid for child in psutil.Process().children(recursive=True)} - before


async def test_fio_reads_exactly_the_planned_blocks(machine: LoopMachine) -> None:
    """What `rw=read:SKIP` does is believed of no manual: fio's own log of requests is compared with the plan."""
    disk = machine.add("sda", "SER-A", 16 * MIB + 512)
    size = 16 * MIB + 512
    segments = (*edges(size, 65536), *spread(size, 65536, 100, 4))
    log = machine.root / "requests"
    fd = os.open(disk.device, os.O_RDONLY | os.O_DIRECT)
    try:
        argv = fio.argv(fd, segments, depth=4, extra=[f"--write_iolog={log}"])
        report = fio.parse(await machine.tools.run(*argv, timeout_s=60, pass_fds=(fd,)))
    finally:
        os.close(fd)
    assert {name: job.read_bytes for name, job in report.jobs.items()} == {one.name: one.io_bytes for one in segments}
    reads = [line.split() for line in log.read_text().splitlines() if " read " in line]
    found = sorted((int(words[-2]), int(words[-1])) for words in reads)
    planned = [
        (one.offset + index * (one.block + one.skip), one.block) for one in segments for index in range(one.count)
    ]
    assert found == sorted(planned)
    assert max(offset + length for offset, length in found) == size

"""The destructive path on loop devices that the test made: what is written, what is not, and what a lie leads to."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from probes import disks as disks_probe
from probes.notes import Notes
from stages import storage, storage_judge_write, storage_write
from stages.outcome import Outcome, ReasonCode, Verdict
from stages.runner import StageRun
from stages.stage import ExpectedDisk, RunFacts, WipeOverride
from stages.storage_disk import subjects_of
from stages.storage_plan import Options
from stages.storage_readings import WriteRun
from stages.wipe_door import WipeRefused, host_disks, open_for_writing
from tests.support.detection import detects, spares
from tests.support.loop_disks import MIB, LoopDisk, LoopMachine, loop_machine
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

pytestmark = pytest.mark.root

SIZE = 12 * MIB
FAST = {"duration_s": 2.0, "floor_hdd_mb_s": 0.0, "floor_ssd_mb_s": 0.0, "coverage_floor": 0.01, "write_fraction": 0.1}
FAST |= {"retention_s": 0.0, "unread_ceiling": 1.0}
OPTIONS = Options(duration_s=2.0, write_fraction=0.1, retention_s=0.0)
NOT_EXPECTED = ReasonCode.WIPE_REFUSED_NOT_EXPECTED
IN_USE = ReasonCode.WIPE_REFUSED_IN_USE
DATA = ReasonCode.WIPE_REFUSED_DATA_PRESENT


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        yield made


def leave(*serials: str) -> RunFacts:
    """A destructive run that expects disks of SIZE with these serials."""
    expected = tuple(ExpectedDisk(serial, SIZE / 1e9) for serial in serials)
    return RunFacts(expected_disks=expected, non_destructive=False, allow_destructive=True)


async def write(machine: LoopMachine, disk: LoopDisk, facts: RunFacts, options: Options = OPTIONS) -> WriteRun:
    """The write test of one disk, the guard before it."""
    found = list(await disks_probe.collect(machine.host, Notes()))
    subject = next(one for one in subjects_of(found) if one.disk.name == disk.name)
    return await storage_write.write_disk(
        machine.host, subject, host_disks(found), facts, options, 1.0, lambda seconds: None
    )


def codes(run: WriteRun) -> list[ReasonCode]:
    return [finding.reason_code for finding in storage_judge_write.judge(run)[0]]


@spares(ReasonCode.DISK_VERIFY_MISMATCH, "real blank loop device, written and verified by the real fio")
@spares(ReasonCode.DISK_CAPACITY_FRAUD, "real blank loop device, stamped from end to end")
@spares(ReasonCode.WIPE_REFUSED_DATA_PRESENT, "real loop device that is blank and expected")
@spares(ReasonCode.WIPE_REFUSED_NOT_EXPECTED, "real loop device that is blank and expected")
@spares(ReasonCode.WIPE_REFUSED_IN_USE, "real loop device that is blank, expected and not in use")
@pytest.mark.slow
async def test_a_blank_expected_disk_is_written_verified_proven_and_left_blank(machine: LoopMachine) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    run = await write(machine, disk, leave("SER-A"))
    assert run.refused is None
    assert codes(run) == []
    assert run.written_bytes == run.verified_bytes >= SIZE // 10
    assert run.proof is not None
    assert run.left_blank
    assert not any(disk.content())
    again = await write(machine, disk, leave("SER-A"), replace(OPTIONS, leave_blank=False))
    assert again.refused is None
    assert any(disk.content())


async def test_a_disk_of_another_pattern_gets_its_pattern_back(machine: LoopMachine) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    disk.overwrite(0, bytes.fromhex("a55a00ffdeadbeef") * (SIZE // 8))
    run = await write(machine, disk, leave("SER-A"))
    assert codes(run) == []
    assert disk.content() == bytes.fromhex("a55a00ffdeadbeef") * (SIZE // 8)


@detects(ReasonCode.WIPE_REFUSED_DATA_PRESENT, "real loop device with one byte of data")
@pytest.mark.parametrize("offset", [0, 5000, 7 * MIB, SIZE - 1])
async def test_one_byte_of_data_anywhere_that_is_looked_at_refuses(machine: LoopMachine, offset: int) -> None:
    """On this disk every block is looked at: the edges alone reach over it."""
    disk = machine.add("sda", "SER-A", SIZE)
    disk.overwrite(offset, b"x")
    before = disk.content()
    run = await write(machine, disk, leave("SER-A"))
    assert codes(run) == [DATA]
    assert disk.content() == before


def make_file_system(disk: LoopDisk) -> None:
    subprocess.run(["mkfs.ext4", "-q", disk.device], check=True)


@detects(ReasonCode.WIPE_REFUSED_DATA_PRESENT, "real loop device with an ext4 file system")
async def test_a_file_system_refuses_by_its_name_and_an_override_frees_it(machine: LoopMachine) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    make_file_system(disk)
    before = disk.content()
    run = await write(machine, disk, leave("SER-A"))
    assert codes(run) == [DATA]
    assert run.refused is not None
    assert "ext4" in run.refused.sentence
    other = replace(leave("SER-A"), override=WipeOverride(("SER-B",)), refused_serials=("SER-A",))
    assert codes(await write(machine, disk, other)) == [DATA]
    assert disk.content() == before
    named = replace(leave("SER-A"), override=WipeOverride(None), refused_serials=("SER-A",))
    assert codes(await write(machine, disk, named)) == []
    assert disk.content() != before


def no_leave(facts: RunFacts) -> RunFacts:
    return replace(facts, allow_destructive=False)


def non_destructive(facts: RunFacts) -> RunFacts:
    return replace(facts, non_destructive=True)


def of_another_size(facts: RunFacts) -> RunFacts:
    return replace(facts, expected_disks=(ExpectedDisk("SER-A", SIZE / 1e9 * 1.02),))


def unsaid(facts: RunFacts) -> RunFacts:
    return replace(facts, expected_disks=None)


@detects(
    ReasonCode.WIPE_REFUSED_NOT_EXPECTED,
    "real loop device of another size than expected, or of a run that may not destroy",
)
@pytest.mark.parametrize("change", [no_leave, non_destructive, of_another_size, unsaid])
async def test_a_run_that_may_not_destroy_writes_nothing(machine: LoopMachine, change: object) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    written_at = disk.backing.stat().st_mtime_ns
    run = await write(machine, disk, change(leave("SER-A")))  # type: ignore[operator]
    assert codes(run) == [NOT_EXPECTED]
    assert disk.backing.stat().st_mtime_ns == written_at


def mounted(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "proc/self/mountinfo").write_text(f"40 1 {disk.number} / /srv rw - ext4 /dev/sda rw\n")


def swap(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n")


def swap_unknown(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/gone partition 1 0 -2\n")


def held(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.folder(disk) / "holders/dm-0").mkdir()


def held_by_its_slave(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "sys/block/md0/slaves/sda").mkdir(parents=True)


def booted(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "proc/cmdline").write_text("quiet root=/dev/sda\n")


def no_mounts_known(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.root / "proc/self/mountinfo").unlink()


def no_holders_known(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.folder(disk) / "holders").rmdir()


def write_protected(machine: LoopMachine, disk: LoopDisk) -> None:
    (machine.folder(disk) / "ro").write_text("1\n")


@detects(
    ReasonCode.WIPE_REFUSED_IN_USE,
    "real loop device that, by a made /proc and /sys, is mounted, swap, held or booted from",
)
@pytest.mark.parametrize(
    "use",
    [mounted, swap, swap_unknown, held, held_by_its_slave, booted, no_mounts_known, no_holders_known, write_protected],
)
async def test_a_disk_in_use_or_maybe_in_use_is_never_written(machine: LoopMachine, use: object) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    use(machine, disk)  # type: ignore[operator]
    written_at = disk.backing.stat().st_mtime_ns
    facts = replace(leave("SER-A"), override=WipeOverride(("SER-A",)))
    assert codes(await write(machine, disk, facts)) == [IN_USE]
    assert disk.backing.stat().st_mtime_ns == written_at


@detects(ReasonCode.WIPE_REFUSED_IN_USE, "real loop device that another process holds exclusively")
async def test_a_disk_that_another_program_holds_exclusively_is_refused(machine: LoopMachine) -> None:
    """What a mount, ZFS or a RAID does inside the kernel, whatever sysfs says."""
    disk = machine.add("sda", "SER-A", SIZE)
    fd = os.open(disk.device, os.O_RDONLY | os.O_EXCL)
    try:
        run = await write(machine, disk, leave("SER-A"))
    finally:
        os.close(fd)
    assert codes(run) == [IN_USE]
    assert run.refused is not None
    assert "busy" in run.refused.sentence


async def test_the_descriptor_is_held_exclusively_while_it_is_lent(machine: LoopMachine) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    found = list(await disks_probe.collect(machine.host, Notes()))
    async with open_for_writing(machine.host, found[0], host_disks(found), leave("SER-A")) as lent:
        with pytest.raises(OSError, match="busy"):
            os.open(disk.device, os.O_RDONLY | os.O_EXCL)
        assert fcntl.fcntl(lent.fd, fcntl.F_GETFL) & os.O_DIRECT
        assert lent.size_bytes == SIZE
    os.close(os.open(disk.device, os.O_RDONLY | os.O_EXCL))


async def test_a_disk_that_changed_between_the_two_looks_is_refused(machine: LoopMachine, stand_ins: StandIns) -> None:
    """Hot-plug: when the blank blocks have been looked at, another disk has the name."""
    disk = machine.add("sda", "SER-A", SIZE)
    other = machine.add("sdb", "SER-B", SIZE)
    node, new = machine.root / "dev/sda", machine.root / "dev/sdb"
    stand_ins.python(
        "wipefs",
        f"""
os.unlink({str(node)!r}); os.rename({str(new)!r}, {str(node)!r})
print('{{"signatures": []}}')
""",
    )
    found = list(await disks_probe.collect(machine.host, Notes()))
    with pytest.raises(WipeRefused) as caught:
        async with open_for_writing(machine.host, found[0], host_disks(found), leave("SER-A", "SER-B")):
            pytest.fail("it was lent")
    assert caught.value.refused.code is NOT_EXPECTED
    assert not any(disk.content())
    assert not any(other.content())


SWAPS = {
    "a link to another disk": ("os.unlink(node); os.symlink(other, node)", IN_USE),
    "a plain file": ("os.unlink(node); open(node, 'wb').write(bytes(4096))", IN_USE),
    "nothing": ("os.unlink(node)", IN_USE),
    "a disk of another serial": ("open(page, 'wb').write(b'\\0\\x80\\0\\5SER-Z')", NOT_EXPECTED),
    "a disk of another size": ("os.truncate(backing, 2 * size); losetup()", NOT_EXPECTED),
    "a disk that is mounted": ("open(mounts, 'w').write(mounted)", IN_USE),
}


@pytest.mark.parametrize("becomes", SWAPS)
async def test_what_is_swapped_between_decision_and_opening_is_never_lent(
    machine: LoopMachine, stand_ins: StandIns, becomes: str
) -> None:
    """The search for signatures is the last thing before the first decision; here it meddles with the machine."""
    act, code = SWAPS[becomes]
    disk, other = machine.add("sda", "SER-A", SIZE), machine.add("sdb", "SER-B", SIZE)
    stand_ins.python(
        "wipefs",
        f"""
import subprocess
node, other, backing, size = {str(machine.root / "dev/sda")!r}, {str(other.device)!r}, {str(disk.backing)!r}, {SIZE}
page = {str(machine.folder(disk).parents[1] / "vpd_pg80")!r}
mounts, mounted = {str(machine.root / "proc/self/mountinfo")!r}, "40 1 {disk.number} / /srv rw - ext4 /dev/sda rw\\n"
losetup = lambda: subprocess.run(["/usr/sbin/losetup", "-c", {str(disk.device)!r}], check=True)
if len(open(__file__.replace("wipefs", "calls.log")).readlines()) == 1:
    {act}
print('{{"signatures": []}}')
""",
    )
    found = list(await disks_probe.collect(machine.host, Notes()))
    with pytest.raises(WipeRefused) as caught:
        async with open_for_writing(machine.host, found[0], host_disks(found), leave("SER-A", "SER-B")):
            pytest.fail("it was lent")
    assert stand_ins.calls("wipefs")
    assert caught.value.refused.code is code
    assert not any(disk.content())
    assert not any(other.content())


async def test_data_that_appears_between_the_two_looks_is_seen(machine: LoopMachine, stand_ins: StandIns) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    stand_ins.python(
        "wipefs",
        """
second = len(open(__file__.replace("wipefs", "calls.log")).readlines()) > 1
print(json.dumps({"signatures": [{"type": "ext4", "offset": "0x438"}] if second else []}))
""",
    )
    run = await write(machine, disk, leave("SER-A"))
    assert codes(run) == [DATA]
    assert len(stand_ins.calls("wipefs")) == 2


@pytest.mark.parametrize("tool", ["wipefs"])
@pytest.mark.parametrize("body", ["sys.exit(1)", "print('{}')", "print('')", "os.kill(os.getpid(), 9)"])
async def test_a_search_for_data_that_fails_refuses(
    machine: LoopMachine, stand_ins: StandIns, tool: str, body: str
) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    stand_ins.python(tool, body)
    assert codes(await write(machine, disk, leave("SER-A"))) == [DATA]


# --- a disk that is written, and what it does with it ----------------------------------------------------------------


def meddling(stand_ins: StandIns, when: str, act: str) -> None:
    """A fio that does `act` just before it runs with the argument `when`, and then is the real one."""
    stand_ins.python("fio", f"if {when!r} in sys.argv:\n    {act}\nos.execv('/usr/bin/fio', ['fio', *sys.argv[1:]])\n")


@detects(ReasonCode.DISK_VERIFY_MISMATCH, "real loop device of which one byte changes between writing and reading back")
async def test_data_that_changes_after_it_was_written_is_a_mismatch(machine: LoopMachine, stand_ins: StandIns) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    meddling(
        stand_ins, "--verify_only=1", f"f = open({str(disk.backing)!r}, 'r+b'); f.seek(5000); f.write(b'x'); f.close()"
    )
    run = await write(machine, disk, leave("SER-A"))
    assert ReasonCode.DISK_VERIFY_MISMATCH in codes(run)
    assert run.mismatches == (0,)


async def test_a_fio_that_hides_its_mismatches_is_seen_through(machine: LoopMachine, stand_ins: StandIns) -> None:
    """With this option fio 3.33 ends with exit code 0 and error 0; only its messages and `total_err` tell."""
    disk = machine.add("sda", "SER-A", SIZE)
    stand_ins.python(
        "fio",
        f"""
extra = []
if "--verify_only=1" in sys.argv:
    f = open({str(disk.backing)!r}, 'r+b'); f.seek(5000); f.write(b'x'); f.close()
    extra = ["--continue_on_error=verify"]
os.execv("/usr/bin/fio", ["fio", *extra, *sys.argv[1:]])
""",
    )
    assert ReasonCode.DISK_VERIFY_MISMATCH in codes(await write(machine, disk, leave("SER-A")))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(0)", ReasonCode.OUTPUT_UNREADABLE),
        ("os.kill(os.getpid(), 11)", ReasonCode.TOOL_FAILED),
        ("print(json.dumps({'fio version': 'x', 'jobs': []}))", ReasonCode.DISK_NOT_TESTED),
    ],
)
async def test_a_fio_that_does_not_write_is_no_pass(
    machine: LoopMachine, stand_ins: StandIns, body: str, code: ReasonCode
) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    stand_ins.python("fio", body)
    assert codes(await write(machine, disk, leave("SER-A"))) == [code]


# --- the whole stage -------------------------------------------------------------------------------------------------


async def run_stage(machine: LoopMachine, facts: RunFacts) -> Outcome:
    context, _ = stage_context(machine.root.parent / "evidence", machine.host, facts=facts)
    return await StageRun(storage.STAGE, FAST, context).run()


@detects(ReasonCode.WIPE_REFUSED_NOT_EXPECTED, "real loop device that nobody expects, beside an expected one")
@detects(ReasonCode.WIPE_REFUSED_DATA_PRESENT, "real expected loop device with data, beside a blank one")
@pytest.mark.slow
async def test_on_a_mixed_host_each_disk_is_decided_on_its_own(machine: LoopMachine) -> None:
    blank, full = machine.add("sda", "BLANK", SIZE), machine.add("sdb", "FULL", SIZE)
    stranger = machine.add("sdc", "STRANGER", SIZE)
    full.overwrite(10 * MIB, b"payroll")
    before = full.content()
    outcome = await run_stage(machine, leave("BLANK", "FULL"))
    assert outcome.verdict is Verdict.FAIL
    found = {finding.component: finding.reason_code for finding in outcome.errors}
    assert found == {"disk:FULL": DATA, "disk:STRANGER": NOT_EXPECTED}
    assert full.content() == before
    assert not any(stranger.content())
    assert not any(blank.content())
    written = {one.component for one in outcome.measurements if one.name == "written_and_verified"}
    assert written == {"disk:BLANK"}
    assert set(outcome.coverage) == {"disk:BLANK", "disk:FULL", "disk:STRANGER"}


@pytest.mark.slow
async def test_a_non_destructive_run_never_starts_a_fio_that_can_write(
    machine: LoopMachine, stand_ins: StandIns
) -> None:
    disk = machine.add("sda", "SER-A", SIZE)
    stand_ins.python("fio", "os.execv('/usr/bin/fio', ['fio', *sys.argv[1:]])")
    written_at = disk.backing.stat().st_mtime_ns
    for facts in (RunFacts(), non_destructive(leave("SER-A"))):
        outcome = await run_stage(machine, facts)
        assert outcome.verdict is Verdict.PASS
    refused = await run_stage(machine, no_leave(leave("SER-A")))
    assert refused.verdict is Verdict.FAIL, "a read must not pass for the write test that was asked for"
    assert [finding.reason_code for finding in refused.errors] == [NOT_EXPECTED]
    assert stand_ins.calls("fio")
    assert all("--readonly" in call for call in stand_ins.calls("fio"))
    assert disk.backing.stat().st_mtime_ns == written_at

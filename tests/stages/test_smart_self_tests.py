"""Self-tests in the SMART stage: started, watched on each bus, ended on cancel, and never passed without a result."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from stages.outcome import ReasonCode, Severity, Verdict
from stages.smart import Options, SelfTest
from tests.support.detection import detects, spares
from tests.support.smart_stage import BAD_TEST, FAST, GOOD_TEST, NVME, SDA, SDB, codes, errors, one_disk, run
from tests.support.smartctl_player import (
    CRASHES,
    HANGS,
    NO_SUCH_DEVICE,
    RECORDINGS,
    STARTED,
    Frame,
    Player,
    ata_poll,
    ata_row,
    exit_of,
    frame,
    half,
    played,
    recording,
)
from tests.support.stand_ins import StandIns


@pytest.fixture
def player(stand_ins: StandIns) -> Player:
    return Player(stand_ins)


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Host:
    """A recorded machine on which the kernel shows no disks: all come from the scan."""
    (tmp_path / "host" / "sys" / "block").mkdir(parents=True)
    return Host(root=tmp_path / "host", tools=stand_ins.tools())


async def test_a_self_test_is_started_and_watched_to_its_end(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=GOOD_TEST)
    outcome, listener = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert player.calls("smartctl", "-t") == [["smartctl", "-d", "sat", "-t", "short", "/dev/sda"]]
    assert player.calls("smartctl", "-X") == []
    assert len(player.calls("smartctl", "-x")) == 2
    assert ("self_test", "disk:HDD-HEALTHY-1", 50.0, "%") in listener.samples
    assert listener.fractions == sorted(listener.fractions)


@spares(ReasonCode.SMART_SELF_TEST_FAILED, "stand-in smartctl: a SATA and a SAS disk whose self-tests pass")
@spares(ReasonCode.SMART_SELF_TEST_TIMEOUT, "stand-in smartctl: a SATA and a SAS disk whose self-tests pass")
@spares(ReasonCode.SMART_SELF_TEST_NOT_RUN, "stand-in smartctl: a SATA and a SAS disk whose self-tests pass")
@spares(ReasonCode.DISK_LOST, "stand-in smartctl: a SATA and a SAS disk that answer to the end")
async def test_all_disks_are_tested_at_once(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scanned(("/dev/sda", "sat"), ("/dev/sdb", "scsi"))
    player.device(SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=GOOD_TEST)
    entry = recording("scsi-failed-self-test")["scsi_self_test_0"]
    good = {**entry, "result": {"value": 0, "string": "Completed"}}
    del good["lba_first_failure"]
    base = {"smartctl": {"version": [7, 3], "exit_status": 0}, "device": {"protocol": "SCSI"}}
    polls = [frame(base), frame({**base, "scsi_self_test_0": good})]
    scsi = played("scsi-megaraid-healthy", serial_number="SAS")
    player.device(SDB, read=[scsi], start=[STARTED], poll=polls)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert len(player.calls("smartctl", "-t")) == 2


@detects(ReasonCode.SMART_SELF_TEST_FAILED, "stand-in smartctl: a disk whose self-test ends at LBA 70012345")
async def test_a_self_test_that_fails_names_the_lba(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=BAD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.SMART_SELF_TEST_FAILED, "disk:HDD-HEALTHY-1")}
    assert "70012345" in outcome.message


@detects(ReasonCode.SMART_SELF_TEST_TIMEOUT, "stand-in smartctl: a disk whose self-test stays at 50 %")
async def test_a_self_test_that_does_not_end(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=[ata_poll(0xF5)], abort=[STARTED])
    outcome, _ = await run(machine, tmp_path, Options(poll_s=0.05, deadline_factor=0.01))
    assert errors(outcome) == {(ReasonCode.SMART_SELF_TEST_TIMEOUT, "disk:HDD-HEALTHY-1")}
    assert outcome.verdict is Verdict.UNKNOWN
    assert player.calls("smartctl", "-X") == [["smartctl", "-X", "-d", "sat", "/dev/sda"]]


NO_RESULT: list[tuple[list[Frame], list[Frame]]] = [
    ([{"out": "Command failed\n", "exit": 4}], GOOD_TEST),
    ([CRASHES], GOOD_TEST),
    ([STARTED], [CRASHES]),
    ([STARTED], [NO_SUCH_DEVICE]),
    ([STARTED], [half("ata-healthy-hdd")]),
    ([STARTED], [ata_poll(0xF5), ata_poll(25, [ata_row(25, 8244)])]),  # somebody aborts it
]


@detects(
    ReasonCode.SMART_SELF_TEST_NOT_RUN,
    "stand-in smartctl: self-tests refused, crashed, aborted, cut off, without an answer",
)
async def test_a_self_test_without_a_result_never_passes(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scanned(*((f"/dev/sd{letter}", "sat") for letter in "abcdef"))
    for letter, (start, poll) in zip("abcdef", NO_RESULT, strict=True):
        read = [played("ata-healthy-hdd", serial_number=letter)]
        player.device(f"sat /dev/sd{letter}", read=read, start=start, poll=poll, abort=[STARTED])
    outcome, _ = await run(machine, tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.SMART_SELF_TEST_NOT_RUN, f"disk:{letter}") for letter in "abcdef"}
    assert outcome.verdict is Verdict.UNKNOWN


async def test_a_self_test_that_never_begins(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=[ata_poll(0)], abort=[STARTED])
    outcome, _ = await run(machine, tmp_path, Options(poll_s=0.05, deadline_factor=0.01))
    assert errors(outcome) == {(ReasonCode.SMART_SELF_TEST_NOT_RUN, "disk:HDD-HEALTHY-1")}


async def test_a_poll_may_fail_now_and_then(machine: Host, player: Player, tmp_path: Path) -> None:
    polls = [ata_poll(0xF5), CRASHES, NO_SUCH_DEVICE, *GOOD_TEST]
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=polls)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings


async def test_a_test_that_runs_already_is_waited_for(machine: Host, player: Player, tmp_path: Path) -> None:
    data = {"self_test": {"status": {"value": 0xF5}, "polling_minutes": {"short": 1}}}
    first = played("ata-healthy-hdd", ata_smart_data=data)
    one_disk(player, SDA, read=[first, played("ata-healthy-hdd")], poll=GOOD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert player.calls("smartctl", "-t") == []


async def test_a_disk_without_self_test_is_told_so(machine: Host, player: Player, tmp_path: Path) -> None:
    data = {"capabilities": {"self_tests_supported": False}}
    one_disk(player, SDA, read=[played("ata-healthy-hdd", ata_smart_data=data)])
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS
    assert codes(outcome, Severity.INFO) == {ReasonCode.SMART_SELF_TEST_NOT_RUN}


async def test_an_nvme_disk_without_self_test_is_told_so_by_smartctl_itself(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    # smartctl 7.4 on a QEMU NVMe disk: exit code 0, and no test.
    said = "smartctl 7.4 2023-08-01 r5530\n\nSelf-tests not supported\n\n"
    new = {**recording("nvme-micron")["smartctl"], "version": [7, 4]}
    one_disk(player, NVME, read=[played("nvme-micron", smartctl=new)], start=[{"out": said, "exit": 0}])
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert codes(outcome, Severity.INFO) == {ReasonCode.SMART_SELF_TEST_NOT_RUN}
    assert player.calls("smartctl", "-l") == []


async def test_a_slow_disk_is_left_out_where_only_quick_ones_are_asked_for(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    data = {"self_test": {"status": {"value": 0}, "polling_minutes": {"short": 10}}}
    one_disk(player, SDA, read=[played("ata-healthy-hdd", ata_smart_data=data)])
    outcome, _ = await run(machine, tmp_path, Options(self_test=SelfTest.SHORT_IF_QUICK))
    assert outcome.verdict is Verdict.PASS
    assert codes(outcome, Severity.INFO) == {ReasonCode.SMART_SELF_TEST_NOT_RUN}
    assert player.calls("smartctl", "-t") == []


def nvme_log(operation: int, *rows: dict[str, Any]) -> Frame:
    document = {
        "Current Device Self-Test Operation": operation,
        "Current Device Self-Test Completion": 30,
        "List of Valid Reports": list(rows),
    }
    return {"out": json.dumps(document), "exit": 0}


NVME_DEVICE = {"name": "/dev/nvme0", "type": "nvme", "protocol": "NVMe"}
GOOD_ROW = {"Self test result": 0, "Self test code": 1, "Power on hours": 3149}
HAS_TESTS: Frame = {"out": json.dumps({"oacs": 0x17}), "exit": 0}


async def test_an_old_smartctl_leaves_nvme_self_tests_to_nvme_cli(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    polls = [nvme_log(0), nvme_log(1), nvme_log(0, GOOD_ROW)]
    player.scanned(("/dev/nvme0", "nvme"))
    player.device(NVME, read=[played("nvme-healthy")])
    player.device("/dev/nvme0", id=[HAS_TESTS], start=[STARTED], poll=polls)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert player.calls("smartctl", "-t") == []
    assert player.calls("nvme", "device-self-test") == [["nvme", "device-self-test", "/dev/nvme0", "-s", "1"]]


async def test_nvme_self_tests_that_do_not_pass(machine: Host, player: Player, tmp_path: Path) -> None:
    bad_row = {**GOOD_ROW, "Self test result": 7, "Failing LBA": 5}
    refused: Frame = {"out": "NVMe status: Internal Error", "exit": 1}
    unknown: Frame = {"out": "NVMe status: Invalid Opcode", "exit": 1}
    cases: list[tuple[dict[str, list[Frame]], Severity, ReasonCode]] = [
        ({"id": [{"out": '{"oacs": 6}', "exit": 0}]}, Severity.INFO, ReasonCode.SMART_SELF_TEST_NOT_RUN),
        ({"poll": [nvme_log(0)], "start": [unknown]}, Severity.INFO, ReasonCode.SMART_SELF_TEST_NOT_RUN),
        ({"poll": [nvme_log(0)], "start": [refused]}, Severity.ERROR, ReasonCode.SMART_SELF_TEST_NOT_RUN),
        ({"poll": [{"out": "{", "exit": 0}]}, Severity.ERROR, ReasonCode.SMART_SELF_TEST_NOT_RUN),
        ({"poll": [nvme_log(0), nvme_log(0, bad_row)]}, Severity.ERROR, ReasonCode.SMART_SELF_TEST_FAILED),
    ]
    player.scanned(*((f"/dev/nvme{number}", "nvme") for number in range(len(cases))))
    for number, (frames, _, _) in enumerate(cases):
        player.device(f"nvme /dev/nvme{number}", read=[played("nvme-healthy", serial_number=f"N{number}")])
        player.device(f"/dev/nvme{number}", **{"id": [HAS_TESTS], "start": [STARTED], **frames})
    outcome, _ = await run(machine, tmp_path, FAST)
    told = {(finding.component, finding.severity, finding.reason_code) for finding in outcome.findings}
    assert told == {(f"disk:N{number}", severity, code) for number, (_, severity, code) in enumerate(cases)}


@spares(ReasonCode.SMART_SELF_TEST_NOT_RUN, "smartctl 7.4 says of QEMU's NVMe disk that it has no self-tests")
async def test_an_nvme_disk_without_self_tests_is_told_so(machine: Host, player: Player, tmp_path: Path) -> None:
    said: Frame = {"out": (RECORDINGS / "nvme-no-self-test.out").read_text(), "exit": exit_of("nvme-no-self-test")}
    smartctl = {"version": [7, 4], "exit_status": 0}
    read, poll = played("nvme-healthy", smartctl=smartctl), frame({"smartctl": smartctl, "device": NVME_DEVICE})
    player.scanned(("/dev/nvme0", "nvme"))
    player.device(NVME, read=[read], start=[said], poll=[poll], abort=[said])
    outcome, _ = await run(machine, tmp_path, Options(poll_s=0.05, deadline_factor=0.01))
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert codes(outcome, Severity.INFO) == {ReasonCode.SMART_SELF_TEST_NOT_RUN}
    assert player.calls("smartctl", "-X") == []


async def test_no_nvme_cli_where_it_is_needed(
    machine: Host, player: Player, stand_ins: StandIns, tmp_path: Path
) -> None:
    player.scanned(("/dev/nvme0", "nvme"))
    player.device(NVME, read=[played("nvme-healthy")])
    (stand_ins.folder / "nvme").unlink()
    only = StandIns(stand_ins.folder, real=False)
    outcome, _ = await run(machine.with_tools(only.tools()), tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.TOOL_MISSING, "disk:NVME-HEALTHY-1")}


async def test_counters_that_rise_during_the_stage_fail(machine: Host, player: Player, tmp_path: Path) -> None:
    log = recording("nvme-media-errors")["nvme_smart_health_information_log"]
    before = played("nvme-media-errors")
    after = played("nvme-media-errors", nvme_smart_health_information_log={**log, "media_errors": 9})
    player.scanned(("/dev/nvme0", "nvme"))
    player.device(NVME, read=[before, after])
    player.device("/dev/nvme0", id=[{"out": '{"oacs": 6}', "exit": 0}])
    outcome, _ = await run(machine, tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.DISK_MEDIA_ERRORS, "disk:NVME-MEDIA-1")}
    assert "rose from 7 to 9" in outcome.message


@detects(
    ReasonCode.DISK_LOST,
    "bad drive 7: stand-in smartctl: a WD disk that is gone when it is read again after its self-test",
)
async def test_a_disk_that_vanishes_in_mid_stage_fails(machine: Host, player: Player, tmp_path: Path) -> None:
    read = [played("ata-healthy-hdd"), NO_SUCH_DEVICE]
    one_disk(player, SDA, read=read, start=[STARTED], poll=GOOD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.DISK_LOST, "disk:HDD-HEALTHY-1")}
    assert outcome.verdict is Verdict.FAIL
    assert outcome.coverage == {"disk:HDD-HEALTHY-1": 0.0}


async def test_a_disk_that_stops_answering_in_mid_stage_is_unknown(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    read = [played("ata-healthy-hdd"), {"do": "crash"}]
    one_disk(player, SDA, read=read, start=[STARTED], poll=GOOD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert errors(outcome) == {(ReasonCode.SMART_UNREADABLE, "disk:HDD-HEALTHY-1")}


async def test_a_cancel_ends_the_self_tests_that_we_started(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[played("ata-healthy-hdd")], start=[STARTED], poll=[ata_poll(0xF5)], abort=[STARTED])
    task = asyncio.ensure_future(run(machine, tmp_path, FAST))
    while not player.calls("smartctl", "-l"):
        await asyncio.sleep(0.02)
        assert not task.done()
    loop = asyncio.get_running_loop()
    started = loop.time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loop.time() - started < 1.9
    assert player.calls("smartctl", "-X") == [["smartctl", "-X", "-d", "sat", "/dev/sda"]]


async def test_a_cancel_during_discovery_leaves_nothing(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scan = [HANGS]
    player.device(SDA)
    task = asyncio.ensure_future(run(machine, tmp_path, FAST))
    while not player.calls("smartctl", "--scan-open"):
        await asyncio.sleep(0.02)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

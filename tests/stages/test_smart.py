"""The SMART stage end to end: real processes, a smartctl that plays recordings, and every way it can go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import disks
from probes.host import Host
from probes.notes import Notes
from probes.smart import WITHOUT_SMART
from stages.outcome import ReasonCode, Severity, Verdict
from stages.smart import Options, SelfTest
from stages.stage import ExpectedDisk, RunFacts
from tests.support.detection import detects
from tests.support.smart_stage import NVME, SDA, SDB, codes, errors, one_disk, run
from tests.support.smartctl_player import (
    CRASHES,
    HANGS,
    NO_SUCH_DEVICE,
    Frame,
    Player,
    half,
    played,
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


async def test_one_bad_disk_among_good_ones_is_named(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scanned(("/dev/sda", "sat"), ("/dev/sdb", "scsi"), ("/dev/nvme0", "nvme"))
    player.device(SDA, read=[played("ata-healthy-hdd")])
    player.device(SDB, read=[played("scsi-grown-defects")])
    player.device(NVME, read=[played("nvme-media-errors")])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.DISK_MEDIA_ERRORS, "disk:SCSI-DEFECTS-1")}
    assert codes(outcome, Severity.WARNING) == {ReasonCode.DISK_REALLOCATED, ReasonCode.DISK_MEDIA_ERRORS}
    assert outcome.headline == "2 of 3 disks without fault"


BROKEN = [
    half("ata-healthy-hdd"),
    half("ata-failing-hdd"),
    CRASHES,
    NO_SUCH_DEVICE,
    {"out": "", "exit": 0},
    {"out": "Smartctl: permission denied", "exit": 2},
    {**played("ata-healthy-hdd"), "exit": 127},
    played("ata-healthy-hdd", smart_status=None),
    played("ata-healthy-hdd", smart_support={"available": True, "enabled": False}),
]


@detects(
    ReasonCode.SMART_UNREADABLE,
    "stand-in smartctl that crashes, is cut off, exits 127, prints nothing, lacks the health",
)
async def test_disks_that_cannot_be_read_never_pass(machine: Host, player: Player, tmp_path: Path) -> None:
    names = [f"/dev/sd{letter}" for letter in "abcdefghi"]
    player.scanned(("/dev/nvme0", "nvme"), *((name, "sat") for name in names))
    player.device(NVME, read=[played("nvme-healthy")])
    for name, broken in zip(names, BROKEN, strict=True):
        player.device(f"sat {name}", read=[broken])
    outcome, _ = await run(machine, tmp_path)
    assert [finding.reason_code for finding in outcome.errors] == [ReasonCode.SMART_UNREADABLE] * len(BROKEN)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.coverage.pop("disk:NVME-HEALTHY-1") == 1.0  # type: ignore[attr-defined]
    assert set(outcome.coverage.values()) == {0.0}


@detects(ReasonCode.SMART_UNREADABLE, "stand-in smartctl that freezes")
async def test_a_smartctl_that_hangs_is_killed(machine: Host, player: Player, tmp_path: Path) -> None:
    one_disk(player, SDA, read=[HANGS])
    outcome, _ = await run(machine, tmp_path, Options(self_test=SelfTest.NONE, read_limit_s=1.0))
    assert errors(outcome) == {(ReasonCode.SMART_UNREADABLE, "disk:sda")}


async def test_no_smartctl(tmp_path: Path, only_stand_ins: StandIns) -> None:
    (tmp_path / "host" / "sys" / "block").mkdir(parents=True)
    outcome, _ = await run(Host(root=tmp_path / "host", tools=only_stand_ins.tools()), tmp_path)
    assert {code for code, _ in errors(outcome)} == {ReasonCode.TOOL_MISSING}


@pytest.mark.parametrize("scan", [{"out": "{", "exit": 0}, CRASHES, NO_SUCH_DEVICE])
async def test_a_scan_that_fails_leaves_the_verdict_open(
    machine: Host, player: Player, tmp_path: Path, scan: Frame
) -> None:
    player.scan = [scan]
    player.device(SDA, read=[played("ata-healthy-hdd")])
    outcome, _ = await run(machine, tmp_path)
    assert codes(outcome, Severity.ERROR) <= {ReasonCode.OUTPUT_UNREADABLE, ReasonCode.TOOL_FAILED}
    assert outcome.verdict is Verdict.UNKNOWN


async def test_a_disk_list_that_cannot_be_read_leaves_the_verdict_open(
    tmp_path: Path, stand_ins: StandIns, player: Player
) -> None:
    player.scanned()
    outcome, _ = await run(Host(root=tmp_path / "empty", tools=stand_ins.tools()), tmp_path)
    assert {code for code, _ in errors(outcome)} == {ReasonCode.PROBE_ERROR}


async def test_no_disk_at_all_is_not_applicable(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scan = [played("scan-nothing")]
    player.device(SDA)
    outcome, _ = await run(machine, tmp_path)
    assert outcome.verdict is Verdict.NOT_APPLICABLE


async def test_an_expected_disk_that_is_nowhere_is_unknown(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scanned()
    facts = RunFacts(expected_disks=(ExpectedDisk("S123"),))
    outcome, _ = await run(machine, tmp_path, facts=facts)
    assert errors(outcome) == {(ReasonCode.SMART_UNREADABLE, "disk:S123")}


async def test_the_real_smartctl_on_the_real_machine(tmp_path: Path) -> None:
    outcome, _ = await run(Host(), tmp_path)
    listed = disks.read(Host(), Notes())
    if all(disk.transport in WITHOUT_SMART for disk in listed):
        assert outcome.verdict is Verdict.NOT_APPLICABLE
    told = {finding.component for finding in outcome.findings} | set(outcome.coverage)
    assert {disk.component for disk in listed} <= told


async def test_disks_behind_a_raid_controller_are_read(machine: Host, player: Player, tmp_path: Path) -> None:
    rows = [("/dev/sdb", "scsi"), ("/dev/bus/0", "megaraid,0"), ("/dev/bus/0", "megaraid,1")]
    player.scanned(*rows)
    player.device(SDB, read=[played("raid-volume")])
    player.device("megaraid,0 /dev/bus/0", read=[played("scsi-megaraid-healthy")])
    player.device("megaraid,1 /dev/bus/0", read=[played("scsi-grown-defects", serial_number="SECOND")])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.DISK_MEDIA_ERRORS, "disk:SECOND")}
    assert set(outcome.coverage) == {"disk:SAS-HEALTHY-1", "disk:SECOND"}


async def test_a_raid_volume_whose_disks_cannot_be_reached_is_unknown(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    one_disk(player, SDB, read=[played("raid-volume")])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.SMART_UNREADABLE, "disk:Volume1")}


async def test_disks_behind_a_smart_array_are_asked_for_one_by_one(
    machine: Host, player: Player, tmp_path: Path
) -> None:
    one_disk(player, SDB, read=[played("raid-volume", model_name="HP LOGICAL VOLUME")])
    player.device("cciss,0 /dev/sdb", read=[played("scsi-megaraid-healthy")])
    player.device("cciss,1 /dev/sdb", read=[played("scsi-grown-defects")])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.DISK_MEDIA_ERRORS, "disk:SCSI-DEFECTS-1")}
    assert set(outcome.coverage) == {"disk:SAS-HEALTHY-1", "disk:SCSI-DEFECTS-1"}

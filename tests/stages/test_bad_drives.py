"""Bad drives and healthy ones through the whole SMART stage: real processes, a stand-in smartctl that plays recordings.

Of a bad drive exactly the codes are told that it deserves, on its serial; beside it a healthy one is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from tests.support.detection import detects, spares
from tests.support.smart_stage import FAST, GOOD_TEST, NVME, SDA, SDB, one_disk, run
from tests.support.smartctl_player import STARTED, Frame, Player, exit_of, played, recording
from tests.support.stand_ins import StandIns

ERROR, WARNING = Severity.ERROR, Severity.WARNING
FAILED_ROW = {
    "type": {"value": 1, "string": "Short offline"},
    "status": {"value": 121, "string": "Completed: read failure", "passed": False},
    "lifetime_hours": 8000,
    "lba": 70012345,
}
FAILED_LOG = {"standard": {"revision": 1, "table": [FAILED_ROW], "count": 1}}
FAILING = {"passed": False}
HEALTHY = {
    "ata-healthy-hdd": "sat",
    "ata-healthy-ssd-exit-4": "sat",
    "ata-samsung-ssd": "sat",
    "ata-seagate-exos": "sat",
    "nvme-healthy": "nvme",
    "nvme-micron": "nvme",
    "nvme-old-smartctl": "nvme",
    "scsi-hitachi": "scsi",
    "scsi-megaraid-healthy": "scsi",
}


@pytest.fixture
def player(stand_ins: StandIns) -> Player:
    return Player(stand_ins)


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Host:
    """A machine on which the kernel shows no disks: all come from smartctl's scan."""
    (tmp_path / "host" / "sys" / "block").mkdir(parents=True)
    return Host(root=tmp_path / "host", tools=stand_ins.tools())


def edited(case: str, status: int | None = None, **fields: Any) -> Frame:
    """A recording with fields replaced; `status`: the exit status, in the document and of the process."""
    head = recording(case)["smartctl"]
    return played(case, smartctl=head if status is None else {**head, "exit_status": status}, **fields)


def attribute(number: int, raw: int, name: str) -> dict[str, Any]:
    old = recording("ata-healthy-hdd")["ata_smart_attributes"]["table"]
    row = {"id": number, "name": name, "value": 100, "thresh": 0, "flags": {"prefailure": False}}
    row |= {"when_failed": "", "raw": {"value": raw, "string": str(raw)}}
    return {"ata_smart_attributes": {"table": [one for one in old if one["id"] != number] + [row]}}


def endurance(percent: int) -> dict[str, Any]:
    page = {"number": 7, "table": [{"name": "Percentage Used Endurance Indicator", "value": percent}]}
    return {"ata_device_statistics": {"pages": [page]}}


def nvme(**facts: Any) -> dict[str, Any]:
    return {
        "nvme_smart_health_information_log": {
            **recording("nvme-healthy")["nvme_smart_health_information_log"],
            **facts,
        }
    }


async def told(machine: Host, player: Player, folder: Path, read: Frame) -> set[tuple[Severity, ReasonCode]]:
    """What the stage says, warnings and errors, of a drive between two healthy ones; all of it of that drive."""
    place = {"ATA": SDA, "NVMe": NVME, "SCSI": SDB}[json.loads(read["out"])["device"]["protocol"]]
    player.scanned(("/dev/sda", "sat"), ("/dev/sdb", "scsi"), ("/dev/nvme0", "nvme"))
    for other, case in ((SDA, "ata-seagate-exos"), (NVME, "nvme-micron"), (SDB, "scsi-hitachi")):
        player.device(other, read=[read if other == place else played(case)])
    outcome, _ = await run(machine, folder)
    assert len(outcome.coverage) == 3
    return serious(outcome)


def serious(outcome: Outcome) -> set[tuple[Severity, ReasonCode]]:
    """The warnings and errors, of which there are some, all of the bad drive."""
    found = [one for one in outcome.findings if one.severity is not Severity.INFO]
    assert {one.component for one in found} == {"disk:BAD"}
    assert outcome.verdict is (Verdict.FAIL if outcome.errors else Verdict.PASS)
    return {(one.severity, one.reason_code) for one in found}


def bad(case: str, status: int | None = None, **fields: Any) -> Frame:
    return edited(case, status, serial_number="BAD", **fields)


def test_the_exit_codes_of_the_bad_drives_are_those_that_were_recorded() -> None:
    cases = ("ata-failed-self-test", "ata-failing-hdd", "ata-prefail", "nvme-critical-warning")
    assert [exit_of(case) for case in cases] == [128, 8 | 16 | 64 | 128, 16, 8]


@detects(
    ReasonCode.SMART_SELF_TEST_FAILED,
    "bad drive 1: recording of a healthy WD disk, edited: a failed row in its self-test log and exit status 128",
)
async def test_a_failed_self_test_with_exit_bit_7(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("ata-failed-self-test"))
    assert found == {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}


@detects(
    ReasonCode.SMART_HEALTH_FAILED,
    "bad drive 2: recording of a healthy WD disk, edited: overall health FAILED and exit status 8",
)
async def test_disk_failing_with_exit_bit_3(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("ata-healthy-hdd", 8, smart_status=FAILING))
    assert found == {(ERROR, ReasonCode.SMART_HEALTH_FAILED)}


@detects(
    ReasonCode.SMART_HEALTH_FAILED,
    "bad drive 3: recording of a healthy WD disk, edited: overall health FAILED, failed self-test, exit status 136",
)
async def test_disk_failing_and_a_failed_self_test(machine: Host, player: Player, tmp_path: Path) -> None:
    frame = bad("ata-healthy-hdd", 8 | 128, smart_status=FAILING, ata_smart_self_test_log=FAILED_LOG)
    found = await told(machine, player, tmp_path, frame)
    assert found == {(ERROR, ReasonCode.SMART_HEALTH_FAILED), (ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}


@detects(
    ReasonCode.SMART_HEALTH_FAILED,
    "bad drive 3: recording of a failing Hitachi HDS721050DLE630, exit status 216 (bits 3, 4, 6, 7)",
)
@detects(ReasonCode.SMART_SELF_TEST_FAILED, "recording of a failing Hitachi HDS721050DLE630")
@detects(ReasonCode.SMART_PREFAIL, "recording of a failing Hitachi HDS721050DLE630, attribute 5 below its threshold")
@detects(ReasonCode.DISK_MEDIA_ERRORS, "recording of a failing Hitachi HDS721050DLE630, with pending sectors")
async def test_a_real_failing_disk(machine: Host, player: Player, tmp_path: Path) -> None:
    assert await told(machine, player, tmp_path, bad("ata-failing-hdd")) == {
        (ERROR, ReasonCode.SMART_HEALTH_FAILED),
        (ERROR, ReasonCode.SMART_PREFAIL),
        (ERROR, ReasonCode.SMART_SELF_TEST_FAILED),
        (ERROR, ReasonCode.DISK_MEDIA_ERRORS),
        (WARNING, ReasonCode.DISK_REALLOCATED),
    }


@detects(
    ReasonCode.NVME_CRITICAL_WARNING,
    "bad drive 4: recording of a Samsung MZWLL3T2HAJQ with critical_warning 0x10 (memory backup failed)",
)
async def test_an_nvme_critical_warning(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("nvme-critical-warning"))
    assert found == {(ERROR, ReasonCode.NVME_CRITICAL_WARNING)}


@detects(
    ReasonCode.SMART_SELF_TEST_FAILED,
    "bad drive 5: recording of a healthy Samsung 970, edited: a failed test in its log, status code type 2h, code 81h",
)
async def test_a_failed_nvme_self_test(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("nvme-failed-self-test"))
    assert found == {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}


@detects(
    ReasonCode.SMART_SELF_TEST_FAILED,
    "bad drive 6: recording of a healthy Toshiba SAS disk, edited: a self-test failed in a segment, with its LBA",
)
async def test_a_failed_scsi_self_test(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("scsi-failed-self-test"))
    assert found == {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}


@detects(
    ReasonCode.SMART_PREFAIL,
    "bad drive 8: recording of a healthy WD disk, edited: attribute 5 below its threshold, exit status 16",
)
async def test_a_prefail_attribute_below_its_threshold(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("ata-prefail"))
    assert found == {(ERROR, ReasonCode.SMART_PREFAIL), (WARNING, ReasonCode.DISK_REALLOCATED)}


@detects(ReasonCode.DISK_REALLOCATED, "recording of a Seagate ST373453LC with 260 grown defects: a warning")
@detects(ReasonCode.DISK_MEDIA_ERRORS, "recording of a Seagate ST373453LC with 536 uncorrected errors, health PASSED")
async def test_a_real_scsi_disk_with_uncorrected_errors(machine: Host, player: Player, tmp_path: Path) -> None:
    found = await told(machine, player, tmp_path, bad("scsi-grown-defects"))
    assert found == {(ERROR, ReasonCode.DISK_MEDIA_ERRORS), (WARNING, ReasonCode.DISK_REALLOCATED)}


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        pytest.param(
            bad("ata-reallocated-hdd"),
            (WARNING, ReasonCode.DISK_REALLOCATED),
            marks=detects(
                ReasonCode.DISK_REALLOCATED,
                "recording of a Seagate ST3500418AS with 304 reallocated sectors: a warning",
            ),
            id="reallocated",
        ),
        pytest.param(
            bad("nvme-media-errors"),
            (WARNING, ReasonCode.DISK_MEDIA_ERRORS),
            marks=detects(
                ReasonCode.DISK_MEDIA_ERRORS,
                "recording of a Samsung 970 EVO with 7 media errors: a warning while they do not rise",
            ),
            id="media errors",
        ),
        pytest.param(
            bad("nvme-healthy", **nvme(available_spare=9)),
            (ERROR, ReasonCode.NVME_SPARE_LOW),
            marks=detects(
                ReasonCode.NVME_SPARE_LOW,
                "recording of a healthy Samsung 970, edited: 9 % spare where 10 % is its threshold",
            ),
            id="spare",
        ),
        pytest.param(
            bad("nvme-healthy", **nvme(percentage_used=101)),
            (ERROR, ReasonCode.NVME_WORN),
            marks=detects(
                ReasonCode.NVME_WORN,
                "recording of a healthy Samsung 970, edited: 101 % of its endurance used",
            ),
            id="worn nvme",
        ),
        pytest.param(
            bad("ata-healthy-hdd", **endurance(95)),
            (WARNING, ReasonCode.DISK_WORN),
            marks=detects(
                ReasonCode.DISK_WORN,
                "recording of a healthy SATA disk, edited: 95 % of its endurance used: a warning",
            ),
            id="worn sata",
        ),
        pytest.param(
            bad("ata-healthy-hdd", temperature={"current": 60, "op_limit_max": 60}),
            (ERROR, ReasonCode.DISK_OVERHEATED),
            marks=detects(
                ReasonCode.DISK_OVERHEATED,
                "recording of a healthy WD disk, edited: 60 °C, which is its own limit",
            ),
            id="hot",
        ),
    ],
)
async def test_another_bad_drive(
    machine: Host, player: Player, tmp_path: Path, read: Frame, wanted: tuple[Severity, ReasonCode]
) -> None:
    assert await told(machine, player, tmp_path, read) == {wanted}


@pytest.mark.parametrize(
    ("number", "name", "counts", "wanted"),
    [
        pytest.param(
            5,
            "Reallocated_Sector_Ct",
            (8, 9),
            (ERROR, ReasonCode.DISK_REALLOCATED),
            marks=detects(
                ReasonCode.DISK_REALLOCATED,
                "recording of a healthy WD disk, edited: reallocated sectors rise from 8 to 9 during the stage",
            ),
        ),
        pytest.param(
            199,
            "UDMA_CRC_Error_Count",
            (500, 503),
            (WARNING, ReasonCode.DISK_LINK_ERRORS),
            marks=detects(
                ReasonCode.DISK_LINK_ERRORS,
                "recording of a healthy WD disk, edited: CRC errors of its cable rise from 500 to 503: a warning",
            ),
        ),
    ],
)
async def test_a_counter_that_rises_during_the_stage(
    machine: Host,
    player: Player,
    tmp_path: Path,
    number: int,
    name: str,
    counts: tuple[int, int],
    wanted: tuple[Severity, ReasonCode],
) -> None:
    read = [bad("ata-healthy-hdd", **attribute(number, count, name)) for count in counts]
    one_disk(player, SDA, read=read, start=[STARTED], poll=GOOD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert serious(outcome) == {wanted}


@detects(
    ReasonCode.EARLIER_EVENTS,
    "recording of a healthy WD disk, edited: exit status 64, its error log holds entries: told for information",
)
async def test_errors_of_long_ago_are_told(machine: Host, player: Player, tmp_path: Path) -> None:
    player.scanned(("/dev/sda", "sat"))
    player.device(SDA, read=[bad("ata-healthy-hdd", 64)])
    outcome, _ = await run(machine, tmp_path)
    found = [(one.severity, one.component) for one in outcome.findings if one.reason_code is ReasonCode.EARLIER_EVENTS]
    assert (outcome.verdict, found) == (Verdict.PASS, [(Severity.INFO, "disk:BAD")])


@spares(ReasonCode.SMART_HEALTH_FAILED, "nine recordings of healthy SATA, SAS and NVMe drives")
@spares(ReasonCode.SMART_PREFAIL, "nine recordings of healthy SATA, SAS and NVMe drives")
@spares(ReasonCode.SMART_UNREADABLE, "nine recordings of healthy drives, one of which ends smartctl with exit status 4")
@spares(ReasonCode.NVME_CRITICAL_WARNING, "three recordings of healthy NVMe drives")
@spares(ReasonCode.NVME_SPARE_LOW, "three recordings of healthy NVMe drives")
@spares(ReasonCode.NVME_WORN, "three recordings of healthy NVMe drives")
@spares(ReasonCode.DISK_MEDIA_ERRORS, "nine recordings of healthy SATA, SAS and NVMe drives")
@spares(ReasonCode.DISK_REALLOCATED, "nine recordings of healthy SATA, SAS and NVMe drives")
@spares(ReasonCode.DISK_WORN, "nine recordings of healthy SATA, SAS and NVMe drives")
@spares(ReasonCode.DISK_OVERHEATED, "nine recordings of healthy SATA, SAS and NVMe drives")
async def test_healthy_drives_are_left_alone(machine: Host, player: Player, tmp_path: Path) -> None:
    places = [(f"/dev/d{number}", kind) for number, kind in enumerate(HEALTHY.values())]
    player.scanned(*places)
    for number, (case, (device, kind)) in enumerate(zip(HEALTHY, places, strict=True)):
        player.device(f"{kind} {device}", read=[played(case, serial_number=f"S{number}")])
    outcome, _ = await run(machine, tmp_path)
    assert outcome.verdict is Verdict.PASS
    assert [one for one in outcome.findings if one.severity is not Severity.INFO] == []
    assert outcome.coverage == {f"disk:S{number}": 1.0 for number in range(len(HEALTHY))}


@spares(ReasonCode.DISK_LINK_ERRORS, "recording of a healthy WD disk, edited: 500 CRC errors of long ago, none new")
async def test_old_link_errors_are_left_alone(machine: Host, player: Player, tmp_path: Path) -> None:
    read = [played("ata-healthy-hdd", **attribute(199, 500, "UDMA_CRC_Error_Count"))]
    one_disk(player, SDA, read=read, start=[STARTED], poll=GOOD_TEST)
    outcome, _ = await run(machine, tmp_path, FAST)
    assert (outcome.verdict, outcome.errors) == (Verdict.PASS, ())
    assert ReasonCode.DISK_LINK_ERRORS not in {one.reason_code for one in outcome.findings}

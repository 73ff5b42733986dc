"""What Storage charges of a disk's own word: only what came while it worked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.smart import Reading, Target
from probes.smart_parse import parse_report
from stages import storage_health
from stages.outcome import ReasonCode, Severity
from stages.smart_judge import Case
from stages.storage_judge import judge
from stages.storage_plan import Options
from stages.storage_readings import StorageReadings
from tests.stages.test_storage_readings import READINGS, SOUND, through_json
from tests.support.smartctl_player import frame, recording
from tests.support.stand_ins import StandIns

TARGET = Target("/dev/nvme0", "nvme", ("nvme0n1",), "N1", "Samsung", "nvme")
LOG = "nvme_smart_health_information_log"


def said(case: str, **changes: Any) -> Reading:
    """What a disk says, with figures of its health changed."""
    document = recording(case)
    document[LOG] = {**document[LOG], **changes}
    one = frame(document)
    return Reading(TARGET, parse_report(one["out"], one["exit"]))


def found(before: Reading, after: Reading, lost: tuple[str, ...] = ()) -> list[tuple[ReasonCode, Severity]]:
    findings = storage_health.judge([Case(before, after)], lost)
    return [(one.reason_code, one.severity) for one in findings]


WELL = said("nvme-healthy")
CHANGES: list[tuple[Mapping[str, Any], ReasonCode, Severity]] = [
    ({"critical_warning": 8}, ReasonCode.NVME_CRITICAL_WARNING, Severity.ERROR),
    ({"critical_warning": 2}, ReasonCode.NVME_CRITICAL_WARNING, Severity.WARNING),
    ({"critical_warning": 6}, ReasonCode.NVME_CRITICAL_WARNING, Severity.ERROR),
    ({"media_errors": 1}, ReasonCode.DISK_MEDIA_ERRORS, Severity.ERROR),
    ({"available_spare": 5}, ReasonCode.NVME_SPARE_LOW, Severity.ERROR),
]


@pytest.mark.parametrize(("changes", "code", "severity"), CHANGES)
def test_what_came_while_it_worked_is_charged(changes: Mapping[str, Any], code: ReasonCode, severity: Severity) -> None:
    sick = said("nvme-healthy", **changes)
    assert found(WELL, sick) == [(code, severity)]
    assert found(sick, sick) == []


def test_what_stood_before_is_the_smart_stages_to_judge() -> None:
    for case in ("nvme-healthy", "nvme-media-errors", "nvme-critical-warning"):
        assert found(said(case), said(case)) == []
    assert found(said("nvme-healthy", percentage_used=99), said("nvme-healthy", percentage_used=101)) == []


def test_a_count_that_stood_and_rises_is_charged() -> None:
    before, after = said("nvme-media-errors"), said("nvme-media-errors", media_errors=9)
    assert found(before, after) == [(ReasonCode.DISK_MEDIA_ERRORS, Severity.ERROR)]


def test_a_fault_that_stood_and_grows_is_charged() -> None:
    def failing(pending: int) -> Reading:
        document = recording("ata-failing-hdd")
        [row] = [row for row in document["ata_smart_attributes"]["table"] if row["id"] == 197]
        row["raw"] = {"value": pending, "string": str(pending)}
        one = frame(document)
        return Reading(TARGET, parse_report(one["out"], one["exit"]))

    assert found(failing(8), failing(8)) == []
    assert found(failing(8), failing(9)) == [(ReasonCode.DISK_MEDIA_ERRORS, Severity.ERROR)]


def test_a_disk_that_tells_nothing_any_more_is_unknown_and_one_that_left_is_told_once() -> None:
    silent = Reading(TARGET, None, "smartctl did not answer within 60 s")
    away = replace(silent, unreachable=True)
    assert (ReasonCode.SMART_UNREADABLE, Severity.ERROR) in found(WELL, silent)
    assert (ReasonCode.DISK_LOST, Severity.ERROR) in found(WELL, away)
    assert found(WELL, away, (WELL.component,)) == []


def test_the_stage_judges_it_live_and_from_the_evidence(tmp_path: Path) -> None:
    sound = StorageReadings(found=(SOUND.subject.disk,), reads=(SOUND,))
    sick = replace(sound, health=(Case(WELL, said("nvme-healthy", critical_warning=4)),))
    assert judge(sound, Options()).verdict == "pass"
    assert judge(sick, Options()).verdict == "fail"
    again = through_json(replace(READINGS, health=sick.health), tmp_path)
    assert again.health == sick.health


async def test_only_what_could_be_read_is_read_again(stand_ins: StandIns) -> None:
    healthy = frame(recording("nvme-healthy"))
    stand_ins.says("smartctl", healthy["out"])
    disk = SOUND.subject.disk
    sata, virtual = replace(disk, transport="sata"), replace(disk, name="vda", transport="virtio")
    before = await storage_health.read(stand_ins.tools(), [sata, virtual])
    assert [one.target.device for one in before] == [f"/dev/{disk.name}"]
    cases = await storage_health.read_again(stand_ins.tools(), [*before, Reading(TARGET, None, "nothing")])
    assert [one.before for one in cases] == before

"""What is charged to a stage of the disks' own word: only what came while it ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes import disk_health as probe
from probes.counters import Counters
from probes.smart import Reading, Target
from probes.smart_parse import parse_report
from stages import conclusion, disk_health
from stages.network import STAGE
from stages.outcome import Finding, Outcome, ReasonCode, Severity, error, warning
from stages.runner import StageRun
from stages.stage import StageContext
from tests.stages.test_runner import Options, stage
from tests.support import recordings
from tests.support.detection import detects, spares
from tests.support.replay import host_in
from tests.support.smartctl_player import frame, recording
from tests.support.stage_context import as_said, stage_context
from tests.support.stand_ins import StandIns
from tests.support.trees import copy_of

TARGET = Target("/dev/nvme0", "nvme", ("nvme0n1",), "N1", "Samsung", "nvme")
LOG = "nvme_smart_health_information_log"


def said(case: str, **changes: Any) -> Reading:
    """What a disk says, with figures of its health changed."""
    document = recording(case)
    document[LOG] = {**document[LOG], **changes}
    one = frame(document)
    return Reading(TARGET, parse_report(one["out"], one["exit"]))


def found(before: Reading, after: Reading) -> list[tuple[ReasonCode, Severity]]:
    return [(one.reason_code, one.severity) for one in disk_health.judge([before], [after])]


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


def test_a_warning_beside_one_that_stood_is_charged() -> None:
    """Also where the disk warned of its heat before: what is worse must not hide behind it."""
    spare, hot = (said("nvme-healthy", critical_warning=bits) for bits in (1, 2))
    both = said("nvme-healthy", critical_warning=3)
    assert found(hot, both) == [(ReasonCode.NVME_CRITICAL_WARNING, Severity.ERROR)]
    assert found(spare, both) == [(ReasonCode.NVME_CRITICAL_WARNING, Severity.WARNING)]
    assert found(both, spare) == found(both, hot) == []


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


def test_a_disk_that_tells_nothing_any_more_is_unknown_and_one_that_left_is_lost() -> None:
    silent = Reading(TARGET, None, "smartctl did not answer within 60 s")
    away = replace(silent, unreachable=True)
    assert found(WELL, silent) == [(ReasonCode.SMART_UNREADABLE, Severity.ERROR)]
    assert found(WELL, away) == [(ReasonCode.DISK_LOST, Severity.ERROR)]
    assert found(silent, said("nvme-healthy", critical_warning=4)) == [], "what it said before is not known"
    [unread] = disk_health.judge([WELL], [])
    assert (unread.reason_code, unread.severity) == (ReasonCode.SMART_UNREADABLE, Severity.ERROR)


def test_what_a_stage_found_itself_is_told_once(tmp_path: Path) -> None:
    sick = said("nvme-healthy", critical_warning=8)
    before, after = Counters(uptime_s=1.0, disks=(WELL,)), Counters(uptime_s=2.0, disks=(sick,))
    subject = replace(STAGE, judge=as_said, counters_needed=False)

    def concluded(*own: Finding) -> list[ReasonCode]:
        outcome = conclusion.conclude(subject, None, Outcome("", own), (), before, after)
        return [one.reason_code for one in outcome.errors]

    warned, lost = ReasonCode.NVME_CRITICAL_WARNING, ReasonCode.DISK_LOST
    assert concluded() == [warned]
    assert concluded(error(warned, WELL.component, "it warns")) == [warned]
    assert concluded(error(lost, WELL.component, "it left")) == [lost]
    assert concluded(error(lost, "disk:another", "it left")) == [lost, warned]
    assert concluded(warning(warned, WELL.component, "it is hot")) == [warned]


class Machine:
    """A recorded machine with one NVMe disk, whose smartctl says what it is told to say."""

    def __init__(self, root: Path, stand_ins: StandIns) -> None:
        self.host = replace(host_in(root), tools=stand_ins.tools())
        self._stand_ins = stand_ins
        self.warns(0)

    def warns(self, bits: int) -> None:
        document = recording("nvme-healthy")
        document[LOG] = {**document[LOG], "critical_warning": bits}
        one = frame(document)
        self._stand_ins.says("smartctl", one["out"], exit_code=one["exit"])

    def loses_its_disk(self) -> None:
        self.host.sys("block", "nvme0n1").unlink()
        left = recordings.result("smartctl", "nvme-left")
        self._stand_ins.says("smartctl", left.stdout, exit_code=left.exit_code)


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Machine:
    root = copy_of("mini-pc", tmp_path)
    (root / "sys/block/sda").unlink()
    return Machine(root, stand_ins)


async def through(
    machine: Machine,
    evidence: Path,
    bits: int | None,
    last: Counters | None = None,
    *,
    after_repair: bool = False,
) -> StageRun:
    """A stage that is content, and meanwhile the disk begins to warn; with None its word stays as it is."""

    async def run(context: StageContext, options: Options) -> Outcome:
        if bits is not None:
            machine.warns(bits)
        return Outcome("all is well")

    context, _ = stage_context(evidence, machine.host)
    stage_run = StageRun(stage(run), None, context, last=last, after_repair=after_repair)
    await stage_run.run()
    return stage_run


def outcome_in(evidence: Path) -> list[str]:
    document = json.loads((evidence / conclusion.OUTCOME).read_text())
    return [one["reason_code"] for one in document["findings"] if one["severity"] == "error"]


@detects(ReasonCode.NVME_CRITICAL_WARNING, "made smartctl whose disk begins to warn while any stage runs")
@spares(ReasonCode.NVME_CRITICAL_WARNING, "made smartctl whose disk warned before the stage began")
async def test_a_disk_that_begins_to_fail_in_any_stage_fails_it(machine: Machine, tmp_path: Path) -> None:
    first = await through(machine, tmp_path / "1", 8)
    assert outcome_in(tmp_path / "1") == ["nvme_critical_warning"]
    second = await through(machine, tmp_path / "2", 8, first.last)
    assert outcome_in(tmp_path / "2") == [], "it was charged to the stage before"
    machine.warns(8 | 4)  # between two stages, when nobody looks
    await through(machine, tmp_path / "3", 8 | 4, second.last)
    assert outcome_in(tmp_path / "3") == ["nvme_critical_warning"]


@detects(ReasonCode.DISK_LOST, "made tree whose disk leaves between two stages")
@spares(ReasonCode.DISK_LOST, "made tree whose disk was taken out in a hold, or is a stick")
async def test_a_disk_that_leaves_between_two_stages_is_missed_by_the_next(machine: Machine, tmp_path: Path) -> None:
    first = await through(machine, tmp_path / "1", 0)
    machine.loses_its_disk()
    second = await through(machine, tmp_path / "2", None, first.last)
    assert outcome_in(tmp_path / "2") == ["disk_lost"]
    await through(machine, tmp_path / "3", None, second.last)
    assert outcome_in(tmp_path / "3") == [], "it was charged to the stage before"
    await through(machine, tmp_path / "4", None, first.last, after_repair=True)
    assert outcome_in(tmp_path / "4") == [], "whoever repairs a machine may take a disk out"
    assert first.last is not None
    stick = tuple(replace(one, target=replace(one.target, transport="usb")) for one in first.last.disks)
    await through(machine, tmp_path / "5", None, replace(first.last, disks=stick))
    assert outcome_in(tmp_path / "5") == []


async def test_only_disks_with_smart_data_are_asked(machine: Machine, stand_ins: StandIns) -> None:
    readings = await probe.first(machine.host, ())
    assert [one.target.device for one in readings] == ["/dev/nvme0"]
    stand_ins.says("smartctl", "no JSON at all")
    assert await probe.first(machine.host, readings) == readings, "known already"
    [now] = await probe.again(machine.host, readings)
    assert now.report is None
    assert await probe.again(machine.host, [now]) == (), "it said nothing that could be compared"

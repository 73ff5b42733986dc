"""What the disks say of themselves before and after Storage has worked them. Only what came in between is charged.

SMART judges what stood there before, and may have run hours ago, or not at all; a disk that begins to fail under the
load of Storage must not pass for that. What could not be read before says nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from probes import smart
from probes.disks import Disk
from probes.smart import Reading, Target
from probes.tools import ToolRunner
from stages.outcome import Finding, ReasonCode, Severity
from stages.smart_judge import Case, Limits, judge_disk

LIMIT_S = 20.0
"""A disk under test is awake; one that hangs must not use up the time of the stage."""
WITHOUT_ENDURANCE = Limits(float("inf"), float("inf"))
"""Rated endurance is SMART's to judge: no disk wears out in one stage."""
HOT = 2
"""The bit of NVMe's critical_warning that speaks of temperature."""


async def read(tools: ToolRunner, disks: Sequence[Disk], *, limit_s: float = LIMIT_S) -> list[Reading]:
    """Every disk that has SMART data by the way that it is attached. Raises nothing but a cancel."""
    targets = [one for one in smart.merge((), disks) if one.transport not in smart.WITHOUT_SMART]
    return await smart.read_all(tools, targets, limit_s=limit_s)


async def read_again(tools: ToolRunner, before: Iterable[Reading], *, limit_s: float = LIMIT_S) -> tuple[Case, ...]:
    """Once more those that could be read. Raises nothing but a cancel."""
    first: Mapping[Target, Reading] = {one.target: one for one in before if one.report is not None}
    after = await smart.read_all(tools, first, limit_s=limit_s)
    return tuple(Case(before=first[one.target], after=one) for one in after)


def judge(cases: Iterable[Case], lost: Iterable[str]) -> list[Finding]:
    """What the stage brought about. `lost`: components of disks that are known to have left."""
    gone = set(lost)
    return [one for case in cases for one in _gained(case) if one.component not in gone]


def _gained(case: Case) -> list[Finding]:
    assert case.after is not None
    stood = {(one.reason_code, one.severity) for one in _found(Case(case.before))}
    steady = _found(Case(case.after))
    new = [one for one in _found(case) if one not in steady or (one.reason_code, one.severity) not in stood]
    return [_milder(one, case) for one in new if one.severity is not Severity.INFO]


def _found(case: Case) -> tuple[Finding, ...]:
    return judge_disk(case, WITHOUT_ENDURANCE, behind_raid=False).findings


def _milder(finding: Finding, case: Case) -> Finding:
    """Heat under full load is a warning: many a sound consumer's SSD without a heat sink comes to its limit."""
    report = case.after.report if case.after else None
    warned = report.nvme.critical_warning if report and report.nvme else 0
    hot = finding.reason_code is ReasonCode.DISK_OVERHEATED
    only_hot = finding.reason_code is ReasonCode.NVME_CRITICAL_WARNING and warned == HOT
    return replace(finding, severity=Severity.WARNING) if hot or only_hot else finding

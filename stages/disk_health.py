"""Judges what the disks' own counters and warnings gained while a stage ran, whichever stage it was (pure).

Where no reading from before stands, or a disk said nothing then, it says nothing here: SMART judges how a disk stands,
and this what came after SMART had judged it, so that a disk that begins to fail under load does not pass for sound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from probes.smart import Reading
from stages.outcome import Finding, ReasonCode, Severity
from stages.smart_judge import Case, Limits, judge_disk

WITHOUT_ENDURANCE = Limits(float("inf"), float("inf"))
"""Rated endurance is SMART's to judge: no disk wears out in one stage."""
HOT = 2
"""The bit of NVMe's critical_warning that speaks of temperature."""


def judge(before: Iterable[Reading], after: Iterable[Reading]) -> list[Finding]:
    """What came of the disks of `before` until `after`. One that `after` lacks was not read again, and is unknown."""
    now = {one.target: one for one in after}
    cases = (Case(one, now.get(one.target) or _unread(one)) for one in before if one.report is not None)
    return [finding for case in cases for finding in _gained(case)]


def _unread(before: Reading) -> Reading:
    return Reading(before.target, None, "there is no second reading")


def _gained(case: Case) -> list[Finding]:
    """Findings that are new, or that a figure which rose has made anew."""
    stood = {(one.reason_code, one.severity) for one in _found(Case(case.before))}
    assert case.after is not None
    steady = _found(Case(case.after))
    found = [one for one in _found(case) if one.severity is not Severity.INFO]
    new = [one for one in found if one not in steady or (one.reason_code, one.severity) not in stood]
    warned = _new_warnings(case)
    if warned and not _warns(new):
        new += [one for one in found if one.reason_code is ReasonCode.NVME_CRITICAL_WARNING]
    return [_milder(one, only_hot=warned == HOT) for one in new]


def _found(case: Case) -> tuple[Finding, ...]:
    return judge_disk(case, WITHOUT_ENDURANCE, behind_raid=False).findings


def _new_warnings(case: Case) -> int:
    """The bits of critical_warning that are set now and were not before."""
    before, after = (_critical_warning(reading) for reading in (case.before, case.after))
    return after & ~before


def _critical_warning(reading: Reading | None) -> int:
    nvme = reading.report.nvme if reading and reading.report else None
    return nvme.critical_warning or 0 if nvme else 0


def _warns(findings: Iterable[Finding]) -> bool:
    return any(one.reason_code is ReasonCode.NVME_CRITICAL_WARNING for one in findings)


def _milder(finding: Finding, *, only_hot: bool) -> Finding:
    """Heat under full load is a warning: many a sound consumer's SSD without a heat sink comes to its limit."""
    hot = finding.reason_code is ReasonCode.DISK_OVERHEATED
    warns_of_heat = finding.reason_code is ReasonCode.NVME_CRITICAL_WARNING and only_hot
    return replace(finding, severity=Severity.WARNING) if hot or warns_of_heat else finding

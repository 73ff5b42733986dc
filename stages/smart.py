"""SMART: what each disk says of its own health, and a short self-test of each.

All disks that the kernel shows and all that smartctl reaches behind RAID controllers are read, tested at once, and
read again; a counter of lost data that rises in between fails the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from probes import disks, smart
from probes.notes import Notes
from probes.smart import Reading, Target
from probes.smart_parse import Unreadable
from probes.smart_self_test import Pace, SelfTestEnd, SelfTestResult, SelfTestRun
from probes.tools import ToolError, ToolMissing
from stages.outcome import Finding, Outcome, ReasonCode, error
from stages.runner import tool_finding
from stages.smart_judge import Case, Judgement, Limits, judge_disk
from stages.smart_scope import is_raid_volume, why_not_applicable
from stages.stage import RunFacts, Stage, StageContext

READING_S = 15.0
"""What reading all disks takes, roughly."""
SHORT_TEST_S = 120.0


class SelfTest(StrEnum):
    """Which self-test each disk is asked for."""

    SHORT = "short"
    NONE = "none"
    SHORT_IF_QUICK = "short_if_quick"
    """Only where the disk says that it takes no longer than `quick_limit_s`."""


@dataclass(frozen=True, slots=True)
class Options:
    self_test: SelfTest = SelfTest.SHORT
    quick_limit_s: float = field(default=SHORT_TEST_S, metadata={"minimum": 0})
    deadline_factor: float = field(default=2.0, metadata={"minimum": 0, "maximum": 20})
    """How many times its own estimate a self-test may take."""
    poll_s: float = field(default=5.0, metadata={"minimum": 0.05, "maximum": 60})
    read_limit_s: float = field(default=smart.READ_LIMIT_S, metadata={"minimum": 0.1, "maximum": 600})
    """How long one disk may take to answer; one that sleeps has to spin up first."""
    wear_warning_percent: float = field(default=80.0, metadata={"minimum": 0})
    wear_failed_percent: float = field(default=100.0, metadata={"minimum": 0})


@dataclass(frozen=True, slots=True)
class Survey:
    """All disks as they were found. `problems` are about the search, not about a disk."""

    readings: tuple[Reading, ...] = ()
    problems: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Readings:
    """All that the stage read: its disks, what went wrong in looking for them, and whom the claim expects."""

    cases: tuple[Case, ...]
    problems: tuple[Finding, ...]
    expected_serials: tuple[str, ...]


def planned_s(options: Options) -> float:
    """Before the disks have said how long their tests take."""
    return 2 * READING_S + (0.0 if options.self_test is SelfTest.NONE else SHORT_TEST_S)


def plan(readings: Sequence[Reading], options: Options) -> dict[Target, SelfTestResult | Pace]:
    """For each disk that has a verdict to give: how its self-test is paced, or why it is left out."""
    plans: dict[Target, SelfTestResult | Pace] = {}
    for reading in readings:
        if reading.report is None:
            continue
        takes_s = reading.report.self_tests.short_s
        if options.self_test is SelfTest.NONE:
            plans[reading.target] = SelfTestResult(SelfTestEnd.SKIPPED, "the profile asks for none")
        elif options.self_test is SelfTest.SHORT_IF_QUICK and takes_s > options.quick_limit_s:
            text = f"the disk needs {takes_s / 60:.0f} min for it, this profile allows {options.quick_limit_s / 60:.0f}"
            plans[reading.target] = SelfTestResult(SelfTestEnd.SKIPPED, text)
        else:
            plans[reading.target] = Pace(deadline_s=takes_s * options.deadline_factor, poll_s=options.poll_s)
    return plans


async def run(context: StageContext, options: Options) -> Readings:
    """Find, read, test, read again."""
    expected = tuple(disk.serial for disk in context.facts.expected_disks or ())
    try:
        survey = await find_and_read(context, options)
    except ToolMissing as problem:
        return Readings((), (tool_finding(problem, "smartctl"),), expected)
    behind_raid = any(reading.target.pass_through and reading.report for reading in survey.readings)
    applicable = [reading for reading in survey.readings if _applies(context.facts, reading, behind_raid=behind_raid)]
    plans = plan(applicable, options)
    context.plan.set(2 * READING_S + _longest(plans) / 2)
    context.progress(0.1, _longest(plans) / 2 + READING_S)
    tests = await _test(context, applicable, plans)
    after: dict[Target, Reading] = {}
    if any(isinstance(item, Pace) for item in plans.values()):
        again = [reading.target for reading in applicable if reading.report is not None]
        second = await smart.read_all(context.host.tools, again, limit_s=options.read_limit_s)
        after = {reading.target: reading for reading in second}
    cases = tuple(
        Case(
            before=reading,
            after=after.get(reading.target),
            test=tests.get(reading.target),
            expected=_expected(context.facts, reading),
        )
        for reading in survey.readings
    )
    context.progress(1.0, 0.0)
    return Readings(cases, survey.problems, expected)


async def find_and_read(context: StageContext, options: Options) -> Survey:
    """Every disk once. Raises ToolMissing when there is no smartctl."""
    tools, problems = context.host.tools, []
    listed: Sequence[disks.Disk] = ()
    try:
        listed = await disks.collect(context.host, Notes())
    except OSError as problem:
        problems.append(error(ReasonCode.PROBE_ERROR, "disks", f"The kernel's disk list could not be read: {problem}"))
    scanned: list[tuple[str, str | None]] = []
    try:
        scanned = await smart.scan(tools)
    except ToolMissing:
        raise
    except ToolError as problem:
        problems.append(tool_finding(problem, "smartctl"))
    except Unreadable as problem:
        text = f"Disks behind RAID controllers could not be looked for: {problem}"
        problems.append(error(ReasonCode.OUTPUT_UNREADABLE, "smartctl", text))
    silent, asked = _split(smart.merge(scanned, listed))
    context.info(f"SMART: {len(asked)} disks to ask, {len(silent)} that have none")
    readings = await smart.read_all(tools, asked, limit_s=options.read_limit_s)
    for reading in list(readings):
        if is_raid_volume(reading) and "LOGICAL VOLUME" in reading.model.upper():
            readings += await smart.read_cciss(tools, reading.target, limit_s=options.read_limit_s)
    for reading in readings:
        _tell(context, reading)
    return Survey((*silent, *smart.without_twins(readings)), tuple(problems))


def _split(targets: Sequence[Target]) -> tuple[list[Reading], list[Target]]:
    """Disks on transports without SMART need not be asked."""
    silent = [Reading(target, None, "not asked") for target in targets if target.transport in smart.WITHOUT_SMART]
    return silent, [target for target in targets if target.transport not in smart.WITHOUT_SMART]


def _tell(context: StageContext, reading: Reading) -> None:
    if reading.report is None:
        context.warn(f"{reading.component}: {reading.problem}")
    elif reading.report.temperature_c is not None:
        context.sample("temperature", reading.component, reading.report.temperature_c, "C")


def _expected(facts: RunFacts, reading: Reading) -> bool:
    serials = {disk.serial for disk in facts.expected_disks or ()}
    return reading.component.removeprefix("disk:") in serials


def _applies(facts: RunFacts, reading: Reading, *, behind_raid: bool) -> bool:
    return why_not_applicable(reading, expected=_expected(facts, reading), behind_raid=behind_raid) is None


def _longest(plans: dict[Target, SelfTestResult | Pace]) -> float:
    return max((item.deadline_s for item in plans.values() if isinstance(item, Pace)), default=0.0)


async def _test(
    context: StageContext, readings: Sequence[Reading], plans: dict[Target, SelfTestResult | Pace]
) -> dict[Target, SelfTestResult]:
    """The planned self-tests, all at once, and the reasons of those left out."""
    results = {target: item for target, item in plans.items() if isinstance(item, SelfTestResult)}
    done: dict[Target, float] = {}
    longest_s = _longest(plans)

    async def one(reading: Reading, pace: Pace) -> None:
        def on_progress(fraction: float) -> None:
            done[reading.target] = max(fraction, done[reading.target])
            slowest = min(done.values())
            context.progress(0.1 + 0.8 * slowest, longest_s / 2 * (1 - slowest))
            context.sample("self_test", reading.component, round(100 * done[reading.target], 1), "%")

        assert reading.report is not None
        done[reading.target] = 0.0
        result = await SelfTestRun(context.host.tools, reading, reading.report).run(pace, on_progress)
        done[reading.target] = 1.0
        results[reading.target] = result
        context.info(f"{reading.component}: short self-test {result.end.value} {result.detail}".rstrip())

    async with asyncio.TaskGroup() as group:
        for reading in readings:
            item = plans.get(reading.target)
            if isinstance(item, Pace):
                group.create_task(one(reading, item))
    return results


def judge(readings: Readings, options: Options) -> Outcome:
    """The outcome of all disks together. Pure."""
    cases = readings.cases
    limits = Limits(options.wear_warning_percent, options.wear_failed_percent)
    behind_raid = any(case.before.target.pass_through and case.before.report for case in cases)
    judgements = [judge_disk(case, limits, behind_raid=behind_raid) for case in cases]
    findings = [*readings.problems, *_unseen(readings)]
    findings += [finding for judgement in judgements for finding in judgement.findings]
    applies = [judgement for judgement in judgements if judgement.applies]
    return Outcome(
        headline=_headline(judgements, findings),
        findings=tuple(findings),
        measurements=tuple(item for judgement in judgements for item in judgement.measurements),
        coverage={judgement.component: 1.0 if judgement.judged else 0.0 for judgement in applies},
        tool_versions=_versions(cases),
        hardware_present=bool(applies) or any(finding.severity == "error" for finding in findings),
    )


def _unseen(readings: Readings) -> list[Finding]:
    """Disks that the claim names and that are nowhere: they cannot have been judged."""
    if _smartctl_missing(readings.problems):
        return []
    seen = {case.before.component.removeprefix("disk:") for case in readings.cases}
    seen |= {case.before.target.serial for case in readings.cases}
    return [
        error(ReasonCode.SMART_UNREADABLE, f"disk:{serial}", f"Disk {serial} is expected and was not found")
        for serial in readings.expected_serials
        if serial not in seen
    ]


def _smartctl_missing(findings: Sequence[Finding]) -> bool:
    return any((one.reason_code, one.component) == (ReasonCode.TOOL_MISSING, "smartctl") for one in findings)


def _headline(judgements: Sequence[Judgement], findings: Sequence[Finding]) -> str:
    applies = [judgement for judgement in judgements if judgement.applies]
    if _smartctl_missing(findings):
        return "smartctl is missing"
    if not applies:
        return "No disk here that SMART applies to"
    bad = {finding.component for finding in findings if finding.severity == "error"}
    good = sum(judgement.component not in bad for judgement in applies)
    left_out = len(judgements) - len(applies)
    return f"{good} of {len(applies)} disks without fault" + (f", {left_out} without SMART" if left_out else "")


def _versions(cases: Sequence[Case]) -> dict[str, str]:
    versions = {case.before.report.version for case in cases if case.before.report}
    return {"smartctl": ".".join(map(str, max(versions)))} if versions else {}


STAGE: Stage[Options] = Stage(
    name="SMART",
    state="SMART",
    title="Disk health and self-test",
    options=Options,
    planned_s=planned_s,
    run=run,
    readings=Readings,
    judge=judge,
    tools=("smartctl", "nvme"),
    follows_disks=True,
)

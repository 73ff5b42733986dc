"""The runner with broken stages: they raise, hang, ignore a cancel, leave processes. Each ends in an Outcome."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from probes.host import Host
from stages.outcome import Outcome, ReasonCode, Verdict, error
from stages.runner import StageRun
from stages.stage import Stage, StageContext
from tests.support.detection import detects, spares
from tests.support.stage_context import as_said, stage_context
from tests.support.stand_ins import StandIns


@dataclass(frozen=True)
class Options:
    duration_s: float = 0.0


def stage(run: Callable[[StageContext, Options], Awaitable[Outcome]], planned_s: float = 0.0) -> Stage[Options]:
    return Stage(
        name="Subject",
        state="Subject",
        title="A subject",
        options=Options,
        planned_s=lambda _: planned_s,
        run=run,
        readings=Outcome,
        judge=as_said,
    )


def codes(outcome: Outcome) -> list[ReasonCode]:
    return [finding.reason_code for finding in outcome.errors]


@spares(ReasonCode.STAGE_TIMEOUT, "made stage that comes to its end")
@spares(ReasonCode.STAGE_CRASHED, "made stage that comes to its end")
@spares(ReasonCode.UNKILLABLE, "made stage that comes to its end")
@spares(ReasonCode.CANCELLED, "made stage that nobody cancels")
@spares(ReasonCode.BAD_PARAMETER, "made stage with a parameter that it knows")
async def test_an_outcome_is_returned_and_left_in_the_evidence(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        assert options.duration_s == 3.0
        return Outcome("fine")

    context, _ = stage_context(tmp_path / "e", host)
    outcome = await StageRun(stage(run), {"duration_s": 3}, context).run()
    assert outcome.verdict is Verdict.PASS
    written = json.loads((tmp_path / "e" / "outcome.json").read_text())
    assert written["verdict"] == "pass"
    assert (tmp_path / "e" / "counters-before.json").exists()
    assert (tmp_path / "e" / "counters-after.json").exists()


@dataclass(frozen=True)
class Readings:
    figure: float
    seen: frozenset[str]


def judged_stage(run: Callable[[StageContext, Options], Awaitable[Readings]], **extra: object) -> Stage[Options]:
    def judge(readings: Readings, options: Options) -> Outcome:
        if readings.figure < 0:
            raise ValueError("a judge that cannot count")
        return Outcome(f"{readings.figure} of {options.duration_s}")

    return replace(stage(run), readings=Readings, judge=judge, **extra)  # type: ignore[arg-type]


async def test_readings_are_kept_and_judged(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Readings:
        return Readings(2.5, frozenset({"b", "a"}))

    context, _ = stage_context(tmp_path, host)
    outcome = await StageRun(judged_stage(run), {"duration_s": 3}, context).run()
    assert outcome.headline == "2.5 of 3.0"
    assert json.loads((tmp_path / "readings.json").read_text()) == {"figure": 2.5, "seen": ["a", "b"]}
    assert json.loads((tmp_path / "options.json").read_text()) == {"duration_s": 3.0}
    assert json.loads((tmp_path / "endings.json").read_text()) == []


async def test_a_judge_that_raises_leaves_the_stage_unknown(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Readings:
        return Readings(-1, frozenset())

    context, _ = stage_context(tmp_path, host)
    outcome = await StageRun(judged_stage(run), None, context).run()
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [ReasonCode.STAGE_CRASHED]
    assert "a judge that cannot count" in outcome.message


async def test_a_stage_that_says_nothing_is_unknown(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> None:
        return None

    context, _ = stage_context(tmp_path, host)
    outcome = await StageRun(stage(run), None, context).run()  # type: ignore[arg-type]
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [ReasonCode.STAGE_CRASHED]


async def test_a_stage_that_passes_itself_is_not_believed(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        return Outcome("all is well, says the stage itself")

    context, _ = stage_context(tmp_path, host)
    subject = judged_stage(run)  # type: ignore[arg-type]  # that is the fault
    outcome = await StageRun(subject, None, context).run()
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [ReasonCode.STAGE_CRASHED]
    assert "gave Outcome, not its Readings" in outcome.message
    assert not (tmp_path / "readings.json").exists()


async def test_a_stage_that_rests_on_the_fault_counters_is_unknown_without_them(tmp_path: Path) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        return Outcome("fine")

    blind = Host(root=tmp_path / "no-such-root", tools=Host().tools)
    for needed, verdict in ((False, Verdict.PASS), (True, Verdict.UNKNOWN)):
        context, _ = stage_context(tmp_path, blind)
        outcome = await StageRun(replace(stage(run), counters_needed=needed), None, context).run()
        assert outcome.verdict is verdict, outcome


@detects(ReasonCode.BAD_PARAMETER, "made stage with an unknown parameter, and one of a wrong type")
async def test_a_bad_parameter_fails_without_running(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        raise AssertionError("must not run")

    for raw in ({"nope": 1}, {"duration_s": "long"}, 7):
        context, _ = stage_context(tmp_path, host)
        outcome = await StageRun(stage(run), raw, context).run()
        assert outcome.verdict is Verdict.FAIL
        assert codes(outcome) == [ReasonCode.BAD_PARAMETER]


@detects(ReasonCode.STAGE_CRASHED, "made stage that raises")
async def test_a_stage_that_raises_is_unknown_with_its_trace_kept(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        raise KeyError("serial_number")

    context, listener = stage_context(tmp_path, host)
    outcome = await StageRun(stage(run), None, context).run()
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [ReasonCode.STAGE_CRASHED]
    assert "KeyError: 'serial_number'" in outcome.message
    assert "Traceback" in (tmp_path / "crash.txt").read_text()
    assert any("Traceback" in text for _, text in listener.lines)


async def test_a_tool_error_that_a_stage_lets_through_is_unknown(tmp_path: Path, only_stand_ins: StandIns) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        await context.host.tools.run("fio", timeout_s=10)
        return Outcome("never")

    context, _ = stage_context(tmp_path, Host(tools=only_stand_ins.tools()))
    assert codes(await StageRun(stage(run), None, context).run()) == [ReasonCode.TOOL_MISSING]
    only_stand_ins.says("fio", exit_code=1)
    assert codes(await StageRun(stage(run), None, context).run()) == [ReasonCode.TOOL_FAILED]


@detects(ReasonCode.STAGE_TIMEOUT, "made stage that waits for a real process beyond its time")
async def test_a_stage_that_hangs_is_stopped_at_its_limit(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        context.plan.set(-29.75)  # limit = 2 x -29.75 + 60 = 0.5 s
        await context.host.tools.run("sleep", "60", timeout_s=60)
        return Outcome("never")

    context, _ = stage_context(tmp_path, host)
    outcome = await StageRun(stage(run), None, context).run()
    assert codes(outcome) == [ReasonCode.STAGE_TIMEOUT]
    assert outcome.verdict is Verdict.UNKNOWN


async def test_an_interrupted_stage_carries_the_reason(tmp_path: Path, host: Host) -> None:
    started = asyncio.Event()

    async def run(context: StageContext, options: Options) -> Outcome:
        started.set()
        await context.host.tools.run("sleep", "60", timeout_s=60)
        return Outcome("never")

    context, _ = stage_context(tmp_path, host)
    subject = StageRun(stage(run, planned_s=60), None, context)
    task = asyncio.create_task(subject.run())
    await started.wait()
    before = time.monotonic()
    subject.interrupt(error(ReasonCode.THERMAL_CRITICAL, "cpu:0", "101 degrees"))
    subject.interrupt(error(ReasonCode.CANCELLED, "stage", "later"))
    outcome = await task
    assert time.monotonic() - before < 2.0
    assert codes(outcome) == [ReasonCode.THERMAL_CRITICAL]
    assert outcome.verdict is Verdict.FAIL


async def test_a_finding_that_comes_as_the_stage_returns_is_not_lost(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        subject.interrupt(error(ReasonCode.THERMAL_CRITICAL, "cpu:0", "101 degrees"))
        return Outcome("fine")

    context, _ = stage_context(tmp_path, host)
    subject = StageRun(stage(run), None, context)
    assert codes(await subject.run()) == [ReasonCode.THERMAL_CRITICAL]


@detects(ReasonCode.UNKILLABLE, "made stage that ignores its cancel")
@spares(ReasonCode.UNKILLABLE, "made stage that ends when it is cancelled")
@pytest.mark.parametrize("swallows", [True, False])
async def test_a_stage_that_will_not_end_is_reported(tmp_path: Path, host: Host, swallows: bool) -> None:
    release = asyncio.Event()

    async def run(context: StageContext, options: Options) -> Outcome:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if swallows:
                await release.wait()
        return Outcome("claims to be fine")

    context, _ = stage_context(tmp_path, host)
    subject = StageRun(stage(run, planned_s=60), None, context)
    task = asyncio.create_task(subject.run())
    await asyncio.sleep(0.3)
    subject.interrupt(error(ReasonCode.CANCELLED, "stage", "stop"))
    outcome = await task
    release.set()
    await asyncio.sleep(0.05)
    expected = [ReasonCode.CANCELLED, ReasonCode.UNKILLABLE] if swallows else [ReasonCode.CANCELLED]
    assert codes(outcome) == expected
    assert outcome.verdict is Verdict.CANCELLED


async def test_cancelling_the_run_kills_the_stage_and_gives_no_outcome(tmp_path: Path, host: Host) -> None:
    ended = asyncio.Event()

    async def run(context: StageContext, options: Options) -> Outcome:
        try:
            await context.host.tools.run("sleep", "60", timeout_s=60)
        finally:
            ended.set()
        return Outcome("never")

    context, _ = stage_context(tmp_path, host)
    task = asyncio.create_task(StageRun(stage(run, planned_s=60), None, context).run())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert not (tmp_path / "outcome.json").exists()


async def test_full_evidence_space_does_not_change_a_verdict(tmp_path: Path, host: Host) -> None:
    async def run(context: StageContext, options: Options) -> Outcome:
        return Outcome("fine")

    (tmp_path / "file").write_text("in the way")
    context, listener = stage_context(tmp_path / "file" / "evidence", host)
    outcome = await StageRun(stage(run), None, context).run()
    assert outcome.verdict is Verdict.PASS
    assert any("could not be written" in text for _, text in listener.lines)

"""Runs one stage so that it always ends in an Outcome: in time, killed when told, its crash caught.

Around the stage the machine's fault counters are read; what they gained is charged to it (`stages.deltas`,
`stages.disk_health`). While it runs, faults after which going on can do harm end it early (`stages.fault_watch`).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from dataclasses import asdict, replace
from typing import Any

from probes import counters, disk_health
from probes.tools import ToolError, ToolMissing, ToolUnkillable
from stages import conclusion, deltas_between, fault_watch
from stages.options import BadParameter, parse_options
from stages.outcome import Finding, Outcome, ReasonCode, error
from stages.stage import Stage, StageContext

CANCEL_WAIT_S = 1.9
"""How soon a stage has to be over when somebody waits for it."""
PATIENCE_S = 15.0
"""How soon when nobody does: under full load a slow machine takes its time."""
SNAPSHOT_LIMIT_S = 15.0
SURVIVORS_WAIT_S = 10.0
LIMIT_FACTOR = 2.0
LIMIT_EXTRA_S = 60.0


class StageRun:
    """One execution of a stage.

    Made on the running loop. `interrupt` ends it early from outside, with the finding that says why; it may be
    called at any time.
    """

    def __init__(
        self,
        stage: Stage[Any],
        raw_parameters: object,
        context: StageContext,
        before: counters.Counters | None = None,
        last: counters.Counters | None = None,
        *,
        after_repair: bool = False,
    ) -> None:
        """before: the counters from which on faults are charged to this execution; None: from where `last` ended.
        last: the counters when last they were read, at the end of an earlier execution; None: from its start on.
        after_repair: people have been at the machine since `last`, and may have taken parts out: what came then is
        charged to nobody, but for what its disks count of themselves."""
        self._before = before
        self.last = last
        """The newest reading: after a run to its end, that of its end."""
        self._after_repair = after_repair
        self._stage = stage
        self._raw = raw_parameters
        self._context = context
        self._interruption: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()

    def interrupt(self, finding: Finding) -> None:
        """Stop the stage; its outcome carries `finding`. The first reason given stands."""
        if not self._interruption.done():
            self._interruption.set_result(finding)

    async def run(self) -> Outcome:
        """Run to the end. Cancelling this coroutine kills the stage and yields no outcome."""
        started = time.monotonic()
        try:
            outcome = await self._judged()
        except BadParameter as problem:
            outcome = Outcome(str(problem), (error(ReasonCode.BAD_PARAMETER, self._stage.name, str(problem)),))
        outcome = replace(outcome, duration_s=round(time.monotonic() - started, 3))
        self._write(conclusion.OUTCOME, {**asdict(outcome), "verdict": outcome.verdict.value})
        return outcome

    async def _judged(self) -> Outcome:
        options = parse_options(self._stage.options, self._stage.name, self._raw)
        self._write(conclusion.OPTIONS, options)
        self._context.plan.set(self._stage.planned_s(options))
        before = self._before or await self._snapshot()
        self._write(conclusion.BEFORE, before)
        readings, endings = await self._supervised(options, before)
        if readings is not None:
            self._write(conclusion.READINGS, readings)
        after = None if self._interruption.done() else await self._snapshot(before)
        if after is not None:
            self.last = after
            self._write(conclusion.AFTER, after)
        endings += await self._survivors()
        try:
            outcome = conclusion.conclude(self._stage, options, readings, endings, before, after)
        except Exception as problem:
            endings.append(self._crash(problem))
            outcome = self._unjudged(options, endings, before, after)
        self._write(conclusion.ENDINGS, [asdict(finding) for finding in endings])
        return outcome

    def _unjudged(
        self, options: Any, endings: list[Finding], before: counters.Counters, after: counters.Counters | None
    ) -> Outcome:
        """The outcome of a stage whose judge failed: what the fault counters gained still counts against the host."""
        try:
            return conclusion.conclude(self._stage, options, None, endings, before, after)
        except Exception:  # then it was the counters that the judging could not bear
            return conclusion.conclude(self._stage, options, None, endings, before, None)

    async def _snapshot(self, before: counters.Counters | None = None) -> counters.Counters:
        """The fault counters now; after a stage, of the same disks as `before` it."""
        host, last = self._context.host, self.last
        disks = (
            disk_health.again(host, before.disks)
            if before
            else disk_health.first(host, last.disks if last else (), may_have_left=self._after_repair)
        )
        now, said = await asyncio.gather(counters.snapshot(host, limit_s=SNAPSHOT_LIMIT_S), disks)
        now = replace(now, disks=said)
        return now if before or last is None or self._after_repair else deltas_between.going_on(last, now)

    async def _supervised(self, options: Any, before: counters.Counters) -> tuple[Any | None, list[Finding]]:
        """The stage's own readings, and what ended it otherwise; no readings without at least one finding."""
        host = self._context.host
        present = {} if self._stage.follows_disks else await fault_watch.fixed_disks(host)
        task = asyncio.ensure_future(self._stage.run(self._context, options))
        harm = asyncio.ensure_future(fault_watch.harm(host, before, present))
        try:
            ended_because = await self._watch(task, harm)
        except asyncio.CancelledError:
            await _end(task)
            raise
        finally:
            harm.cancel()
            if harm.done() and not harm.cancelled() and (crash := harm.exception()):
                self._context.error(f"the watch for faults that can do harm ended by itself: {crash!r}")
        findings = [ended_because] if ended_because else []
        if task.done():
            readings, problem = self._result_of(task)
            return readings, [*problem, *findings]
        wait_s = CANCEL_WAIT_S if self._interruption.done() else PATIENCE_S
        if not await _end(task, wait_s):
            text = f"{self._stage.name} did not end within {wait_s} s of being cancelled"
            findings.append(error(ReasonCode.UNKILLABLE, self._stage.name, text))
        return None, findings

    async def _watch(self, task: asyncio.Future[Any], harm: asyncio.Future[Finding]) -> Finding | None:
        """Wait for the stage, an interruption, harm or the time limit; the finding that ends it early, or None."""
        started = time.monotonic()
        while not task.done() and not self._interruption.done():
            if harm.done() and harm.exception() is None:
                return harm.result()
            # Read anew each second: a stage learns on the way how long it will take.
            limit_s = LIMIT_FACTOR * self._context.plan.planned_s + LIMIT_EXTRA_S
            left_s = started + limit_s - time.monotonic()
            if left_s <= 0:
                text = f"{self._stage.name} was stopped: it ran longer than its limit of {limit_s:.0f} s"
                return error(ReasonCode.STAGE_TIMEOUT, self._stage.name, text)
            ends: list[asyncio.Future[Any]] = [task, self._interruption, *([] if harm.done() else [harm])]
            await asyncio.wait(ends, timeout=min(left_s, 1.0), return_when=asyncio.FIRST_COMPLETED)
        return self._interruption.result() if self._interruption.done() else None

    def _result_of(self, task: asyncio.Future[Any]) -> tuple[Any | None, list[Finding]]:
        name = self._stage.name
        if task.cancelled():
            text = f"{name} cancelled itself; this is a fault of the agent"
            return None, [error(ReasonCode.STAGE_CRASHED, name, text)]
        problem = task.exception()
        if problem is None:
            return self._own_readings(task.result())
        if isinstance(problem, ToolError):
            return None, [tool_finding(problem, name)]
        return None, [self._crash(problem)]

    def _own_readings(self, readings: Any) -> tuple[Any | None, list[Finding]]:
        """A stage says what it read, and nothing else: what comes of it is for its judge alone to say."""
        if isinstance(readings, self._stage.readings):
            return readings, []
        name, given = self._stage.name, type(readings).__name__
        text = f"{name} ended without saying what it read: it gave {given}, not its {self._stage.readings.__name__}"
        return None, [error(ReasonCode.STAGE_CRASHED, name, text)]

    def _crash(self, problem: BaseException) -> Finding:
        name = self._stage.name
        trace = "".join(traceback.format_exception(problem))
        self._write("crash.txt", trace)
        self._context.error(trace)
        text = f"{name} crashed: {type(problem).__name__}: {problem}"
        return error(ReasonCode.STAGE_CRASHED, name, text, trace[-2000:])

    async def _survivors(self) -> list[Finding]:
        """Tools that hang in the kernel. On a machine that is slow, what was killed may need some seconds to go."""
        wait_s = 0.0 if self._interruption.done() else SURVIVORS_WAIT_S
        return [
            error(ReasonCode.UNKILLABLE, tool, f"{tool} survived SIGKILL: a process of it hangs in the kernel")
            for tool in await self._context.host.tools.take_unkillable(wait_s)
        ]

    def _write(self, file_name: str, content: object) -> None:
        try:
            conclusion.write(self._context.evidence, file_name, content)
        except OSError as problem:
            self._context.warn(f"evidence file {file_name} could not be written: {problem}")


async def _end(task: asyncio.Future[Any], wait_s: float = CANCEL_WAIT_S) -> bool:
    """Cancel the stage and wait; False when it would not end."""
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=wait_s)
    if done and not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not complain: the reason for the end is known
    return bool(done)


def tool_finding(problem: ToolError, component: str) -> Finding:
    """The finding for a tool that did not do its work: missing, unkillable or failed."""
    evidence = problem.result.last_words() if problem.result else ""
    if isinstance(problem, ToolMissing):
        return error(ReasonCode.TOOL_MISSING, component, str(problem), evidence)
    if isinstance(problem, ToolUnkillable):
        return error(ReasonCode.UNKILLABLE, component, str(problem), evidence)
    return error(ReasonCode.TOOL_FAILED, component, str(problem), evidence)

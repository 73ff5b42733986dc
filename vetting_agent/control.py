"""The walk: from state to stage to result to the next state, until the agent is told to end.

Control waits on exactly two things, what it is at (a stage, a call, a hold) and the directives. It knows stages by name
only, and no tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, TypeVar

from stages.outcome import ReasonCode, Verdict, error
from stages.stage import WipeOverride
from vetting_agent import wire
from vetting_agent.client import Client
from vetting_agent.directives import Action, action_for
from vetting_agent.errors import Rejected
from vetting_agent.execution import Executed, Execution, Executor
from vetting_agent.hold import Holder
from vetting_agent.lamps import Lamps
from vetting_agent.logs import LogBook
from vetting_agent.owed import PowerOffOwed
from vetting_agent.reporting import Reporter
from vetting_agent.status import AckStatus, Activity, Alarm, Directive, Directives, StatusBoard

ResultT = TypeVar("ResultT")
KILL_WAIT_S = 4.0
SAME_STAGE_PAUSE_S = 2.0
SAME_STAGE_PAUSE_MOST_S = 30.0
NEVER_SEEN = frozenset({wire.SPEC_VALIDATE, wire.REPORTING})


class End(Enum):
    """How the walk ended."""

    POWER_OFF = "power off"
    EXIT = "exit, leaving the host up"


class _Ended(Exception):
    def __init__(self, end: End, directive: Directive | None) -> None:
        super().__init__(str(directive))
        self.end = end
        self.directive = directive


class Control:
    """Walks one run from the claim on."""

    def __init__(
        self,
        *,
        claim: wire.Claim,
        client: Client,
        book: LogBook,
        board: StatusBoard,
        directives: Directives,
        executor: Executor,
        holder: Holder,
        lamps: Lamps,
        owed: PowerOffOwed,
        claim_again: Callable[[], Awaitable[wire.Claim]],
        recollect: Callable[[], Awaitable[list[str] | None]],
    ) -> None:
        self._claim = claim
        self._book = book
        self._board = board
        self._directives = directives
        self._executor = executor
        self._holder = holder
        self._lamps = lamps
        self._owed = owed
        self._reporter = Reporter(
            client=client, claim=claim, executor=executor, book=book, claim_again=claim_again, recollect=recollect
        )
        self._execution: Execution | None = None
        self._cancelled_by: Directive | None = None
        self._cancelled_before = False
        self._seen: dict[str, tuple[AckStatus, str | None] | None] = {}
        self._last_stage: str | None = None
        self._repeats = 0

    async def walk(self) -> End:
        """To the end that a directive makes. Raises FinalRefusal."""
        state: object = self._claim.current_state
        self._say_resumed(state)
        self._take_over_end(state)
        try:
            while True:
                state = await self._step(state)
        except _Ended as ended:
            if ended.directive is not None:
                self._acknowledge(ended.directive, AckStatus.DONE)
            return ended.end

    def _say_resumed(self, state: object) -> None:
        stage = self._executor.of_state(state) if isinstance(state, str) else None
        if stage is None:
            return
        first = self._claim.stages[0] if self._claim.stages else "Inventory"
        if stage.name != first or self._executor.store.resumed:
            self._book.warn(f"resuming the run at {stage.name}: an agent has worked on it before this one")

    def _take_over_end(self, state: object) -> None:
        """A run that goes on repeats its orders; only a cancelled stage whose result is due has had its own."""
        if self._owed.order is None:
            return
        stage = self._executor.of_state(state) if isinstance(state, str) else None
        left = self._executor.undelivered(stage.name) if stage is not None else None
        self._cancelled_before = left is not None and left.outcome.verdict is Verdict.CANCELLED
        if not self._cancelled_before:
            self._owed.void()

    # --- from state to state ------------------------------------------------------------------------------------------

    async def _step(self, state: object) -> object:
        """Do what the state asks for; the next state."""
        if state == wire.FAILED_HOLDING:
            return await self._hold()
        await self._holder.leave()
        if state in (None, "", wire.COMPLETED):  # no set: it may be any JSON value
            self._book.info("the run is complete; waiting for the orchestrator to shut this host down")
            return await self._wait_at(Activity.COMPLETED)
        if not isinstance(state, str):
            return await self._park(f"the run's state is no text: {state!r}")
        if (stage := self._executor.of_state(state)) is not None:
            return await self._run(stage.name)
        if state in self._claim.stages and state not in NEVER_SEEN:
            return await self._run(state)
        return await self._park(f"this agent knows no state {state!r}")

    async def _hold(self) -> object:
        self._board.at(Activity.HOLDING)
        order = await self._attend(self._holder.keep())
        assert isinstance(order, Directive)
        assert order.stage is not None
        self._book.warn(f"retrying {order.stage} on the operator's word")
        return await self._run(order.stage, _override_of(order), retry=True)

    async def _run(self, stage: str, override: WipeOverride | None = None, *, retry: bool = False) -> object:
        executed = None if retry or self._last_stage is not None else self._executor.undelivered(stage)
        await self._pause_before(stage, retry=retry)
        if executed is not None:
            self._book.warn(f"an agent before this one came to the end of {stage}: its result is delivered now")
            self._board.ended(executed.stage, executed.outcome.verdict.value, executed.outcome.message)
        else:
            executed = await self._execute(stage, override, after_hold=retry)
        self._board.at(Activity.BETWEEN)
        try:
            next_state = await self._attend(self._reporter.report(executed, retry=retry))
        except Rejected as problem:
            self._book.error(f"the result of {stage} was not taken: {problem}")
            next_state = problem
        if self._cancelled_by is not None or self._cancelled_before:
            raise _Ended(End.POWER_OFF, self._cancelled_by)
        if isinstance(next_state, Rejected):
            return await self._park(f"the orchestrator rejected the result of {stage}")
        self._book.info(f"the result of {stage} is in; next: {next_state or 'nothing'}")
        return next_state

    async def _execute(self, stage: str, override: WipeOverride | None, *, after_hold: bool) -> Executed:
        execution = self._executor.begin(stage, override, after_hold=after_hold)
        self._board.at(Activity.RUNNING, stage)
        self._execution = execution
        try:
            executed = await self._attend(execution.run())
        finally:
            self._execution = None
        assert isinstance(executed, Executed)
        self._board.ended(executed.stage, executed.outcome.verdict.value, executed.outcome.message)
        if self._cancelled_by is not None:
            self._acknowledge(self._cancelled_by, AckStatus.DONE)
        return executed

    async def _pause_before(self, stage: str, *, retry: bool) -> None:
        """A server that names the same stage over and over is not hammered with results."""
        again = stage == self._last_stage and not retry
        self._repeats = self._repeats + 1 if again else 0
        self._last_stage = stage
        if self._repeats:
            self._board.at(Activity.BETWEEN)
            pause_s = min(SAME_STAGE_PAUSE_MOST_S, SAME_STAGE_PAUSE_S * 2 ** min(self._repeats - 1, 8))
            self._book.warn(f"the run still stands at {stage} after its result; running it again in {pause_s:.0f} s")
            await self._attend(asyncio.sleep(pause_s))

    async def _park(self, why: str) -> object:
        self._book.warn(f"parked: {why}")
        return await self._wait_at(Activity.PARKED)

    async def _wait_at(self, activity: Activity) -> object:
        self._board.at(activity)
        return await self._attend(_for_ever())

    # --- directives ---------------------------------------------------------------------------------------------------

    async def _attend(self, work: Coroutine[Any, Any, ResultT]) -> ResultT | Directive:
        """The result of `work`, or the directive to retry that ended it. Whatever ends this, `work` is ended too."""
        task = asyncio.ensure_future(work)
        arrival = asyncio.ensure_future(self._directives.arrival())
        try:
            while True:
                await asyncio.wait({task, arrival}, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                while (item := self._directives.take()) is not None:
                    if (order := self._obey(item)) is not None:
                        return order
                arrival = asyncio.ensure_future(self._directives.arrival())
        finally:
            arrival.cancel()
            task.cancel()
            await asyncio.wait({task, arrival}, timeout=KILL_WAIT_S)

    def _obey(self, item: Directive | Alarm) -> Directive | None:
        """Act on it; the directive itself when the stage it names is to be run now."""
        if isinstance(item, Alarm):
            if self._execution is not None:
                self._book.error(item.finding.message, self._execution.name)
                self._execution.interrupt(item.finding)
            return None
        if item.cmd_id is not None and item.cmd_id in self._seen:
            self._repeat_ack(item.cmd_id)
            return None
        if item.cmd_id is not None:
            self._seen[item.cmd_id] = None
        return self._act(item)

    def _act(self, directive: Directive) -> Directive | None:
        activity = self._board.now.activity
        action = action_for(directive.cmd, activity)
        if action is Action.RETRY and not self._can_run(directive.stage):
            action = Action.REFUSE
        if action is Action.OPEN_TERMINAL and directive.terminal is None:
            action = Action.REFUSE
        if action is Action.IDENTIFY:
            self._identify(directive)
            return None
        if action is Action.REFUSE:
            self._book.warn(f"directive {directive} is refused: it makes no sense while {activity.value}")
            self._acknowledge(directive, AckStatus.REFUSED)
            return None
        self._book.warn(f"directive {directive} arrived while {activity.value}: {action.value}")
        if action is Action.RETRY:
            self._acknowledge(directive, AckStatus.DONE)
            return directive
        if action in {Action.CANCEL, Action.SHUTDOWN}:
            self._note_owed(directive)
        if action is Action.CANCEL:
            self._cancel(directive)
            return None
        if action is Action.OPEN_TERMINAL and directive.terminal is not None:
            self._holder.open_terminal(directive.terminal, lambda status: self._acknowledge(directive, status))
            return None
        raise _Ended(End.POWER_OFF if action is Action.SHUTDOWN else End.EXIT, directive)

    def _note_owed(self, directive: Directive) -> None:
        try:
            self._owed.note(directive.cmd)
        except OSError as problem:
            self._book.warn(f"the power-off to come cannot be noted for a restarted agent: {problem}")

    def _identify(self, directive: Directive) -> None:
        """Beside whatever runs: a lamp is switched in a task of its own."""
        order = directive.identify
        if order is None:
            self._acknowledge(directive, AckStatus.REFUSED, "the order names no lamp")
            return
        self._lamps.switch(order, lambda status, why: self._acknowledge(directive, status, why))

    def _cancel(self, directive: Directive) -> None:
        """Kill the stage; the walk goes on to post its result."""
        assert self._execution is not None
        if self._cancelled_by is not None:
            self._acknowledge(directive, AckStatus.DONE)
            return
        self._cancelled_by = directive
        text = "Cancelled by the operator before it was done"
        self._execution.interrupt(error(ReasonCode.CANCELLED, "stage", text))

    def _can_run(self, stage: str | None) -> bool:
        return stage is not None and (self._executor.named(stage) is not None or stage in self._claim.stages)

    def _acknowledge(self, directive: Directive, status: AckStatus, why: str | None = None) -> None:
        if directive.cmd_id is None or self._seen.get(directive.cmd_id) == (status, why):
            return
        self._seen[directive.cmd_id] = (status, why)
        self._board.acknowledge(directive.cmd_id, status, why)

    def _repeat_ack(self, cmd_id: str) -> None:
        """The server has not heard the acknowledgement, or it is on its way; what is still being done has none yet."""
        answer = self._seen[cmd_id]
        if answer is not None:
            self._board.acknowledge(cmd_id, *answer)


def _override_of(directive: Directive) -> WipeOverride | None:
    flags = directive.override_flags
    if flags is None or not flags.wipe:
        return None
    return WipeOverride(None if flags.serials is None else tuple(flags.serials))


async def _for_ever() -> object:
    return await asyncio.get_running_loop().create_future()

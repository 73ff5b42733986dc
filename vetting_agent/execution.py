"""Runs one stage for control: its folder, its context, its log lines; ends in an Outcome whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probes.counters import Counters
from probes.host import Host
from stages import conclusion, stage_named, stage_of_state
from stages.outcome import Finding, Outcome, ReasonCode, error
from stages.runner import StageRun
from stages.stage import IperfLender, Level, RunFacts, Stage, StageContext, WipeOverride
from vetting_agent.evidence import EvidenceStore
from vetting_agent.logs import LogBook
from vetting_agent.status import StatusBoard
from vetting_agent.thermal import SampleBuffer
from vetting_agent.wire import Claim

# The runner itself gives a stage 1.9 s to die; a little later its word is not waited for any longer.
INTERRUPT_WAIT_S = 2.5
WIPE_STAGE = "Storage"
COUNTERS_LIMIT_BYTES = 64 * 2**20
"""Far more than a rack of disks says of itself."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What one execution of a stage gave."""

    stage: str
    outcome: Outcome
    folder: Path | None = None
    inventory: Mapping[str, Any] | None = None


@dataclass(slots=True)
class LastCount:
    """The fault counters when last they were read: what they gain from then on is charged to the next execution, also
    what they gained between two."""

    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class Executor:
    """Makes executions. `facts` are those of the run; the rest of the facts is of the moment."""

    host: Host
    stages: tuple[Stage[Any], ...] | None
    claim: Claim
    facts: RunFacts
    store: EvidenceStore
    lender: IperfLender
    board: StatusBoard
    buffer: SampleBuffer
    book: LogBook
    last: LastCount = field(default_factory=LastCount)

    def named(self, name: str) -> Stage[Any] | None:
        """The stage of that name."""
        if self.stages is None:
            return stage_named(name)
        return next((stage for stage in self.stages if stage.name == name), None)

    def of_state(self, state: str) -> Stage[Any] | None:
        """The stage that a run in that state stands at."""
        if self.stages is None:
            return stage_of_state(state)
        return next((stage for stage in self.stages if stage.state == state), None)

    def begin(self, name: str, override: WipeOverride | None, *, after_hold: bool = False) -> Execution:
        """One more execution of a stage, known or not."""
        stage = self.named(name)
        if stage is None:
            return Execution(name, None, self.book)
        earlier = self.store.newest()
        refused = refused_serials(self.store.outcome_of(WIPE_STAGE))
        before = counters_before(self.store.cut_short(name))
        folder = self.store.begin(name)
        context = StageContext(
            host=self.host.with_tools(self.host.tools.recording(folder / "tools")),
            evidence=folder,
            facts=replace(self.facts, override=override, refused_serials=refused, earlier_evidence=earlier),
            iperf=self.lender,
            listener=_Listener(name, self.board, self.buffer, self.book),
        )
        last = self.last.counters
        stage_run = StageRun(stage, self._parameters(name), context, before, last, after_repair=after_hold)
        return Execution(name, stage, self.book, stage_run, context, self.last)

    def undelivered(self, name: str) -> Executed | None:
        """What an agent of this boot found in that stage and did not live to deliver; None: nothing, or it is lost."""
        stage, folder = self.named(name), self.store.undelivered(name)
        if stage is None or folder is None:
            return None
        from vetting_agent.judge_evidence import Foreign, decoded

        try:
            outcome: Outcome = decoded((folder / conclusion.OUTCOME).read_bytes(), Outcome, beside="verdict")
            return Executed(name, outcome, folder, stage.artifact(folder))
        except (OSError, ValueError, Foreign):
            return None

    def _parameters(self, name: str) -> object:
        """What the claim says for this stage. Malformed parameters are handed on: the stage refuses them in words."""
        parameters = self.claim.parameters
        return parameters.get(name) if isinstance(parameters, dict) else parameters


class Execution:
    """One execution of one stage."""

    def __init__(
        self,
        name: str,
        stage: Stage[Any] | None,
        book: LogBook,
        stage_run: StageRun | None = None,
        context: StageContext | None = None,
        last: LastCount | None = None,
    ) -> None:
        self._last = last
        self.name = name
        self._stage = stage
        self._book = book
        self._run = stage_run
        self._context = context
        self._reason: Finding | None = None
        self._interrupted = asyncio.Event()

    def interrupt(self, finding: Finding) -> None:
        """End it now; its outcome carries the finding. The first reason given stands."""
        if self._reason is None:
            self._reason = finding
            self._interrupted.set()
            if self._run is not None:
                self._run.interrupt(finding)

    async def run(self) -> Executed:
        """To the end. Cancelling this kills the stage and gives nothing."""
        self._book.info(f"stage {self.name} starts", self.name)
        outcome = await self._outcome()
        level = Level.INFO if outcome.passed else Level.ERROR
        self._book.log(level, f"stage {self.name} ends: {outcome.verdict.value}: {outcome.message}", self.name)
        if self._context is None or self._stage is None:
            return Executed(self.name, outcome)
        return Executed(self.name, outcome, self._context.evidence, self._artifact(self._stage, self._context.evidence))

    async def _outcome(self) -> Outcome:
        if self._run is None:
            text = f"This agent has no stage named {self.name!r}"
            return Outcome(text, (error(ReasonCode.UNKNOWN_STAGE, self.name, text),))
        try:
            return await self._supervised(self._run)
        except Exception as problem:
            # The runner catches what a stage raises; this is the runner's own failure, a full disk for instance.
            self._book.error(traceback.format_exc(), self.name)
            text = f"{self.name} could not be run: {type(problem).__name__}: {problem}"
            return Outcome(text, (error(ReasonCode.STAGE_CRASHED, self.name, text),))

    async def _supervised(self, stage_run: StageRun) -> Outcome:
        """The runner's outcome; once interrupted, it is waited for only so long."""
        task = asyncio.ensure_future(stage_run.run())
        interrupted = asyncio.ensure_future(self._interrupted.wait())
        try:
            await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=INTERRUPT_WAIT_S)
            if task.done():
                outcome = task.result()
                if self._last is not None:
                    self._last.counters = stage_run.last
                return outcome
            assert self._reason is not None
            return Outcome(self._reason.message, (self._reason,))
        finally:
            for one in (interrupted, task):
                one.cancel()
            await asyncio.wait({interrupted, task}, timeout=INTERRUPT_WAIT_S)

    def _artifact(self, stage: Stage[Any], folder: Path) -> Mapping[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            return stage.artifact(folder)
        self._book.error(f"what {self.name} left beside its outcome cannot be read", self.name)
        return None


@dataclass(frozen=True, slots=True)
class _Listener:
    """Hands on what a stage reports, tagged with its name."""

    stage: str
    board: StatusBoard
    buffer: SampleBuffer
    book: LogBook

    def log(self, level: Level, text: str) -> None:
        self.book.log(level, text, self.stage)

    def progress(self, fraction: float, eta_s: float | None) -> None:
        if self.board.now.stage == self.stage:  # a stage that would not die has no say any more
            self.board.progress(fraction, eta_s)

    def sample(self, kind: str, key: str, value: float, unit: str) -> None:
        self.buffer.add(kind, key, value, unit)


def counters_before(folder: Path | None) -> Counters | None:
    """The fault counters before an execution of which no result was taken; None: there is none, or they are lost.

    What happened since then is charged to the execution that takes its place: a fault may be what ended the agent.
    """
    return None if folder is None else _counters_in(folder / conclusion.BEFORE)


def last_count(store: EvidenceStore) -> Counters | None:
    """The fault counters at the end of the last stage that an agent of this boot brought there."""
    path = store.last_with(conclusion.AFTER)
    return None if path is None else _counters_in(path)


def _counters_in(path: Path) -> Counters | None:
    from vetting_agent.judge_evidence import Foreign, decoded

    try:
        if path.stat().st_size > COUNTERS_LIMIT_BYTES:
            return None
        counters: Counters = decoded(path.read_bytes(), Counters)
    except (OSError, Foreign):
        return None
    return counters


def refused_serials(outcome: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The disks that a Storage outcome refused to write to because of data on them."""
    findings = (outcome or {}).get("findings", [])
    components = [
        str(finding.get("component", ""))
        for finding in findings
        if finding.get("reason_code") == ReasonCode.WIPE_REFUSED_DATA_PRESENT.value
    ]
    return tuple(dict.fromkeys(one.removeprefix("disk:") for one in components if one.startswith("disk:")))

"""The terminals of all runs: tokens minted, orders handed to agents, streams met, and what happened kept as evidence.

Sessions live in memory: a server that ends takes its terminals with it, and finds what they recorded at its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket

from orchestrator.clock import now_text
from orchestrator.evidence import EvidenceFolder
from orchestrator.run_record import REFUSED, Run
from orchestrator.steps import Refusal
from orchestrator.store import EvidenceRecord, Store, StoreFailed, Transaction
from orchestrator.terminal_bridge import Bridge
from orchestrator.terminal_failures import FAILURES, MINT, UPGRADE, TerminalFailed
from orchestrator.terminal_recording import Recording, archive_of
from orchestrator.terminal_session import Operator, TerminalLimits, TerminalSession
from orchestrator.tokens import hash_of, matches
from vetting_agent.run_view import EventView
from vetting_agent.wire import FAILED_HOLDING, OPEN_TERMINAL, HeartbeatReply

log = logging.getLogger(__name__)
EVIDENCE_STAGE = "Terminal"
MOST_OF_A_RUN = 4
MOST = 64
MOST_PIECES = 200
"""Of evidence about one run's terminals: after that the run's history alone tells of more."""
SESSION = re.compile(r"[A-Za-z0-9._-]{8,64}")
CLOSE_LIMIT_S = 3.0


@dataclass(slots=True)
class Terminals:
    """The gateway between operators' sockets and hosts' streams."""

    store: Store
    evidence: EvidenceFolder
    folder: Path
    """Recordings that are not finished."""
    limits: TerminalLimits = field(default_factory=TerminalLimits)
    _sessions: dict[str, TerminalSession] = field(default_factory=dict)
    _closing: bool = False

    # --- for operators ------------------------------------------------------------------------------------------------

    async def mint(self, run_id: int, operator: Operator, correlation: str, columns: int, rows: int) -> TerminalSession:
        """A session with its single-use token. Raises Refusal and StoreFailed, noted as terminal_token_mint_failed."""
        try:
            run = self._run_to_enter(run_id)
            session = self._new(run, operator, correlation, columns, rows)
            await self._note_asked(session)
        except (Refusal, StoreFailed) as problem:
            text = problem.message if isinstance(problem, Refusal) else "The database did not take it; try again"
            await self.note_failure(run_id, operator, correlation, MINT, text)
            raise
        self._sessions[session.session] = session
        asyncio.get_running_loop().call_later(self.limits.token_s, self._expire, session)
        return session

    def why_not(self, run_id: int) -> str | None:
        """Why no terminal could be opened into this run's host now; None when one could."""
        try:
            self._run_to_enter(run_id)
        except Refusal as refusal:
            return refusal.message
        return None

    def _run_to_enter(self, run_id: int) -> Run:
        run = self.store.find_run(run_id)
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        if (reason := _why_not(run)) is not None:
            raise Refusal(409, "no_terminal_now", reason)
        if sum(one.run_id == run_id for one in self._sessions.values()) >= MOST_OF_A_RUN:
            raise Refusal(429, "too_many_terminals", f"Run {run_id} has {MOST_OF_A_RUN} terminals open: end one first")
        if self._closing or len(self._sessions) >= MOST:
            raise Refusal(429, "too_many_terminals", f"This server has {MOST} terminals open, which is the limit")
        return run

    def _new(self, run: Run, operator: Operator, correlation: str, columns: int, rows: int) -> TerminalSession:
        usable = SESSION.fullmatch(correlation) and correlation not in self._sessions
        return TerminalSession(
            session=correlation if usable else uuid.uuid4().hex,
            run_id=run.run_id,
            operator=operator,
            columns=max(2, min(columns, 1000)),
            rows=max(1, min(rows, 500)),
            limits=self.limits,
            heartbeat_s=run.pace.heartbeat_s,
        )

    def _expire(self, session: TerminalSession) -> None:
        if not session.browser_taken:
            self._sessions.pop(session.session, None)

    def take(self, token: str, binding: str) -> TerminalSession:
        """The session that this token opens, once, for the login it was minted for. Raises TerminalFailed."""
        found = [one for one in self._sessions.values() if matches(token, one.browser_hash)]
        if not found or found[0].browser_taken:
            raise TerminalFailed(UPGRADE, "The token is unknown, used or expired: connect again")
        session = found[0]
        session.browser_taken = True  # also by somebody else: a token that got about is spent
        if session.operator.binding != binding:
            self._sessions.pop(session.session)
            raise TerminalFailed(UPGRADE, "The token belongs to another login")
        return session

    async def attend(self, session: TerminalSession, browser: WebSocket) -> dict[str, Any]:
        """Run the terminal to its end; the last message for the operator."""
        bridge = Bridge(session, browser, self._record, self._reason_to_end)
        ending: dict[str, Any] = {"reason": "the server was interrupted"}
        self._keep_facts(session)
        try:
            over = await bridge.run()
            ending = {"reason": str(over), "status": over.status}
        except TerminalFailed as failure:
            ending = {"failure": failure.code, "reason": failure.detail}
        finally:
            session.over.set()
            self._sessions.pop(session.session, None)
            await asyncio.shield(self._conclude(session, bridge.recording, ending))
            session.concluded.set()
        if "failure" in ending:
            return failure_message(session.session, ending["failure"], ending["reason"])
        return {"type": "ended", "correlation_id": session.session, **ending}

    async def note_failure(self, run_id: int, operator: Operator, correlation: str, code: str, detail: str) -> None:
        """Keep a failure that no session of ours ended in: a refused token, or what only the page could see."""
        if (session := self._sessions.get(correlation)) is not None and not session.browser_taken:
            self._sessions.pop(correlation)
        if self.store.find_run(run_id) is None:
            log.warning("terminal %s: run %d: %s: %s", correlation, run_id, code, detail)
            return
        facts = {
            "session": correlation,
            "run_id": run_id,
            "operator": operator.name,
            "ended_at": now_text(),
            "steps_s": {},
            "failure": code,
            "reason": detail,
        }
        await self._keep(run_id, correlation, facts, None)

    # --- for agents ---------------------------------------------------------------------------------------------------

    def reply_for(self, run_id: int) -> HeartbeatReply | None:
        """The order to open a terminal, for a heartbeat that has no other order to carry."""
        waiting = [one for one in self._sessions.values() if one.run_id == run_id and one.wants_order]
        if not waiting:
            return None
        session = min(waiting, key=lambda one: one.handed_out_at)
        session.handed_out_at = time.monotonic()
        session.sent.set()
        return HeartbeatReply(cmd=OPEN_TERMINAL, cmd_id=session.cmd_id, terminal=session.order())

    def heard(self, run_id: int, cmd_id: str | None, status: str | None) -> None:
        """An agent's acknowledgement."""
        for session in self._sessions.values():
            if (session.run_id, session.cmd_id) == (run_id, cmd_id) and not session.answer.done():
                session.answer.set_result(status or REFUSED)

    def meet(self, run_id: int, name: str, token: str, run_token: str) -> TerminalSession:
        """The session that a host's stream is for. Refuses what was not ordered, and a second stream."""
        session = self._sessions.get(name)
        if session is None or session.run_id != run_id or not matches(token, hash_of(session.node_token)):
            raise Refusal(422, "no_such_terminal", "No terminal with this name and token is waited for")
        if session.node.done() or session.over.is_set() or not session.browser_taken:
            raise Refusal(422, "no_such_terminal", "This terminal has its stream already, or is over")
        session.secrets = [run_token, session.node_token, session.browser_token]
        return session

    # --- for the server -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End all of them, and wait for their evidence."""
        self._closing = True
        for session in self._sessions.values():
            session.ending = "the server is being stopped"
        attended = [one for one in self._sessions.values() if one.browser_taken]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await asyncio.gather(*(one.concluded.wait() for one in attended))

    async def recover(self) -> None:
        """Make evidence of what a server left that was killed."""
        for path, facts in self._left():
            facts["reason"] = "the server ended while the terminal was open"
            session, run_id = str(facts.get("session")), int(facts.get("run_id", 0))
            if self.store.find_run(run_id) is not None and SESSION.fullmatch(session):
                await self._keep(run_id, session, facts, path.with_suffix(".cast"))
            path.unlink(missing_ok=True)
            path.with_suffix(".cast").unlink(missing_ok=True)

    def _left(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(path.read_text())
                if isinstance(facts, dict):
                    yield path, facts

    # --- inside -------------------------------------------------------------------------------------------------------

    def _reason_to_end(self, session: TerminalSession) -> str | None:
        run = self.store.find_run(session.run_id)
        return None if run is not None and run.is_holding else "the hold is over"

    def _record(self, session: TerminalSession) -> Recording:
        title = f"run {session.run_id}, {session.operator.name}, {session.session}"
        path = self.folder / f"{session.session}.cast"
        return Recording(path, session.columns, session.rows, title, session.secrets)

    def _keep_facts(self, session: TerminalSession) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / f"{session.session}.json").write_text(json.dumps(_facts(session)))
        except OSError as problem:
            log.warning("terminal %s: cannot be noted: %s", session.session, problem)

    async def _conclude(self, session: TerminalSession, recording: Recording | None, ending: dict[str, Any]) -> None:
        facts = {**_facts(session), "ended_at": now_text(), **ending}
        path = self.folder / f"{session.session}.cast"
        if recording is not None:
            recording.finish()
            facts |= {"recording_lost_bytes": recording.lost_bytes, "recording_trouble": recording.trouble}
        await self._keep(session.run_id, session.session, facts, path)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)

    async def _keep(self, run_id: int, session: str, facts: dict[str, Any], recording: Path | None) -> None:
        """Evidence, a line of the run's history, and for a failure one of the log. Never raises."""
        what = f"failed: {facts['failure']}: {facts['reason']}" if "failure" in facts else f"ended: {facts['reason']}"
        if "failure" in facts:
            log.warning("terminal %s: run %d: %s: %s", session, run_id, facts["failure"], facts["reason"])
        try:
            if len([one for one in await self.store.evidence(run_id) if one.stage == EVIDENCE_STAGE]) < MOST_PIECES:
                await self._keep_evidence(run_id, session, facts, recording)
            await self._tell(run_id, f"terminal of {facts['operator']} {what} ({session})")
        except (StoreFailed, OSError) as problem:
            log.warning("terminal %s: run %d: its evidence is not kept: %s", session, run_id, problem)

    async def _keep_evidence(self, run_id: int, session: str, facts: dict[str, Any], recording: Path | None) -> None:
        content = await asyncio.to_thread(archive_of, session, facts, recording)
        sha256 = await self.evidence.keep(run_id, hashlib.sha256(content).hexdigest(), content)
        record = EvidenceRecord(
            id=0, stage=EVIDENCE_STAGE, result_id=session, sha256=sha256, size=len(content), received_at=now_text()
        )
        await self.store.write(lambda transaction: transaction.add_evidence(run_id, record))

    async def _note_asked(self, session: TerminalSession) -> None:
        text = f"{session.operator.name} asks for a terminal ({session.session})"
        event = EventView(ts=now_text(), kind="terminal", text=text)
        entry = session.operator.entry("terminal", subject=f"run {session.run_id}", detail=session.session)

        def work(transaction: Transaction) -> None:
            transaction.add_event(session.run_id, event)
            transaction.add_audit(entry)

        await self.store.write(work)

    async def _tell(self, run_id: int, text: str) -> None:
        event = EventView(ts=now_text(), kind="terminal", text=text)
        await self.store.write(lambda transaction: transaction.add_event(run_id, event))


def _why_not(run: Run) -> str | None:
    """Why no terminal can be opened into this run's host now."""
    if not run.is_holding:
        return f"A terminal opens in {FAILED_HOLDING} only, and run {run.run_id} is {run.state}"
    if run.retry_stage is not None:
        return f"{run.retry_stage} is being retried: wait for its result"
    if run.instance_id is None or run.powered_off:
        return f"No agent of run {run.run_id} is there"
    if run.stalled:
        return "The host has been silent for several heartbeats: it is down or cut off"
    return None


def _facts(session: TerminalSession) -> dict[str, Any]:
    return {
        "session": session.session,
        "run_id": session.run_id,
        "operator": session.operator.name,
        "created_at": session.created_at,
        "steps_s": dict(session.steps),
        "shell": session.shell,
    }


def failure_message(correlation: str, code: str, detail: str) -> dict[str, Any]:
    """A failure as the page and the command line show it."""
    told = FAILURES[code]
    return {
        "type": "failed",
        "code": code,
        "detail": detail,
        "meaning": told.meaning,
        "next_action": told.next_action,
        "correlation_id": correlation,
    }

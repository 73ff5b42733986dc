"""What operators do to runs, without HTTP: each act decided, kept and written to the audit log in one transaction.

The console, its API and the local command line all act through here. An order to an agent is `asked`, never `done`:
it is done when the agent's heartbeat says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.agent_service import AgentService
from orchestrator.boot_script import cmdline_of
from orchestrator.claiming import rotate_token
from orchestrator.clock import now_text
from orchestrator.directives import described
from orchestrator.host_book import created_run
from orchestrator.run_creation import RunRequest, request_again
from orchestrator.run_record import DONE, Directive, Run
from orchestrator.steps import Ordered, Refusal, Released, Step
from orchestrator.store import HoldKey, Transaction
from orchestrator.tokens import new_token
from orchestrator.who import Who

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Acts:
    """`url` and `fingerprint`: what hosts are told of the agents' API."""

    service: AgentService
    url: str
    fingerprint: str

    async def create(self, wanted: RunRequest, who: Who, *, act: str = "create run") -> tuple[Run, str]:
        """A new run and its token, which is told only now. Raises Refusal."""
        token, now = new_token(), now_text()

        def work(transaction: Transaction) -> Run:
            run, text = created_run(transaction, wanted, token, now)
            transaction.add_audit(who.entry(act, subject=f"run {run.run_id}", detail=text))
            return run

        return await self.written(work, who, act, wanted.host[:64]), token

    async def again(self, run_id: int, who: Who) -> tuple[Run, str]:
        """A new run for the same host with the same settings, and its token."""
        old = self.service.store.find_run(run_id)
        if old is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        return await self.create(request_again(old), who, act="run again")

    def cmdline(self, run: Run, token: str) -> str:
        """The kernel command line that boots a host into this run."""
        return cmdline_of(self.url, self.fingerprint, run.run_id, token, run.mac)

    async def rotate_token(self, run_id: int, who: Who) -> tuple[Run, str]:
        """A new token; all others of the run end at once, that of an agent which is running included."""
        entry = who.entry("rotate token", subject=f"run {run_id}")
        try:
            return await rotate_token(self.service.store, run_id, lambda transaction: transaction.add_audit(entry))
        except Refusal as refusal:
            await self.note_refused(who, "rotate token", f"run {run_id}", "", refusal)
            raise

    async def order(
        self, run_id: int, wanted: Ordered, who: Who, also: Callable[[Transaction], None] | None = None
    ) -> Directive:
        """An order for the agent. `also` belongs to the same transaction. Raises Refusal."""

        def keep(transaction: Transaction, step: Step, _now: str) -> None:
            assert step.directive is not None
            if also is not None:
                also(transaction)
            done = step.directive.status == DONE
            entry = who.entry(
                wanted.cmd,
                subject=f"run {run_id}",
                detail=described(step.directive),
                outcome="done" if done else "asked",
            )
            transaction.add_audit(entry)

        detail = f"wipe {', '.join(wanted.serials or ['what was refused'])}" if wanted.wipe else wanted.stage or ""
        try:
            step = await self.service.apply(run_id, wanted, also=keep)
        except Refusal as refusal:
            await self.note_refused(who, wanted.cmd, f"run {run_id}", detail, refusal)
            raise
        assert step.directive is not None
        return step.directive

    async def release(self, run_id: int, who: Who) -> Run:
        """The run ends at once, and its host is let go."""

        def keep(transaction: Transaction, _step: Step, _now: str) -> None:
            transaction.add_audit(who.entry("release", subject=f"run {run_id}"))

        step = await self.service.apply(run_id, Released(), also=keep)
        self.service.slots.release_run(run_id)
        return step.run

    async def hold_key(self, run_id: int, who: Who) -> HoldKey:
        """The key pair that opens the held host. Refuses with 404 when there is none."""

        def work(transaction: Transaction) -> HoldKey:
            key = transaction.hold_key(run_id)
            if key is None:
                raise Refusal(404, "no_hold_key", f"Run {run_id} has no hold key: its host has not asked for one")
            transaction.add_audit(who.entry("take hold key", subject=f"run {run_id}"))
            return key

        return await self.written(work, who, "take hold key", f"run {run_id}")

    async def written(self, work: Callable[[Transaction], T], who: Who, act: str, subject: str) -> T:
        """What `work` gives, kept; its refusal goes to the audit log."""
        try:
            return await self.service.store.write(work)
        except Refusal as refusal:
            await self.note_refused(who, act, subject, "", refusal)
            raise

    async def note_refused(self, who: Who, act: str, subject: str, detail: str, refusal: Refusal) -> None:
        """An attempt that the rules did not allow, for the audit log."""
        entry = who.entry(act, subject=subject, detail=detail, outcome=f"refused: {refusal.code}")
        await self.service.store.write(lambda transaction: transaction.add_audit(entry))

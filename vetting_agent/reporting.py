"""Sends what a stage gave: first its evidence, then its result, until the orchestrator has answered."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vetting_agent import wire
from vetting_agent.background import in_thread
from vetting_agent.client import EVIDENCE_LIMIT_S, Client
from vetting_agent.errors import Rejected, Trouble
from vetting_agent.evidence import Package, pack, redact_folder
from vetting_agent.execution import Executed, Executor
from vetting_agent.logs import LogBook

INVENTORY = "Inventory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Reports executions of stages. `recollect` reads the components of the machine as they are now."""

    client: Client
    claim: wire.Claim
    executor: Executor
    book: LogBook
    claim_again: Callable[[], Awaitable[wire.Claim]]
    recollect: Callable[[], Awaitable[list[str] | None]]

    async def report(self, executed: Executed, *, retry: bool) -> object:
        """The state that the orchestrator says comes next. Raises Rejected and FinalRefusal."""
        store, folder = self.executor.store, executed.folder
        result_id = store.result_id(folder) if folder is not None else str(uuid.uuid4())
        if folder is not None:
            await self._send_evidence(executed.stage, folder, result_id)
        fresh = retry and executed.stage != INVENTORY
        components = await self.recollect() if fresh else store.components()
        request = wire.result_request(
            executed.stage,
            executed.outcome,
            result_id=result_id,
            inventory=executed.inventory,
            components=components,
        )
        next_state = await self._post(self._sendable(request), retry=retry)
        if folder is not None:
            store.delivered(folder, result_id)
        return next_state

    def _sendable(self, request: wire.ResultRequest) -> wire.ResultRequest:
        """Without the token, which tools quote with the kernel's command line, and what JSON has no word for."""
        plain = msgspec.to_builtins(request)
        for name in ("summary", "message", "inventory"):
            if name in plain:
                plain[name] = self.book.redactor.data(plain[name])
        summary = plain["summary"]
        figures = [one for one in summary["measurements"] if math.isfinite(one["value"])]
        if len(figures) < len(summary["measurements"]):
            self.book.warn("measurements that are no finite numbers are not sent", request.stage)
        coverage = {name: part for name, part in summary["coverage"].items() if math.isfinite(part)}
        plain["summary"] = summary | {"measurements": figures, "coverage": coverage}
        return msgspec.convert(plain, wire.ResultRequest)

    async def _post(self, request: wire.ResultRequest, *, retry: bool) -> object:
        answer_lost = False

        async def attempt() -> object:
            nonlocal answer_lost
            # Whoever ignores result_ids would count a second posting as a second result.
            if answer_lost and ignores_result_ids(self.claim):
                claim = await self.claim_again()
                if not self._stands_at(request.stage, claim.current_state, retry=retry):
                    self.book.warn(f"the answer to the result of {request.stage} was lost; the run has gone on")
                    return claim.current_state
                answer_lost = False
            try:
                return (await self.client.result(request)).next_state
            except Trouble as problem:
                answer_lost = answer_lost or problem.maybe_done
                raise

        return await self.client.insist("result", attempt)

    def _stands_at(self, stage: str, state: object, *, retry: bool) -> bool:
        if retry and state == wire.FAILED_HOLDING:
            return True
        known = self.executor.of_state(state) if isinstance(state, str) else None
        return state == stage if known is None else known.name == stage

    async def _send_evidence(self, stage: str, folder: Path, result_id: str) -> None:
        """A failure is a warning: the evidence stays on the host."""
        try:
            async with asyncio.timeout(EVIDENCE_LIMIT_S):
                await in_thread(lambda: redact_folder(folder, self.book.redactor))
                if self.claim.offers(wire.FEATURE_EVIDENCE):
                    await self._upload(stage, await in_thread(lambda: pack(folder)), result_id)
        except (OSError, Trouble, Rejected) as problem:
            reason = str(problem) or f"not done within {EVIDENCE_LIMIT_S:.0f} s"
            self.book.warn(f"the evidence of {stage} was not sent and stays in {folder}: {reason}", stage)

    async def _upload(self, stage: str, package: Package, result_id: str) -> None:
        if package.left_out:
            self.book.warn(f"left out of the evidence that is sent, as too big: {', '.join(package.left_out)}", stage)
        await self.client.insist(
            "evidence", lambda: self.client.evidence(stage, result_id, package.archive, package.digest)
        )


def ignores_result_ids(claim: wire.Claim) -> bool:
    """A claim without a single field of v1+ comes from a server that knows nothing of `result_id` either."""
    later = (
        claim.heartbeat_interval_s,
        claim.sensor_interval_s,
        claim.log_interval_s,
        claim.iperf_host,
        claim.parameters,
        claim.token,
    )
    return not claim.features and all(value is None for value in later)

"""Lends the orchestrator's iperf3 server to a stage.

A server with the feature `iperf_slot` queues the hosts and gives one a port for itself. Without it the port of the
claim is used as it is; without that there is no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stages.stage import IperfPeer
from vetting_agent.client import Client
from vetting_agent.errors import CallError, Rejected
from vetting_agent.logs import LogBook
from vetting_agent.wire import FEATURE_IPERF_SLOT, Claim, IperfSlotReply, IperfSlotRequest

RELEASE_LIMIT_S = 1.0  # a cancelled stage has to be gone within 2 s
LEAST_WAIT_S = 0.2
MOST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Lender:
    """The `IperfLender` that stages get."""

    client: Client
    claim: Claim
    orchestrator_host: str
    book: LogBook

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[IperfPeer | None]:
        """An iperf3 server for this host alone while the block lasts, or None."""
        if not self.claim.offers(FEATURE_IPERF_SLOT):
            yield self._peer(self.claim.iperf_port)
            return
        slot_id = str(uuid.uuid4())
        renewal: asyncio.Task[None] | None = None
        try:
            granted = await self._acquire(slot_id)
            if granted is not None:
                renewal = asyncio.create_task(self._renew(slot_id, granted.lease_s))
            yield self._peer(granted.port, granted.more_ports) if granted else self._peer(self.claim.iperf_port)
        finally:
            if renewal is not None:
                renewal.cancel()
                await asyncio.wait({renewal})
            await self._release(slot_id)

    def _peer(self, port: int | None, more: Sequence[int] = ()) -> IperfPeer | None:
        if not port or not 0 < port < 65536:
            return None
        others = tuple(dict.fromkeys(one for one in more if 0 < one < 65536 and one != port))
        return IperfPeer(self.claim.iperf_host or self.orchestrator_host, port, others)

    async def _acquire(self, slot_id: str) -> IperfSlotReply | None:
        """Wait in the queue; None when the orchestrator does not take the request."""
        ahead: int | None = None
        while True:
            try:
                reply = await self._ask("acquire", slot_id)
            except Rejected as problem:
                self.book.warn(f"no iperf slot: {problem}", "Network")
                return None
            if reply.granted:
                return reply
            if reply.ahead != ahead:
                ahead = reply.ahead
                self.book.info(f"waiting for an iperf slot: {ahead} hosts are served before this one", "Network")
            await asyncio.sleep(min(MOST_WAIT_S, max(LEAST_WAIT_S, reply.retry_after_s)))

    async def _renew(self, slot_id: str, lease_s: float) -> None:
        """Keep the slot until cancelled."""
        while True:
            await asyncio.sleep(min(MOST_WAIT_S, max(LEAST_WAIT_S, lease_s / 3)))
            with contextlib.suppress(CallError):
                await self._ask("acquire", slot_id)

    async def _release(self, slot_id: str) -> None:
        """Give it back; the lease runs out anyhow when this fails."""
        with contextlib.suppress(CallError, TimeoutError):
            async with asyncio.timeout(RELEASE_LIMIT_S):
                await self.client.iperf_slot(IperfSlotRequest(action="release", slot_id=slot_id))

    async def _ask(self, action: str, slot_id: str) -> IperfSlotReply:
        request = IperfSlotRequest(action=action, slot_id=slot_id)
        return await self.client.insist("iperf_slot", lambda: self.client.iperf_slot(request))

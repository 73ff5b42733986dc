"""Hello and claim: how the agent takes a run over, and takes it over again."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field

from probes.host import Host, text_of
from vetting_agent import __version__, wire
from vetting_agent.client import Client
from vetting_agent.errors import Rejected, Trouble
from vetting_agent.lock import TokenStore
from vetting_agent.logs import LogBook
from vetting_agent.params import BootParams, Token
from vetting_agent.route import NO_MAC, Route, route_to

HELLO_LIMIT_S = 30.0
ROUTE_LIMIT_S, ROUTE_POLL_S = 60.0, 0.2
ROUTE_QUIET_S = 10.0
"""So long DHCP may take without a word about it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is, and on which machine it runs."""

    instance_id: str
    boot_id: str | None
    image_version: str | None
    """Set in the live image only."""
    started_s: float
    """Since the kernel started: what a claim that comes late is told by from one of a newer agent."""

    @classmethod
    def of(cls, host: Host, instance_id: str) -> Identity:
        boot_id = text_of(host.proc("sys", "kernel", "random", "boot_id"))
        started_s = round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)
        return cls(instance_id, boot_id, text_of(host.etc("vetting-image-version")), started_s)


@dataclass(slots=True)
class Claimer:
    """Says hello and claims. The way to the orchestrator is looked up each time: a booting host gets addresses late."""

    params: BootParams
    identity: Identity
    client: Client
    tokens: TokenStore
    book: LogBook
    _route: Route = field(default_factory=Route)

    async def first(self) -> wire.Claim:
        """Hello, then claim until it succeeds. Raises FinalRefusal and Rejected."""
        if (kept := self.tokens.load()) is not None:
            self._use(kept)
        self.book.info(f"agent {__version__} starts on run {self.params.run_id} at {self.params.orchestrator}")
        await self._wait_for_route()
        try:
            await self.client.insist("hello", self._hello, limit_s=HELLO_LIMIT_S)
        except (Trouble, Rejected) as problem:
            self.book.warn(f"hello failed: {problem}")
        claim = await self.client.insist("claim", self.once)
        self.book.info(f"claimed the run; it stands at {claim.current_state!r}, stages: {', '.join(claim.stages)}")
        return claim

    async def _wait_for_route(self) -> None:
        """A call that cannot leave the host would be followed by a pause of seconds, while DHCP takes one."""
        began, told = time.monotonic(), False
        while (waited_s := time.monotonic() - began) < ROUTE_LIMIT_S and not await self.address():
            if waited_s >= ROUTE_QUIET_S and not told:
                told = True
                self.book.warn(f"waiting for a way to the orchestrator: {self._route.trouble}")
            await asyncio.sleep(ROUTE_POLL_S)

    async def once(self) -> wire.Claim:
        """One attempt to claim; a token in the answer is used from then on. Raises CallError."""
        await self.address()
        if not self._route.ip:
            raise Trouble("claim", self._route.trouble or "no route to the orchestrator yet")
        claim = await self.client.claim(
            wire.ClaimRequest(
                ip=self._route.ip,
                mac=self.mac,
                instance_id=self.identity.instance_id,
                agent_version=__version__,
                kernel_boot_id=self.identity.boot_id,
                arch=os.uname().machine,
                image_version=self.identity.image_version,
                agent_started_s=self.identity.started_s,
            )
        )
        if (token := token_of(claim)) is not None:
            self._keep(token)
        return claim

    async def address(self) -> str:
        """This host's address on the way to the orchestrator; "" when there is none now."""
        self._route = await route_to(self.params.orchestrator, with_mac=not self.params.mac)
        return self._route.ip

    @property
    def ip(self) -> str:
        """The address that was found last; "" before."""
        return self._route.ip

    @property
    def mac(self) -> str:
        """The MAC address that the host is known by."""
        return self.params.mac or self._route.mac

    @property
    def boot_mac(self) -> str | None:
        """The same, or None where it belongs to no NIC."""
        return self.mac if self.mac not in {"", NO_MAC} else None

    async def _hello(self) -> None:
        ip = await self.address()
        await self.client.hello(
            wire.HelloRequest(agent_version=__version__, mac=self.mac, ip=ip, instance_id=self.identity.instance_id)
        )

    def _keep(self, token: Token) -> None:
        self._use(token)
        try:
            self.tokens.save(token)
        except OSError as problem:
            self.book.warn(f"the new token cannot be kept for a restarted agent: {problem}")

    def _use(self, token: Token) -> None:
        self.book.redactor.add(token.reveal())
        self.client.token = token


def token_of(claim: wire.Claim) -> Token | None:
    """The token to use from now on, if the claim brings one. Raises Trouble for what cannot be one."""
    if claim.token is None:
        return None
    try:
        return Token(claim.token)
    except ValueError as problem:
        raise Trouble("claim", f"the token in the answer {problem}", maybe_done=True) from None

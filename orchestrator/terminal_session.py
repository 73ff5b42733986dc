"""One terminal as the server sees it: who asked for it, how far it came, and the two ends that meet here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.websockets import WebSocket

from orchestrator.clock import now_text
from orchestrator.store import AuditEntry
from orchestrator.terminal_failures import TOKEN
from orchestrator.tokens import hash_of, new_token
from vetting_agent.wire import TerminalOrder


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks for a terminal. `binding` is the login it was asked for with: its token opens nothing for another.

    `still` says whether this one may go on: a logout, or a role taken away, ends the terminals too.
    """

    name: str
    binding: str
    still: Callable[[], Awaitable[bool]]
    entry: Callable[..., AuditEntry]
    """Makes a line of the audit log about an act of this one."""


@dataclass(frozen=True, slots=True)
class TerminalLimits:
    """Seconds. `open_s` bounds the host's connection, and then the shell's first word."""

    token_s: float = 30.0
    hello_s: float = 5.0
    open_s: float = 15.0
    fetch_margin_s: float = 5.0
    idle_s: float = 1800.0
    limit_s: float = 28800.0

    def fetch_s(self, heartbeat_s: float) -> float:
        """How long a host may take to fetch the order: two heartbeats may be on their way or lost."""
        return 2 * heartbeat_s + self.fetch_margin_s


@dataclass(slots=True, eq=False)
class TerminalSession:
    """From the token to the end. `session` names it in page, log and evidence: it is the correlation id."""

    session: str
    run_id: int
    operator: Operator
    columns: int
    rows: int
    limits: TerminalLimits
    heartbeat_s: float
    browser_token: str = field(default_factory=new_token, repr=False)
    node_token: str = field(default_factory=new_token, repr=False)
    created_at: str = field(default_factory=now_text)
    began: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)
    """{step: seconds after the token} of the steps taken."""
    browser_taken: bool = False
    handed_out_at: float = 0.0
    secrets: list[str] = field(default_factory=list, repr=False)
    """What must not stand in the recording."""
    shell: str | None = None
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    node: asyncio.Future[WebSocket] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Event = field(default_factory=asyncio.Event)
    concluded: asyncio.Event = field(default_factory=asyncio.Event)
    """Its evidence is kept."""
    ending: str | None = None
    """Set from outside: why the terminal has to end."""

    def __post_init__(self) -> None:
        self.step(TOKEN)

    @property
    def cmd_id(self) -> str:
        return f"terminal-{self.session}"

    @property
    def browser_hash(self) -> str:
        return hash_of(self.browser_token)

    def step(self, name: str) -> None:
        self.steps[name] = round(time.monotonic() - self.began, 3)

    def order(self) -> TerminalOrder:
        """What the agent gets with a heartbeat."""
        return TerminalOrder(
            session=self.session,
            token=self.node_token,
            columns=self.columns,
            rows=self.rows,
            open_s=self.limits.open_s,
            idle_s=self.limits.idle_s,
            limit_s=self.limits.limit_s,
        )

    @property
    def wants_order(self) -> bool:
        """Whether the agent is still to be told."""
        waits = self.browser_taken and not self.over.is_set()
        return waits and not self.answer.done() and not self.node.done()

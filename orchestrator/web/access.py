"""Who is asking, and what they may do: `who_of(request)`, and `needs("operator")` around an endpoint.

The guard (guard.py) puts a `Who` into each request's state before any endpoint sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.clock import now_text
from orchestrator.steps import Refusal
from orchestrator.store import AuditEntry
from orchestrator.web.accounts import ROLES

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Who:
    """A person or program: `via` is `session` (a browser), `token` (a program) or `socket` (the local command line)."""

    name: str
    role: str
    via: str
    key: str = ""
    """The hash of its session or token."""
    address: str = ""
    correlation_id: str = ""

    def may(self, role: str) -> bool:
        """Whether this one has at least that role."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def entry(self, act: str, *, subject: str = "", detail: str = "", outcome: str = "done") -> AuditEntry:
        """A line of the audit log about an act of this one."""
        return AuditEntry(
            ts=now_text(),
            author=self.name,
            via=self.via,
            act=act,
            subject=subject,
            detail=detail,
            outcome=outcome,
            correlation_id=self.correlation_id,
            address=self.address,
        )


class LoginNeeded(Exception):
    """Nobody is logged in, or no longer."""


def who_of(request: Request) -> Who | None:
    """Who asks, or None when nobody is logged in."""
    who = getattr(request.state, "who", None)
    return who if isinstance(who, Who) else None


def asker(request: Request, role: str = "viewer") -> Who:
    """Who asks, having at least this role. Raises LoginNeeded, and Refusal 403."""
    who = who_of(request)
    if who is None:
        raise LoginNeeded
    if not who.may(role):
        raise Refusal(403, "not_allowed", f"This needs the role {role}; {who.name} is {who.role}")
    return who


def needs(role: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, for those who have at least this role."""

    async def guarded(request: Request) -> Response:
        asker(request, role)
        return await endpoint(request)

    return guarded

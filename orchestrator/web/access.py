"""Who is asking, and what they may do: `who_of(request)`, and `needs("operator")` around an endpoint.

The guard (guard.py) puts a `Who` into each request's state before any endpoint sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.steps import Refusal
from orchestrator.who import Who

Endpoint = Callable[[Request], Awaitable[Response]]


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

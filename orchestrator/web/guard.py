"""What stands before every page: who asks, same-origin only, a limit on bodies, and headers that tie the browser down.

Unsafe methods of a browser must carry an Origin (or Sec-Fetch-Site) of this very console: SameSite=Strict cookies
alone do not stop a page on another port of the same host.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.http_calls import correlation_of, error_reply
from orchestrator.store import StoreFailed
from orchestrator.web.access import Who
from orchestrator.web.accounts import TOKEN_PREFIX, Accounts
from vetting_agent.wire import CORRELATION_HEADER

log = logging.getLogger(__name__)
COOKIE = "__Host-vetting-console"
SAFE = frozenset({"GET", "HEAD"})
MOST_BODY_BYTES = 4 * 2**20
"""For any endpoint; forms have a smaller limit of their own."""
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """An ASGI application around the console's."""

    app: ASGIApp
    accounts: Accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        request = Request({**scope, "type": "http", "method": scope.get("method", "GET")})
        correlation = correlation_of(request) or uuid.uuid4().hex
        scope.setdefault("state", {}).update(who=None, correlation_id=correlation)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), correlation)
            await send(message)

        if refusal := _refusal(request, scope["type"]):
            status, code, text = refusal
            await error_reply(request, status, code, text)(scope, receive, send_guarded)
            return
        try:
            scope["state"]["who"] = await self.who(request, correlation)
        except StoreFailed:
            await error_reply(request, 503, "store_failed", "The database gave no answer; try again")(
                scope, receive, send_guarded
            )
            return
        await self.app(scope, receive, send_guarded)

    async def who(self, request: Request, correlation: str, *, touch: bool = True) -> Who | None:
        """Whom the request's token or cookie belongs to. A token that does not hold is nobody, whatever the cookie."""
        address = request.client.host if request.client else ""
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = await self.accounts.token_of(secret.strip()) if secret.startswith(TOKEN_PREFIX) else None
            return None if token is None else Who(token.name, token.role, "token", token.key, address, correlation)
        cookie = request.cookies.get(COOKIE)
        found = await self.accounts.session_of(cookie, touch=touch) if cookie else None
        if found is None:
            return None
        session, user = found
        return Who(user.name, user.role, "session", session.key, address, correlation)


def _refusal(request: Request, kind: str) -> tuple[int, str, str] | None:
    length = request.headers.get("Content-Length", "0")
    if not length.isdigit() or int(length) > MOST_BODY_BYTES:
        return 413, "too_large", f"A body has at most {MOST_BODY_BYTES} bytes here"
    unsafe = kind == "websocket" or request.method not in SAFE
    if unsafe and "Authorization" not in request.headers and not _is_same_origin(request):
        return 403, "wrong_origin", "This call comes from another site than the console"
    return None


def _is_same_origin(request: Request) -> bool:
    """A browser says where a call comes from; one that says nothing is not let act."""
    origin = request.headers.get("Origin")
    if origin is not None:
        return origin == f"https://{request.headers.get('Host', '')}"
    return request.headers.get("Sec-Fetch-Site") == "same-origin"


def _add_headers(headers: MutableHeaders, correlation: str) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")
    headers[CORRELATION_HEADER] = correlation

"""The console's application: put together from routers, guarded as one.

A router is an object with `routes(pages) -> list[Route]`. Others add theirs in `ROUTERS` order through `Console.extra`,
and an entry of the navigation through `NAVIGATION`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from orchestrator.web.account_pages import AccountPages
from orchestrator.web.accounts import Accounts
from orchestrator.web.guard import Guard
from orchestrator.web.login_pages import LoginPages
from orchestrator.web.pages import STATIC, NavEntry, Pages

NAVIGATION = (
    NavEntry("Fleet", "/"),
    NavEntry("Audit", "/audit", "operator"),
    NavEntry("Access", "/access", "admin"),
)


class Router(Protocol):
    """Some pages of the console."""

    def routes(self, pages: Pages) -> Sequence[BaseRoute]: ...


class _Static(StaticFiles):
    """Files that never change under one address: the address carries their version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if b"v=" in scope.get("query_string", b""):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        else:
            response.headers["Cache-Control"] = "no-cache"
        return response


@dataclass
class Console:
    """`closing` is set when the server ends: streams end then."""

    accounts: Accounts
    routers: Sequence[Router] = ()
    navigation: Sequence[NavEntry] = NAVIGATION
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> ASGIApp:
        pages = Pages(self.navigation)
        routers: list[Router] = [LoginPages(self.accounts), AccountPages(self.accounts), *self.routers]
        routes: list[BaseRoute] = [Mount("/static", _Static(directory=STATIC))]
        for router in routers:
            routes += router.routes(pages)
        return Guard(Starlette(routes=routes, exception_handlers={HTTPException: pages.no_such_page}), self.accounts)

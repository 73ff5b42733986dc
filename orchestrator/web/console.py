"""The console's application: put together from routers, guarded as one.

A router is an object with `routes(pages) -> list[Route]`. More pages are one more router in `console_of`, and an entry
in `NAVIGATION` where they are to be found from everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from orchestrator.http_calls import answering_errors
from orchestrator.operator_app import OperatorApi
from orchestrator.terminals import Terminals
from orchestrator.web.access import needs
from orchestrator.web.account_pages import AccountPages
from orchestrator.web.accounts import Accounts
from orchestrator.web.fleet_pages import FleetPages
from orchestrator.web.guard import Guard
from orchestrator.web.host_pages import HostPages
from orchestrator.web.login_pages import LoginPages
from orchestrator.web.pages import STATIC, NavEntry, Pages
from orchestrator.web.profile_pages import ProfilePages
from orchestrator.web.run_acts import RunActs
from orchestrator.web.run_pages import RunPages
from orchestrator.web.streams import Streams
from orchestrator.web.terminal_pages import TerminalPages

NAVIGATION = (
    NavEntry("Fleet", "/"),
    NavEntry("Hosts", "/hosts"),
    NavEntry("Profiles", "/profiles"),
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


def console_of(operator: OperatorApi, accounts: Accounts, terminals: Terminals) -> Console:
    """The console over the same acts and store as the local operator API."""
    closing = asyncio.Event()
    streams, acts = Streams(accounts, closing), operator.acts
    routers: list[Router] = [
        LoginPages(accounts),
        AccountPages(accounts),
        FleetPages(acts, streams),
        RunPages(acts, streams),
        RunActs(acts),
        TerminalPages(terminals, accounts),
        HostPages(operator.hosts, acts),
        ProfilePages(operator.hosts),
        ProgramApi(operator),
    ]
    return Console(accounts, routers, closing)


@dataclass(frozen=True, slots=True)
class ProgramApi:
    """The operator API for programs with a token: reading for viewers, all else for operators."""

    operator: OperatorApi

    def routes(self, pages: Pages) -> Sequence[BaseRoute]:
        return [
            Route(path, pages.guarding(needs(_role(method, path), answering_errors(endpoint))), methods=[method])
            for method, path, endpoint in self.operator.endpoints()
        ]


FOR_OPERATORS = ("/hold-key", "/preflight")
"""What gives the key of a host out, or uses it."""


def _role(method: str, path: str) -> str:
    return "viewer" if method == "GET" and not path.endswith(FOR_OPERATORS) else "operator"


@dataclass
class Console:
    """`closing` is set when the server ends: streams end then."""

    accounts: Accounts
    routers: Sequence[Router]
    closing: asyncio.Event
    navigation: Sequence[NavEntry] = NAVIGATION

    def app(self) -> ASGIApp:
        pages = Pages(self.navigation)
        routes: list[BaseRoute] = [Mount("/static", _Static(directory=STATIC))]
        for router in self.routers:
            routes += router.routes(pages)
        return Guard(Starlette(routes=routes, exception_handlers={HTTPException: pages.no_such_page}), self.accounts)

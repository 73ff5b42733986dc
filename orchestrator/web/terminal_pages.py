"""The page with a terminal into a held host, and its endpoints for those who are logged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orchestrator.agent_app import run_id_of
from orchestrator.steps import Refusal
from orchestrator.terminal_access import ROLE, console_access
from orchestrator.terminal_app import operator_routes
from orchestrator.terminal_failures import FAILURES, STEPS
from orchestrator.terminal_recording import NOTICE
from orchestrator.terminals import Terminals
from orchestrator.web.access import needs
from orchestrator.web.accounts import Accounts
from orchestrator.web.pages import Pages


@dataclass
class TerminalPages:
    terminals: Terminals
    accounts: Accounts

    def routes(self, pages: Pages) -> Sequence[BaseRoute]:
        self._pages = pages
        page = Route("/runs/{run_id}/terminal", pages.guarding(needs(ROLE, self.show)), methods=["GET"])
        return [page, *operator_routes(self.terminals, console_access(self.accounts), "")]

    async def show(self, request: Request) -> Response:
        run = self.terminals.store.find_run(run_id_of(request))
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id_of(request)}")
        return self._pages.render(
            request, "terminal.html", run=run, steps=STEPS, failures=FAILURES, notice=NOTICE, prefix=""
        )

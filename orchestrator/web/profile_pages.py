"""Hardware profiles as pages: learn, edit with every mistake by its line, compare, and the charts of siblings."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator.hardware_profile import BadProfile, Problem
from orchestrator.host_service import HostService
from orchestrator.http_calls import number_of, who_asks
from orchestrator.peers import Baseline, baselines_of
from orchestrator.steps import Refusal
from orchestrator.web.access import needs
from orchestrator.web.pages import Pages, form_of, one_of
from orchestrator.web.strip_chart import strip_chart

EXAMPLE = """\
test_profile: standard
parameters:
  Storage: {duration_s: 300}
spec:
  cpu: {sockets: 2}
peers: warning
"""
MOST_VERSIONS_SHOWN = 50


@dataclass
class ProfilePages:
    hosts: HostService

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        return [
            Route("/profiles", pages.guarding(needs("viewer", self.show)), methods=["GET"]),
            Route("/profiles", pages.guarding(needs("operator", self.make)), methods=["POST"]),
            Route("/profiles/{name}", pages.guarding(needs("viewer", self.show_one)), methods=["GET"]),
            Route("/profiles/{name}", pages.guarding(needs("operator", self.save)), methods=["POST"]),
            Route("/profiles/{name}/remove", pages.guarding(needs("operator", self.remove)), methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        runs = [run for run in reversed(self.hosts.store.runs()) if run.is_completed][:100]
        return self._pages.render(request, "profiles.html", profiles=await self.hosts.profiles(), runs=runs)

    async def make(self, request: Request) -> Response:
        """Learn one from a run that passed, or begin one as text."""
        form, who = await form_of(request), who_asks(request)
        name, run_id = one_of(form, "name").strip(), one_of(form, "run_id")
        if run_id:
            if not (run_id.isascii() and run_id.isdigit() and len(run_id) < 19):
                raise Refusal(422, "malformed", "run_id must be a whole number")
            await self.hosts.learn(name, int(run_id), who)
        else:
            await self.hosts.save(name, EXAMPLE, who, base=0)
        return RedirectResponse(f"/profiles/{quote(name)}", 303)

    async def show_one(self, request: Request) -> Response:
        name = request.path_params["name"]
        number = number_of(request, "version", 0, 10**8 - 1)
        version = await self.hosts.version(name, number or None)
        return await self._page(request, name, version.text, [], base=version.version)

    async def save(self, request: Request) -> Response:
        form, name = await form_of(request), request.path_params["name"]
        text, base = one_of(form, "text").replace("\r\n", "\n"), one_of(form, "base")
        number = int(base) if base.isascii() and base.isdigit() and len(base) < 9 else 0
        try:
            note = one_of(form, "note").strip()
            await self.hosts.save(name, text, who_asks(request), note=note, base=number)
        except BadProfile as bad:
            return await self._page(request, name, text, bad.problems, base=number, status=422)
        return RedirectResponse(f"/profiles/{quote(name)}", 303)

    async def remove(self, request: Request) -> Response:
        await self.hosts.remove_profile(request.path_params["name"], who_asks(request))
        return RedirectResponse("/profiles", 303)

    async def _page(
        self, request: Request, name: str, text: str, problems: list[Problem], *, base: int, status: int = 200
    ) -> Response:
        versions = await self.hosts.versions(name)
        old = number_of(request, "old", 0, 10**8 - 1) or max(1, base - 1)
        lines: list[str] = []
        trouble = ""
        try:
            lines = (await self.hosts.compare(name, old, base)).lines if base > 1 or old != base else []
        except Refusal as refusal:
            trouble = refusal.message
        charts = await baselines_of(self.hosts.store, name)
        return self._pages.render(
            request,
            "profile.html",
            status,
            name=name,
            text=text,
            rows=min(40, max(8, text.count("\n") + 2)),
            lines_of=text.split("\n"),
            problems=problems,
            base=base,
            old=old,
            newest=versions[0].version,
            versions=versions[:MOST_VERSIONS_SHOWN],
            diff=lines,
            trouble=trouble,
            charts=[(chart, strip_chart(chart), _outliers(chart)) for chart in charts],
            hosts=[host for host in await self.hosts.hosts() if host.profile == name],
        )


def _outliers(chart: Baseline) -> list[str]:
    return sorted({point.host for point in chart.points if point.outlier})

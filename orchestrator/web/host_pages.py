"""Hosts, the file import, unknown hosts and their queue, as pages."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator.acts import Acts
from orchestrator.host_csv import MOST_BYTES
from orchestrator.host_messages import ApproveRequest, HostEdit, HostRequest
from orchestrator.host_record import POLICIES, UnknownHosts
from orchestrator.host_service import HostService
from orchestrator.http_calls import body_of, who_asks
from orchestrator.run_record import STAGE_NAMES, Run
from orchestrator.steps import Refusal
from orchestrator.web.access import needs
from orchestrator.web.pages import Pages, form_of, one_of
from orchestrator.web.run_form import NEWEST, offered_disks, run_request
from stages.profiles import PROFILES

ENCODED = 3
"""A form writes a byte as up to three."""


@dataclass
class HostPages:
    hosts: HostService
    acts: Acts

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        acts = {
            "/hosts": self.add,
            "/hosts/import": self.import_csv,
            "/hosts/policy": self.policy,
            "/hosts/{name}": self.edit,
            "/hosts/{name}/remove": self.remove,
            "/hosts/{name}/run": self.run,
            "/hosts/queue/{mac}": self.decide,
        }
        return [
            Route("/hosts", pages.guarding(needs("viewer", self.show)), methods=["GET"]),
            Route("/hosts/import", pages.guarding(needs("operator", self.import_form)), methods=["GET"]),
            Route("/hosts/{name}", pages.guarding(needs("viewer", self.show_one)), methods=["GET"]),
            *(Route(path, pages.guarding(needs("operator", act)), methods=["POST"]) for path, act in acts.items()),
        ]

    async def show(self, request: Request) -> Response:
        return self._pages.render(
            request,
            "hosts.html",
            hosts=await self.hosts.hosts(),
            profiles=[one.name for one in await self.hosts.profiles()],
            queue=await self.hosts.queue(),
            policy=await self.hosts.unknown_hosts(),
            policies=POLICIES,
        )

    async def show_one(self, request: Request) -> Response:
        host = await self.hosts.host(request.path_params["name"])
        runs = self._runs_of(host.name)[:NEWEST]
        diff = await self.hosts.compare_host(host.profile, host.name) if host.profile else None
        return self._pages.render(
            request,
            "host.html",
            host=host,
            runs=runs,
            diff=diff,
            profiles=[one.name for one in await self.hosts.profiles()],
            test_profiles=tuple(PROFILES),
            stages=STAGE_NAMES,
            disks=await offered_disks(self.hosts.store, runs),
        )

    async def add(self, request: Request) -> Response:
        form = await form_of(request)
        wanted = HostRequest(
            name=one_of(form, "name").strip(),
            macs=one_of(form, "macs").replace(",", " ").split(),
            labels=one_of(form, "labels").replace(",", " ").split(),
            note=one_of(form, "note").strip(),
            profile=one_of(form, "profile") or None,
        )
        await self.hosts.add(wanted, who_asks(request))
        return RedirectResponse("/hosts", 303)

    async def edit(self, request: Request) -> Response:
        form, name = await form_of(request), request.path_params["name"]
        wanted = HostEdit(
            macs=one_of(form, "macs").replace(",", " ").split(),
            labels=one_of(form, "labels").replace(",", " ").split(),
            note=one_of(form, "note").strip(),
            profile=one_of(form, "profile"),
        )
        await self.hosts.edit(name, wanted, who_asks(request))
        return RedirectResponse(f"/hosts/{quote(name)}", 303)

    async def remove(self, request: Request) -> Response:
        await self.hosts.remove(request.path_params["name"], who_asks(request))
        return RedirectResponse("/hosts", 303)

    async def run(self, request: Request) -> Response:
        """A new run for the host, as the form says: it awaits the host's next boot."""
        host = await self.hosts.host(request.path_params["name"])
        disks = await offered_disks(self.hosts.store, self._runs_of(host.name))
        wanted = run_request(host.name, await form_of(request), disks)
        run, _ = await self.acts.create(wanted, who_asks(request))
        return RedirectResponse(f"/runs/{run.run_id}", 303)

    def _runs_of(self, host: str) -> list[Run]:
        """The newest first."""
        return [run for run in reversed(self.hosts.store.runs()) if run.host == host]

    async def import_form(self, request: Request) -> Response:
        return self._pages.render(request, "host_import.html", text="", report=None)

    async def import_csv(self, request: Request) -> Response:
        """Shows what would change; does it where that was seen and confirmed."""
        body = await body_of(request, ENCODED * MOST_BYTES)
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10)
        except ValueError:
            raise Refusal(422, "malformed", "The form cannot be read") from None
        text = one_of(form, "csv")
        dry_run = one_of(form, "act") != "import"
        report = await self.hosts.import_csv(text.encode(), who_asks(request), dry_run=dry_run)
        if report.done:
            return RedirectResponse("/hosts", 303)
        return self._pages.render(request, "host_import.html", 422 if report.errors else 200, text=text, report=report)

    async def policy(self, request: Request) -> Response:
        form = await form_of(request)
        wanted = UnknownHosts(policy=one_of(form, "policy"), profile=one_of(form, "profile") or None)
        await self.hosts.set_unknown_hosts(wanted, who_asks(request))
        return RedirectResponse("/hosts", 303)

    async def decide(self, request: Request) -> Response:
        """Approve, reject or forget one that waits."""
        form, mac = await form_of(request), request.path_params["mac"]
        who, act = who_asks(request), one_of(form, "act")
        if act == "approve":
            profile = one_of(form, "profile") or None
            wanted = ApproveRequest(name=one_of(form, "name").strip(), profile=profile, vet="vet" in form)
            await self.hosts.approve(mac, wanted, who)
        elif act == "reject":
            await self.hosts.reject(mac, who)
        elif act == "forget":
            await self.hosts.forget(mac, who)
        else:
            raise Refusal(422, "malformed", "act must be approve, reject or forget")
        return RedirectResponse("/hosts", 303)

"""Acts on one run: orders, release, run again, the wipe with its two keys, waivers, the key of a hold.

Every answer of an order says "asked, not yet acknowledged": the page shows the rest when the agent has said so.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.acts import Acts
from orchestrator.clock import now_text
from orchestrator.directives import described
from orchestrator.run_record import Directive, Run
from orchestrator.steps import Ordered, Refusal
from orchestrator.store import Transaction
from orchestrator.views import view_of
from orchestrator.waivers import Waiver, new_waiver
from orchestrator.web.access import asker, needs
from orchestrator.web.hold_files import take_key
from orchestrator.web.pages import Pages, form_of, one_of
from orchestrator.web.run_pages import run_of
from orchestrator.wipes import STAGE, WipeTicket, disks_of, new_ticket, use_ticket
from vetting_agent.wire import IDENTIFY, RETRY_STAGE, IdentifyOrder

SIMPLE = frozenset({RETRY_STAGE, "cancel_stage", "shutdown", "abort"})


@dataclass
class RunActs:
    acts: Acts

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        one = "/runs/{run_id}"
        endpoints = {
            f"{one}/order": self.order,
            f"{one}/identify": self.identify,
            f"{one}/release": self.release,
            f"{one}/again": self.again,
            f"{one}/wipe": self.ask_wipe,
            f"{one}/wipe/{{ticket}}": self.wipe,
            f"{one}/waive": self.waive,
            f"{one}/waive/end": self.end_waiver,
            f"{one}/key": self.key,
        }
        return [
            Route(path, pages.guarding(needs("operator", endpoint)), methods=["POST"])
            for path, endpoint in endpoints.items()
        ]

    def _run(self, request: Request) -> Run:
        return run_of(self.acts.service.store, request)

    def _told(self, request: Request, text: str, *, tone: str = "", more: str = "") -> Response:
        return self._pages.render(request, "notice.html", text=text, tone=tone, more=more)

    def _asked(self, request: Request, directive: Directive, *, tone: str = "") -> Response:
        """It goes away by itself: what becomes of the order is shown beside the run's acts."""
        text = f"{described(directive)}: asked, not yet acknowledged by the agent"
        return self._pages.render(request, "notice.html", text=text, tone=tone, passing=True)

    async def order(self, request: Request) -> Response:
        run, form = self._run(request), await form_of(request)
        cmd, stage = one_of(form, "cmd"), one_of(form, "stage") or None
        if cmd not in SIMPLE:
            raise Refusal(422, "unknown_command", f"There is no order {cmd[:40]!r}")
        directive = await self.acts.order(run.run_id, Ordered(cmd, stage), asker(request))
        if directive.status == "done":
            return self._told(request, f"{described(directive)}: done, no agent is there to be asked", tone="good")
        return self._asked(request, directive)

    async def identify(self, request: Request) -> Response:
        """A lamp on or off; the page shows it lit when the agent has said so."""
        run, form = self._run(request), await form_of(request)
        lamp = IdentifyOrder(target=one_of(form, "target"), on=one_of(form, "on") != "false")
        directive = await self.acts.order(run.run_id, Ordered(IDENTIFY, identify=lamp), asker(request))
        return self._asked(request, directive)

    async def release(self, request: Request) -> Response:
        run = await self.acts.release(self._run(request).run_id, asker(request))
        return self._told(request, f"Run {run.run_id} is {run.state}: its host is let go", tone="good")

    async def again(self, request: Request) -> Response:
        run, token = await self.acts.again(self._run(request).run_id, asker(request))
        cmdline = self.acts.cmdline(run, token)
        return self._pages.render(request, "again.html", run=run, cmdline=cmdline)

    async def ask_wipe(self, request: Request) -> Response:
        """The first key: the disks as they are known, shown once to this person."""
        run, who, now = self._run(request), asker(request), now_text()
        view = await view_of(self.acts.service.store, run)
        storage = next((one for one in view.stages if one.stage == STAGE), None)
        findings = storage.summary.findings if storage and storage.summary else []
        disks = disks_of(view.inventory, findings)

        def work(transaction: Transaction) -> WipeTicket:
            ticket = new_ticket(transaction.run(run.run_id), disks, author=who.name, now=now)
            for old in transaction.documents(WipeTicket):
                if old.expires_at <= now or (old.run_id, old.author) == (run.run_id, who.name):
                    transaction.drop_document(WipeTicket, old.key)
            transaction.put_document(ticket.key, ticket)
            detail = f"{len(disks)} disks shown"
            transaction.add_audit(who.entry("ask to wipe", subject=f"run {run.run_id}", detail=detail))
            return ticket

        ticket = await self.acts.written(work, who, "ask to wipe", f"run {run.run_id}")
        return self._pages.render(request, "wipe.html", run=run, ticket=ticket)

    async def wipe(self, request: Request) -> Response:
        """The second key: each ticked disk's serial number, typed."""
        run, who, form = self._run(request), asker(request), await form_of(request)
        key, now = request.path_params["ticket"], now_text()
        serials = form.get("serial", [])
        typed = {name.removeprefix("typed:"): values[-1] for name, values in form.items() if name.startswith("typed:")}

        def turn(transaction: Transaction) -> None:
            use_ticket(transaction, key, run.run_id, serials, typed, who.name, now)

        wanted = Ordered(RETRY_STAGE, STAGE, wipe=True, serials=serials)
        directive = await self.acts.order(run.run_id, wanted, who, also=turn)
        return self._asked(request, directive, tone="doubt")

    async def waive(self, request: Request) -> Response:
        run, who, form = self._run(request), asker(request), await form_of(request)
        code, component, days = one_of(form, "code"), one_of(form, "component"), one_of(form, "days")
        if not (days.isascii() and days.isdigit() and len(days) < 5):
            raise Refusal(422, "bad_expiry", "The number of days is a whole number")
        view = await view_of(self.acts.service.store, run)
        findings = [one for stage in view.stages if stage.summary for one in stage.summary.findings]
        found = {(one.reason_code, one.component) for one in findings}
        if (code, component) not in found:
            raise Refusal(422, "no_such_finding", "This run has no such finding")
        waiver = new_waiver(run, code, component, one_of(form, "reason"), int(days), author=who.name, now=now_text())

        def work(transaction: Transaction) -> None:
            transaction.put_document(waiver.key, waiver)
            detail = f"{code} {component} until {waiver.expires_at}: {waiver.reason}"
            transaction.add_audit(who.entry("waive", subject=f"run {run.run_id}", detail=detail))

        await self.acts.written(work, who, "waive", f"run {run.run_id}")
        self.acts.service.pulse.changed(run.run_id)
        more = "It counts from the next time that the stage is run: retry it." if run.is_holding else ""
        return self._told(request, f"{code} is waived for {component} until {waiver.expires_at[:10]}", more=more)

    async def end_waiver(self, request: Request) -> Response:
        run, who, key = self._run(request), asker(request), one_of(await form_of(request), "key")

        def work(transaction: Transaction) -> Waiver:
            waiver = transaction.document(Waiver, key)
            if waiver is None or waiver.mac != run.mac:
                raise Refusal(404, "no_such_waiver", "There is no such waiver")
            ended = _ended(waiver, who.name)
            transaction.put_document(key, ended)
            detail = f"{waiver.code} {waiver.component}"
            transaction.add_audit(who.entry("end waiver", subject=f"run {run.run_id}", detail=detail))
            return ended

        waiver = await self.acts.written(work, who, "end waiver", f"run {run.run_id}")
        self.acts.service.pulse.changed(run.run_id)
        return self._told(request, f"{waiver.code} is no longer waived for {waiver.component}")

    async def key(self, request: Request) -> Response:
        run = self._run(request)
        key = await take_key(self.acts, run.run_id, asker(request))
        self.acts.service.pulse.changed(run.run_id)
        headers = {"Content-Disposition": f'attachment; filename="vetting-run-{run.run_id}.key"'}
        return Response(key.private_key, media_type="application/x-pem-file", headers=headers)


def _ended(waiver: Waiver, by: str) -> Waiver:
    return replace(waiver, ended_at=now_text(), ended_by=by)

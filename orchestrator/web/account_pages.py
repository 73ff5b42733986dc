"""Users and tokens, for admins; one's own password; and the audit log."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator.http_calls import number_of
from orchestrator.steps import Refusal
from orchestrator.store import AuditEntry
from orchestrator.web.access import Who, asker, needs
from orchestrator.web.accounts import ROLES, Accounts
from orchestrator.web.login_pages import twice
from orchestrator.web.pages import Pages, form_of, one_of

T = TypeVar("T")
AUDIT_ROWS = 200


@dataclass
class AccountPages:
    accounts: Accounts

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        acts = {
            "/access/users": self.add_user,
            "/access/users/{name}/role": self.change_role,
            "/access/users/{name}/remove": self.remove_user,
            "/access/tokens": self.add_token,
            "/access/tokens/{key}/revoke": self.revoke_token,
        }
        return [
            Route("/access", pages.guarding(needs("admin", self.show)), methods=["GET"]),
            Route("/audit", pages.guarding(needs("operator", self.audit)), methods=["GET"]),
            Route("/password", pages.guarding(needs("viewer", self.password_form)), methods=["GET"]),
            Route("/password", pages.guarding(needs("viewer", self.change_password)), methods=["POST"]),
            *(Route(path, pages.guarding(needs("admin", act)), methods=["POST"]) for path, act in acts.items()),
        ]

    async def show(self, request: Request) -> Response:
        return await self._show(request)

    async def _show(self, request: Request, secret: str | None = None) -> Response:
        users, tokens = await self.accounts.users(), await self.accounts.tokens()
        return self._pages.render(request, "access.html", users=users, tokens=tokens, secret=secret, roles=ROLES)

    async def audit(self, request: Request) -> Response:
        before = number_of(request, "before", 0, 2**62)
        entries = await self.accounts.store.audit(AUDIT_ROWS, before or None)
        more = entries[-1].id if len(entries) == AUDIT_ROWS else None
        return self._pages.render(request, "audit.html", entries=entries, more=more)

    async def add_user(self, request: Request) -> Response:
        form = await form_of(request)
        name, role = one_of(form, "name").strip().lower(), one_of(form, "role")
        who = asker(request)
        await self._act(
            who, "add user", name, role, self.accounts.add_user(name, role, one_of(form, "password"), by=who.name)
        )
        return RedirectResponse("/access", 303)

    async def change_role(self, request: Request) -> Response:
        name, role = request.path_params["name"], one_of(await form_of(request), "role")
        await self._act(asker(request), "change role", name, role, self.accounts.change_user(name, role=role))
        return RedirectResponse("/access", 303)

    async def remove_user(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._act(asker(request), "remove user", name, "", self.accounts.remove_user(name))
        return RedirectResponse("/access", 303)

    async def add_token(self, request: Request) -> Response:
        form = await form_of(request)
        name, role, days = one_of(form, "name").strip(), one_of(form, "role"), one_of(form, "days")
        if days and not (days.isascii() and days.isdigit() and len(days) < 6):
            raise Refusal(422, "bad_expiry", "The number of days is a whole number")
        who = asker(request)
        making = self.accounts.new_token(name, role, int(days) if days else None, by=who.name)
        _, secret = await self._act(who, "create token", name, role, making)
        return await self._show(request, secret)

    async def revoke_token(self, request: Request) -> Response:
        key = request.path_params["key"]
        await self._act(asker(request), "revoke token", key[:12], "", self.accounts.revoke_token(key))
        return RedirectResponse("/access", 303)

    async def password_form(self, request: Request) -> Response:
        return self._pages.render(request, "password.html", problem="")

    async def change_password(self, request: Request) -> Response:
        form, who = await form_of(request), asker(request)
        try:
            await self._change_password(who, form)
        except Refusal as refusal:
            return self._pages.render(request, "password.html", refusal.status, problem=refusal.message)
        return RedirectResponse("/login", 303)

    async def _change_password(self, who: Who, form: dict[str, list[str]]) -> None:
        if who.via != "session":
            raise Refusal(403, "not_allowed", "A token has no password")
        password = twice(form)
        secret = await self.accounts.log_in(who.name, one_of(form, "old"), who.address)
        if secret is None:
            raise Refusal(403, "wrong_password", "This is not your password")
        changing = self.accounts.change_user(who.name, password=password)
        await self._act(who, "change password", who.name, "", changing)

    async def _act(self, who: Who, act: str, subject: str, detail: str, doing: Awaitable[T]) -> T:
        return await audited(self.accounts, who, act, subject, detail, doing)


async def audited(accounts: Accounts, who: Who, act: str, subject: str, detail: str, doing: Awaitable[T]) -> T:
    """What `doing` gives, with an entry in the audit log whether it was done or refused."""

    def entry(outcome: str) -> AuditEntry:
        return who.entry(act, subject=subject, detail=detail, outcome=outcome)

    try:
        given = await doing
    except Refusal as refusal:
        refused = entry(f"refused: {refusal.code}")
        await accounts.store.write(lambda transaction: transaction.add_audit(refused))
        raise
    done = entry("done")
    await accounts.store.write(lambda transaction: transaction.add_audit(done))
    return given

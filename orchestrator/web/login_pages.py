"""Logging in and out, and the page of the first start that makes the first admin."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator.clock import now_text
from orchestrator.steps import Refusal
from orchestrator.store import AuditEntry
from orchestrator.web.access import asker, who_of
from orchestrator.web.accounts import ABSOLUTE_S, NAME, Accounts
from orchestrator.web.guard import COOKIE
from orchestrator.web.pages import Pages, form_of, one_of, safe_path
from orchestrator.web.throttle import Throttle


@dataclass
class LoginPages:
    accounts: Accounts
    throttle: Throttle = field(default_factory=Throttle)

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        guarding = pages.guarding
        return [
            Route("/login", guarding(self.form), methods=["GET"]),
            Route("/login", guarding(self.log_in), methods=["POST"]),
            Route("/logout", guarding(self.log_out), methods=["POST"]),
            Route("/first-login", guarding(self.first_form), methods=["GET"]),
            Route("/first-login", guarding(self.first_login), methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        if who_of(request) is not None:
            return RedirectResponse(safe_path(request.query_params.get("next", "/")), 303)
        if self.accounts.first_code is not None:
            return RedirectResponse("/first-login", 303)
        return self._form(request, next_path=request.query_params.get("next", "/"))

    def _form(
        self, request: Request, *, next_path: str, name: str = "", problem: str = "", status: int = 200
    ) -> Response:
        values = {"next_path": safe_path(next_path), "name": name, "problem": problem}
        return self._pages.render(request, "login.html", status, **values)

    async def log_in(self, request: Request) -> Response:
        form = await form_of(request)
        name, next_path = one_of(form, "name").strip().lower(), one_of(form, "next", "/")
        if wait := self._wait(request, name):
            problem = f"Too many failed logins. Try again in {math.ceil(wait / 60)} min."
            response = self._form(request, next_path=next_path, name=name, problem=problem, status=429)
            response.headers["Retry-After"] = str(math.ceil(wait))
            return response
        address = _address(request)
        secret = await self.accounts.log_in(name, one_of(form, "password"), address)
        if secret is None:
            self.throttle.failed(name, address)
            await self._note(request, name, "log in", "refused: wrong_password")
            problem = "This name and password do not belong together."
            return self._form(request, next_path=next_path, name=name, problem=problem, status=403)
        self.throttle.succeeded(name, address)
        await self._note(request, name, "log in")
        return _with_session(RedirectResponse(safe_path(next_path), 303), secret)

    def _wait(self, request: Request, name: str) -> float:
        return self.throttle.wait_s(name, _address(request))

    async def log_out(self, request: Request) -> Response:
        who = asker(request)
        await self.accounts.log_out(who.key)
        await self._note(request, who.name, "log out")
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
        return response

    async def first_form(self, request: Request) -> Response:
        if self.accounts.first_code is None:
            return RedirectResponse("/login", 303)
        return self._pages.render(request, "first_login.html", problem="", name="admin")

    async def first_login(self, request: Request) -> Response:
        form = await form_of(request)
        name = one_of(form, "name").strip().lower()
        if wait := self._wait(request, "first"):
            raise Refusal(429, "too_many", f"Too many attempts. Try again in {math.ceil(wait / 60)} min.")
        try:
            user = await self.accounts.use_first_code(one_of(form, "code"), name, twice(form))
        except Refusal as refusal:
            if refusal.code == "wrong_code":
                self.throttle.failed("first", _address(request))
                await self._note(request, "", "first login", "refused: wrong_code")
            return self._pages.render(request, "first_login.html", refusal.status, problem=refusal.message, name=name)
        await self._note(request, user.name, "first login")
        secret = await self.accounts.log_in(user.name, one_of(form, "password"), _address(request))
        assert secret is not None
        return _with_session(RedirectResponse("/", 303), secret)

    async def _note(self, request: Request, name: str, act: str, outcome: str = "done") -> None:
        entry = AuditEntry(
            ts=now_text(),
            author=name if NAME.fullmatch(name) else "?",  # people type their password into the wrong field
            via="session",
            act=act,
            outcome=outcome,
            correlation_id=request.state.correlation_id,
            address=_address(request),
        )
        await self.accounts.store.write(lambda transaction: transaction.add_audit(entry))


def twice(form: dict[str, list[str]]) -> str:
    """A new password that was typed twice. Refuses two that differ."""
    password = one_of(form, "password")
    if password != one_of(form, "again"):
        raise Refusal(422, "not_the_same", "The two passwords are not the same")
    return password


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _with_session(response: Response, secret: str) -> Response:
    # SameSite=Strict: a link from another page arrives without the cookie, and the login page sends it on.
    response.set_cookie(COOKIE, secret, max_age=int(ABSOLUTE_S), secure=True, httponly=True, samesite="strict")
    return response

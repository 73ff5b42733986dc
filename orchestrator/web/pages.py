"""Templates to answers: the one Jinja environment, what every page is given, forms, and errors as pages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from orchestrator.http_calls import body_of, error_reply
from orchestrator.reports.forms import FORMS
from orchestrator.steps import Refusal
from orchestrator.store import StoreFailed
from orchestrator.web.access import LoginNeeded, who_of
from orchestrator.web.words import FILTERS
from vetting_agent.printable import printable

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
STATIC = HERE / "static"
FORM_BYTES = 64 * 2**10
MOST_FIELDS = 4000
"""A bulk act names up to a thousand runs and more."""


@dataclass(frozen=True, slots=True)
class NavEntry:
    """One entry of the navigation; `role`: who gets to see it."""

    title: str
    path: str
    role: str = "viewer"


@dataclass
class Pages:
    """Renders templates. Further folders of templates can be named by whoever adds pages."""

    navigation: Sequence[NavEntry]
    folders: Sequence[Path] = ()
    filters: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    @cached_property
    def environment(self) -> Environment:
        loader = FileSystemLoader([HERE / "templates", *self.folders])
        made = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        made.filters.update({"printable": _printable, **FILTERS, **self.filters})
        made.globals.update({"static": self.static, "report_forms": FORMS})
        return made

    @cached_property
    def _versions(self) -> dict[str, str]:
        files = (path for path in STATIC.rglob("*") if path.is_file())
        return {
            path.relative_to(STATIC).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:10] for path in files
        }

    def static(self, name: str) -> str:
        """The address of a file below static/, with its content's version: it may be kept for ever."""
        return f"/static/{name}?v={self._versions[name]}"

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """The page as an answer. Every template knows `who`, `navigation`, `path` and `correlation_id`."""
        who = who_of(request)
        text = self.environment.get_template(template).render(
            who=who,
            navigation=[one for one in self.navigation if who is not None and who.may(one.role)],
            path=request.url.path,
            correlation_id=request.state.correlation_id,
            **values,
        )
        return Response(text, status, media_type="text/html")

    def guarding(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint with every exception turned into a page, or into the envelope for programs."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except LoginNeeded:
                return _to_login(request)
            except Refusal as refusal:
                return self.failed(request, refusal.status, refusal.code, refusal.message)
            except StoreFailed as problem:
                log.warning("%s %s: the store failed: %s", request.method, request.url.path, problem)
                return self.failed(request, 503, "store_failed", "The database gave no answer; try again")
            except ClientDisconnect:
                return self.failed(request, 400, "disconnected", "The caller went away")
            except HTTPException:
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                return self.failed(request, 500, "internal", "A fault of the console; the server's log has the details")

        return answer

    def failed(self, request: Request, status: int, code: str, message: str) -> Response:
        """An error: a page for a browser, a fragment for htmx, the envelope for programs."""
        if not _wants_page(request):
            return error_reply(request, status, code, message)
        template = "error_fragment.html" if "HX-Request" in request.headers else "error.html"
        response = self.render(request, template, status, code=code, message=message)
        if "HX-Request" in request.headers:
            response.headers["HX-Retarget"] = "#notices"
            response.headers["HX-Reswap"] = "innerHTML"
        return response

    async def no_such_page(self, request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        code = {404: "no_such_page", 405: "wrong_method"}.get(problem.status_code, "refused")
        return self.failed(request, problem.status_code, code, problem.detail)


def _printable(text: object) -> str:
    return "" if text is None else printable(str(text))


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("Accept", "") or "HX-Request" in request.headers


def _to_login(request: Request) -> Response:
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if not _wants_page(request):
        return error_reply(request, 401, "login_needed", "Log in, or send a token: Authorization: Bearer vct_…")
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = path if request.method == "GET" and path != "/" else ""
    return RedirectResponse(f"/login?next={quote(wanted)}" if wanted else "/login", 303)


def safe_path(wanted: str) -> str:
    """A path of this console to go on to, never another site's."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    return wanted if plain else "/"


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form, blank ones too. Raises Refusal."""
    body = await body_of(request, FORM_BYTES)
    try:
        return parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Refusal(422, "malformed", "The form cannot be read") from None


def one_of(form: Mapping[str, Sequence[str]], name: str, default: str = "") -> str:
    """The last value of a field."""
    return form[name][-1] if form.get(name) else default

"""Users, tokens and the audit log on the local operator API: how the command line reaches them.

POST /operator/v1/users            GET /operator/v1/users      POST /operator/v1/users/{name}[/remove]
POST /operator/v1/tokens           GET /operator/v1/tokens     POST /operator/v1/tokens/{key}/revoke
GET  /operator/v1/audit?limit=
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.http_calls import answering_errors, body_of, correlation_of, decoded, json_reply, number_of
from orchestrator.web.account_pages import audited
from orchestrator.web.accounts import Accounts, ApiToken, User
from orchestrator.who import local_who

PREFIX = "/operator/v1"
BODY_BYTES = 64 * 2**10
MOST_ENTRIES = 10_000
LOCAL = "local"


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: str
    created_at: str
    created_by: str


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str | None


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is told only now."""

    token: TokenView
    secret: str


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    role: str
    password: str


class ChangedUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: str | None = None
    password: str | None = None


class WantedToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    role: str
    days: int | None = None


@dataclass(frozen=True, slots=True)
class AccountsApi:
    accounts: Accounts

    def routes(self) -> list[Route]:
        endpoints = [
            ("GET", "/users", self.users),
            ("POST", "/users", self.add_user),
            ("POST", "/users/{name}", self.change_user),
            ("POST", "/users/{name}/remove", self.remove_user),
            ("GET", "/tokens", self.tokens),
            ("POST", "/tokens", self.add_token),
            ("POST", "/tokens/{key}/revoke", self.revoke_token),
            ("GET", "/audit", self.audit),
        ]
        return [Route(PREFIX + path, answering_errors(call), methods=[method]) for method, path, call in endpoints]

    async def users(self, _request: Request) -> Response:
        return json_reply([_user_view(one) for one in await self.accounts.users()])

    async def add_user(self, request: Request) -> Response:
        wanted = decoded(NewUser, await body_of(request, BODY_BYTES))
        adding = self.accounts.add_user(wanted.name, wanted.role, wanted.password, by=LOCAL)
        who = local_who(correlation_of(request))
        user = await audited(self.accounts, who, "add user", wanted.name[:64], wanted.role[:16], adding)
        return json_reply(_user_view(user), 201)

    async def change_user(self, request: Request) -> Response:
        name, wanted = request.path_params["name"], decoded(ChangedUser, await body_of(request, BODY_BYTES))
        changing = self.accounts.change_user(name, role=wanted.role, password=wanted.password)
        act = "change role" if wanted.role else "change password"
        user = await audited(
            self.accounts, local_who(correlation_of(request)), act, name[:64], wanted.role or "", changing
        )
        return json_reply(_user_view(user))

    async def remove_user(self, request: Request) -> Response:
        name = request.path_params["name"]
        removing = self.accounts.remove_user(name)
        await audited(self.accounts, local_who(correlation_of(request)), "remove user", name[:64], "", removing)
        return json_reply({})

    async def tokens(self, _request: Request) -> Response:
        return json_reply([_token_view(one) for one in await self.accounts.tokens()])

    async def add_token(self, request: Request) -> Response:
        wanted = decoded(WantedToken, await body_of(request, BODY_BYTES))
        making = self.accounts.new_token(wanted.name, wanted.role, wanted.days, by=LOCAL)
        who = local_who(correlation_of(request))
        token, secret = await audited(self.accounts, who, "create token", wanted.name[:64], wanted.role[:16], making)
        return json_reply(NewToken(token=_token_view(token), secret=secret), 201)

    async def revoke_token(self, request: Request) -> Response:
        key = request.path_params["key"]
        revoking = self.accounts.revoke_token(key)
        gone = await audited(self.accounts, local_who(correlation_of(request)), "revoke token", key[:12], "", revoking)
        return json_reply(_token_view(gone))

    async def audit(self, request: Request) -> Response:
        return json_reply(await self.accounts.store.audit(number_of(request, "limit", 100, MOST_ENTRIES)))


def _user_view(user: User) -> UserView:
    return UserView(name=user.name, role=user.role, created_at=user.created_at, created_by=user.created_by)


def _token_view(token: ApiToken) -> TokenView:
    return TokenView(
        key=token.key,
        name=token.name,
        role=token.role,
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
    )

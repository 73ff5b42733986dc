"""Who may enter hosts: the operators of the console, and whoever may open the operator socket."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from orchestrator.steps import Refusal
from orchestrator.terminal_app import Access
from orchestrator.terminal_session import Operator
from orchestrator.web.accounts import Accounts
from orchestrator.web.guard import COOKIE
from orchestrator.who import Who

ROLE = "operator"


async def local_operator(call: HTTPConnection) -> Operator:
    """Whoever may open the socket may enter hosts, for as long as they like."""

    async def still() -> bool:
        return True

    who = getattr(call.state, "who", None)
    who = who if isinstance(who, Who) else Who("local", "admin", "socket")
    return Operator(who.name, "socket", still, who.entry)


def console_access(accounts: Accounts) -> Access:
    """Those who are logged in at the console and are operators at least; for as long as that holds."""

    async def access(call: HTTPConnection) -> Operator:
        who = getattr(call.state, "who", None)
        if not isinstance(who, Who):
            raise Refusal(401, "login_needed", "Nobody is logged in, or no longer: log in again")
        if who.via != "session":
            raise Refusal(403, "not_allowed", "A terminal is for a person who is logged in, not for a token")
        if not who.may(ROLE):
            raise Refusal(403, "not_allowed", f"This needs the role {ROLE}; {who.name} is {who.role}")
        cookie = call.cookies.get(COOKIE, "")

        async def still() -> bool:
            found = await accounts.session_of(cookie)
            return found is not None and Who(found[1].name, found[1].role, "session").may(ROLE)

        return Operator(who.name, who.key, still, who.entry)

    return access

"""The commands about users, tokens and the audit log: one function each, taking the arguments and a client."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any
from urllib.parse import quote

from orchestrator.cli_text import say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.store import AuditEntry
from orchestrator.web.accounts_api import NewToken, TokenView, UserView


def add_user(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body = {"name": arguments.name, "role": arguments.role, "password": _password()}
    return _tell(arguments, client.post("/users", body, UserView), f"User {arguments.name} may log in")


def set_password(arguments: argparse.Namespace, client: OperatorClient) -> int:
    changed = client.post(f"/users/{quote(arguments.name)}", {"password": _password()}, UserView)
    return _tell(arguments, changed, f"The password of {changed.name} is set; all its sessions are ended")


def set_role(arguments: argparse.Namespace, client: OperatorClient) -> int:
    changed = client.post(f"/users/{quote(arguments.name)}", {"role": arguments.role}, UserView)
    return _tell(arguments, changed, f"{changed.name} is {changed.role}; all its sessions are ended")


def remove_user(arguments: argparse.Namespace, client: OperatorClient) -> int:
    gone = client.post(f"/users/{quote(arguments.name)}/remove", {}, dict[str, Any])
    return _tell(arguments, gone, f"User {arguments.name} is removed")


def list_users(arguments: argparse.Namespace, client: OperatorClient) -> int:
    users = client.get("/users", list[UserView])
    rows = [("NAME", "ROLE", "SINCE", "BY"), *((one.name, one.role, one.created_at, one.created_by) for one in users)]
    return _tell(arguments, users, table(rows) if users else "Nobody may log in to the console yet")


def create_token(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body = {"name": arguments.name, "role": arguments.role, "days": arguments.days}
    made = client.post("/tokens", body, NewToken)
    return _tell(arguments, made, made.secret)


def list_tokens(arguments: argparse.Namespace, client: OperatorClient) -> int:
    tokens = client.get("/tokens", list[TokenView])
    rows = [("KEY", "NAME", "ROLE", "SINCE", "EXPIRES")]
    rows += [(one.key[:12], one.name, one.role, one.created_at, one.expires_at or "never") for one in tokens]
    return _tell(arguments, tokens, table(rows) if tokens else "There are no tokens")


def revoke_token(arguments: argparse.Namespace, client: OperatorClient) -> int:
    gone = client.post(f"/tokens/{quote(arguments.key)}/revoke", {}, TokenView)
    return _tell(arguments, gone, f"Token {gone.name} is revoked")


def audit(arguments: argparse.Namespace, client: OperatorClient) -> int:
    entries = client.get("/audit", list[AuditEntry], limit=max(1, arguments.limit))
    rows = [("WHEN", "WHO", "VIA", "ACT", "ON", "OUTCOME", "CORRELATION")]
    rows += [
        (one.ts, one.author, one.via, f"{one.act} {one.detail}".strip(), one.subject, one.outcome, one.correlation_id)
        for one in reversed(entries)
    ]
    return _tell(arguments, entries, table(rows))


def _password() -> str:
    """From the terminal, without echo; from stdin's first line where there is no terminal."""
    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\n")


def _tell(arguments: argparse.Namespace, message: Any, text: str) -> int:
    say_json(message) if arguments.json else say(text)
    return 0

"""The commands that talk to a running server: one function each, taking the parsed arguments and a client."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.cli_text import directive_text, harmless_json, log_text, run_text, runs_table, say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.operator_messages import RunCreated
from orchestrator.store import EvidenceRecord, HoldKey
from vetting_agent.printable import printable
from vetting_agent.run_view import DirectiveView, LogView, RunView
from vetting_agent.wire import COMPLETED, FAILED_HOLDING

POLL_S = 0.5
ENDED = frozenset({COMPLETED, "Cancelled", "Aborted", "Released"})


class BadArgument(Exception):
    """An argument that means nothing; the text names it."""


def create(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body: dict[str, Any] = {
        "host": arguments.host,
        "mac": arguments.mac,
        "profile": arguments.profile,
        "hardware": arguments.hardware,
        "token_valid_s": arguments.token_valid,
        "stages": arguments.stages.split(",") if arguments.stages else None,
        "parameters": _parameters(arguments.set),
        "non_destructive": not arguments.destructive,
        "expected_disks": [_disk(text) for text in arguments.expect_disk] or None,
        "spec": _json_file(arguments.spec) if arguments.spec else None,
        "on_failure": arguments.on_failure,
        "shutdown_when_completed": not arguments.leave_on,
    }
    created = client.post("/runs", body, RunCreated)
    if arguments.json:
        say_json(created)
        return 0
    say(f"Run {created.run_id} for {arguments.host} is created. Boot the host with this kernel command line;")
    say("the token in it is shown only now:\n")
    say(created.cmdline)
    return 0


def _parameters(settings: list[str]) -> dict[str, dict[str, Any]]:
    """STAGE.name=VALUE, where VALUE is JSON or else a text."""
    parameters: dict[str, dict[str, Any]] = {}
    for text in settings:
        where, equals, value = text.partition("=")
        stage, dot, name = where.partition(".")
        if not (equals and dot and stage and name):
            raise BadArgument(f"--set takes STAGE.name=value, not {text!r}")
        try:
            parameters.setdefault(stage, {})[name] = msgspec.json.decode(value)
        except msgspec.MsgspecError:
            parameters.setdefault(stage, {})[name] = value
    return parameters


def _disk(text: str) -> dict[str, Any]:
    serial, _, size = text.partition("=")
    try:
        return {"serial": serial, "size_gb": float(size) if size else None}
    except ValueError:
        raise BadArgument(f"--expect-disk takes SERIAL or SERIAL=SIZE_GB, not {text!r}") from None


def _json_file(name: str) -> Any:
    try:
        return msgspec.json.decode(Path(name).read_bytes())
    except (OSError, msgspec.MsgspecError) as problem:
        raise BadArgument(f"--spec {name}: {problem}") from None


def list_runs(arguments: argparse.Namespace, client: OperatorClient) -> int:
    runs = client.get("/runs", list[RunView])
    say_json(runs) if arguments.json else say(runs_table(runs))
    return 0


def show(arguments: argparse.Namespace, client: OperatorClient) -> int:
    _say_run(client.get(f"/runs/{arguments.run}", RunView), as_json=arguments.json)
    return 0


def _say_run(run: RunView, *, as_json: bool) -> None:
    say_json(run) if as_json else say(run_text(run))


def watch(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Events and log lines as they come. Ends with the run, and at a hold unless --follow. Exit 0 when completed."""
    told, last_log = 0, 0
    while True:
        run = client.get(f"/runs/{arguments.run}", RunView)
        for event in run.events[told:]:
            _tell(arguments, event, f"{event.ts} ----- {event.kind}: {printable(event.text)}")
        told = len(run.events)
        last_log = _tell_log(arguments, client, last_log)
        if run.state in ENDED or (run.state == FAILED_HOLDING and not arguments.follow):
            return 0 if run.state == COMPLETED else 1
        time.sleep(POLL_S)


def _tell_log(arguments: argparse.Namespace, client: OperatorClient, last: int) -> int:
    while lines := client.get(f"/runs/{arguments.run}/logs", list[LogView], after=last, limit=1000):
        for line in lines:
            _tell(arguments, line, log_text(line))
        last = lines[-1].id
    return last


def _tell(arguments: argparse.Namespace, message: Any, text: str) -> None:
    say(harmless_json(msgspec.json.encode(message)) if arguments.json else text)


def direct(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """retry, cancel, shutdown, abort: `arguments.cmd` is the directive."""
    body: dict[str, Any] = {"cmd": arguments.cmd}
    if arguments.cmd == "retry_stage":
        body |= {"stage": arguments.stage, "wipe": arguments.wipe, "serials": arguments.serial or None}
    directive = client.post(f"/runs/{arguments.run}/directives", body, DirectiveView)
    say_json(directive) if arguments.json else say(directive_text(directive))
    return 0


def release(arguments: argparse.Namespace, client: OperatorClient) -> int:
    run = client.post(f"/runs/{arguments.run}/release", {}, RunView)
    say_json(run) if arguments.json else say(f"Run {run.run_id} is {run.state}: its host is let go")
    return 0


def hold_key(arguments: argparse.Namespace, client: OperatorClient) -> int:
    key = client.get(f"/runs/{arguments.run}/hold-key", HoldKey)
    if arguments.out:
        with os.fdopen(os.open(arguments.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)  # ssh takes no key that others may read
            file.write(key.private_key)
    if arguments.json:
        say_json(key)
    elif arguments.out:
        say(f"Key written to {arguments.out}, valid until {key.expires_at}")
    else:
        sys.stdout.write(key.private_key)
    return 0


def terminal(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """A shell in a held host."""
    from orchestrator import terminal_command

    return terminal_command.main(arguments, client)


def evidence(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """The list, or with --download all of it into a folder."""
    pieces = client.get(f"/runs/{arguments.run}/evidence", list[EvidenceRecord])
    if arguments.download:
        folder = Path(arguments.download)
        folder.mkdir(parents=True, exist_ok=True)
        for piece in pieces:
            content = client.get_bytes(f"/runs/{arguments.run}/evidence/{piece.id}")
            (folder / _file_name(piece)).write_bytes(content)
    if arguments.json:
        say_json(pieces)
        return 0
    rows = [("ID", "STAGE", "BYTES", "RECEIVED", "SHA-256")]
    rows += [(str(one.id), one.stage, str(one.size), one.received_at, one.sha256) for one in pieces]
    say(table(rows) if pieces else f"Run {arguments.run} has no evidence yet")
    if arguments.download and pieces:
        say(f"\nDownloaded into {arguments.download}")
    return 0


def _file_name(piece: EvidenceRecord) -> str:
    # The stage is one of the run's own, checked when the evidence came; the rest is numbers.
    return f"{piece.id:03d}-{piece.stage}.tar.gz"

"""The commands about reports: make one, check a signed one, compare two runs."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import msgspec

from orchestrator.cli_text import complain, say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.reports import signing
from orchestrator.reports.drift import Change, drift
from vetting_agent.printable import clock, printable
from vetting_agent.report import EvidenceFile, Report
from vetting_agent.run_view import RunView


def report(arguments: argparse.Namespace, client: OperatorClient) -> int:
    content = client.get_bytes(f"/runs/{arguments.run}/report", form=arguments.form)
    if arguments.out is None:
        sys.stdout.write(content.decode())
        return 0
    Path(arguments.out).write_bytes(content)
    say(f"Report of run {arguments.run} written to {arguments.out}")
    return 0


def report_key(_arguments: argparse.Namespace, client: OperatorClient) -> int:
    sys.stdout.write(client.get_bytes("/report-key").decode())
    return 0


def changes(arguments: argparse.Namespace, client: OperatorClient) -> int:
    before, after = (client.get(f"/runs/{run}", RunView) for run in (arguments.before, arguments.after))
    found = drift(before, after)
    if arguments.json:
        say_json(found)
        return 0
    if before.host != after.host:
        complain(f"Note: run {before.run_id} is of {before.host}, run {after.run_id} of {after.host}")
    say(table([("COMPONENT", "CHANGE", "WHAT", "BEFORE", "AFTER"), *map(_row, found)]) if found else "Nothing changed")
    return 0


def _row(change: Change) -> tuple[str, ...]:
    values = ("–" if value is None else printable(str(value)) for value in (change.before, change.after))
    return (printable(change.component), change.kind, printable(change.what), *values)


def verify(arguments: argparse.Namespace) -> int:
    """Needs no server. Exit 0: signed by this key, and unchanged; 1: not; 2: no key, or no file."""
    try:
        key = signing.public_key(Path(arguments.key or Path(arguments.data) / signing.PUBLIC))
        envelope = _read(Path(arguments.report))
    except (signing.BadKey, OSError) as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 2
    try:
        found = msgspec.json.decode(signing.verified(envelope, key), type=Report)
    except signing.BadSignature as problem:
        complain(f"NOT VALID: {problem}")
        return 1
    except msgspec.MsgspecError as problem:
        complain(f"The signature is right, and this version cannot read the report: {problem}")
        return 1
    say(f"Signed by {signing.key_id(key)[:16]}, unchanged.")
    say(f"Host {printable(found.host)}, run {found.run_id}, profile {found.profile}, finished {found.finished_at}")
    say(f"Verdict: {found.verdict}. {printable(found.headline)} ({clock(found.duration_s)})")
    return _check_evidence(found.evidence_files, Path(arguments.evidence)) if arguments.evidence else 0


def _read(path: Path) -> bytes:
    if path.stat().st_size > signing.LIMIT_BYTES:
        raise OSError(f"{path} is larger than any signed report")
    return path.read_bytes()


def _check_evidence(files: list[EvidenceFile], folder: Path) -> int:
    """The downloaded evidence against the digests in the report."""
    there = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar.gz")}
    missing = [one for one in files if one.sha256 not in there]
    strangers = len(there - {one.sha256 for one in files})
    for one in missing:
        complain(f"NOT THERE, or changed: evidence {one.id} of {one.stage} ({one.sha256[:16]})")
    if strangers:
        complain(f"NOT OF THIS REPORT: {strangers} file(s) in {folder}")
    if not (missing or strangers):
        say(f"Evidence: all {len(files)} files are there, unchanged.")
    return 1 if missing or strangers else 0

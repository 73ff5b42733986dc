"""The commands about hosts, hardware profiles, unknown hosts and tokens: one function each, as in cli_commands.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.cli_commands import BadArgument
from orchestrator.cli_text import complain, say, say_json, table
from orchestrator.host_csv import HostChange
from orchestrator.host_messages import (
    CheckReport,
    HostDiff,
    ImportReport,
    LearntProfile,
    ProfileDiff,
    ProfileView,
    TokenRotated,
)
from orchestrator.host_record import HostRecord, ProfileVersion, UnknownHosts, Waiting
from orchestrator.operator_client import OperatorClient
from orchestrator.peers import Baseline


def add_host(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body = {
        "name": arguments.name,
        "macs": arguments.mac,
        "labels": arguments.label,
        "note": arguments.note or "",
        "profile": arguments.profile,
    }
    _say_host(client.post("/hosts", body, HostRecord), as_json=arguments.json)
    return 0


def edit_host(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body: dict[str, Any] = {"note": arguments.note, "profile": arguments.profile}
    body |= {"macs": arguments.mac or None, "labels": arguments.label or None}
    _say_host(client.send("PATCH", f"/hosts/{_in_path(arguments.name)}", body, HostRecord), as_json=arguments.json)
    return 0


def list_hosts(arguments: argparse.Namespace, client: OperatorClient) -> int:
    hosts = client.get("/hosts", list[HostRecord])
    if arguments.json:
        say_json(hosts)
        return 0
    rows = [("HOST", "MAC", "PROFILE", "LABELS", "NOTE")]
    rows += [(one.name, " ".join(one.macs), one.profile or "", " ".join(one.labels), one.note) for one in hosts]
    say(table(rows) if hosts else "No hosts yet. Add one with: vetting-orchestrator host add NAME --mac MAC")
    return 0


def remove_host(arguments: argparse.Namespace, client: OperatorClient) -> int:
    client.send("DELETE", f"/hosts/{_in_path(arguments.name)}", {}, dict[str, Any])
    say_json({}) if arguments.json else say(f"{arguments.name} is removed; its runs stay")
    return 0


def import_hosts(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 1 with every error of the file, and nothing done."""
    content = _read(arguments.file)
    path = f"/hosts/import?dry_run={'true' if arguments.dry_run else 'false'}"
    report = client.send_bytes("POST", path, content, ImportReport, also=(422,))
    if arguments.json:
        say_json(report)
    elif report.errors:
        for one in report.errors:
            complain(f"{arguments.file}: {one}")
        complain("Nothing was imported")
    else:
        _say_changes(report.hosts, done=report.done)
    return 1 if report.errors else 0


def _say_changes(hosts: list[HostChange], *, done: bool) -> None:
    for one in hosts:
        if one.act != "unchanged":
            say(f"{one.act} {one.name}" + "".join(f"\n    {line}" for line in one.changes))
    counts = {act: sum(one.act == act for one in hosts) for act in ("created", "changed", "unchanged")}
    words = ", ".join(f"{count} {act}" for act, count in counts.items())
    say(f"{words}{'' if done else ' (a dry run: nothing was done)'}")


def _say_host(host: HostRecord, *, as_json: bool) -> None:
    if as_json:
        say_json(host)
        return
    profile = f", hardware profile {host.profile}" if host.profile else ""
    say(f"{host.name}: {' '.join(host.macs) or 'no MAC address'}{profile}")


def unknown_hosts(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Shows the policy, or sets it."""
    if arguments.policy is None:
        policy = client.get("/unknown-hosts", UnknownHosts)
    else:
        body = {"policy": arguments.policy, "profile": arguments.profile}
        policy = client.send("PUT", "/unknown-hosts", body, UnknownHosts)
    profile = f" with the hardware profile {policy.profile}" if policy.profile else ""
    say_json(policy) if arguments.json else say(f"Unknown hosts: {policy.policy}{profile}")
    return 0


def list_waiting(arguments: argparse.Namespace, client: OperatorClient) -> int:
    waiting = client.get("/boot-queue", list[Waiting])
    if arguments.json:
        say_json(waiting)
        return 0
    rows = [("MAC", "ADDRESS", "FIRST SEEN", "LAST SEEN", "")]
    rows += [
        (one.mac, one.ip, one.first_seen_at, one.last_seen_at, "rejected" if one.rejected else "") for one in waiting
    ]
    say(table(rows) if waiting else "No host waits for approval")
    return 0


def approve(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body = {"name": arguments.name, "profile": arguments.profile, "vet": not arguments.no_run}
    answer = client.post(f"/boot-queue/{_in_path(arguments.mac)}/approve", body, dict[str, Any])
    run = f"; run {answer['run_id']} awaits its boot" if answer["run_id"] else ""
    say_json(answer) if arguments.json else say(f"{arguments.mac} is {arguments.name}{run}")
    return 0


def reject(arguments: argparse.Namespace, client: OperatorClient) -> int:
    waiting = client.post(f"/boot-queue/{_in_path(arguments.mac)}/reject", {}, Waiting)
    say_json(waiting) if arguments.json else say(f"{waiting.mac} is left to boot its own disk")
    return 0


def list_profiles(arguments: argparse.Namespace, client: OperatorClient) -> int:
    profiles = client.get("/profiles", list[ProfileView])
    if arguments.json:
        say_json(profiles)
        return 0
    rows = [("PROFILE", "VERSION", "HOSTS", "CHANGED", "NOTE")]
    rows += [(one.name, str(one.version), str(one.hosts), one.created_at, one.note) for one in profiles]
    empty = "No hardware profiles yet. Learn one with: vetting-orchestrator profile learn NAME RUN"
    say(table(rows) if profiles else empty)
    return 0


def show_profile(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """The YAML text, as it was written."""
    query = {} if arguments.version is None else {"version": arguments.version}
    version = client.get(f"/profiles/{_in_path(arguments.name)}", ProfileVersion, **query)
    if arguments.json:
        say_json(version)
    else:
        sys.stdout.write(version.text if version.text.endswith("\n") else version.text + "\n")
    return 0


def save_profile(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 1 with every error of the file by its line; with --check nothing is kept."""
    text = _read(arguments.file).decode(errors="replace")
    report = client.post("/profiles/check", {"text": text}, CheckReport)
    if report.problems:
        for one in report.problems:
            path = f"{one.path}: " if one.path else ""
            complain(f"{arguments.file}:{one.line}: {path}{one.message}")
        return 1
    if arguments.check:
        say(f"{arguments.file} is a sound profile")
        return 0
    body = {"text": text, "note": arguments.note or ""}
    version = client.post(f"/profiles/{_in_path(arguments.name)}", body, ProfileVersion)
    say_json(version) if arguments.json else say(f"{version.name} is at version {version.version}")
    return 0


def remove_profile(arguments: argparse.Namespace, client: OperatorClient) -> int:
    client.send("DELETE", f"/profiles/{_in_path(arguments.name)}", {}, dict[str, Any])
    say_json({}) if arguments.json else say(f"{arguments.name} is removed; runs keep what they took from it")
    return 0


def learn_profile(arguments: argparse.Namespace, client: OperatorClient) -> int:
    body = {"run_id": arguments.run, "note": arguments.note or ""}
    answer = client.post(f"/profiles/{_in_path(arguments.name)}/learn", body, LearntProfile)
    if arguments.json:
        say_json(answer)
    else:
        sys.stdout.write(answer.version.text)
        say(f"\n{answer.version.name} is at version {answer.version.version}")
    return 0


def diff_profile(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Between two versions, or of a host from the profile."""
    path = f"/profiles/{_in_path(arguments.name)}/diff"
    answer: HostDiff | ProfileDiff
    if arguments.host:
        answer = client.get(f"{path}?host={quote(arguments.host, safe='')}", HostDiff)
        heading = f"{answer.host} (run {answer.run_id or '-'}) beside {answer.name} version {answer.version}:"
    else:
        numbers = {name: value for name in ("old", "new") if (value := getattr(arguments, name)) is not None}
        answer = client.get(path, ProfileDiff, **numbers)
        heading = f"{answer.name}: version {answer.old} to {answer.new}:"
    say_json(answer) if arguments.json else say("\n".join([heading, *(answer.lines or ["no difference"])]))
    return 0


def baselines(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Each measurement over all hosts of a profile, and who is far off."""
    charts = client.get(f"/profiles/{_in_path(arguments.name)}/baselines", list[Baseline])
    if arguments.json:
        say_json(charts)
        return 0
    rows = [("STAGE", "MEASUREMENT", "OF", "HOSTS", "MEDIAN", "LIMIT", "UNIT", "OUTLIERS")]
    for one in charts:
        far = sorted({point.host for point in one.points if point.outlier})
        figures = ["" if value is None else f"{value:.5g}" for value in (one.median, one.limit)]
        hosts = str(len({point.host for point in one.points}))
        rows.append((one.stage, one.name, one.kind, hosts, *figures, one.unit, " ".join(far)))  # type: ignore[arg-type]
    say(table(rows) if charts else "Nothing to compare yet: no host of this profile has passed")
    return 0


def rotate_token(arguments: argparse.Namespace, client: OperatorClient) -> int:
    answer = client.post(f"/runs/{arguments.run}/token", {}, TokenRotated)
    if arguments.json:
        say_json(answer)
        return 0
    say(f"All tokens of run {answer.run_id} have ended: an agent that runs now is let go, and its host must boot again")
    say("from the network, or with this kernel command line; the token in it is shown only now:\n")
    say(answer.cmdline)
    return 0


def _in_path(text: str) -> str:
    return quote(text, safe=":")


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as problem:
        raise BadArgument(f"{name}: {problem.strerror}") from None

"""What the commands print for people, and the two ways out: `say` on stdout, `complain` on stderr.

Much of it are words of hosts that nobody trusts yet: nothing that steers a terminal gets out of here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from vetting_agent.printable import printable, printable_json
from vetting_agent.run_view import DirectiveView, LogView, RunView, StageView


def say(text: str) -> None:
    sys.stdout.write(_harmless(text) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    sys.stderr.write(_harmless(text) + "\n")


def say_json(message: Any) -> None:
    say(harmless_json(msgspec.json.format(msgspec.json.encode(message), indent=2)))


def harmless_json(encoded: bytes) -> str:
    """JSON escapes what is below a blank; the others that steer a terminal are escaped here, and mean the same."""
    return "\n".join(map(printable_json, encoded.decode().split("\n")))


def _harmless(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the left; the first row is the heading."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def runs_table(runs: Sequence[RunView]) -> str:
    if not runs:
        return "No runs yet. Create one with: vetting-orchestrator run create --host NAME"
    rows = [("RUN", "HOST", "STATE", "PROFILE", "PASSED", "CREATED")]
    for run in runs:
        passed = f"{sum(stage.valid for stage in run.stages)} of {len(run.stages)}"
        rows.append((str(run.run_id), run.host, _state(run), run.profile, passed, run.created_at))
    return table(rows)


def run_text(run: RunView) -> str:
    """The whole run: where it stands, stage by stage, what was found, what is wanted of whom."""
    parts = [_heading(run), table([("STAGE", "STATE", "VERDICT", "TRIES", "HEADLINE"), *map(_stage_row, run.stages)])]
    parts += [text for text in (_findings(run), _spec(run), _orders(run.directives), _hold(run)) if text]
    return "\n\n".join(parts)


def _heading(run: RunView) -> str:
    agent = run.agent
    lines = [
        f"Run {run.run_id}: {printable(run.host)}: {_state(run)}",
        f"profile {run.profile}, {'non-destructive' if run.non_destructive else 'DESTRUCTIVE'},"
        f" created {run.created_at}",
        printable(
            f"agent {agent.agent_version} at {agent.ip} ({agent.mac}), last heard {agent.last_seen_at or 'never'}"
        )
        if agent.instance_id
        else "no host has claimed it yet",
    ]
    if agent.activity == "running" and agent.stage:
        lines.append(f"{printable(agent.stage)}: {_progress(run)}")
    if run.hottest:
        lines.append(printable(f"hottest: {run.hottest.key} {run.hottest.value:g} {run.hottest.unit}"))
    if run.log_lines_over_quota or run.samples_over_quota:
        lines.append(
            f"over its quota: {run.log_lines_over_quota} log lines and {run.samples_over_quota} samples dropped"
        )
    return "\n".join(lines)


def _progress(run: RunView) -> str:
    done = "" if run.agent.progress is None else f"{run.agent.progress:.0%} done"
    left = "" if run.agent.eta_s is None else f"{run.agent.eta_s:.0f} s left"
    return ", ".join(part for part in (done, left) if part) or "running"


def _state(run: RunView) -> str:
    return f"{run.state} (stalled)" if run.stalled else run.state


def _stage_row(stage: StageView) -> tuple[str, ...]:
    verdict = stage.summary.verdict if stage.summary else ""
    if stage.passed and not stage.valid:
        verdict += " (void)"
    headline = stage.summary.headline if stage.summary else ""
    return (stage.stage, stage.state, verdict, str(stage.attempts), headline)


def _findings(run: RunView) -> str:
    lines = [printable(f"  {one['severity']}: {one['reason_code']}: {one['message']}") for one in run.run_findings]
    for stage in run.stages:
        for found in stage.summary.findings if stage.summary else ():
            if found.severity != "info":
                text = f"{found.reason_code}: {found.component}: {found.message}"
                lines.append(printable(f"  {found.severity}: {stage.stage}: {text}"))
    return "\n".join(["Findings:", *lines]) if lines else ""


def _spec(run: RunView) -> str:
    return (
        "\n".join(["Not as its spec says:", *(f"  {printable(line)}" for line in run.spec_diff)])
        if run.spec_diff
        else ""
    )


def _orders(directives: Sequence[DirectiveView]) -> str:
    lines = [f"  {one.created_at} {directive_text(one)}" for one in directives]
    return "\n".join(["Directives:", *lines]) if lines else ""


def directive_text(one: DirectiveView) -> str:
    wipe = ""
    if one.override_flags and one.override_flags.get("wipe"):
        serials = one.override_flags.get("serials")
        wipe = f" wiping {', '.join(serials) if serials else 'the disks refused for data'}"
    lamp = f" {one.identify['target']} {'on' if one.identify['on'] else 'off'}" if one.identify else ""
    why = f" ({one.answer})" if one.answer else ""
    return printable(f"{one.cmd}{' ' + one.stage if one.stage else ''}{lamp}{wipe}: {one.status}{why}")


def _hold(run: RunView) -> str:
    if run.hold is None or not run.hold.requested:
        return ""
    key = f"vetting-orchestrator hold-key {run.run_id} --out key"
    login = f"ssh -i key root@{printable(run.hold.ip or '?')}"
    shows = f"; its SSH host key: {run.hold.ssh_host_key}" if run.hold.ssh_host_key else ""
    return f"The host is held: {key} && {login}   (valid until {run.hold.expires_at}{shows})"


def log_text(line: LogView) -> str:
    stage = f"[{line.stage}] " if line.stage else ""
    return printable(f"{line.ts} {line.level:<5} {stage}{line.text}")

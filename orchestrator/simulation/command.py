"""`vetting-orchestrator simulate`: how many hosts can this server serve?"""

from __future__ import annotations

import argparse
import asyncio

import msgspec

from orchestrator.cli_text import complain, say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.operator_messages import RunCreated, ServerInfo
from orchestrator.simulation.agents import Load, simulate
from orchestrator.simulation.figures import VerbFigures
from orchestrator.simulation.line import CallFailed
from vetting_agent.run_view import RunView


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    agents: int
    seconds: float
    calls_per_s: float
    failures: int
    log_lines_per_s: float
    verbs: list[VerbFigures]


def run(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 0 when every call was answered well, 1 when not, 2 when this server has hosts of its own."""
    if not arguments.anyway and (others := [one for one in client.get("/runs", list[RunView]) if not one.finished_at]):
        complain(f"This server has {len(others)} runs that are not finished. --anyway simulates beside them.")
        return 2
    info = client.get("/server", ServerInfo)
    runs = [
        client.post("/runs", {"host": f"simulated-{number:05}", "stages": ["Inventory"]}, RunCreated)
        for number in range(arguments.agents)
    ]
    load = Load(flat_out=arguments.flat_out, log_lines=arguments.log_lines, pace=arguments.pace)
    try:
        figures, took = asyncio.run(simulate(info.url, info.fingerprint, runs, load, arguments.seconds))
    except (CallFailed, OSError) as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 1
    finally:
        for one in runs:
            client.post(f"/runs/{one.run_id}/release", {}, RunView)
    calls = sum(len(times) for times in figures.times.values())
    found = Simulated(
        agents=len(runs),
        seconds=round(took, 1),
        calls_per_s=round(calls / took, 1),
        failures=figures.failures,
        log_lines_per_s=round(figures.log_lines / took, 1),
        verbs=figures.of_verbs(took),
    )
    say_json(found) if arguments.json else say(_text(found))
    return 1 if found.failures else 0


def _text(found: Simulated) -> str:
    rows: list[tuple[str, ...]] = [("VERB", "CALLS", "A SECOND", "P50 MS", "P99 MS", "MAX MS", "FAILED")]
    for one in found.verbs:
        failed = ", ".join(f"{count} x {what}" for what, count in one.failed.items()) or "0"
        numbers = (one.calls, one.per_s, one.p50_ms, one.p99_ms, one.max_ms)
        rows.append((one.verb, *map(str, numbers), failed))
    head = f"{found.agents} agents for {found.seconds:g} s: {found.calls_per_s:g} calls/s, {found.failures} failed, "
    return f"{head}{found.log_lines_per_s:g} log lines/s\n\n{table(rows)}"

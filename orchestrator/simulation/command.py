"""`vetting-orchestrator simulate`: how many hosts can this server serve?"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from orchestrator.cli_text import complain, say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.operator_messages import RunCreated, ServerInfo
from orchestrator.simulation.agents import Load, Plan
from orchestrator.simulation.crew import ServerCost, ServerWatch, run_crew
from orchestrator.simulation.figures import Figures, VerbFigures
from orchestrator.simulation.line import CallFailed
from vetting_agent.run_view import RunView

AT_ONCE = 16
"""Runs that are made or released together: the store commits them in one go."""


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `simulator_cpu`: of one CPU for each process; near 1 the simulator is what was measured."""

    agents: int
    processes: int
    seconds: float
    calls_per_s: float
    failures: int
    log_lines_per_s: float
    server_cpu: float
    """CPUs that the server's process kept busy."""
    server_us_per_call: float
    server_rss_mib: float
    simulator_cpu: float
    verbs: list[VerbFigures]


def run(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 0 when every call was answered well, 1 when not, 2 when this server has hosts of its own."""
    if not arguments.anyway and (others := [one for one in client.get("/runs", list[RunView]) if not one.finished_at]):
        complain(f"This server has {len(others)} runs that are not finished. --anyway simulates beside them.")
        return 2
    info = client.get("/server", ServerInfo)
    load = Load(flat_out=arguments.flat_out, log_lines=arguments.log_lines, pace=arguments.pace)
    runs: list[RunCreated] = []
    try:
        create_runs(client, arguments.agents, runs)
        plan = Plan(url=info.url, fingerprint=info.fingerprint, runs=runs, load=load, seconds=arguments.seconds)
        server = ServerWatch.of(info.operator_socket)
        figures, cost = asyncio.run(run_crew(plan, arguments.processes, server))
    except (CallFailed, OSError) as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 1
    finally:
        _release(client, runs)
    found = found_of(figures, cost, len(runs), arguments.processes)
    say_json(found) if arguments.json else say(_text(found))
    return 1 if found.failures else 0


def create_runs(client: OperatorClient, count: int, runs: list[RunCreated]) -> None:
    """Runs of hosts that are none; each is in `runs` as soon as it exists."""

    def create(number: int) -> None:
        body = {"host": f"simulated-{number:05}", "stages": ["Inventory"]}
        runs.append(client.post("/runs", body, RunCreated))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(create, range(count)))


def _release(client: OperatorClient, runs: Sequence[RunCreated]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda one: client.post(f"/runs/{one.run_id}/release", {}, RunView), runs))


def found_of(figures: Figures, cost: ServerCost, agents: int, processes: int) -> Simulated:
    """The figures as they are told."""
    return Simulated(
        agents=agents,
        processes=processes,
        seconds=round(figures.seconds, 1),
        calls_per_s=round(figures.calls / figures.seconds, 1),
        failures=figures.failures,
        log_lines_per_s=round(figures.log_lines / figures.seconds, 1),
        server_cpu=round(cost.cpu_s / figures.seconds, 3),
        server_us_per_call=round(1e6 * cost.cpu_s / max(1, figures.calls), 1),
        server_rss_mib=cost.rss_mib,
        simulator_cpu=round(figures.cpu_s / figures.seconds / processes, 3),
        verbs=figures.of_verbs(),
    )


def _text(found: Simulated) -> str:
    rows: list[tuple[str, ...]] = [("VERB", "CALLS", "A SECOND", "P50 MS", "P99 MS", "MAX MS", "FAILED")]
    for one in found.verbs:
        failed = ", ".join(f"{count} x {what}" for what, count in one.failed.items()) or "0"
        numbers = (one.calls, one.per_s, one.p50_ms, one.p99_ms, one.max_ms)
        rows.append((one.verb, *map(str, numbers), failed))
    head = f"{found.agents} agents for {found.seconds:g} s: {found.calls_per_s:g} calls/s, {found.failures} failed, "
    server = (
        f"server: {found.server_cpu:.0%} of a CPU, {found.server_us_per_call:g} µs a call, "
        f"RSS {found.server_rss_mib:g} MiB; simulator: {found.simulator_cpu:.0%} of a CPU in each of "
        f"{found.processes} processes"
    )
    return f"{head}{found.log_lines_per_s:g} log lines/s\n{server}\n\n{table(rows)}"

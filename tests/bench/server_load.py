"""What the server takes: simulated hosts that speak the real protocol over TLS, with the load beside it.

Each measurement has a server of its own over an empty data folder. What a call costs is the server's own CPU time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from orchestrator.operator_client import OperatorClient
from orchestrator.operator_messages import RunCreated
from orchestrator.simulation.agents import Load, Plan
from orchestrator.simulation.command import Simulated, create_runs, found_of
from orchestrator.simulation.crew import ServerWatch, run_crew
from tests.bench.server_chart import chart
from tests.orchestrator.served import Served, serving
from tests.orchestrator.web.rig import add_user, logged_in

WATCHER = "bench"
LOOK_EVERY_S = 5.0
HEARTBEATS, LOG_LINES, RHYTHM = 200, 50, 2000
"""Agents of the three."""
LINES_A_BATCH = 200
SIZES = (100, 500, 2000, 5000, 10_000)


@dataclass
class Watched:
    """What people saw meanwhile: times of the fleet's page, and the longest silence of a run's stream."""

    page_s: list[float] = field(default_factory=list)
    events: int = 0
    longest_gap_s: float = 0.0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ServerFigures:
    heartbeats: Simulated
    logs: Simulated
    rhythm: Simulated
    watched: Watched
    sizes: dict[int, Simulated]
    loads: tuple[float, float]
    """Load average before and after."""
    took_s: float


def measure(seconds: float, rhythm_s: float, sizes: tuple[int, ...] = SIZES) -> ServerFigures:
    """All of it, in some eight minutes with 15 s and 300 s."""
    began, before = time.monotonic(), os.getloadavg()[0]
    heartbeats = _alone(HEARTBEATS, Load(flat_out="heartbeat"), seconds)
    logs = _alone(LOG_LINES, Load(flat_out="log", log_lines=LINES_A_BATCH), seconds)
    by_size = {size: _alone(size, Load(), seconds) for size in sizes if size != RHYTHM}
    rhythm, watched = _watched(RHYTHM, rhythm_s)
    if RHYTHM in sizes:
        by_size[RHYTHM] = rhythm
    after = os.getloadavg()[0]
    return ServerFigures(heartbeats, logs, rhythm, watched, by_size, (before, after), time.monotonic() - began)


@contextlib.contextmanager
def _server() -> Iterator[tuple[Served, OperatorClient]]:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as served:
        yield served, OperatorClient(Path(folder) / "data")


def _simulate(served: Served, runs: list[RunCreated], load: Load, seconds: float) -> Simulated:
    plan = Plan(url=served.url, fingerprint=served.info["fingerprint"], runs=runs, load=load, seconds=seconds)
    figures, cost = asyncio.run(run_crew(plan, 1, ServerWatch.of(served.info["operator_socket"])))
    return found_of(figures, cost, len(runs), 1)


def _made(client: OperatorClient, agents: int) -> list[RunCreated]:
    runs: list[RunCreated] = []
    create_runs(client, agents, runs)
    return runs


def _alone(agents: int, load: Load, seconds: float) -> Simulated:
    with _server() as (served, client):
        return _simulate(served, _made(client, agents), load, seconds)


def _watched(agents: int, seconds: float) -> tuple[Simulated, Watched]:
    """The real rhythm while somebody looks at the fleet and at one run."""
    watched, ended = Watched(), threading.Event()
    with _server() as (served, client):
        runs = _made(client, agents)
        add_user(served, WATCHER, "viewer")
        looks = (_look_at_the_fleet, _follow_a_run)
        threads = [threading.Thread(target=look, args=(served, runs[0].run_id, watched, ended)) for look in looks]
        for thread in threads:
            thread.start()
        try:
            found = _simulate(served, runs, Load(), seconds)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    return found, watched


def _look_at_the_fleet(served: Served, _run_id: int, watched: Watched, ended: threading.Event) -> None:
    with logged_in(served, WATCHER) as client:
        while not ended.wait(LOOK_EVERY_S):
            began = time.monotonic()
            try:
                client.get("/", timeout=30).raise_for_status()
                watched.page_s.append(time.monotonic() - began)
            except httpx.HTTPError as problem:
                watched.failed.append(f"page: {problem!r}")


def _follow_a_run(served: Served, run_id: int, watched: Watched, ended: threading.Event) -> None:
    """Its log and its samples come all the time, once its agent calls."""
    try:
        with logged_in(served, WATCHER) as client, client.stream("GET", f"/runs/{run_id}/stream", timeout=60) as stream:
            last = 0.0
            for line in stream.iter_lines():
                if ended.is_set():
                    return
                if line.startswith("event: "):
                    now = time.monotonic()
                    watched.events += 1
                    if watched.events > 20:  # the agents have begun
                        watched.longest_gap_s = max(watched.longest_gap_s, now - last)
                    last = now
        watched.failed.append("stream: it ended")
    except httpx.HTTPError as problem:
        watched.failed.append(f"stream: {problem!r}")


TEXT = """## What the server takes

Simulated hosts (`vetting-orchestrator simulate`) that speak the real protocol, TLS and tokens included, on the CPUs
that the server has too; each row with a server of its own, on SQLite, every answer after its commit. {machine}.
Load average {before:.1f} before and {after:.1f} after, {took:.0f} s in all.

| | measured | to reach |
|---|---|---|
| heartbeats recorded a second | {heartbeats:.0f}, {hb_failed} failed | ≥ 5,000 |
| time of one | p50 {hb_p50:.0f} ms, p99 {hb_p99:.0f} ms | p99 < 100 ms |
| the server's CPU for one | {hb_us:.0f} µs | |
| log lines taken in a second | {lines:.0f}, p99 {log_p99:.0f} ms, {log_failed} failed | ≥ 50,000 |
| the server's CPU for one | {line_us:.1f} µs | |
| {hosts} hosts at their real rhythm | {calls:.0f} calls/s, p99 {p99:.0f} ms | |
| failures in {rhythm_s:.0f} s of it | {failed} | none in 5 min |
| RSS of the server meanwhile | {rss:.0f} MiB | < 200 MiB |
| the fleet's page meanwhile | {page} | live |
| a run's stream meanwhile | {stream} | live |

| hosts | calls/s | p99 of heartbeats | server: CPU a call | ÷ that with {first} hosts | server: CPUs | RSS | failed |
|---|---|---|---|---|---|---|---|
{rows}

![CPU time of the server for one call, by the number of hosts](server-cpu.svg)

{remark}
"""
REMARK = """A call is a heartbeat, a batch of 16 samples or of 4 log lines, mixed as hosts send them. With more than
2,000 hosts the server tells longer intervals ([operations.md](operations.md#thousands-of-hosts)): the calls a second
stay the same. With few calls a second a commit is shared by few, and each pays more of it. The simulator took
{simulator:.0%} of a CPU for the heartbeats."""


def text_of(found: ServerFigures, machine: str) -> str:
    """The section of the page."""
    first = min(found.sizes)
    base = found.sizes[first].server_us_per_call
    beats, logs, rhythm = found.heartbeats, found.logs, found.rhythm
    return TEXT.format(
        machine=machine,
        before=found.loads[0],
        after=found.loads[1],
        took=found.took_s,
        heartbeats=beats.calls_per_s,
        hb_p50=beats.verbs[0].p50_ms,
        hb_p99=beats.verbs[0].p99_ms,
        hb_failed=beats.failures,
        hb_us=beats.server_us_per_call,
        lines=logs.log_lines_per_s,
        log_p99=logs.verbs[0].p99_ms,
        log_failed=logs.failures,
        line_us=logs.server_us_per_call / LINES_A_BATCH,
        hosts=rhythm.agents,
        rhythm_s=rhythm.seconds,
        calls=rhythm.calls_per_s,
        p99=max(one.p99_ms for one in rhythm.verbs),
        failed=rhythm.failures,
        rss=rhythm.server_rss_mib,
        page=_page_text(found.watched),
        stream=_stream_text(found.watched),
        first=first,
        rows="\n".join(_row(one, base) for _, one in sorted(found.sizes.items())),
        remark=REMARK.format(simulator=beats.simulator_cpu),
    )


def _page_text(watched: Watched) -> str:
    if not watched.page_s:
        return f"never came: {', '.join(watched.failed[:3])}"
    return f"median {1000 * statistics.median(watched.page_s):.0f} ms, longest {1000 * max(watched.page_s):.0f} ms"


def _stream_text(watched: Watched) -> str:
    failed = f"; failed: {', '.join(watched.failed[:3])}" if watched.failed else ""
    return f"{watched.events} events, longest silence {watched.longest_gap_s:.1f} s{failed}"


def _row(one: Simulated, base: float) -> str:
    beat = next((verb.p99_ms for verb in one.verbs if verb.verb == "heartbeat"), 0.0)
    cells = (
        f"{one.agents}",
        f"{one.calls_per_s:.0f}",
        f"{beat:.0f} ms",
        f"{one.server_us_per_call:.0f} µs",
        f"{one.server_us_per_call / base:.2f}",
        f"{one.server_cpu:.2f}",
        f"{one.server_rss_mib:.0f} MiB",
        f"{one.failures}",
    )
    return f"| {' | '.join(cells)} |"


def write_chart(found: ServerFigures, folder: Path) -> None:
    """The picture beside the page."""
    values = {size: one.server_us_per_call for size, one in sorted(found.sizes.items())}
    (folder / "server-cpu.svg").write_text(chart(values))

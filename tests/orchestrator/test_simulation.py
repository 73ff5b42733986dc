"""Simulated agents against a real server: what they report is what the server has, and refusals are counted."""

from __future__ import annotations

import asyncio

from orchestrator.operator_messages import RunCreated
from orchestrator.simulation.agents import Load, Plan, simulate
from tests.orchestrator.served import Served
from tests.orchestrator.test_cli import as_json, typed

FEW = ("--agents", "3", "--seconds", "2")


def logged(served: Served, run_id: int) -> list[int]:
    rows = served.operator.get(f"/runs/{run_id}/logs", params={"limit": 10000}).json()
    return [row["seq"] for row in rows if row["text"].endswith("simulated agent")]


def test_every_agent_calls_at_its_pace_and_every_line_is_there(served: Served) -> None:
    found = as_json(served, "simulate", *FEW, "--pace", "10", "--log-lines", "2", "--anyway")
    verbs = {one["verb"]: one for one in found["verbs"]}
    assert found["failures"] == 0
    assert 3 <= verbs["heartbeat"]["calls"] <= 9
    assert 3 * 5 <= verbs["log"]["calls"] <= 3 * 12
    runs = [run for run in served.operator.get("/runs").json() if run["host"].startswith("simulated-")]
    assert {run["state"] for run in runs} == {"Released"}
    lines = [logged(served, run["run_id"]) for run in runs]
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in lines)
    assert sum(map(len, lines)) >= 2 * verbs["log"]["calls"]


def test_flat_out_sends_heartbeats_alone(served: Served) -> None:
    found = as_json(served, *["simulate", "--agents", "2", "--seconds", "1", "--flat-out", "--anyway"])
    assert [one["verb"] for one in found["verbs"]] == ["heartbeat"]
    assert found["verbs"][0]["calls"] > 20
    assert found["verbs"][0]["p50_ms"] <= found["verbs"][0]["p99_ms"] <= found["verbs"][0]["max_ms"]


def test_a_server_with_hosts_is_left_alone(served: Served) -> None:
    served.create(host="real")
    assert "--anyway" in typed(served, "simulate", "--agents", "1", exit_code=2)
    hosts = [run["host"] for run in served.operator.get("/runs").json()]
    assert hosts[-1] == "real"


def test_refused_calls_are_counted_by_their_status(served: Served) -> None:
    """Runs that are released under their agents: 410 for each call from then on."""
    made = [RunCreated(**served.operator.post("/runs", json={"host": "x"}).json()) for _ in range(2)]

    async def whole() -> tuple[int, dict[str, int]]:
        async def release() -> None:
            await asyncio.sleep(0.5)
            for one in made:
                await asyncio.to_thread(served.operator.post, f"/runs/{one.run_id}/release", json={})

        releasing = asyncio.create_task(release())
        fingerprint, load = served.info["fingerprint"], Load(flat_out="heartbeat")
        plan = Plan(url=served.url, fingerprint=fingerprint, runs=made, load=load, seconds=1.5)
        figures = await simulate(plan)
        await releasing
        return figures.failures, figures.failed["heartbeat"]

    failures, failed = asyncio.run(whole())
    assert set(failed) == {"410"}
    assert failures == failed["410"] > 0

"""What a host leaves is bounded: log lines, samples, history, results that nobody waits for. What is over is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.__main__ import main
from orchestrator.agent_service import AgentService
from orchestrator.callers import Caller
from orchestrator.evidence import EvidenceFolder
from orchestrator.keeping import FULL, MOST_OF_HOSTS, OF_HOSTS
from orchestrator.quota import Quotas
from orchestrator.results import MAX_IGNORED
from orchestrator.run_record import Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.steps import Ordered
from orchestrator.store import ROW_BYTES, Transaction
from orchestrator.views import view_of
from tests.orchestrator.making import START, result
from tests.orchestrator.served import MAC, Agent, Served
from tests.orchestrator.web.rig import add_user, logged_in
from vetting_agent.run_view import EventView
from vetting_agent.wire import ClaimRequest, LogLine, LogRequest, Sample, SensorRequest

Start = Callable[..., Served]
TEXT = "x" * 1000
LINE = len("t" + "info") + len(TEXT) + ROW_BYTES


def lines(first: int, count: int, text: str = TEXT) -> LogRequest:
    return LogRequest(
        lines=[LogLine(ts="t", level="info", stage="", text=text, seq=seq) for seq in range(first, first + count)]
    )


class Host:
    """One that talks to the service of a store."""

    def __init__(self, store: SqliteStore, folder: Path, **quotas: int) -> None:
        self.store = store
        self.service = AgentService(store, EvidenceFolder(folder / "evidence"), quotas=Quotas(**quotas))

    async def says(self, verb: str, request: Any, run_id: int = 1) -> None:
        run = self.store.find_run(run_id)
        assert run is not None
        await getattr(self.service, verb)(Caller(run, "one"), request)

    async def claims(self, instance: str) -> None:
        run = self.store.find_run(1)
        assert run is not None
        request = ClaimRequest(ip="10.0.0.1", mac=MAC, instance_id=instance, agent_version="1", kernel_boot_id="one")
        await self.service.claim(Caller(run, instance), request)

    async def posts(self, stage: str, result_id: str) -> str:
        run = self.store.find_run(1)
        assert run is not None
        request = msgspec.structs.replace(result(stage), result_id=result_id)
        return (await self.service.result(Caller(run, "one"), request)).next_state

    async def seqs(self) -> list[int | None]:
        return [line.seq for line in await self.store.logs(1, 0, 1000)]


async def host_in(folder: Path, **quotas: int) -> Host:
    store = SqliteStore.open(folder / "db")

    def make(run_id: int) -> Run:
        return Run(run_id=run_id, host="h", token_hash="x", created_at=START, stages=("Inventory",), instance_id="one")

    for _ in range(2):
        await store.write(lambda transaction: transaction.create_run(make))
    return Host(store, folder, **quotas)


async def test_what_is_over_the_quota_is_dropped_and_told_once(tmp_path: Path) -> None:
    host = await host_in(tmp_path, log_bytes=10 * LINE)
    await host.says("log", lines(1, 8))
    await host.says("log", lines(9, 8))
    await host.says("log", lines(17, 8))
    await host.says("log", lines(1, 3), run_id=2)
    kept = await host.store.logs(1, 0, 1000)
    assert [line.seq for line in kept if line.seq is not None] == list(range(1, 11))
    [told] = [line for line in kept if line.seq is None]
    assert (told.level, "has reached its quota of log lines" in told.text) == ("warn", True)
    view = await view_of(host.store, host.store.runs()[0])
    assert (view.log_lines_over_quota, view.samples_over_quota) == (14, 0)
    assert [event.kind for event in view.events] == ["quota"]
    assert len(await host.store.logs(2, 0, 1000)) == 3, "each run has its own"
    await host.store.close()


@pytest.mark.parametrize("text", ["", "\N{SNOWMAN}" * 1000], ids=["nothing", "wide"])
async def test_lines_that_look_small_are_counted_as_what_they_take(text: str, tmp_path: Path) -> None:
    host = await host_in(tmp_path, log_bytes=20_000)
    await host.says("log", lines(1, 500, text))
    assert 0 < await host.store.kept_bytes(1, "logs") <= 20_000 + 1000
    await host.store.close()


async def test_samples_have_a_quota_too(tmp_path: Path) -> None:
    host = await host_in(tmp_path, sample_bytes=10_000)
    batch = SensorRequest(samples=[Sample(kind="temp", key=f"cpu {core}", value=50.0, unit="C") for core in range(20)])
    for _ in range(10):
        await host.says("sensor", batch)
    kept, _ = await host.store.samples(1, 0, 1000)
    assert 0 < len(kept) < 200
    view = await view_of(host.store, host.store.runs()[0])
    assert (view.samples_over_quota, view.log_lines_over_quota) == (200 - len(kept), 0)
    assert 0 < await host.store.kept_bytes(1, "samples") <= 10_000
    await host.store.close()


async def test_the_quota_counts_on_over_a_restart(tmp_path: Path) -> None:
    host = await host_in(tmp_path, log_bytes=10 * LINE)
    await host.says("log", lines(1, 8))
    await host.says("log", lines(9, 8))
    await host.store.close()
    again = Host(SqliteStore.open(tmp_path / "db"), tmp_path, log_bytes=10 * LINE)
    await again.says("log", lines(17, 8))
    assert [seq for seq in await again.seqs() if seq is not None] == list(range(1, 11))
    view = await view_of(again.store, again.store.runs()[0])
    assert (view.log_lines_over_quota, [event.kind for event in view.events]) == (14, ["quota"])
    await again.store.close()


async def test_a_host_that_claims_without_end_does_not_fill_the_history(tmp_path: Path) -> None:
    host = await host_in(tmp_path)
    claim = EventView(ts=START, kind="claim", text="claimed by a new agent")

    def fill(transaction: Transaction) -> None:
        for _ in range(MOST_OF_HOSTS - 3):
            transaction.add_event(1, claim)

    await host.store.write(fill)
    for number in range(6):
        await host.claims(f"agent-{number}")
    await host.service.apply(1, Ordered("abort"))
    events = await host.store.events(1, 2 * MOST_OF_HOSTS)
    kinds = [one.kind for one in events]
    assert sum(kind in OF_HOSTS for kind in kinds) == MOST_OF_HOSTS
    assert kinds.count("quota") == 1
    assert [one.text for one in events if one.kind == "quota"] == [FULL]
    assert kinds[-1] == "directive", "what people do is kept"
    run = host.store.find_run(1)
    assert run is not None
    assert run.instance_id == "agent-5", "the claim itself counts as ever"
    await host.store.close()


async def test_results_that_nobody_waits_for_do_not_fill_the_disk(tmp_path: Path) -> None:
    host = await host_in(tmp_path)
    ids = [f"stray-{number}" for number in range(MAX_IGNORED + 20)]
    for one in ids:
        assert await host.posts("SMART", one) == "InventoryCheck", "each is answered"
    kept = [one for one in ids if await host.store.result(1, one) is not None]
    assert kept == ids[:MAX_IGNORED]
    events = await host.store.events(1, 1000)
    assert len(events) == MAX_IGNORED
    assert "the last of such results that is kept" in events[-1].text
    assert await host.posts("Inventory", "right") != "InventoryCheck", "the right one is taken as ever"
    assert await host.store.result(1, "right") is not None
    await host.store.close()


def test_a_host_that_never_stops_talking_is_dropped_at_its_quota(start: Start, capsys: Any) -> None:
    served = start(arguments=("--log-quota", "1", "--sample-quota", "1"))
    agent: Agent = served.create(stages=["SMART"])
    agent.claim()
    text = "y" * 100_000
    for number in range(3):
        batch = [{"ts": "t", "level": "info", "stage": "", "text": text, "seq": 6 * number + at} for at in range(1, 7)]
        assert agent.call("log", {"lines": batch}) == {}, "the agent is not to keep them"
    view = served.run(agent.run_id)
    assert view["log_lines_over_quota"] == 8
    assert main(["run", "show", str(agent.run_id), "--data", str(served.data)]) == 0
    assert "over its quota: 8 log lines and 0 samples dropped" in capsys.readouterr().out
    add_user(served, "ada", "admin")
    with logged_in(served, "ada") as browser:
        assert "8 log lines and 0 samples were dropped" in browser.get(f"/runs/{agent.run_id}").text
    assert agent.post("Inventory") == "SMART"


def test_a_quota_of_nothing_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", "--data", str(tmp_path / "data"), "--log-quota", "0"]) == 2
    assert "--log-quota must be 1 to" in capsys.readouterr().err

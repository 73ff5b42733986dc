"""What only time or trouble brings about: expired keys, old ends, silence after a restart, a store that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace

from orchestrator.agent_app import agent_app
from orchestrator.agent_service import AgentService
from orchestrator.clock import later, now_text
from orchestrator.evidence import EvidenceFolder
from orchestrator.hold_keys import new_hold_key
from orchestrator.run_record import Intervals, Run
from orchestrator.run_watch import find_silent_hosts
from orchestrator.sqlite_store import SqliteStore
from orchestrator.tokens import hash_of
from tests.orchestrator.making import MAC
from vetting_agent.run_view import LogView


@dataclass
class Here:
    """The application without a network, over a real store that holds one claimed run."""

    store: SqliteStore
    service: AgentService
    http: httpx.AsyncClient
    run_id: int

    async def call(self, verb: str, body: Any = None) -> tuple[int, Any]:
        response = await self.http.post(f"/api/v1/runs/{self.run_id}/{verb}", json=body or {})
        answer = response.json()
        return response.status_code, answer.get("error", {}).get("code", answer)

    async def change(self, **facts: Any) -> None:
        """The run as it would be after something else had happened."""
        await self.store.write(lambda write: write.put_run(replace(write.run(self.run_id), **facts)))


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Here]:
    store = SqliteStore.open(folder / "db")
    service = AgentService(store, EvidenceFolder(folder / "evidence"))

    def make(run_id: int) -> Run:
        return Run(
            run_id=run_id,
            host="h",
            token_hash=hash_of("secret"),
            created_at=now_text(),
            stages=("Inventory",),
            intervals=Intervals(heartbeat_s=1),
        )

    run = await store.write(lambda write: write.create_run(make))
    headers = {"Authorization": "Bearer secret"}
    transport = httpx.ASGITransport(agent_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as http:
        one = Here(store, service, http, run.run_id)
        body = {"ip": "10.0.0.1", "mac": MAC, "instance_id": "one", "agent_version": "1", "kernel_boot_id": "boot-1"}
        assert (await one.call("claim", body))[0] == 200
        yield one
    await store.close()


async def test_an_expired_hold_key_is_replaced(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        await one.change(state="FailedHolding")
        old = new_hold_key(one.run_id, later(now_text(), -1))
        await one.store.write(lambda write: write.put_hold_key(one.run_id, old))
        status, key = await one.call("hold", {"ip": "10.0.0.1"})
        assert status == 200
        assert key["authorized_key"] != old.authorized_key
        assert key["expires_at"] > later(now_text(), 11 * 3600)
        kept = await one.store.hold_key(one.run_id)
        assert kept is not None
        assert kept.authorized_key == key["authorized_key"]


async def test_last_words_are_taken_for_a_minute(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        for state, age_s, heartbeat, lines in (
            ("Cancelled", 5, 200, 200),
            ("Cancelled", 61, 410, 410),
            ("Aborted", 5, 200, 200),
            ("Released", 5, 410, 200),
            ("Released", 61, 410, 410),
        ):
            await one.change(state=state, finished_at=later(now_text(), -age_s))
            assert (await one.call("heartbeat"))[0] == heartbeat
            assert (await one.call("log", {"lines": []}))[0] == lines


async def test_silence_counts_from_the_start_of_the_server_at_the_earliest(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        restarted = AgentService(one.store, one.service.evidence)
        await find_silent_hosts(restarted)
        run = one.store.find_run(one.run_id)
        assert run is not None
        assert not run.stalled
        restarted.started_at -= 6.5
        await find_silent_hosts(restarted)
        run = one.store.find_run(one.run_id)
        assert run is not None
        assert run.stalled
        assert (await one.call("sensor", {"samples": []}))[0] == 200
        run = one.store.find_run(one.run_id)
        assert run is not None
        assert not run.stalled


async def test_a_store_that_fails_is_trouble_on_the_way(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        await one.store.close()
        assert await one.call("heartbeat") == (503, "store_failed")


async def test_a_fault_of_the_server_is_answered_in_the_envelope(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        one.service.store = None  # type: ignore[assignment]
        assert await one.call("heartbeat") == (500, "internal")


async def test_a_log_line_of_a_nameless_agent_is_the_claimed_ones(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        line = {"ts": "t", "level": "info", "stage": "", "text": "x", "seq": 1}
        await one.call("log", {"lines": [line]})
        lines: list[LogView] = await one.store.logs(one.run_id, 0, 10)
        assert [(kept.text, kept.instance_id) for kept in lines] == [("x", "one")]

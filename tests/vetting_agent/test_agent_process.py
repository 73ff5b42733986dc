"""Real agent processes over real TLS: whole walks, signals, kills, and a busy machine."""

from __future__ import annotations

import asyncio
import io
import signal
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.agent_rig import TOKEN, AgentPlace, agent_process
from tests.support.certificates import make
from tests.support.fake_orchestrator import refusal, status
from tests.support.scenes import KEY, LONG, alive, load_of, loaded, orchestrator, reach, scene, shut_down

pytestmark = pytest.mark.slow


async def test_a_whole_walk_over_tls_ends_powered_off(tmp_path: Path) -> None:
    certificate = make()
    server = orchestrator(parameters={"SMART": {"say": f"see {TOKEN}"}})
    async with (
        server.serve(certificate.server_context(tmp_path)),
        agent_process(tmp_path / "a", server, pin=certificate.fingerprint) as agent,
    ):
        await reach("completed", server)
        await shut_down(server, agent)
    assert [call.verb for call in server.calls[:2]] == ["hello", "claim"]
    assert server.of("heartbeat")[0].at - server.of("claim")[0].at < 1.0
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "CPUStress"]
    for result in server.results:
        assert result["passed"] is True
        assert result["components"] == ["disk:S", "nic:M"]
        assert set(result["summary"]) == {
            "verdict", "headline", "findings", "measurements", "coverage", "duration_s", "tool_versions",
        }  # fmt: skip
        assert ("inventory" in result) is (result["stage"] == "Inventory")
    assert ("end", "done") in server.acks
    assert agent.power_calls == [["systemctl", "poweroff"]]
    for stage in ("Inventory", "SMART", "CPUStress"):
        tagged = [line["text"] for line in server.lines.values() if line["stage"] == stage]
        assert tagged[0] == f"stage {stage} starts"
        assert "at work" in tagged
        assert tagged[-1].startswith(f"stage {stage} ends: pass")
    assert [line["seq"] for line in server.lines.values()] == list(range(1, len(server.lines) + 1))
    samples = [sample for call in server.of("sensor") for sample in call.body["samples"]]
    assert {"throughput", "load"} <= {sample["kind"] for sample in samples}
    archives = server.of("evidence")
    assert [call.path.split("?")[0].rsplit("/", 1)[1] for call in archives] == ["Inventory", "SMART", "CPUStress"]
    assert [call.path.split("result_id=")[1] for call in archives] == [one["result_id"] for one in server.results]
    with tarfile.open(fileobj=io.BytesIO(archives[1].content)) as archive:
        names = archive.getnames()
    assert {"02-SMART/outcome.json", "02-SMART/facts.txt"} <= set(names)
    facts = (agent.evidence / "run-7" / "02-SMART" / "facts.txt").read_text()
    assert "see [token]" in facts
    assert "earlier=['Inventory']" in facts
    everything = agent.errors.encode() + b"".join(call.content for call in server.calls)
    assert TOKEN.encode() not in everything


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_without_a_result(number: signal.Signals, tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_process(tmp_path, server) as agent:
        load = await loaded(server, agent)
        agent.signal(number)
        assert await agent.ended() == 0
        assert not alive(load)
    assert len(server.results) == 1
    assert any(number.name in text for text in server.texts)  # the log was flushed
    assert not agent.power_calls


async def test_a_killed_agent_leaves_no_load_and_its_successor_resumes_there(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG, token="the-better-token")
    async with server.serve():
        async with agent_process(tmp_path, server) as agent:
            load = await loaded(server, agent)
            agent.signal(signal.SIGKILL)
            await agent.ended()
            await server.until(lambda: not alive(load), "the load to die", 2.0, every_s=0.01)
        server.claim_extra["parameters"] = {}
        async with agent_process(tmp_path, server) as agent:
            await reach("completed", server)
            await shut_down(server, agent)
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "CPUStress"]
    assert all(one["components"] == ["disk:S", "nic:M"] for one in server.results)
    cut, whole = sorted(AgentPlace(tmp_path).evidence.glob("run-7/*-SMART/counters-before.json"))
    assert whole.read_text() == cut.read_text(), "what came over the host since the first attempt counts"
    warnings = [line["text"] for line in server.lines.values() if line["level"] == "warn"]
    assert any("resuming" in text and "SMART" in text for text in warnings)
    first, second = server.of("hello")
    assert first.body["instance_id"] != second.body["instance_id"]
    assert [claim.body["agent_started_s"] for claim in server.of("claim")] == sorted(
        {claim.body["agent_started_s"] for claim in server.of("claim")}
    ), "which of the two is the newer"
    assert server.of("claim")[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert server.of("heartbeat")[0].headers["authorization"] == "Bearer the-better-token"
    assert second.headers["authorization"] == "Bearer the-better-token"
    kept = next((tmp_path / "state").glob("*.token"))
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "the-better-token" not in agent.errors


async def test_what_a_killed_agent_had_found_is_delivered_by_its_successor_and_not_found_anew(tmp_path: Path) -> None:
    """A fault that shows once in a while must not be lost with the agent that saw it."""
    server = orchestrator(["SMART", "CPUStress"], parameters={"SMART": {"fail": True}})
    server.always["result"] = status(500)
    async with server.serve():
        async with agent_process(tmp_path, server) as agent:
            await server.until(lambda: server.of("result"), "the result")
            agent.signal(signal.SIGKILL)
            await agent.ended()
        attempts = {call.body["result_id"] for call in server.of("result")}
        del server.always["result"]
        server.claim_extra["parameters"] = {}  # it would pass now
        async with agent_process(tmp_path, server) as agent:
            await server.until(lambda: server.results, "the delivery")
            server.direct("abort", "a")
            assert await agent.ended() == 0
    assert [(one["stage"], one["passed"]) for one in server.results] == [("SMART", False)]
    assert {server.results[0]["result_id"]} == attempts
    assert server.texts.count("stage SMART starts") == 1
    assert any("its result is delivered now" in text for text in server.texts)
    folder = AgentPlace(tmp_path).evidence / "run-7"
    assert [one.name for one in folder.glob("*-SMART")] == ["01-SMART"]


async def test_a_second_agent_on_the_host_says_so_and_exits_3(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_process(tmp_path, server) as first:
        await loaded(server, first)
        async with agent_process(tmp_path, server) as second:
            assert await second.ended() == 3
        assert "already" in second.errors
        assert str(first.process.pid) in second.errors
        assert len(server.of("claim")) == 1
        assert alive(load_of(first))


async def test_no_power_never_powers_off(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck"])
    async with server.serve(), agent_process(tmp_path, server, "--no-power") as agent:
        await reach("completed", server)
        await shut_down(server, agent)
    assert not agent.power_calls
    assert ("end", "done") in server.acks


async def test_the_products_own_stages_are_found(tmp_path: Path) -> None:
    server = orchestrator(["FailedHolding"])
    async with server.serve(), agent_process(tmp_path, server, module="vetting_agent") as agent:
        await reach("holding", server)
        server.direct("abort", "a")
        assert await agent.ended() == 0


async def test_the_heartbeat_keeps_its_rhythm_while_every_core_is_busy(tmp_path: Path) -> None:
    server = orchestrator(parameters={"SMART": {"seconds": 600, "spin": True}}, heartbeat_interval_s=0.5)
    async with server.serve(), agent_process(tmp_path, server) as agent:
        await reach("running", server)
        await asyncio.sleep(6.0)
        beats = [call.at for call in server.of("heartbeat")]
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert len(beats) >= 11
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("code", "exit_code"), [(401, 3), (409, 3), (410, 0)])
async def test_the_process_exits_with_the_code_of_a_final_refusal(code: int, exit_code: int, tmp_path: Path) -> None:
    server = orchestrator()
    server.always["claim"] = refusal(code)
    async with server.serve(), agent_process(tmp_path, server) as agent:
        assert await agent.ended() == exit_code
        assert ("auth_failed" in agent.errors) is (code == 401)


@pytest.mark.parametrize("code", [200, 410])
async def test_the_key_of_an_agent_killed_in_a_hold_goes_with_its_successor(code: int, tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve():
        async with agent_process(tmp_path, server) as agent:
            await server.until(lambda: agent.keys.exists() and KEY in agent.keys.read_text(), "the key")
            agent.signal(signal.SIGKILL)
            await agent.ended()
        assert KEY in agent.keys.read_text()
        server.state = "Completed"
        if code != 200:
            server.always["hello"] = refusal(code)
        async with agent_process(tmp_path, server) as agent:
            if code == 200:
                await reach("completed", server)
                await shut_down(server, agent)
            assert await agent.ended() == 0
    assert agent.keys.read_text() == ""

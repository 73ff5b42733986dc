"""A power-off that was ordered comes, also when the agent that was told is killed before it; and no other one does."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from probes.host import Host
from tests.support.agent_rig import TOKEN, AgentPlace, AgentProcess, agent_process, agent_task
from tests.support.fake_orchestrator import FakeOrchestrator, refusal, status
from tests.support.scenes import LONG, loaded, orchestrator, reach
from vetting_agent.lock import prepare_state_dir
from vetting_agent.owed import OWED_FOR_S, PowerOffOwed
from vetting_agent.params import BootParams, Token

PARAMS = BootParams("https://here", 7, Token("secret"))
POWER_OFF = [["systemctl", "poweroff"]]


def owe(cmd: str, folder: Path, server: FakeOrchestrator) -> None:
    """As an agent leaves it that was killed."""
    host = Host()
    boot_id = host.proc("sys", "kernel", "random", "boot_id").read_text().strip()
    params = BootParams(server.url, 7, Token(TOKEN))
    PowerOffOwed(prepare_state_dir(folder / "state"), params, boot_id).note(cmd)


async def _killed(server: FakeOrchestrator, agent: AgentProcess) -> int:
    """How often the host had been told to power off until then, if that was what the agent was killed in."""
    agent.signal(signal.SIGKILL)
    await agent.ended(60)
    server.always["claim"] = refusal(410)
    for name in ("systemctl", "shutdown"):
        agent.stand_ins.says(name)
    return len(agent.power_calls)


def _slow_to_power_off(folder: Path) -> None:
    """The host does not go down while its agent lives, and the agent waits for it."""
    for name in ("systemctl", "shutdown"):
        AgentPlace(folder).stand_ins.python(name, "import time; time.sleep(3600)")


@pytest.mark.slow
@pytest.mark.parametrize("cmd", ["cancel_stage", "shutdown"])
async def test_the_successor_of_an_agent_killed_before_its_power_off_powers_off(cmd: str, tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    _slow_to_power_off(tmp_path)
    async with server.serve():
        async with agent_process(tmp_path, server) as agent:
            await loaded(server, agent)
            server.direct(cmd, "c")
            await server.until(lambda: agent.power_calls, "the power-off", 60)
            told = await _killed(server, agent)
        async with agent_process(tmp_path, server) as agent:
            assert await agent.ended(60) == 0
    assert agent.power_calls[told:] == POWER_OFF
    assert len(server.results) == (2 if cmd == "cancel_stage" else 1)


@pytest.mark.slow
async def test_a_cancelled_result_that_is_still_due_is_delivered_before_the_power_off(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve():
        async with agent_process(tmp_path, server) as agent:
            await loaded(server, agent)
            server.always["result"] = status(500)
            server.direct("cancel_stage", "c")
            await server.until(lambda: len(server.of("result")) > 1, "a try to deliver", 60)
            await server.acked("c", "done")
            agent.signal(signal.SIGKILL)
            await agent.ended(60)
            assert not agent.power_calls
        del server.always["result"]
        async with agent_process(tmp_path, server) as agent:
            assert await agent.ended(60) == 0
    assert [one["summary"]["verdict"] for one in server.results] == ["pass", "cancelled"]
    assert agent.power_calls == POWER_OFF


@pytest.mark.parametrize(
    ("code", "exit_code"), [(401, 3), (403, 3), (404, 3), (409, 3)], ids=["401", "403", "404", "409"]
)
async def test_another_refusal_leaves_the_host_up_and_voids_the_order(
    code: int, exit_code: int, tmp_path: Path
) -> None:
    server = orchestrator()
    async with server.serve():
        server.always["claim"] = refusal(code)
        owe("shutdown", tmp_path, server)
        async with agent_task(tmp_path, server) as agent:
            assert await agent.ended(60) == exit_code
        server.always["claim"] = refusal(410)
        async with agent_task(tmp_path, server) as agent:
            assert await agent.ended(60) == 0
    assert not agent.power_calls


async def test_a_run_that_goes_on_has_the_say(tmp_path: Path) -> None:
    """What it still wants it repeats: an order of before is not carried out over its head."""
    server = orchestrator(["InventoryCheck"])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        agent.agent._owed.note("cancel_stage")
        await reach("completed", server)
        server.always["heartbeat"] = refusal(410)
        assert await agent.ended(60) == 0
    assert not agent.power_calls


async def test_an_abort_after_a_cancel_leaves_the_host_up(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve():
        async with agent_task(tmp_path, server) as agent:
            await loaded(server, agent)
            server.always["result"] = status(500)
            server.direct("cancel_stage", "c")
            await server.acked("c", "done")
            server.direct("abort", "a")
            assert await agent.ended(60) == 0
        server.always["claim"] = refusal(410)
        async with agent_task(tmp_path, server) as agent:
            assert await agent.ended(60) == 0
    assert not agent.power_calls


async def test_a_page_of_a_proxy_powers_nothing_off(tmp_path: Path) -> None:
    server = orchestrator()
    server.always["claim"] = status(410)
    async with server.serve():
        owe("shutdown", tmp_path, server)
        async with agent_task(tmp_path, server) as agent:
            await server.until(lambda: len(server.of("claim")) > 2, "several claims", 60)
            assert agent.running
    assert not agent.power_calls


def test_it_is_owed_to_this_run_token_and_boot_alone(tmp_path: Path) -> None:
    def owed(boot: str | None = "boot-1", run: int = 7, token: str = "secret", url: str = "https://here") -> str | None:
        return PowerOffOwed(tmp_path, BootParams(url, run, Token(token)), boot).order

    assert owed() is None
    PowerOffOwed(tmp_path, PARAMS, "boot-1").note("shutdown")
    assert owed() == "shutdown"
    others = [owed(boot="boot-2"), owed(boot=None), owed(run=8), owed(token="other"), owed(url="https://there")]
    assert others == [None] * 5
    PowerOffOwed(tmp_path, PARAMS, None).note("shutdown")
    assert [owed(), owed(boot=None)] == [None, None], "a boot that has no name is never the same one"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"cmd": "shutdown"}', '{"at_s": "soon"}'])
def test_what_cannot_be_read_is_no_order(content: str, tmp_path: Path) -> None:
    owed = PowerOffOwed(tmp_path, PARAMS, "boot-1")
    owed.note("shutdown")
    next(tmp_path.glob("*.power-off")).write_text(content)
    assert owed.order is None


def test_an_order_of_long_ago_is_not_carried_out(tmp_path: Path) -> None:
    owed = PowerOffOwed(tmp_path, PARAMS, "boot-1")
    owed.note("cancel_stage")
    path = next(tmp_path.glob("*.power-off"))
    content = json.loads(path.read_text())
    for at_s, order in ((-OWED_FOR_S - 1, None), (60.0, None), (-1.0, "cancel_stage")):
        path.write_text(json.dumps(content | {"at_s": content["at_s"] + at_s}))
        assert owed.order == order

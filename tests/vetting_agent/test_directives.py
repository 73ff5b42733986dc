"""Every directive at every moment, and the hold: an agent over a scripted orchestrator."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.support.agent_rig import AgentTask, agent_task
from tests.support.fake_orchestrator import DROP, Call, FakeOrchestrator, refusal, status
from tests.support.scenes import KEY, LONG, alive, loaded, orchestrator, reach, scene, shut_down
from vetting_agent.directives import Action, action_for
from vetting_agent.status import Activity

DIRECTIVES = ["cancel_stage", "retry_stage", "shutdown", "abort", "dance"]
MOMENTS = ["running", "between", "holding", "parked", "completed"]
OBEYED = {("cancel_stage", "running"), ("retry_stage", "holding")}
ALWAYS = {"shutdown", "abort"}


@pytest.mark.parametrize("cmd", DIRECTIVES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_table_as_the_page_has_it(moment: str, cmd: str) -> None:
    action = action_for(cmd, Activity(moment))
    assert (action is not Action.REFUSE) is (cmd in ALWAYS or (cmd, moment) in OBEYED)


async def arrive(moment: str, server: FakeOrchestrator, agent: AgentTask) -> list[psutil.Process]:
    """Get there, with all that belongs to the moment."""
    await reach(moment, server)
    if moment == "holding":
        await server.until(lambda: agent.keys.exists() and KEY in agent.keys.read_text(), "the key")
    return await loaded(server, agent) if moment == "running" else []


@pytest.mark.parametrize("with_id", [True, False], ids=["id", "no-id"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_what_makes_no_sense_is_refused_and_never_done_later(moment: str, with_id: bool, tmp_path: Path) -> None:
    server = scene(moment)
    refused = [cmd for cmd in DIRECTIVES if cmd not in ALWAYS and (cmd, moment) not in OBEYED]
    async with server.serve(), agent_task(tmp_path, server) as agent:
        load = await arrive(moment, server, agent)
        before = len(server.results)
        for cmd in refused:
            server.direct(cmd, cmd if with_id else None, stage="SMART" if cmd == "retry_stage" else "")
            await server.until(lambda cmd=cmd: f"directive {cmd}" in agent.errors, f"a word on {cmd}")
            line = next(line for line in agent.lines if f"directive {cmd}" in line.text)
            assert (line.level, "refused" in line.text) == ("warn", True)
            if with_id:
                await server.acked(cmd, "refused")
        assert len(server.results) == before
        assert alive(load) == load
        await shut_down(server, agent)  # also: shutdown at every moment
        assert not alive(load)
    assert len(server.results) == before
    assert agent.power_calls == [["systemctl", "poweroff"]]
    assert ("end", "done") in server.acks
    assert not agent.keys.exists() or agent.keys.read_text() == ""


@pytest.mark.parametrize("moment", MOMENTS)
async def test_abort_leaves_the_host_up_at_every_moment(moment: str, tmp_path: Path) -> None:
    server = scene(moment)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        load = await arrive(moment, server, agent)
        before = len(server.results)
        server.direct("abort", "a" if moment != "parked" else None)
        assert await agent.ended() == 0
        assert not alive(load)
    assert len(server.results) == before
    assert not agent.power_calls
    assert (("a", "done") in server.acks) is (moment != "parked")
    assert not agent.keys.exists() or agent.keys.read_text() == ""


async def test_a_retry_without_an_id_is_done_each_time_it_is_sent(tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await arrive("holding", server, agent)
        for count in (3, 4):
            server.direct("retry_stage", None, stage="SMART")
            await server.until(lambda count=count: len(server.results) == count, "the retry")
            await server.until(lambda count=count: len(server.of("hold")) == count - 1, "holding again")
            assert KEY in agent.keys.read_text()
        await shut_down(server, agent)


async def test_a_directive_with_an_id_is_done_once_however_often_it_comes(tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await arrive("holding", server, agent)
        for _ in range(5):
            server.direct("retry_stage", "same", stage="SMART")
            server.directives[-1]["cmd_id"] = "same"
            await server.acked("same", "done")
            server.acks.clear()
        await server.until(lambda: len(server.results) == 3, "the retry")
        await asyncio.sleep(0.5)
        assert len(server.results) == 3
        await shut_down(server, agent)


async def test_a_cancel_takes_less_than_two_seconds_to_the_last_process(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        load = await loaded(server, agent)
        server.direct("cancel_stage", "c")
        await server.until(lambda: "cancel_stage" in agent.errors, "the arrival", every_s=0.01)
        await server.until(lambda: not alive(load), "the load to die", 2.0, every_s=0.01)
        assert await agent.ended() == 0
    result = server.results[-1]
    assert result["summary"]["verdict"] == "cancelled"
    assert [one["reason_code"] for one in result["summary"]["findings"]] == ["cancelled"]
    assert result["passed"] is False


async def test_a_cancel_whose_result_fails_for_long_still_posts_it_and_powers_off(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await loaded(server, agent)
        server.faults["result"].extend([status(500)] * 6)
        server.direct("cancel_stage", "c")
        await server.acked("c", "done")
        server.direct("retry_stage", "r", stage="SMART")
        assert await agent.ended() == 0
    assert server.results[-1]["summary"]["verdict"] == "cancelled"
    assert agent.power_calls == [["systemctl", "poweroff"]]


class Deaf(FakeOrchestrator):
    """Does not hear the beats that follow its directive."""

    def _on_heartbeat(self, call: Call) -> object:
        reply = super()._on_heartbeat(call)
        if reply["cmd"] == "retry_stage":
            self.faults["heartbeat"].extend([status(500), DROP, status(503), status(500)])
        return reply


async def test_an_acknowledgement_is_carried_until_it_is_heard(tmp_path: Path) -> None:
    server = Deaf(states=["InventoryCheck", "SMART"])
    server.claim_extra = server.claim_extra | {"parameters": LONG}
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await loaded(server, agent)
        server.direct("retry_stage", "r1", stage="SMART")
        await server.acked("r1", "refused")
        carrying = [call for call in server.of("heartbeat") if call.body["acked_cmd_id"] == "r1"]
        assert len(carrying) >= 4
        count = len(server.of("heartbeat"))
        await server.until(lambda: len(server.of("heartbeat")) > count + 3, "more beats")
        assert server.of("heartbeat")[-1].body["acked_cmd_id"] is None
        assert agent.errors.count("directive retry_stage") == 1
        await shut_down(server, agent)


async def test_without_a_heartbeat_interval_the_default_is_kept(tmp_path: Path) -> None:
    server = orchestrator()
    server.claim_extra = {"heartbeat_interval_s": -1, "log_interval_s": 0.1}
    async with server.serve(), agent_task(tmp_path, server):
        await server.until(lambda: any("makes no sense" in text for text in server.texts), "a warning")
        await server.until(lambda: server.state == "Completed", "the walk")
        assert len(server.of("heartbeat")) == 1


# --- holding ----------------------------------------------------------------------------------------------------------


async def test_hold_retry_override_hold_again_and_a_retry_that_passes(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck", "SMART", "Storage"], parameters={"SMART": {"fail": True}})
    mine = "ssh-rsa AAAA me"
    async with server.serve(), agent_task(tmp_path, server) as agent:
        agent.keys.parent.mkdir()
        agent.keys.write_text(mine)
        await server.until(lambda: KEY in agent.keys.read_text(), "the key")
        flags = {"wipe": True, "serials": ["A", "B"]}
        server.direct("retry_stage", "r1", stage="SMART", override_flags=flags)
        await server.until(lambda: len(server.results) == 3, "the first retry")
        await server.until(lambda: len(server.of("hold")) == 2, "asking for the key again")
        assert KEY in agent.keys.read_text()
        server.direct("retry_stage", "r2", stage="Storage", override_flags={"wipe": True})
        await server.until(lambda: server.state == "Completed", "a retry that passes")
        await reach("completed", server)
        assert agent.keys.read_text() == mine
        await shut_down(server, agent)
    folder = agent.evidence / "run-7"
    assert [one.name for one in sorted(folder.iterdir()) if one.is_dir()] == [
        "01-Inventory",
        "02-SMART",
        "03-SMART",
        "04-Storage",
    ]
    assert "override=None" in (folder / "02-SMART" / "facts.txt").read_text()
    assert "override=WipeOverride(serials=('A', 'B'))" in (folder / "03-SMART" / "facts.txt").read_text()
    assert "override=WipeOverride(serials=None)" in (folder / "04-Storage" / "facts.txt").read_text()
    assert [one["components"] for one in server.results] == [["disk:S", "nic:M"]] * 2 + [["disk:S", "nic:NEW"]] * 2
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "SMART", "Storage"]


async def test_what_storage_refused_is_told_to_its_next_execution_also_after_a_restart(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck", "Storage"], parameters={"Storage": {"fail": True}})
    async with server.serve():
        async with agent_task(tmp_path, server):
            await reach("holding", server)
        async with agent_task(tmp_path, server) as agent:
            await server.until(lambda: len(server.of("claim")) == 2, "the second claim")
            server.direct("retry_stage", "r1", stage="Storage", override_flags={"wipe": True})
            await server.until(lambda: len(server.results) == 3, "the retry")
            await shut_down(server, agent)
    assert (
        "refused=('S',) earlier=['Inventory', 'Storage']"
        in (agent.evidence / "run-7" / "03-Storage" / "facts.txt").read_text()
    )


async def test_a_retry_of_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("holding", server)
        for number, stage in enumerate(("", "Nonsense")):
            server.direct("retry_stage", f"r{number}", stage=stage)
            await server.acked(f"r{number}", "refused")
        await shut_down(server, agent)


async def test_no_hold_asks_for_no_key(tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve(), agent_task(tmp_path, server, may_hold=False) as agent:
        await reach("holding", server)
        await asyncio.sleep(0.3)
        assert not server.of("hold")
        assert not agent.keys.exists()
        await shut_down(server, agent)


async def test_a_claim_may_say_that_the_run_is_held(tmp_path: Path) -> None:
    server = orchestrator()
    server.state = "FailedHolding"
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await server.until(agent.keys.exists, "the key")
        agent.agent.stop("SIGTERM")
        assert await agent.ended() == 0
        assert agent.keys.read_text() == ""
    assert not server.results
    assert not agent.power_calls


@pytest.mark.parametrize(("code", "exit_code"), [(401, 3), (410, 0)])
async def test_a_refusal_in_the_hold_ends_it(code: int, exit_code: int, tmp_path: Path) -> None:
    server = scene("holding")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await server.until(lambda: agent.keys.exists() and KEY in agent.keys.read_text(), "the key")
        server.always["sensor"] = refusal(code)
        assert await agent.ended() == exit_code
        assert agent.keys.read_text() == ""

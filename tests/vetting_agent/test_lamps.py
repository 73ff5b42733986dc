"""Lamps that operators order: at every moment, answered when switched, and dark when the agent ends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_rig import AgentTask, agent_task
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.lamp_host import IN_BAY, LIT, bay_lamp, lamp_host
from tests.support.scenes import alive, loaded, orchestrator, reach, scene, shut_down
from tests.support.stand_ins import StandIns
from vetting_agent import lamps
from vetting_agent.lamps import Lamps
from vetting_agent.logs import LogBook
from vetting_agent.redact import Redactor
from vetting_agent.status import AckStatus
from vetting_agent.wire import IdentifyOrder

DISK = f"disk:{IN_BAY}"
LIMIT_S = 60.0


def rack(agent: AgentTask) -> StandIns:
    """Let the agent's lamps be those of a machine with a BMC and an enclosure."""
    tools = StandIns(agent.folder / "rack", real=False)
    tools.says("ipmitool", LIT)
    agent.agent._lamps._host = lamp_host(agent.folder / "root", tools)
    return tools


def order(server: FakeOrchestrator, cmd_id: str, target: str, **more: Any) -> None:
    server.direct("identify", cmd_id, identify={"target": target, **more})


def said(server: FakeOrchestrator, cmd_id: str) -> str | None:
    beats = [call.body for call in server.of("heartbeat") if call.body["acked_cmd_id"] == cmd_id]
    return beats[-1]["ack_message"] if beats else None


@pytest.mark.parametrize("moment", ["running", "between", "holding", "parked", "completed"])
async def test_a_lamp_is_switched_at_every_moment_and_dark_at_the_end(moment: str, tmp_path: Path) -> None:
    server = scene(moment)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        tools = rack(agent)
        await reach(moment, server)
        load = await loaded(server, agent) if moment == "running" else []
        order(server, "a", "host", on=True, seconds=600)
        await server.acked("a", "done")
        order(server, "b", DISK)
        await server.acked("b", "done")
        assert bay_lamp(tmp_path / "root") == "1"
        assert tools.calls("ipmitool") == [["ipmitool", "chassis", "identify", "240"]]
        assert alive(load) == load
        await shut_down(server, agent)
    assert bay_lamp(tmp_path / "root") == "0"
    assert tools.calls("ipmitool")[-1] == ["ipmitool", "chassis", "identify", "0"]


async def test_what_cannot_be_lit_is_refused_with_its_name(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck"])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        tools = rack(agent)
        await reach("completed", server)
        tools.says("ipmitool", stderr="no\n", exit_code=1)
        for cmd_id, target, name in [
            ("a", "host", "tool_failed"),
            ("b", "disk:OTHER", "no_disk"),
            ("c", "moon", "no_disk"),
        ]:
            order(server, cmd_id, target)
            await server.until(lambda cmd_id=cmd_id: said(server, cmd_id), f"a word on {cmd_id}", LIMIT_S)
            assert (cmd_id, "refused") in server.acks
            assert str(said(server, cmd_id)).startswith(f"{name}: ")
        server.direct("identify", "d")
        await server.acked("d", "refused")
        await shut_down(server, agent)


async def test_a_lamp_can_be_put_out_and_goes_out_by_itself(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck"])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        rack(agent)
        await reach("completed", server)
        order(server, "a", DISK)
        await server.acked("a", "done")
        order(server, "b", DISK, on=False)
        await server.acked("b", "done")
        assert bay_lamp(tmp_path / "root") == "0"
        order(server, "c", DISK, seconds=1.0)
        await server.acked("c", "done")
        await server.until(lambda: bay_lamp(tmp_path / "root") == "0", "the lamp to go out", LIMIT_S)
        await shut_down(server, agent)


def lamps_in(tmp_path: Path, tools: StandIns) -> Lamps:
    folder = tmp_path / "root"
    host = lamp_host(folder, tools)
    return Lamps(host, LogBook(redactor=Redactor(), echo=lambda _: None), tmp_path)


async def test_what_a_killed_agent_lit_is_put_out_by_its_successor(tmp_path: Path) -> None:
    made = lamps_in(tmp_path, StandIns(tmp_path / "bin", real=False))
    file = tmp_path / "root/sys/block/sda/device/enclosure_device:Slot 05/locate"
    file.write_text("1\n")
    (tmp_path / "lamps.json").write_text(json.dumps({DISK: time.time() + 600}))
    made.recall()
    await made.all_off()
    assert bay_lamp(tmp_path / "root") == "0"
    assert json.loads((tmp_path / "lamps.json").read_text()) == {}


async def test_a_bmc_is_asked_again_while_its_lamp_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = StandIns(tmp_path / "bin", real=False)
    tools.says("ipmitool", LIT)
    made = lamps_in(tmp_path, tools)
    monkeypatch.setattr(lamps, "HOST_STEP_S", lamps.RENEW_EARLY_S + 0.2)
    answers: list[tuple[AckStatus, str | None]] = []
    made.switch(IdentifyOrder(target="host", seconds=600), lambda *answer: answers.append(answer))
    server = FakeOrchestrator()
    await server.until(lambda: len(tools.calls()) >= 3, "the BMC to be asked again", LIMIT_S)
    await made.all_off()
    assert answers == [(AckStatus.DONE, None)]
    assert tools.calls()[-1][-1] == "0"

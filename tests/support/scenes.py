"""Scenes of the walk that several test files play: orchestrators whose run stands at a given moment."""

from __future__ import annotations

from typing import Any

import psutil

from tests.support.agent_rig import AgentProcess, AgentTask
from tests.support.fake_orchestrator import FakeOrchestrator, status

WALK = ["InventoryCheck", "SMART", "CPUStress"]
LONG = {"SMART": {"seconds": 600}}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl run"


def orchestrator(states: list[str] | None = None, **extra: Any) -> FakeOrchestrator:
    """One whose run walks `states`; `extra` goes into the claim."""
    server = FakeOrchestrator(states=states or list(WALK), hold_key=KEY)
    server.claim_extra = server.claim_extra | extra
    return server


def scene(moment: str) -> FakeOrchestrator:
    """One whose run will stand at that moment."""
    if moment == "running":
        return orchestrator(parameters=LONG)
    if moment == "holding":
        return orchestrator(parameters={"SMART": {"fail": True}})
    if moment == "parked":
        return orchestrator(["InventoryCheck", "Strange"])
    if moment == "between":
        server = orchestrator()
        server.always["result"] = status(500)
        return server
    return orchestrator(["InventoryCheck"])


async def reach(moment: str, server: FakeOrchestrator) -> None:
    """Wait until a heartbeat tells of that activity."""
    await server.until(
        lambda: any(call.body["activity"] == moment for call in server.of("heartbeat")), f"activity {moment}"
    )


def load_of(agent: AgentTask | AgentProcess) -> list[psutil.Process]:
    """The load processes of the test's stages below an agent."""
    try:
        below = psutil.Process(agent.pid).children(recursive=True)
        return [one for one in below if "3217" in one.cmdline()]
    except psutil.Error:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run; zombies do not."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


async def loaded(server: FakeOrchestrator, agent: AgentTask | AgentProcess) -> list[psutil.Process]:
    """Wait for the load: a tool, its child, and a grandchild that has left the session."""
    await server.until(lambda: len(load_of(agent)) >= 3, "the load")
    return load_of(agent)


async def shut_down(server: FakeOrchestrator, agent: AgentTask | AgentProcess) -> None:
    """End it by a directive."""
    server.direct("shutdown", "end")
    assert await agent.ended() == 0

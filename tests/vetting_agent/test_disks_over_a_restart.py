"""What the disks said last outlives the agent: a disk that leaves while none is there is missed by its successor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stages.outcome import ReasonCode
from tests.support import recordings
from tests.support.agent_rig import AgentPlace
from tests.support.detection import detects, spares
from tests.support.fake_orchestrator import FakeOrchestrator, Fault
from tests.support.scenes import KEY, orchestrator, reach
from tests.support.smartctl_player import frame, recording
from tests.support.trees import copy_of, plant

pytestmark = pytest.mark.slow
BOOT_ID = "proc/sys/kernel/random/boot_id"


class OneDisk:
    """A recorded machine with one NVMe disk, and the agents that work on it."""

    def __init__(self, folder: Path) -> None:
        self.place = AgentPlace(folder / "agent")
        self.root = copy_of("mini-pc", folder)
        (self.root / "sys/block/sda").unlink()
        plant(self.root, {BOOT_ID: "boot-1"})
        one = frame(recording("nvme-healthy"))
        self.place.stand_ins.says("smartctl", one["out"], exit_code=one["exit"])

    def loses_its_disk(self) -> None:
        (self.root / "sys/block/nvme0n1").unlink()
        left = recordings.result("smartctl", "nvme-left")
        self.place.stand_ins.says("smartctl", left.stdout, exit_code=left.exit_code)

    @contextlib.asynccontextmanager
    async def agent(self, server: FakeOrchestrator) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process; killed when the block is left."""
        argv = [sys.executable, "-m", "tests.support.agent_on_tree", str(self.place.folder), server.url, str(self.root)]
        process = await asyncio.create_subprocess_exec(*argv)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> OneDisk:
    return OneDisk(tmp_path)


def codes(result: dict[str, Any]) -> list[str]:
    return [one["reason_code"] for one in result["summary"]["findings"] if one["severity"] == "error"]


async def _killed_between(machine: OneDisk, server: FakeOrchestrator) -> None:
    """The result of Inventory is taken, and the agent is killed before it hears so."""
    server.always["result"] = Fault(act=True, reply=(500, {}, b""))
    async with machine.agent(server):
        await server.until(lambda: server.results, "the first result", 60)
    del server.always["result"]
    assert codes(server.results[0]) == []


@detects(ReasonCode.DISK_LOST, "made tree whose disk leaves between two stages while no agent lives")
async def test_a_disk_that_leaves_while_no_agent_lives_is_missed_by_the_next_stage(machine: OneDisk) -> None:
    server = orchestrator()
    async with server.serve():
        await _killed_between(machine, server)
        machine.loses_its_disk()
        async with machine.agent(server):
            await server.until(lambda: len(server.results) == 2, "the next stage", 60)
    assert (server.results[1]["stage"], codes(server.results[1])) == ("SMART", ["disk_lost"])


@spares(ReasonCode.DISK_LOST, "made tree whose disk was taken out in a hold or with another boot, while no agent lived")
async def test_a_disk_that_is_taken_out_in_a_hold_while_no_agent_lives_is_not_missed(machine: OneDisk) -> None:
    server = orchestrator(parameters={"SMART": {"fail": True}})
    async with server.serve():
        async with machine.agent(server):
            await reach("holding", server)
        machine.loses_its_disk()
        server.claim_extra["parameters"] = {}
        async with machine.agent(server):
            server.direct("retry_stage", "r", stage="SMART")
            await server.until(lambda: len(server.results) == 4, "the retry and the stage after it", 60)
    assert server.hold_key == KEY
    retried = server.results[2:]
    assert [(one["stage"], codes(one)) for one in retried] == [("SMART", []), ("CPUStress", [])]


async def test_what_the_disks_said_in_another_boot_is_not_held_against_this_one(machine: OneDisk) -> None:
    server = orchestrator()
    async with server.serve():
        await _killed_between(machine, server)
        machine.loses_its_disk()
        plant(machine.root, {BOOT_ID: "boot-2"})
        async with machine.agent(server):
            await server.until(lambda: len(server.results) == 2, "the next stage", 60)
    assert (server.results[1]["stage"], codes(server.results[1])) == ("SMART", [])

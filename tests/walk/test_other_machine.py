"""A host that is not what it was, or not what it should be: told by a real orchestrator of a real agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.outcome import ReasonCode
from tests.support.detection import detects, spares
from tests.walk.rig import Orchestrator, wait_for
from tests.walk.test_walk import LONG, SHORT, NewAgent, break_stress_ng, stage_of, wait_load, wait_state

pytestmark = [pytest.mark.slow, pytest.mark.root]
BOOT_ID, CPUINFO = "/proc/sys/kernel/random/boot_id", "/proc/cpuinfo"


def told(view: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["reason_code"], one["severity"], one["component"]) for one in view["run_findings"]]


@detects(ReasonCode.HOST_REBOOTED, "real agent that dies under load, and a second one that shows another boot ID")
def test_a_host_that_comes_back_with_another_boot_id_is_held(
    orchestrator: Orchestrator, new_agent: NewAgent, tmp_path: Path
) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    first = new_agent(created)
    wait_load(first)
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    (tmp_path / "boot_id").write_text("11111111-2222-4333-8444-555555555555\n")
    new_agent(created, shown={BOOT_ID: tmp_path / "boot_id"})
    view = wait_state(orchestrator, created["run_id"], "FailedHolding")
    assert told(view) == [("host_rebooted", "error", "CPUStress")]
    assert not stage_of(view, "CPUStress")["passed"]


@detects(
    ReasonCode.SPEC_MISMATCH, "real agent and orchestrator: this machine, of which a CPU is expected that it lacks"
)
def test_a_machine_with_another_cpu_than_specified_is_held(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory", "GPU"], spec={"cpu": {"model": "Abacus 9000"}})
    new_agent(created)
    view = wait_state(orchestrator, created["run_id"], "FailedHolding")
    assert told(view) == [("spec_mismatch", "error", "host")]
    assert view["spec_diff"][0].startswith("cpu model: expected Abacus 9000, found ")


@spares(ReasonCode.SPEC_MISMATCH, "real agent and orchestrator: this machine, specified by its own model of CPU")
def test_a_machine_as_specified_goes_on(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    named = (line.partition(":")[2].strip() for line in Path(CPUINFO).read_text().splitlines() if "model name" in line)
    created = orchestrator.create_run(["Inventory", "GPU"], spec={"cpu": {"model": next(named)}})
    agent = new_agent(created)
    assert agent.wait(90) == 0, agent.errors
    view = orchestrator.run(created["run_id"])
    assert (view["state"], told(view)) == ("Completed", [])


@detects(ReasonCode.COMPONENTS_CHANGED, "real agent and orchestrator: the host has another CPU after a hold: a warning")
def test_a_cpu_swapped_in_a_hold_leads_back_to_the_inventory(
    orchestrator: Orchestrator, new_agent: NewAgent, tmp_path: Path
) -> None:
    broken = break_stress_ng(tmp_path / "agent")
    shown = tmp_path / "cpuinfo"
    shown.write_text(Path(CPUINFO).read_text())
    created = orchestrator.create_run(["Inventory", "CPUStress", "GPU"], parameters=SHORT)
    new_agent(created, shown={CPUINFO: shown})
    wait_state(orchestrator, created["run_id"], "FailedHolding", 90)
    broken.unlink()
    lines = shown.read_text().splitlines(keepends=True)
    changed = ["model name\t: Abacus 9000\n" if line.startswith("model name") else line for line in lines]
    shown.write_text("".join(changed))
    orchestrator.direct(created["run_id"], "retry_stage", stage="CPUStress")
    wait_for(
        lambda: stage_of(orchestrator.run(created["run_id"]), "Inventory")["attempts"] > 1, "a second Inventory", 90
    )
    assert told(orchestrator.run(created["run_id"])) == [("components_changed", "warning", "host")]
    view = wait_state(orchestrator, created["run_id"], "Completed", 120)
    assert view["inventory"]["cpu"]["model"] == "Abacus 9000"
    assert stage_of(view, "CPUStress")["attempts"] == 3, "its pass of before the change counts no more"

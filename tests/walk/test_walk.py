"""The walk over the real protocol: a real agent, a real orchestrator, real TLS, real tools with short times."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.outcome import ReasonCode
from tests.support.detection import detects, spares
from tests.walk.lossy import Lossy
from tests.walk.rig import Agent, Orchestrator, alive, wait_for

# Stages that a virtual machine without spare disks can pass for real.
PASSABLE = ["Inventory", "SMART", "CPUStress", "GPU", "PSU"]
SHORT = {"CPUStress": {"duration_s": 6}}
LONG = {"CPUStress": {"duration_s": 600}}
NewAgent = Callable[..., Agent]

pytestmark = [pytest.mark.slow, pytest.mark.root]


def stage_of(view: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in view["stages"] if stage["stage"] == name)


def wait_state(orchestrator: Orchestrator, run_id: int, state: str, limit_s: float = 60.0) -> dict[str, Any]:
    wait_for(lambda: orchestrator.run(run_id)["state"] == state, f"state {state}", limit_s)
    return orchestrator.run(run_id)


def wait_load(agent: Agent) -> list[psutil.Process]:
    load: list[psutil.Process] = wait_for(agent.load, "the CPU load")
    return load


def retry(orchestrator: Orchestrator, run_id: int, stage: str, **more: Any) -> None:
    """Have a stage retried, and wait for its result."""
    earlier = stage_of(orchestrator.run(run_id), stage)["result_id"]
    orchestrator.direct(run_id, "retry_stage", stage=stage, **more)
    wait_for(lambda: stage_of(orchestrator.run(run_id), stage)["result_id"] != earlier, f"the retry of {stage}", 90)


def break_stress_ng(agent_folder: Path) -> Path:
    """Puts a stress-ng first on the agent's PATH that finds a miscompute for as long as the file `broken` is there."""
    folder = agent_folder / "bin"
    folder.mkdir(parents=True)
    broken = agent_folder / "broken"
    broken.touch()
    script = folder / "stress-ng"
    script.write_text(
        f'#!/bin/sh\nif [ -e {broken} ] && [ "$1" != --version ]; then\n'
        "echo 'stress-ng: fail:  [7] cpu: verification failed' >&2; exit 2\nfi\n"
        f'exec {shutil.which("stress-ng")} "$@"\n'
    )
    script.chmod(0o755)
    return broken


def assert_lines_exactly_once(lines: list[dict[str, Any]]) -> None:
    by_instance: dict[str, list[int]] = {}
    for line in lines:
        by_instance.setdefault(line["instance_id"], []).append(line["seq"])
    for sequence in by_instance.values():
        assert sequence == list(range(1, len(sequence) + 1)), "a log line is missing, doubled or out of order"


@spares(ReasonCode.UNKNOWN_STAGE, "real agent and orchestrator: this machine walks through five stages")
@spares(ReasonCode.AGENT_CRASH_LOOP, "real agent and orchestrator: this machine walks through five stages")
@spares(ReasonCode.HOST_REBOOTED, "real agent and orchestrator: this machine walks through five stages")
@spares(
    ReasonCode.COMPONENTS_CHANGED, "real agent and orchestrator: this machine, whose parts stay the same, walks through"
)
@spares(ReasonCode.STALLED, "real agent and orchestrator: this machine walks through and is heard all the time")
def test_a_sound_machine_walks_to_the_end_and_is_powered_off(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(PASSABLE, parameters=SHORT)
    agent = new_agent(created)
    assert agent.wait(120) == 0, agent.errors
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Completed", agent.errors
    assert (view["run_findings"], view["stalled"]) == ([], False)
    assert [stage["stage"] for stage in view["stages"]] == PASSABLE
    assert all(stage["passed"] and stage["attempts"] == 1 for stage in view["stages"])
    assert view["inventory"]["cpu"]["logical_cores"] == os.cpu_count()
    assert stage_of(view, "CPUStress")["summary"]["coverage"]["cpu"] == 1.0
    assert agent.power_log == ["systemctl poweroff"]
    evidence = orchestrator.operator("GET", f"/runs/{created['run_id']}/evidence")
    assert [one["stage"] for one in evidence] == PASSABLE
    lines = orchestrator.logs(created["run_id"])
    assert_lines_exactly_once(lines)
    for name in PASSABLE:
        assert sum(line["stage"] == name for line in lines) >= 2, f"{name} did not log its start and end"
    assert created["token"] not in agent.errors
    assert created["token"] not in str(lines)


def test_an_agent_killed_in_a_stage_leaves_no_load_and_its_successor_resumes_there(
    orchestrator: Orchestrator, new_agent: NewAgent
) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    first = new_agent(created)
    wait_state(orchestrator, created["run_id"], "CPUStress")
    load = wait_load(first)
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    started = time.monotonic()
    wait_for(lambda: not alive(load), "the load to die", 2.0)
    assert time.monotonic() - started < 2.0
    second = new_agent(created)
    wait_load(second)
    wait_for(lambda: any("resum" in line["text"].lower() for line in orchestrator.logs(created["run_id"])), "a word")
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "CPUStress"
    assert stage_of(view, "Inventory")["attempts"] == 1
    assert any(line["level"] == "warn" and "CPUStress" in line["text"] for line in orchestrator.logs(created["run_id"]))


@detects(ReasonCode.AGENT_CRASH_LOOP, "real agent that is killed three times in one stage")
def test_a_third_crash_in_one_stage_ends_in_the_hold(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    for _ in range(3):
        agent = new_agent(created)
        wait_load(agent)
        assert agent.process is not None
        agent.process.kill()
        agent.process.wait()
    new_agent(created)
    view = wait_state(orchestrator, created["run_id"], "FailedHolding")
    assert [(one["reason_code"], one["severity"], one["component"]) for one in view["run_findings"]] == [
        ("agent_crash_loop", "error", "CPUStress")
    ]


def test_cancel_ends_the_last_process_within_two_seconds_and_powers_off(
    orchestrator: Orchestrator, new_agent: NewAgent
) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    agent = new_agent(created)
    load = wait_load(agent)
    directive = orchestrator.direct(created["run_id"], "cancel_stage")
    wait_for(lambda: "cancel_stage" in agent.errors, "the directive's arrival")
    arrived = time.monotonic()
    wait_for(lambda: not alive(load), "the load to die", 2.0)
    assert time.monotonic() - arrived < 2.0
    assert agent.wait() == 0
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Cancelled"
    assert stage_of(view, "CPUStress")["summary"]["verdict"] == "cancelled"
    assert agent.power_log == ["systemctl poweroff"]
    assert next(one for one in view["directives"] if one["cmd_id"] == directive["cmd_id"])["status"] == "done"


def test_abort_ends_the_stage_and_leaves_the_host_up(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    agent = new_agent(created)
    load = wait_load(agent)
    orchestrator.direct(created["run_id"], "abort")
    assert agent.wait() == 0
    assert not alive(load)
    assert agent.power_log == []
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Aborted"
    assert stage_of(view, "CPUStress")["summary"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_cleanly_and_posts_no_result(
    orchestrator: Orchestrator, new_agent: NewAgent, number: signal.Signals
) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    agent = new_agent(created)
    load = wait_load(agent)
    assert agent.process is not None
    agent.process.send_signal(number)
    agent.wait(20)
    assert not alive(load)
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "CPUStress"
    assert stage_of(view, "CPUStress")["summary"] is None
    assert_lines_exactly_once(orchestrator.logs(created["run_id"]))


def test_a_failed_host_is_held_retried_held_again_and_released_by_a_repair(
    orchestrator: Orchestrator, new_agent: NewAgent, tmp_path: Path
) -> None:
    broken = break_stress_ng(tmp_path / "agent")
    (tmp_path / "agent" / "ssh").mkdir(mode=0o700)
    mine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@desk"
    (tmp_path / "agent" / "ssh" / "authorized_keys").write_text(mine)
    created = orchestrator.create_run(["Inventory", "CPUStress", "GPU"], parameters=SHORT)
    agent = new_agent(created)
    run_id = created["run_id"]
    view = wait_state(orchestrator, run_id, "FailedHolding")
    assert "cpu_miscompute" in str(stage_of(view, "CPUStress")["summary"])
    wait_for(lambda: len(agent.keys.read_text().splitlines()) == 2, "the hold key")
    assert agent.keys.stat().st_mode & 0o777 == 0o600
    key = orchestrator.operator("GET", f"/runs/{run_id}/hold-key")["authorized_key"].split()[1]
    assert key in agent.keys.read_text()

    retry(orchestrator, run_id, "CPUStress")
    assert orchestrator.run(run_id)["state"] == "FailedHolding"
    assert key in agent.keys.read_text()

    broken.unlink()
    orchestrator.direct(run_id, "retry_stage", stage="CPUStress")
    assert agent.wait(90) == 0, agent.errors
    view = orchestrator.run(run_id)
    assert view["state"] == "Completed", agent.errors
    assert stage_of(view, "CPUStress")["attempts"] == 3
    assert agent.keys.read_text().strip() == mine
    assert agent.power_log == ["systemctl poweroff"]


def test_a_wipe_override_cannot_destroy_on_a_host_that_never_allowed_it(
    orchestrator: Orchestrator, new_agent: NewAgent
) -> None:
    created = orchestrator.create_run(
        ["Inventory", "Storage"], parameters={"Storage": {"duration_s": 2}}, non_destructive=False
    )
    agent = new_agent(created)
    run_id = created["run_id"]
    wait_state(orchestrator, run_id, "FailedHolding")  # the root disk here cannot be opened: honestly unknown
    retry(orchestrator, run_id, "Storage", wipe=True)
    view = wait_state(orchestrator, run_id, "FailedHolding")
    assert "wipe_refused" in str(stage_of(view, "Storage")["summary"])
    assert "disk_not_tested" in str(stage_of(view, "Storage")["summary"])
    orchestrator.direct(run_id, "shutdown")
    assert agent.wait() == 0
    assert agent.power_log == ["systemctl poweroff"]
    assert agent.keys.read_text() == ""


def test_the_orchestrator_killed_in_mid_stage_loses_nothing(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress", "GPU"], parameters={"CPUStress": {"duration_s": 8}})
    agent = new_agent(created)
    wait_load(agent)
    orchestrator.kill()
    time.sleep(1.0)
    orchestrator.start()
    assert agent.wait(120) == 0, agent.errors
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Completed", agent.errors
    assert all(stage["attempts"] == 1 for stage in view["stages"])
    assert_lines_exactly_once(orchestrator.logs(created["run_id"]))


def test_a_third_of_all_calls_failing_loses_no_result_and_no_line_and_doubles_none(
    orchestrator: Orchestrator, new_agent: NewAgent
) -> None:
    created = orchestrator.create_run(["Inventory", "SMART", "CPUStress", "GPU", "PSU"], parameters=SHORT)
    certificate, key = (next(orchestrator.data.rglob(pattern)) for pattern in ("*cert*.pem", "*key*.pem"))
    with Lossy(orchestrator.url, certificate, key, seed=7) as lossy:
        agent = new_agent(created, url=lossy.url)
        assert agent.wait(240) == 0, agent.errors
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Completed", agent.errors
    assert all(stage["attempts"] == 1 for stage in view["stages"])
    assert_lines_exactly_once(orchestrator.logs(created["run_id"]))
    failed = sum(count for name, count in lossy.counts.items() if "passed" not in name.split(": ")[1])
    assert failed > sum(lossy.counts.values()) / 5, f"too few calls failed for this to prove anything: {lossy.counts}"


def test_a_second_agent_on_the_host_says_so_and_exits_3(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=LONG)
    first = new_agent(created)
    wait_load(first)
    second = new_agent(created, folder="second")
    assert second.wait(20) == 3
    assert "already" in second.errors
    assert first.process is not None
    assert first.process.poll() is None
    assert alive(first.load())


def test_final_refusals_exit_at_once(orchestrator: Orchestrator, new_agent: NewAgent) -> None:
    created = orchestrator.create_run(["Inventory"])
    wrong_token = new_agent(created | {"token": "wrong"}, folder="wrong-token")
    assert wrong_token.wait(20) == 3
    assert "auth_failed" in wrong_token.errors
    assert new_agent(created | {"run_id": 4711}, folder="no-such-run").wait(20) == 3
    owned = orchestrator.create_run(["Inventory"], mac="02:00:00:00:00:01")
    other_host = new_agent(owned, "--mac", "02:00:00:00:00:02", folder="other-host")
    assert other_host.wait(20) == 3
    orchestrator.operator("POST", f"/runs/{created['run_id']}/release")
    assert new_agent(created, folder="released").wait(20) == 0


def test_bad_parameters_are_refused_before_any_host_boots(orchestrator: Orchestrator) -> None:
    with pytest.raises(AssertionError, match="PSU has no parameter 'duration'"):
        orchestrator.create_run(["Inventory", "PSU"], parameters={"PSU": {"duration": 5}})

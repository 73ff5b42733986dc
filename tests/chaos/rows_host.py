"""Rows: the host itself is in trouble: its agent, its clock, its disk, its memory, its tools."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.chaos.cgroup import Cgroup
from tests.chaos.row import Group
from tests.chaos.scene import Scene, wrong_clock
from tests.support.namespaces import sh
from tests.walk.rig import Agent, alive, wait_for

AGENT = Group("The agent and its host")
CLOCK = Group("Clocks")
MEANS = Group("Disk, memory and tools of the host")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
OTHER_BOOT = "11111111-2222-4333-8444-555555555555\n"
HOLDS_AT_ONCE = {"PSU": {"bmc_expected": True}}
LOAD = {"CPUStress": {"duration_s": 6}}
HOUR = 3600


@AGENT.row(
    "the agent is stopped (SIGSTOP) while a stage runs, and goes on later (SIGCONT)",
    hop="heartbeat",
    signal="node_agent_heartbeat_stale",
    says=("history", r"the host has been silent for 6 heartbeats"),
)
def agent_stopped(scene: Scene) -> None:
    scene.serve()
    agent = scene.under_way()
    assert agent.process is not None
    scene.broken()
    agent.process.send_signal(signal.SIGSTOP)
    scene.seen()
    agent.process.send_signal(signal.SIGCONT)
    scene.repaired()
    scene.recovered()
    scene.go_on()


@AGENT.row(
    "the agent is killed (SIGKILL) while a stage runs; repair: it is started again, as systemd would",
    hop="heartbeat",
    signal="node_agent_heartbeat_stale",
    says=("history", r"the host has been silent for 6 heartbeats"),
)
def agent_killed(scene: Scene) -> None:
    scene.serve()
    agent = scene.under_way()
    left = agent.descendants()
    assert agent.process is not None
    scene.broken()
    agent.process.kill()
    agent.process.wait()
    wait_for(lambda: not alive(left), "the end of all that it had started", 30)
    scene.seen()
    scene.go_on()
    scene.agent()
    scene.repaired()
    scene.recovered()


@AGENT.row(
    "a second agent is started for the same run on the same host",
    hop="run",
    signal="run_claimed_elsewhere",
    says=("agent", r"another agent \(process \d+\) already works on run \d+ on this host"),
    quick=True,
)
def two_agents_on_one_host(scene: Scene) -> None:
    scene.serve()
    first = scene.under_way()
    second = scene.agent("--state-dir", str(first.folder / "state"), name="second", start=False)
    scene.broken()
    second.start()
    assert second.wait(60) == 3
    scene.seen()
    scene.last = first
    scene.go_on()
    scene.repaired()
    scene.recovered()


@AGENT.row(
    "a second agent with a state folder of its own is started for the same run: the newer one wins",
    hop="run",
    signal="run_claimed_elsewhere",
    says=("agent", r"claimed_elsewhere: \w+ was answered with HTTP 409"),
)
def two_agents_that_do_not_see_each_other(scene: Scene) -> None:
    scene.serve()
    first = scene.under_way()
    scene.broken()
    second = scene.agent(name="second")
    scene.witness = first
    scene.seen()
    assert first.wait(60) == 3
    assert not first.descendants()
    scene.last = second
    scene.go_on()
    scene.repaired()
    scene.recovered()


@AGENT.row(
    "the host restarts under a stage: the same host claims again with another boot id",
    hop="heartbeat",
    signal="node_agent_heartbeat_stale",
    says=("finding", r"host_rebooted: "),
    end="FailedHolding",
    quick=True,
)
def host_rebooted_in_a_stage(scene: Scene) -> None:
    scene.serve()
    _dies(scene, scene.under_way())
    scene.broken()
    scene.go_on()
    scene.agent(name="after-the-boot", shown=_other_boot(scene))
    scene.seen()
    scene.repaired()
    scene.recovered(lambda: "hold key is installed" in scene.agents[-1].errors, "the hold")


@AGENT.row(
    "a held host restarts: it comes back into the hold, with a key, and a retry goes on from there",
    hop="heartbeat",
    signal="node_agent_heartbeat_stale",
    says=("history", r"the host has been silent for 6 heartbeats"),
    end="FailedHolding",
    stage_runs=2,
)
def held_host_rebooted(scene: Scene) -> None:
    scene.serve()
    scene.create(("Inventory", "PSU"), parameters=HOLDS_AT_ONCE)
    first = scene.agent()
    scene.held()
    wait_for(lambda: "hold key is installed" in first.errors, "the key", 60)
    scene.broken()
    _dies(scene, first)
    scene.seen()
    second = scene.agent(name="after-the-boot", shown=_other_boot(scene))
    scene.repaired()
    scene.recovered(lambda: "hold key is installed" in second.errors, "the key on the new boot")
    scene.server.direct(scene.run_id, "retry_stage", stage="PSU")
    wait_for(lambda: max(one["attempts"] for one in scene.view["stages"]) == 2, "the retry", 60)


def _dies(scene: Scene, agent: Agent) -> None:
    assert agent.process is not None
    agent.process.kill()
    agent.process.wait()


def _other_boot(scene: Scene) -> dict[str, Path]:
    path = scene.folder / "boot-id"
    path.write_text(OTHER_BOOT)
    return {BOOT_ID: path}


def _jumping(scene: Scene, whose: str) -> tuple[dict[str, str], Path]:
    """What makes a program's wall clock wrong by what the file says."""
    path = scene.folder / f"{whose}-clock"
    path.write_text("0")
    return {"LD_PRELOAD": str(wrong_clock()), "CHAOS_CLOCK": str(path)}, path


def _host_clock_jumps(scene: Scene, hours: int) -> None:
    scene.serve()
    environment, clock = _jumping(scene, "host")
    scene.under_way(environment=environment)
    scene.broken()
    clock.write_text(str(hours * HOUR))
    scene.seen()
    scene.go_on()
    scene.repaired()  # nothing is: the run goes to its end on a wrong clock
    scene.recovered()


PRELOADED = "a library in front of the program's clock_gettime, time and gettimeofday; the monotonic clock runs on"


@CLOCK.row(
    "the host's clock jumps 5 hours ahead while a stage runs",
    hop="clock",
    signal="clock_skew",
    says=("agent", r"clock.* 5\.0 h ahead of the orchestrator's"),
    means=PRELOADED,
)
def host_clock_jumps_ahead(scene: Scene) -> None:
    _host_clock_jumps(scene, 5)


@CLOCK.row(
    "the host's clock jumps 5 hours back while a stage runs",
    hop="clock",
    signal="clock_skew",
    says=("agent", r"clock.* 5\.0 h behind the orchestrator's"),
    means=PRELOADED,
)
def host_clock_jumps_back(scene: Scene) -> None:
    _host_clock_jumps(scene, -5)


def _server_clock_jumps(scene: Scene, hours: int) -> None:
    environment, clock = _jumping(scene, "server")
    scene.serve(**environment)
    scene.under_way()
    scene.broken()
    clock.write_text(str(hours * HOUR))
    scene.seen()
    scene.go_on()
    scene.repaired()  # nothing is
    scene.recovered()


@CLOCK.row(
    "the orchestrator's clock jumps 13 hours ahead while a stage runs",
    hop="clock",
    signal="clock_skew",
    says=("agent", r"clock.* 13\.0 h behind the orchestrator's"),
    means=PRELOADED,
)
def server_clock_jumps_ahead(scene: Scene) -> None:
    _server_clock_jumps(scene, 13)


@CLOCK.row(
    "the orchestrator's clock jumps 13 hours back while a stage runs",
    hop="clock",
    signal="clock_skew",
    says=("agent", r"clock.* 13\.0 h ahead of the orchestrator's"),
    means=PRELOADED,
)
def server_clock_jumps_back(scene: Scene) -> None:
    _server_clock_jumps(scene, -13)


@CLOCK.row(
    "a host whose clock is 13 hours ahead comes to the hold: the key has expired for it; repair: the clock is set",
    hop="clock",
    signal="clock_skew",
    says=("agent", r"the hold key is refused: it has expired at .*; the clock of this host says"),
    end="FailedHolding",
    means=PRELOADED,
)
def hold_on_a_clock_ahead(scene: Scene) -> None:
    scene.serve()
    scene.create(("Inventory", "PSU"), parameters=HOLDS_AT_ONCE)
    environment, clock = _jumping(scene, "host")
    clock.write_text(str(13 * HOUR))
    scene.broken()
    agent = scene.agent(environment=environment)
    scene.seen()
    clock.write_text("0")
    scene.repaired()
    scene.recovered(lambda: "hold key is installed" in agent.errors, "the key")


@MEANS.row(
    "the evidence's file system runs full while a stage runs; the run goes on; repair: space is made",
    hop="evidence_space",
    signal="disk_full",
    says=("agent", r"evidence file .* could not be written: .*No space left on device"),
    quick=True,
)
def evidence_space_full(scene: Scene) -> None:
    scene.serve()
    scene.create()
    space = scene.folder / "agent" / "evidence"
    space.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", "size=1m", "chaos", str(space))
    scene.at_the_end.append(lambda: sh("umount", "-l", str(space)))
    scene.under_way()
    filler = space / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    scene.broken()
    scene.go_on()
    scene.seen()
    filler.unlink()
    scene.repaired()
    scene.recovered(lambda: scene.view["state"] == "Completed", "the end of the run")


def _retry(scene: Scene, stage: str) -> None:
    """The operator's part of the repair."""
    scene.repaired()
    before = scene.view["state"]
    assert before == "FailedHolding", before
    wait_for(lambda: scene.view["agent"]["activity"] == "holding", "the hold as the agent says", 60)
    scene.server.direct(scene.run_id, "retry_stage", stage=stage)
    scene.recovered(lambda: scene.view["state"] != "FailedHolding", f"a good {stage}")


def _farm(scene: Scene) -> Path:
    """A folder with a link to each of this machine's programs, and the agent's stand-ins before it."""
    folder = scene.folder / "programs"
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return folder


@MEANS.row(
    "a tool (stress-ng) is deleted while the stage before its own runs; repair: it is put back, and the stage retried",
    hop="tools",
    signal="tool_missing",
    says=("finding", r"tool_missing: .*stress-ng"),
    stage_runs=2,
)
def tool_deleted(scene: Scene) -> None:
    scene.serve()
    scene.create(("Inventory", "SMART", "CPUStress"), parameters=LOAD)
    farm = _farm(scene)
    scene.under_way(environment={"PATH": f"{scene.folder / 'agent' / 'bin'}:{farm}"})
    tool = farm / "stress-ng"
    target = tool.readlink()
    scene.broken()
    tool.unlink()
    scene.go_on()
    scene.seen()
    scene.held()
    tool.symlink_to(target)
    _retry(scene, "CPUStress")


@MEANS.row(
    "a tool (smartctl) hangs and never ends by itself; repair: it is set right, and the stage retried",
    hop="tools",
    signal="tool_broken",
    says=("finding", r"tool_\w+: .*smartctl"),
    clear_s=180.0,
    stage_runs=2,
)
def tool_hung(scene: Scene) -> None:
    scene.serve()
    scene.broken()
    scene.under_way()
    scene.seen()
    scene.held()
    scene.go_on()
    _retry(scene, "SMART")


FORKS = """#!{python}
import os, subprocess, sys, time
if "--scan-open" in sys.argv and os.path.exists({gate!r}):
    while True:
        try:
            subprocess.Popen(["setsid", "sleep", "3319"])
        except OSError:
            time.sleep(0.05)
os.execv({real!r}, [{real!r}, *sys.argv[1:]])
"""


@MEANS.row(
    "a tool (smartctl) forks without end, in sessions of their own; repair: it is set right, and the stage retried",
    hop="tools",
    signal="tool_broken",
    says=("finding", r"tool_\w+: .*smartctl"),
    clear_s=180.0,
    stage_runs=2,
    means="a pids cgroup of 300 keeps this machine alive",
)
def tool_forks_without_end(scene: Scene) -> None:
    scene.serve()
    scene.create()
    group = Cgroup.made(scene, "pids", "pids.max", "300")
    gate = scene.folder / "forks"
    gate.touch()
    agent = scene.agent(within=group.within, start=False)
    script = agent.stand_ins / "smartctl"
    script.write_text(FORKS.format(python=sys.executable, gate=str(gate), real=shutil.which("smartctl")))
    script.chmod(0o755)
    scene.broken()
    agent.start()
    scene.seen()
    scene.held()
    wait_for(lambda: not [one for one in agent.descendants() if one.name() == "sleep"], "the end of all sleepers", 30)
    gate.unlink()
    _retry(scene, "SMART")


@MEANS.row(
    "the memory of the host (a cgroup of 400 MiB) is too small for the load: the OOM killer takes it;"
    " repair: more memory, and the stage retried",
    hop="tools",
    signal="tool_broken",
    says=("finding", r"tool_\w+: .*(signal 9|SIGKILL|killed|memory)"),
    clear_s=180.0,
    stage_runs=2,
)
def oom_killer_on_the_load(scene: Scene) -> None:
    scene.serve()
    scene.create(("Inventory", "CPUStress"), parameters=LOAD)
    group = Cgroup.made(scene, "memory", "memory.limit_in_bytes", "400M")
    scene.broken()
    scene.agent(within=group.within)
    scene.seen()
    scene.held()
    group.set("memory.limit_in_bytes", "-1")
    _retry(scene, "CPUStress")


HOG = """import time
held = []
while True:
    held.append(bytearray(4 << 20))
    time.sleep(0.01)
"""


@MEANS.row(
    "something on the host takes all memory (a cgroup of 400 MiB), and the OOM killer takes the agent for it;"
    " repair: it is ended, and the agent started again, as systemd would",
    hop="heartbeat",
    signal="node_agent_heartbeat_stale",
    says=("history", r"the host has been silent for 6 heartbeats"),
    means="the agent is offered to the killer, since this machine lets no process be protected from it",
)
def oom_killer_on_the_agent(scene: Scene) -> None:
    scene.serve()
    scene.create()
    group = Cgroup.made(scene, "memory", "memory.limit_in_bytes", "400M")
    agent = scene.under_way(within=group.within)
    left = agent.descendants()
    assert agent.process is not None
    Path(f"/proc/{agent.process.pid}/oom_score_adj").write_text("1000")
    scene.broken()
    hog = subprocess.Popen([*group.within, sys.executable, "-c", HOG])
    try:
        wait_for(lambda: agent.process is not None and agent.process.poll() is not None, "the agent's end", 60)
    finally:
        hog.kill()
        hog.wait()
    assert agent.process.returncode == -signal.SIGKILL
    wait_for(lambda: not alive(left), "the end of all that it had started", 30)
    scene.seen()
    scene.go_on()
    scene.agent(within=group.within)
    scene.repaired()
    scene.recovered()


ROWS = (
    agent_stopped,
    agent_killed,
    two_agents_on_one_host,
    two_agents_that_do_not_see_each_other,
    host_rebooted_in_a_stage,
    held_host_rebooted,
    host_clock_jumps_ahead,
    host_clock_jumps_back,
    server_clock_jumps_ahead,
    server_clock_jumps_back,
    hold_on_a_clock_ahead,
    evidence_space_full,
    tool_deleted,
    tool_hung,
    tool_forks_without_end,
    oom_killer_on_the_load,
    oom_killer_on_the_agent,
)

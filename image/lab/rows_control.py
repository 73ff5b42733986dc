"""Control: orders of the operator, holds, and agents and hosts that end before their run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from image.lab.login import Login, free_port
from image.lab.row import PASSES, Expect, Group, fails, held
from image.lab.scene import Scene, WrongTurn
from image.vm.disks import Disk
from image.vm.machine import Machine
from vetting_agent.run_view import RunView
from vetting_agent.wire import ABORT, CANCEL_STAGE, FAILED_HOLDING, RETRY_STAGE, SHUTDOWN

GROUP = Group("Control")
MIB = 2**20
LONG_S, SHORT_S = 300.0, 60.0
"""Of a stage that ends otherwise, and of one that must come to its end: emulated machines are slow, and its time limit
is twice its time and a minute."""
AT_WORK_S = 60.0
NVME = Disk("nvme", "VETNVME1", 64 * MIB)
SICK = fails("SMART", "nvme_critical_warning", "disk:VETNVME1")


def _under_load(scene: Scene, machine: Machine, duration_s: float) -> None:
    """A machine whose CPUs are being stressed."""
    scene.boot(machine, "CPUStress", parameters={"CPUStress": {"duration_s": duration_s}})
    scene.until_running("CPUStress")
    _until_loaded(scene)


def _until_loaded(scene: Scene) -> None:
    scene.sh(f"for one in $(seq {AT_WORK_S:.0f}); do pgrep stress-ng && exit; sleep 1; done; exit 1")


def _must_be_idle(scene: Scene) -> None:
    """No load is left, and nobody starts the agent again."""
    scene.sh("sleep 5; ! pgrep 'stress-ng|stressapptest'; ! systemctl is-active vetting-agent")


def _attempts(view: RunView, stage: str) -> int:
    return next(one.attempts for one in view.stages if one.stage == stage)


# --- orders ----------------------------------------------------------------------------------------------------------


@GROUP.row("cancel in mid-stage: the host powers off", Expect("Cancelled", "CPUStress", "cancelled"))
def control_cancel(scene: Scene) -> None:
    _under_load(scene, Machine(), LONG_S)
    scene.direct(CANCEL_STAGE)
    scene.until_off()


@GROUP.row("shutdown in mid-stage: the host powers off, its run stands where it was", Expect("CPUStress"))
def control_shutdown(scene: Scene) -> None:
    _under_load(scene, Machine(), LONG_S)
    scene.direct(SHUTDOWN)
    scene.until_off()
    if scene.view().stages[1].summary is not None:
        raise WrongTurn("a stage that was shut down has a result")


@GROUP.row("abort in mid-stage: the load is gone, the host stays up and idle", Expect("Aborted"), ci=True)
def control_abort(scene: Scene) -> None:
    _under_load(scene, Machine(), LONG_S)
    scene.direct(ABORT)
    scene.until("abort", lambda view: view.state == "Aborted")
    _must_be_idle(scene)


@GROUP.row("none: a run whose host is to stay on when it has completed", PASSES)
def control_leave_on(scene: Scene) -> None:
    scene.boot(Machine(), "PSU", shutdown_when_completed=False)
    scene.until_ended()
    scene.sh("sleep 20; vetting-agent status --json")
    if scene.qemu.poll() is not None:
        raise WrongTurn("the host was powered off")


# --- holds -----------------------------------------------------------------------------------------------------------


def _held_with_sick_disk(scene: Scene, machine: Machine, stages: str, code: int = 4) -> None:
    scene.boot(machine, stages)
    scene.monitor.set("disk0", "smart_critical_warning", code)
    view = scene.until_ended()
    if view.state != FAILED_HOLDING:
        raise WrongTurn(f"the run is not held: {view.state}")


@GROUP.row("hold; a login by SSH with its key, and only then; the fault is mended; retry", PASSES)
def control_hold_login_retry(scene: Scene) -> None:
    login = Login(free_port(), scene.folder)
    machine = Machine(disks=(NVME,), ssh_port=login.port)
    scene.boot(machine, "SMART,Storage", parameters={"Storage": {"duration_s": 30.0}})
    scene.monitor.set("disk0", "smart_critical_warning", 4)
    scene.until_claimed()
    login.must_fail("before the hold")
    scene.until_ended()
    scene.until("the hold key", lambda view: view.hold is not None and view.hold.requested)
    scene.serve().ask("hold-key", str(scene.run_id), "--out", str(login.key))
    login.must_work()
    login.without_key().must_fail("without the key", answered=True)
    scene.monitor.set("disk0", "smart_critical_warning", 0)
    scene.direct(RETRY_STAGE, stage="SMART")
    scene.until_running("Storage")
    login.must_fail("after the hold")
    scene.walk()


@GROUP.row("a later stage is retried in place of the one that failed, and passes: the failed one is due again", SICK)
def control_retry_later_stage(scene: Scene) -> None:
    _held_with_sick_disk(scene, Machine(disks=(NVME,)), "SMART,PSU")
    scene.direct(RETRY_STAGE, stage="PSU")
    scene.until("retry", lambda view: _attempts(view, "PSU") == 1 and _attempts(view, "SMART") == 2)
    view = scene.until_ended()
    psu = next(one for one in view.stages if one.stage == "PSU")
    if not psu.valid:
        raise WrongTurn(f"the retried stage did not pass: {psu.message}")


@GROUP.row(
    "a disk is changed for a sick one during a hold, and a later stage retried",
    fails("SMART", "nvme_critical_warning", "disk:CHANGED1"),
)
def control_disk_changed(scene: Scene) -> None:
    view = _changed(scene, sick=True)
    if (_attempts(view, "Inventory"), _attempts(view, "SMART")) != (2, 2):
        raise WrongTurn("the changed machine was not taken stock of and tested again")


@GROUP.row("a disk is changed for a sound one during a hold: all is tested again", PASSES)
def control_disk_changed_for_sound(scene: Scene) -> None:
    view = _changed(scene, sick=False)
    if _attempts(view, "SMART") != 2:
        raise WrongTurn("the new disk passed on the old one's result")


def _changed(scene: Scene, *, sick: bool) -> RunView:
    """SMART passes with the first disk; Network fails for an expected port without a link; the disk is changed."""
    machine = Machine(nics=("virtio-net-pci", "virtio-net-pci"), disks=(replace(NVME, can_leave=True),))
    scene.boot(machine, "SMART,Network", parameters={"Network": {"expected_nics": [machine.mac(1)]}})
    scene.monitor.qmp("set_link", name="nic1", up=False)
    if (view := scene.until_ended()).state != FAILED_HOLDING:
        raise WrongTurn(f"the run is not held: {view.state}")
    _change_disk(scene, sick=sick)
    scene.monitor.qmp("set_link", name="nic1", up=True)
    scene.direct(RETRY_STAGE, stage="Network")
    scene.until("Inventory again", lambda view: _attempts(view, "Inventory") == 2)
    return scene.walk()


def _change_disk(scene: Scene, *, sick: bool) -> None:
    scene.monitor.qmp("device_del", id="disk0")
    scene.sh("for one in $(seq 60); do [ -e /dev/nvme0n1 ] || exit 0; sleep 1; done; exit 1")
    path = scene.folder / "changed.img"
    with path.open("wb") as made:
        made.truncate(64 * MIB)
    scene.monitor.qmp("blockdev-add", driver="raw", node_name="changed", file=_file(path))
    scene.monitor.qmp("device_add", driver="nvme", id="changed", drive="changed", serial="CHANGED1", bus="slot0")
    scene.sh("for one in $(seq 60); do grep -q CHANGED1 /sys/class/nvme/*/serial && exit; sleep 1; done; exit 1")
    if sick:
        scene.monitor.set("changed", "smart_critical_warning", 4)


def _file(path: Path) -> dict[str, str]:
    return {"driver": "file", "filename": str(path)}


# --- agents and hosts that end ---------------------------------------------------------------------------------------

KILL = "systemctl kill --kill-whom=main --signal=KILL vetting-agent"
OUT_OF_MEMORY = """
agent=$(systemctl show -P MainPID vetting-agent)
for one in /proc/[0-9]*; do echo -500 >$one/oom_score_adj || true; done 2>/dev/null
echo 1000 >/proc/$agent/oom_score_adj
echo f >/proc/sysrq-trigger
for one in $(seq 20); do dmesg | grep "Killed process $agent " && exit; sleep 1; done
exit 1
"""


def _ended_by(scene: Scene, how: str) -> None:
    """The agent is ended, and another one takes the run up."""
    old = scene.view().agent.instance_id
    scene.sh(how)
    scene.until("next agent", lambda view: view.agent.instance_id != old, 300.0)


@GROUP.row("the agent is killed, and once more by the kernel for want of memory: its stage is resumed", PASSES)
def control_agent_killed(scene: Scene) -> None:
    _under_load(scene, Machine(), SHORT_S)
    _ended_by(scene, KILL)
    _until_loaded(scene)
    _ended_by(scene, OUT_OF_MEMORY)
    scene.walk()


FREEZE = "kill -STOP $(systemctl show -P MainPID vetting-agent)"
RECOVERABLE = "mce -b 0 9 0xbd000000000000c0 0x5 0x31111000 0x8c"


@GROUP.row(
    "a memory page is lost to a machine check, and the agent is killed before it can tell of it",
    fails("CPUStress", "ecc_uncorrected", "memory", also=("mce_uncorrected",)),
)
def control_fault_before_kill(scene: Scene) -> None:
    _under_load(scene, Machine(cpu_model="Haswell-noTSX"), SHORT_S)
    scene.sh(FREEZE)
    scene.monitor.hmp(RECOVERABLE)
    scene.sh("for one in $(seq 30); do dmesg | grep 'Memory failure: 0x31111' && exit; sleep 1; done; exit 1")
    _ended_by(scene, KILL)
    scene.walk()


@GROUP.row("the agent is killed three times in one stage", held("agent_crash_loop"))
def control_crash_loop(scene: Scene) -> None:
    _under_load(scene, Machine(), LONG_S)
    for _ in range(3):
        _ended_by(scene, KILL)
    scene.until_ended()
    scene.sh("! pgrep 'stress-ng|stressapptest'")


@GROUP.row("the agent is frozen in mid-stage; its watchdog ends it", PASSES)
def control_agent_frozen(scene: Scene) -> None:
    _under_load(scene, Machine(), SHORT_S)
    _ended_by(scene, FREEZE)
    scene.walk()


@GROUP.row("the host is reset in mid-stage", held("host_rebooted"))
def control_host_reset(scene: Scene) -> None:
    _under_load(scene, Machine(), LONG_S)
    old = scene.view().agent.instance_id
    scene.monitor.qmp("system_reset")
    scene.until("next boot", lambda view: view.agent.instance_id != old)
    scene.until_ended()


ROWS = (
    control_cancel,
    control_shutdown,
    control_abort,
    control_leave_on,
    control_hold_login_retry,
    control_retry_later_stage,
    control_disk_changed,
    control_disk_changed_for_sound,
    control_agent_killed,
    control_fault_before_kill,
    control_crash_loop,
    control_agent_frozen,
    control_host_reset,
)

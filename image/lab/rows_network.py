"""Network: links, cables, and an orchestrator that is away or another one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from image.lab.row import PASSES, Expect, Group, fails, warns
from image.lab.scene import Scene, WrongTurn
from image.lab.wire import Faults, wire
from image.vm.machine import Machine
from vetting_agent.run_view import RunView

GROUP = Group("Network")
REAL = Machine(nics=("e1000",), cpu_model="max,-hypervisor")
"""An emulated port counts as a real one where the CPU does not say that it is a guest's: floors hold then."""
RATES = {"Network": {"duration_s": 5.0, "warm_up_s": 1.0, "path_mbps": 10.0, "both_at_once": False}}
FLOOR_MBPS = 8.0
PORT = f"nic:{REAL.mac(0)}"
LEAVER = "52:54:00:7e:70:99"
BROKEN_S = 60.0


def _over(scene: Scene, faults: Faults) -> RunView:
    """The Network stage over a cable that turns bad when the stage begins."""
    cable = scene.enter(wire(scene.folder))
    scene.boot(replace(REAL, wire=cable.guest), "Network", parameters=RATES)
    scene.until_running("Network")
    cable.faults = faults
    view = scene.walk()
    _must_have_floor(view)
    if (faults.loss and not cable.lost) or (faults.damage and not cable.damaged):
        raise WrongTurn(f"the cable was not bad: {cable.lost} frames lost, {cable.damaged} damaged")
    return view


def _must_have_floor(view: RunView) -> None:
    """A rate that nothing is expected of says nothing. A direction over which no byte went has none."""
    summary = next(one.summary for one in view.stages if one.stage == "Network")
    limits = {one.name: one.limit for one in summary.measurements} if summary else {}
    told = {limits[name] for name in ("throughput_send", "throughput_receive") if name in limits}
    if told != {FLOOR_MBPS}:
        raise WrongTurn(f"the rates were held against nothing: {limits}")


@GROUP.row("none: a sound cable, with a floor for its rate", PASSES)
def network_sound_cable(scene: Scene) -> None:
    _over(scene, Faults())


@GROUP.row("the cable loses every twentieth frame", fails("Network", "net_throughput_low", PORT))
def network_loss(scene: Scene) -> None:
    view = _over(scene, Faults(loss=0.05))
    scene.finding(view, "Network", "net_retransmits")


@GROUP.row("the cable delays each frame by 0.3 s", fails("Network", "net_throughput_low", PORT))
def network_delay(scene: Scene) -> None:
    _over(scene, Faults(delay_s=0.3))


@GROUP.row("the cable damages every twentieth frame", fails("Network", "net_throughput_low", PORT))
def network_damage(scene: Scene) -> None:
    view = _over(scene, Faults(damage=0.05))
    scene.finding(view, "Network", "net_retransmits")


@GROUP.row("the cable carries 1 Mb/s", fails("Network", "net_throughput_low", PORT))
def network_rate_cap(scene: Scene) -> None:
    _over(scene, Faults(bits_per_s=1e6))


SLOW_DOWN = """
for one in $(seq 60); do grep -qs 1 /sys/class/net/enp*/carrier && break; sleep 1; done
cd /sys/class/net/enp* && ethtool -s ${PWD##*/} speed 100 duplex half autoneg off && sleep 3 && cat speed duplex
"""


@GROUP.row("the port is set to 100 Mb/s, half duplex", fails("Network", "net_link_degraded", PORT), ci=True)
def network_half_duplex(scene: Scene) -> None:
    scene.boot(replace(REAL, nics=("e1000e",)), "Network", parameters=RATES)
    if (told := scene.sh(SLOW_DOWN).split()) != ["100", "half"]:
        raise WrongTurn(f"the link is {told}")
    scene.walk()


TWO = Machine(nics=("virtio-net-pci", "virtio-net-pci"))


@GROUP.row(
    "an expected port has no link (set_link before the run)", fails("Network", "net_link_down", f"nic:{TWO.mac(1)}")
)
def network_link_down(scene: Scene) -> None:
    scene.boot(TWO, "Network", parameters={"Network": {"expected_nics": [TWO.mac(1)]}})
    scene.monitor.qmp("set_link", name="nic1", up=False)
    scene.walk()


@GROUP.row(
    "none: a port that nobody expects has no link",
    warns("Network", "net_link_down", f"nic:{TWO.mac(1)}", severity="info"),
)
def network_dark_port(scene: Scene) -> None:
    scene.boot(TWO, "Network")
    scene.monitor.qmp("set_link", name="nic1", up=False)
    scene.walk()


@GROUP.row("a link goes and comes back while the stage runs", warns("Network", "net_errors", f"nic:{TWO.mac(1)}"))
def network_link_flaps(scene: Scene) -> None:
    scene.boot(TWO, "Network", parameters={"Network": {"duration_s": 5.0}})
    scene.until_running("Network")
    for up in (False, True):
        scene.sh("sleep 3")
        scene.monitor.qmp("set_link", name="nic1", up=up)
    scene.walk()


@GROUP.row("two ports have the same MAC address", warns("Network", "net_address_duplicate", PORT))
def network_duplicate_mac(scene: Scene) -> None:
    twin = f"e1000,id=twin,netdev=twin,mac={REAL.mac(0)},romfile="
    more = ("-netdev", "user,id=twin,net=10.0.7.0/24,restrict=on", "-device", twin)
    scene.boot(replace(REAL, qemu=more), "Network", parameters=RATES)
    scene.walk()


@GROUP.row(
    "a port is pulled out of the machine while the stage runs", fails("Network", "net_link_down", f"nic:{LEAVER}")
)
def network_port_leaves(scene: Scene) -> None:
    slot = "pcie-root-port,id=slot9,chassis=99,slot=99"
    leaver = f"virtio-net-pci,id=leaver,netdev=leaver,mac={LEAVER},bus=slot9,romfile="
    more = ("-device", slot, "-netdev", "user,id=leaver,net=10.0.9.0/24,restrict=on", "-device", leaver)
    scene.boot(Machine(qemu=more), "Network", parameters={"Network": {"duration_s": 15.0}})
    scene.until_running("Network")
    scene.sh("until pgrep -f '[i]perf_child'; do sleep 0.2; done")  # the stage has seen its ports by then
    scene.monitor.qmp("device_del", id="leaver")
    scene.walk()


# --- the orchestrator cannot be reached ----------------------------------------------------------------------------

STRESS = {"CPUStress": {"duration_s": 60.0}}


@GROUP.row("the cable is dead for 60 s while a stage runs; nothing is lost", PASSES)
def network_dead_wire(scene: Scene) -> None:
    cable = scene.enter(wire(scene.folder))
    scene.boot(Machine(wire=cable.guest), "CPUStress", parameters=STRESS, intervals={"heartbeat_s": 5.0})
    scene.until_running("CPUStress")
    cable.faults = Faults(dead=True)
    time.sleep(BROKEN_S)
    if not scene.view().stalled:
        raise WrongTurn("the orchestrator did not notice that the host is silent")
    cable.faults = Faults()
    _must_have_lost_nothing(scene, scene.walk())


def _must_have_lost_nothing(scene: Scene, view: RunView) -> None:
    """One agent, one execution of each stage, and every line of its log."""
    attempts = {one.stage: one.attempts for one in view.stages}
    if set(attempts.values()) != {1}:
        raise WrongTurn(f"a stage was executed again: {attempts}")
    lines = scene.logs()
    if len({one.instance_id for one in lines}) != 1:
        raise WrongTurn("the agent was started again")
    told = sorted(one.seq or 0 for one in lines)
    if told != list(range(1, len(told) + 1)):
        raise WrongTurn(f"lines of the log are missing: {told}")


@GROUP.row("the orchestrator is killed while a stage runs, and comes back after 30 s", PASSES)
def orchestrator_killed(scene: Scene) -> None:
    with scene.orchestrator() as first:
        scene.serve(first)
        scene.boot(Machine(), "CPUStress", parameters=STRESS)
        scene.until_running("CPUStress")
        first.process.kill()
        time.sleep(BROKEN_S / 2)
    scene.serve(scene.enter(scene.orchestrator(port=first.port)))
    _must_have_lost_nothing(scene, scene.walk())


@GROUP.row(
    "another server with another certificate takes the orchestrator's place for 60 s while a stage runs",
    Expect("Completed"),
)
def orchestrator_replaced(scene: Scene) -> None:
    with scene.orchestrator() as first:
        scene.serve(first)
        scene.boot(Machine(), "CPUStress", parameters=STRESS)
        scene.until_running("CPUStress")
    with contextlib.ExitStack() as stack:
        stranger = stack.enter_context(scene.orchestrator("stranger", first.port))
        if stranger.fingerprint == first.fingerprint:
            raise WrongTurn("the other server has the same certificate")
        stranger.ask("run", "create", "--host", "vetting-lab", "--mac", Machine().mac(0))
        time.sleep(BROKEN_S)
        if stranger.ask("run", "show", "1")["agent"]["last_seen_at"] is not None:
            raise WrongTurn("the agent spoke to a server with another certificate")
        _must_tell_of_fingerprint(scene)
    scene.serve(scene.enter(scene.orchestrator(port=first.port)))
    _must_have_lost_nothing(scene, scene.walk())


def _must_tell_of_fingerprint(scene: Scene) -> None:
    scene.sh("journalctl -u vetting-agent | grep -i fingerprint")


ROWS = (
    network_sound_cable,
    network_loss,
    network_delay,
    network_damage,
    network_rate_cap,
    network_half_duplex,
    network_link_down,
    network_dark_port,
    network_link_flaps,
    network_duplicate_mac,
    network_port_leaves,
    network_dead_wire,
    orchestrator_killed,
    orchestrator_replaced,
)

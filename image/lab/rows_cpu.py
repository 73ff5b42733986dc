"""CPU, memory, PCIe and heat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from image.lab import inject
from image.lab.inject import MCE_CPU, PCIE_CARD, SENSOR, stressed
from image.lab.row import Expect, Group, fails, held, warns
from image.lab.scene import Scene, WrongTurn
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("CPU, memory, PCIe and heat")
MIB = 2**20
CARD_ADDRESS = "pci:0000:01:00.0"
REBOOT_LIMIT_S = 600.0
LONG: Mapping[str, Mapping[str, Any]] = {"CPUStress": {"duration_s": 90.0}}
"""So that the stage is not over before its fault is told of."""


@GROUP.row("one corrected machine check under load", warns("CPUStress", "mce_corrected", "cpu:0"))
def mce_corrected(scene: Scene) -> None:
    scene.boot(Machine(cpu_model=MCE_CPU), "CPUStress")
    stressed(scene)
    inject.corrected_mce(scene)
    scene.walk()


@GROUP.row("60 corrected machine checks under load", fails("CPUStress", "mce_corrected", "cpu:1"))
def mce_corrected_often(scene: Scene) -> None:
    scene.boot(Machine(cpu_model=MCE_CPU), "CPUStress")
    stressed(scene)
    inject.corrected_mces(scene, 60)
    scene.walk()


@GROUP.row(
    "an uncorrected machine check in a page under load, which the kernel survives",
    fails("CPUStress", "ecc_uncorrected", "memory", also=("mce_uncorrected",)),
)
def mce_recoverable(scene: Scene) -> None:
    scene.boot(Machine(cpu_model=MCE_CPU), "CPUStress")
    stressed(scene)
    inject.recoverable_mce(scene)
    scene.walk()


@GROUP.row(
    "a fatal machine check under load: panic, and a reboot after 30 s",
    Expect("FailedHolding", "CPUStress", "host_rebooted", "CPUStress"),
    limit_s=1200.0,
)
def mce_fatal(scene: Scene) -> None:
    scene.boot(Machine(cpu_model=MCE_CPU), "CPUStress", parameters=LONG)
    stressed(scene)
    inject.fatal_mce(scene)
    scene.until_ended(REBOOT_LIMIT_S)
    if "Kernel panic - not syncing: Fatal" not in (scene.folder / "serial.log").read_text(errors="replace"):
        raise WrongTurn("the kernel did not stop for a machine check")


@GROUP.row("a page of memory is broken under load", fails("CPUStress", "ecc_uncorrected", "memory"))
def page_poisoned(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress")
    stressed(scene)
    inject.poisoned_page(scene)
    scene.walk()


@GROUP.row("1 GiB of memory where the spec says 2", held("spec_mismatch"))
def less_memory_than_specified(scene: Scene) -> None:
    scene.boot(Machine(memory=1024), "Inventory", spec={"memory_gib": 2.0})
    scene.walk()


@GROUP.row("a module of 4 GiB of which only one is usable", fails("Inventory", "memory_missing", "memory"))
def memory_module_half_used(scene: Scene) -> None:
    scene.boot(Machine(memory=1024, qemu=inject.memory_module(scene.folder, 4096)), "Inventory")
    if "LABDIMM1" not in scene.sh("dmidecode -t 17"):
        raise WrongTurn("the firmware does not show the module")
    scene.walk()


@GROUP.row("two CPUs where the spec says four", held("spec_mismatch"))
def fewer_cpus_than_specified(scene: Scene) -> None:
    scene.boot(Machine(cpus=2), "Inventory", spec={"cpu": {"logical_cores": 4}})
    scene.walk()


@GROUP.row("a CPU is offline before the run", fails("Inventory", "cpu_offline", "cpu:1"))
def cpu_offline(scene: Scene) -> None:
    scene.boot(Machine(), "Inventory", before="echo 0 >/sys/devices/system/cpu/cpu1/online\n")
    scene.walk()


@GROUP.row("a corrected PCIe error under load", warns("CPUStress", "pcie_aer_errors", CARD_ADDRESS))
def pcie_corrected(scene: Scene) -> None:
    scene.boot(Machine(qemu=PCIE_CARD), "CPUStress")
    stressed(scene)
    inject.pcie_error(scene, corrected=inject.BAD_TLP)
    scene.walk()


@GROUP.row("an uncorrected PCIe error under load, not fatal", warns("CPUStress", "pcie_aer_errors", CARD_ADDRESS))
def pcie_not_fatal(scene: Scene) -> None:
    scene.boot(Machine(qemu=PCIE_CARD), "CPUStress")
    stressed(scene)
    inject.pcie_error(scene, uncorrected=inject.COMPLETION_TIMEOUT)
    scene.walk()


@GROUP.row("a fatal PCIe error under load", fails("CPUStress", "pcie_aer_fatal", CARD_ADDRESS))
def pcie_fatal(scene: Scene) -> None:
    scene.boot(Machine(qemu=PCIE_CARD), "CPUStress")
    stressed(scene)
    inject.pcie_error(scene, uncorrected=inject.MALFORMED_TLP)
    scene.walk()


def _names_the_sensor(scene: Scene) -> None:
    """The bus has the number that was free: which one, is not known before."""
    component = scene.finding(scene.walk(), "CPUStress", "thermal_critical")["component"]
    if not re.fullmatch(r"sensor:jc42@\d+-0018/temp1", component):
        raise WrongTurn(f"the alarm names {component}")


@GROUP.row("a memory module over its critical temperature since before the run", fails("CPUStress", "thermal_critical"))
def too_hot_before(scene: Scene) -> None:
    # The third sample, which gives the alarm, comes when Inventory is over.
    before = f"{SENSOR}\npython3 /run/lab-sensor 90 new\n"
    scene.boot(Machine(), "CPUStress", before=before, parameters=LONG, intervals={"sensor_s": 20.0})
    _names_the_sensor(scene)


@GROUP.row("a memory module gets over its critical temperature under load", fails("CPUStress", "thermal_critical"))
def too_hot_under_load(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress", before=f"{SENSOR}\npython3 /run/lab-sensor 40 new\n", parameters=LONG)
    stressed(scene)
    scene.sh("grep -hx 40000 /sys/class/hwmon/*/temp1_input; python3 /run/lab-sensor 90")
    _names_the_sensor(scene)


@GROUP.row(
    "one of three CPUs of one kind has other microcode than the rest", warns("CPUStress", "microcode_mismatch", "cpu:2")
)
def microcode_differs(scene: Scene) -> None:
    other = f"{MCE_CPU}-x86_64-cpu,socket-id=0,core-id=2,thread-id=0,ucode-rev=0x200000000"
    machine = Machine(cpu_model=MCE_CPU, qemu=("-smp", "cpus=2,maxcpus=3,sockets=1,cores=3", "-device", other))
    scene.boot(machine, "CPUStress", parameters=LONG)
    scene.walk()


@GROUP.row("a driver keeps a CPU to itself under load (soft lockup)", fails("Storage", "kernel_fault", "cpu:1"))
def soft_lockup(scene: Scene) -> None:
    scene.boot(
        Machine(disks=(Disk("nvme", "VETNVME1", 65536 * MIB),)),
        "Storage",
        parameters={"Storage": {"duration_s": 15.0, "coverage_floor": 0.0}},
    )
    scene.until_running("Storage")
    scene.sh(
        "sysctl -w kernel.watchdog_thresh=1; "
        "setsid taskset -c 1 modprobe tcrypt mode=304 sec=4 </dev/null >/dev/null 2>&1 &"
    )
    inject.logged(scene, "BUG: soft lockup - CPU#1 stuck")
    scene.walk()


SLOW_DISK: Mapping[str, Any] = {
    "driver": "throttle",
    "throttle-group": "lab-slow",
    "file": {"driver": "null-co", "size": 64 * MIB, "read-zeroes": True},
}


@GROUP.row("a process hangs in the kernel under load", fails("CPUStress", "kernel_fault", "kernel"))
def hung_task(scene: Scene) -> None:
    slow = ("-object", "throttle-group,id=lab-slow")
    scene.boot(Machine(disks=(Disk("virtio", "SLOW1", block=SLOW_DISK),), qemu=slow), "CPUStress")
    stressed(scene)
    scene.monitor.qmp("qom-set", path="/objects/lab-slow", property="limits", value={"bps-total": 4096})
    # The first request goes through at once; those behind it wait for minutes. A direct read sleeps for half of the
    # kernel's patience at a time, so as not to be called hung: it must be asleep before that is made short.
    scene.sh("setsid dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct </dev/null >/dev/null 2>&1 &")
    scene.sh("sleep 3; sysctl -w kernel.hung_task_timeout_secs=4")
    inject.logged(scene, "INFO: task dd:[0-9]+ blocked for more than")
    scene.walk()


@GROUP.row(
    "memory runs out under load: a process that is no load is killed", fails("CPUStress", "kernel_fault", "kernel")
)
def out_of_memory(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress")
    stressed(scene)
    eats = "import itertools; kept = [bytearray(b'x' * (8 << 20)) for _ in itertools.count()]"
    scene.sh(f'echo 1000 >/proc/self/oom_score_adj; exec -a hungry python3 -c "{eats}"', check=False, limit_s=300)
    inject.logged(scene, "Out of memory: Killed process [0-9]+")
    scene.walk()


ROWS = (
    mce_corrected,
    mce_corrected_often,
    mce_recoverable,
    mce_fatal,
    page_poisoned,
    less_memory_than_specified,
    memory_module_half_used,
    fewer_cpus_than_specified,
    cpu_offline,
    pcie_corrected,
    pcie_not_fatal,
    pcie_fatal,
    too_hot_before,
    too_hot_under_load,
    microcode_differs,
    soft_lockup,
    hung_task,
    out_of_memory,
)

"""Sound machines: each must pass, with the image as it is, and with nothing but the time of its stages relaxed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from image.lab.row import PASSES, Group
from image.lab.scene import Scene, WrongTurn
from image.lab.tpm import tpm
from image.vm.disks import Disk
from image.vm.machine import Machine
from vetting_agent.run_view import RunView

GROUP = Group("Sound machines")
MIB = 2**20
NVME = Disk("nvme", "VETNVME1", 256 * MIB)
SATA = Disk("sata", "VETSATA1", 256 * MIB)
SCSI = Disk("scsi", "VETSCSI1", 256 * MIB)
VIRTIO = Disk("virtio", "VETVIRTIO1", 256 * MIB)


TIMES: Mapping[str, Mapping[str, Any]] = {"SMART": {"self_test": "short"}, "CPUStress": {"duration_s": 30.0}}
"""Self-tests included. A stage's time limit grows with its time: these machines share their CPUs with others."""


def _walks(scene: Scene, machine: Machine, stages: str | None = None, *, over_network: bool = False) -> RunView:
    """These stages, or all, with the image as it is, to the power-off."""
    scene.boot(machine, stages, parameters=TIMES, over_network=over_network, bare=True)
    return scene.walk()


def _must_be_covered(view: RunView, stage: str, component: str) -> None:
    """A pass says something only of what it has tested."""
    covered = next((one.summary.coverage for one in view.stages if one.stage == stage and one.summary), {})
    if not covered.get(component):
        raise WrongTurn(f"{stage} did not test {component}: {covered}")


@GROUP.row("none: BIOS, one NVMe disk, all stages, booted over the network", PASSES, ci=True)
def sound_bios(scene: Scene) -> None:
    view = _walks(scene, Machine(disks=(NVME,)), over_network=True)
    _must_be_covered(view, "Storage", "disk:VETNVME1")


@GROUP.row("none: UEFI, one NVMe disk, all stages, booted over the network", PASSES)
def sound_uefi(scene: Scene) -> None:
    view = _walks(scene, Machine(firmware="uefi", disks=(NVME,)), over_network=True)
    _must_be_covered(view, "Storage", "disk:VETNVME1")


@GROUP.row("none: one SATA disk, with its self-test", PASSES)
def sound_sata(scene: Scene) -> None:
    view = _walks(scene, Machine(disks=(SATA,)), "SMART,Storage")
    _must_be_covered(view, "Storage", "disk:VETSATA1")


@GROUP.row("none: one SCSI disk", PASSES)
def sound_scsi(scene: Scene) -> None:
    view = _walks(scene, Machine(disks=(SCSI,)), "SMART,Storage")
    _must_be_covered(view, "Storage", "disk:VETSCSI1")


@GROUP.row("none: one virtio disk", PASSES)
def sound_virtio(scene: Scene) -> None:
    view = _walks(scene, Machine(disks=(VIRTIO,)), "SMART,Storage")
    _must_be_covered(view, "Storage", "disk:VETVIRTIO1")


@GROUP.row("none: two NVMe, one SATA, one SCSI and one virtio disk", PASSES)
def sound_five_disks(scene: Scene) -> None:
    disks = (NVME, Disk("nvme", "VETNVME2", 128 * MIB), SATA, SCSI, VIRTIO)
    view = _walks(scene, Machine(disks=disks), "SMART,Storage")
    for one in disks:
        _must_be_covered(view, "Storage", f"disk:{one.serial}")


@GROUP.row("none: two network ports, booted over the network from the second", PASSES)
def sound_second_nic(scene: Scene) -> None:
    machine = Machine(nics=("virtio-net-pci", "e1000"), boot_nic=1, disks=(NVME,))
    view = _walks(scene, machine, "Network", over_network=True)
    _must_be_covered(view, "Network", f"nic:{machine.mac(1)}")


@GROUP.row("none: a TPM 2.0", PASSES)
def sound_tpm(scene: Scene) -> None:
    view = _walks(scene, Machine(disks=(NVME,), qemu=scene.enter(tpm(scene.folder))), "PSU")
    inventory = view.inventory or {}
    if not inventory.get("tpm"):
        raise WrongTurn(f"the inventory has no TPM: {inventory.get('tpm')}")


@GROUP.row("none: 768 MiB of memory", PASSES)
def sound_small_memory(scene: Scene) -> None:
    _walks(scene, Machine(memory=768, disks=(NVME,)))


@GROUP.row("none: four CPUs, 2 GiB of memory", PASSES)
def sound_four_cpus(scene: Scene) -> None:
    _walks(scene, Machine(cpus=4, memory=2048, disks=(NVME,)))


@GROUP.row("none: no disk", PASSES)
def sound_no_disk(scene: Scene) -> None:
    _walks(scene, Machine(), "SMART,Storage,Network,GPU,PSU")


READ_WHOLE: Mapping[str, Mapping[str, Any]] = {
    "Storage": {"duration_s": 20.0, "until_covered": True, "coverage_floor": 0.95}
}
THROTTLED = [Disk("virtio", f"THROTTLED{number}", 64 * MIB, bytes_per_s=2 * MIB) for number in range(8)]
"""32 s each, read from end to end; 256 s one after another."""
TOGETHER_S = 90.0
"""What one of them, or all at once, may take with the starting of the tools on an emulated CPU."""


def _are_read_within(scene: Scene, disks: tuple[Disk, ...], limit_s: float) -> None:
    scene.boot(Machine(disks=disks), "Storage", parameters=READ_WHOLE)
    view = scene.walk()
    for disk in disks:
        _must_be_covered(view, "Storage", f"disk:{disk.serial}")
    took_s = next(one.summary.duration_s for one in view.stages if one.stage == "Storage" and one.summary)
    scene.marks["Storage took"] = took_s
    if took_s > limit_s:
        raise WrongTurn(f"Storage took {took_s:.0f} s, and must not take over {limit_s:.0f} s")


@GROUP.row("none: a disk that gives 2 MiB/s, all of its 64 MiB read within 90 s", PASSES)
def sound_throttled_disk(scene: Scene) -> None:
    _are_read_within(scene, (THROTTLED[0],), TOGETHER_S)


@GROUP.row("none: eight such disks, all read within the same 90 s (256 s one after another)", PASSES)
def sound_eight_throttled_disks(scene: Scene) -> None:
    _are_read_within(scene, tuple(THROTTLED), TOGETHER_S)


ROWS = (
    sound_bios,
    sound_uefi,
    sound_sata,
    sound_scsi,
    sound_virtio,
    sound_five_disks,
    sound_throttled_disk,
    sound_eight_throttled_disks,
    sound_second_nic,
    sound_tpm,
    sound_small_memory,
    sound_four_cpus,
    sound_no_disk,
)

"""Sound machines: each must pass."""

from __future__ import annotations

from image.lab.row import PASSES, Group
from image.lab.scene import Scene
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("Sound machines")
MIB = 2**20
NVME = Disk("nvme", "VETNVME1", 256 * MIB)


@GROUP.row("none: BIOS, one NVMe disk, all stages, booted over the network", PASSES, ci=True)
def sound_bios(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), over_network=True)
    scene.walk()


ROWS = (sound_bios,)

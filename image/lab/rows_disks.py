"""SMART and disks."""

from __future__ import annotations

from image.lab.row import Group, fails
from image.lab.scene import Scene
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("SMART and disks")
MIB = 2**20
NVME = Disk("nvme", "VETNVME1", 256 * MIB)


@GROUP.row(
    "NVMe: critical_warning 4 (reliability) before the run",
    fails("SMART", "nvme_critical_warning", "disk:VETNVME1", also=("smart_health_failed",)),
    ci=True,
)
def nvme_critical_warning_before(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART")
    scene.monitor.set("disk0", "smart_critical_warning", 4)
    scene.walk()


@GROUP.row(
    "a disk is pulled out while Storage reads it", fails("Storage", "disk_lost", "disk:GONE1", also=("coverage_low",))
)
def disk_leaves_in_storage(scene: Scene) -> None:
    leaving = Disk("nvme", "GONE1", 256 * MIB, can_leave=True)
    scene.boot(Machine(disks=(leaving,)), "Storage", parameters={"Storage": {"duration_s": 20.0}})
    scene.until_running("Storage")
    scene.sh("sleep 3")
    scene.monitor.qmp("device_del", id="disk0")
    scene.walk()


ROWS = (nvme_critical_warning_before, disk_leaves_in_storage)

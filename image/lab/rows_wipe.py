"""Wipe safety: no disk is ever written that was not meant, and the one that was meant is proven to have been."""

from __future__ import annotations

import json
import os

from image.lab.contents import KINDS, full
from image.lab.gates import gate, let_through, until_waiting
from image.lab.row import PASSES, Group, fails
from image.lab.scene import Scene, WrongTurn
from image.lab.wiping import (
    boot_to_write,
    expected,
    must_be_all,
    must_be_refused,
    must_be_untouched,
    must_be_written,
    must_bear_stamps,
    retried,
    sum_of,
    sums_of,
)
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("Wipe safety")
MIB = 2**20
SIZE = 64 * MIB
NVME = Disk("nvme", "VETNVME1", SIZE)
DATA, NOT_EXPECTED, IN_USE = "wipe_refused_data_present", "wipe_refused_not_expected", "wipe_refused_in_use"


@GROUP.row("none: an expected, blank disk is written, verified and left blank", PASSES)
def blank_disk_is_written(scene: Scene) -> None:
    boot_to_write(scene, Machine(disks=(NVME,)), [expected("VETNVME1", SIZE)])
    scene.until_ended()
    must_be_written(scene, 0, 2 * SIZE)  # the stamps, and zeros over them
    must_be_all(scene.folder / "disk0.img")


@GROUP.row("none: an expected, blank disk is to keep what was written: each block bears its own stamp", PASSES)
def blank_disk_keeps_stamps(scene: Scene) -> None:
    boot_to_write(
        scene,
        Machine(disks=(Disk("sata", "VETSATA1", SIZE),)),
        [expected("VETSATA1", SIZE)],
        storage={"leave_blank": False},
    )
    scene.until_ended()
    must_bear_stamps(scene.folder / "disk0.img")


@GROUP.row("none: a disk with a file system is refused, then wiped at the operator's word", PASSES, ci=True)
def data_wiped_by_override(scene: Scene) -> None:
    disk = full(scene, "EXT4", "nvme")
    assert disk.file is not None
    before = sums_of([disk.file])
    boot_to_write(scene, Machine(disks=(disk,)), [expected("EXT4", SIZE)], storage={"write_fraction": 1.0})
    must_be_refused(scene.until_ended(), DATA, ["EXT4"])
    must_be_untouched(scene, before, 0)
    retried(scene, wipe=True)
    must_be_written(scene, 0, 2 * SIZE)
    must_be_all(disk.file)


@GROUP.row("the operator's word is for another disk", fails("Storage", DATA, "disk:LUKS"))
def override_for_another(scene: Scene) -> None:
    disk = full(scene, "LUKS", "nvme")
    assert disk.file is not None
    before = sums_of([disk.file])
    boot_to_write(scene, Machine(disks=(disk,)), [expected("LUKS", SIZE)])
    must_be_refused(scene.until_ended(), DATA, ["LUKS"])
    retried(scene, wipe=True, serials=["LUKS2"])
    must_be_untouched(scene, before, 0)


@GROUP.row(
    "disks that bear ext4, swap, FAT, LUKS, LVM, md and ZFS: each is refused",
    fails("Storage", DATA, "disk:ZFS"),
)
def members_refused(scene: Scene) -> None:
    disks = tuple(full(scene, kind) for kind in KINDS)
    before = sums_of(disk.file for disk in disks if disk.file)
    # Seven fio at once take an emulated machine long to start.
    boot_to_write(scene, Machine(disks=disks), [expected(kind, SIZE) for kind in KINDS], storage={"duration_s": 80.0})
    must_be_refused(scene.until_ended(), DATA, KINDS)
    must_be_untouched(scene, before)


@GROUP.row("a disk holds 4 KiB of data that no tool knows", fails("Storage", DATA, "disk:RAW1"))
def raw_data_refused(scene: Scene) -> None:
    file = scene.folder / "raw.img"
    with file.open("wb") as raw:
        raw.truncate(SIZE)
        raw.seek(SIZE - MIB)
        raw.write(os.urandom(4096))
    before = sums_of([file])
    boot_to_write(scene, Machine(disks=(Disk("virtio", "RAW1", file=file),)), [expected("RAW1", SIZE)])
    scene.until_ended()
    must_be_untouched(scene, before, 0)


@GROUP.row(
    "a blank disk that the claim does not name, beside one that it names", fails("Storage", NOT_EXPECTED, "disk:STRAY1")
)
def disk_not_expected(scene: Scene) -> None:
    disks = (NVME, Disk("nvme", "STRAY1", SIZE))
    boot_to_write(scene, Machine(disks=disks), [expected("VETNVME1", SIZE)])
    scene.until_ended()
    must_be_written(scene, 0, 2 * SIZE)
    must_be_untouched(scene, {}, 1)


@GROUP.row("the claim allows writing and names no disks", fails("Storage", NOT_EXPECTED, "disk:VETNVME1"))
def no_disk_expected(scene: Scene) -> None:
    boot_to_write(scene, Machine(disks=(NVME,)), None)
    scene.until_ended()
    must_be_untouched(scene, {}, 0)


@GROUP.row(
    "an expected disk has another size than the claim says, and the run goes on after a failure",
    fails("Storage", NOT_EXPECTED, "disk:VETNVME1", also=("disk_size_mismatch",)),
)
def wrong_size_not_written(scene: Scene) -> None:
    claim = [expected("VETNVME1", SIZE * 103 // 100)]
    boot_to_write(scene, Machine(disks=(NVME,)), claim, on_failure="continue")
    scene.until_ended()
    must_be_untouched(scene, {}, 0)


@GROUP.row("two disks tell the serial number that the claim names", fails("Storage", NOT_EXPECTED))
def twins_not_written(scene: Scene) -> None:
    twins = (Disk("scsi", "TWIN1", SIZE), Disk("scsi", "TWIN1", SIZE))
    boot_to_write(scene, Machine(disks=twins), [expected("TWIN1", SIZE)])
    scene.until_ended()
    must_be_untouched(scene, {}, 0, 1)


@GROUP.row(
    "the machine was booted from the disk, by the kernel's command line", fails("Storage", IN_USE, "disk:VETNVME1")
)
def boot_medium_not_written(scene: Scene) -> None:
    boot_to_write(scene, Machine(disks=(NVME,)), [expected("VETNVME1", SIZE)], extra="bootfrom=/dev/nvme0n1")
    scene.until_ended()
    retried(scene, wipe=True, serials=["VETNVME1"])
    must_be_untouched(scene, {}, 0)


@GROUP.row("the disk is mounted, and the operator orders to wipe it", fails("Storage", IN_USE, "disk:VFAT"))
def mounted_not_written(scene: Scene) -> None:
    disk = full(scene, "VFAT", "nvme")
    assert disk.file is not None
    before = sums_of([disk.file])
    mount = "until [ -e /dev/nvme0n1 ]; do sleep 0.2; done\nmount -o ro /dev/nvme0n1 /mnt\n"
    boot_to_write(scene, Machine(disks=(disk,)), [expected("VFAT", SIZE)], before=mount)
    scene.until_ended()
    scene.sh("grep -q ' /mnt vfat ' /proc/mounts")
    retried(scene, wipe=True, serials=["VFAT"])
    must_be_untouched(scene, before, 0)


@GROUP.row("the disk is used as swap", fails("Storage", IN_USE, "disk:SWAP"))
def swap_not_written(scene: Scene) -> None:
    disk = full(scene, "SWAP", "nvme")
    before = "until [ -e /dev/nvme0n1 ]; do sleep 0.2; done\nswapon /dev/nvme0n1\n"
    boot_to_write(scene, Machine(disks=(disk,)), [expected("SWAP", SIZE)], before=before)
    scene.until_ended()
    scene.sh("grep -q nvme0n1 /proc/swaps")
    must_be_untouched(scene, {}, 0)


@GROUP.row("a USB disk, expected by serial number and size", fails("Storage", NOT_EXPECTED, "disk:USB1"))
def usb_disk_not_written(scene: Scene) -> None:
    file = scene.folder / "usb.img"
    with file.open("wb") as made:
        made.truncate(SIZE)
    block = {"driver": "raw", "node-name": "block9", "file": {"driver": "file", "filename": str(file)}}
    stick = "usb-storage,id=disk9,drive=block9,serial=USB1,removable=on"
    usb = ("-device", "qemu-xhci", "-blockdev", json.dumps(block), "-device", stick)
    boot_to_write(scene, Machine(qemu=usb), [expected("USB1", SIZE)])
    scene.until_ended()
    must_be_untouched(scene, sums_of([file]), 9)
    must_be_all(file)


@GROUP.row("the disk is write-protected", fails("Storage", IN_USE, "disk:RO1"))
def write_protected(scene: Scene) -> None:
    file = scene.folder / "protected.img"
    with file.open("wb") as made:
        made.truncate(SIZE)
    block = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(file)}}
    boot_to_write(scene, Machine(disks=(Disk("scsi", "RO1", block=block),)), [expected("RO1", SIZE)])
    scene.until_ended()
    scene.sh("grep -q 1 /sys/block/sda/ro")


@GROUP.row(
    "while the run is held for data on its disk, another one comes into its place, and the operator orders to wipe",
    fails("Storage", NOT_EXPECTED, "disk:SWAP", also=("disk_missing", "disk_not_tested", "components_changed")),
)
def swapped_in_a_hold(scene: Scene) -> None:
    old, new = full(scene, "EXT4", "nvme"), full(scene, "SWAP", "nvme")
    assert old.file is not None
    assert new.file is not None
    before = sums_of([old.file, new.file])
    leaving = Disk("nvme", "EXT4", file=old.file, can_leave=True)
    boot_to_write(scene, Machine(disks=(leaving,)), [expected("EXT4", SIZE)], on_failure="continue")
    must_be_refused(scene.until_ended(), DATA, ["EXT4"])
    _exchange(scene, str(new.file), "SWAP")
    retried(scene, wipe=True, serials=["EXT4", "SWAP"])
    must_be_untouched(scene, before)


@GROUP.row(
    "while Storage begins to read, the disk is exchanged for another one of its serial number and size, with data",
    fails("Storage", "disk_lost", "disk:VETNVME1", also=("coverage_low", DATA, NOT_EXPECTED, IN_USE)),
)
def exchanged_in_storage(scene: Scene) -> None:
    new = full(scene, "LVM", "nvme")
    assert new.file is not None
    before = sum_of(new.file)
    leaving = Disk("nvme", "VETNVME1", SIZE, can_leave=True)
    claim, patient = [expected("VETNVME1", SIZE)], {"duration_s": 300.0}  # fio is not given up while it waits
    boot_to_write(scene, Machine(disks=(leaving,)), claim, storage=patient, tools=gate("fio", call=2))
    until_waiting(scene)
    _exchange(scene, str(new.file), "VETNVME1")
    let_through(scene)
    scene.until_ended()
    must_be_untouched(scene, {new.file: before})


def _exchange(scene: Scene, file: str, serial: str) -> None:
    """Another disk in the place of the machine's first one.

    While a program has the old one open, the kernel keeps its number: a new one of its serial number is nvme0n2.
    """
    scene.monitor.qmp("device_del", id="disk0")
    scene.sh("until ! ls /dev/nvme?n? 2>/dev/null; do sleep 0.2; done", limit_s=150)
    scene.until("the slot is empty", lambda _view: "disk0" not in _devices(scene))
    block = {"driver": "raw", "node-name": "block9", "file": {"driver": "file", "filename": file}}
    scene.monitor.qmp("blockdev-add", **block)
    scene.monitor.qmp("device_add", driver="nvme", id="disk9", drive="block9", serial=serial, bus="slot0")
    seen = "for one in $(seq 300); do ls /dev/nvme?n? 2>/dev/null && exit; sleep 0.2; done"
    scene.sh(f"{seen}; dmesg | grep -i nvme; ls /dev/nvme*; exit 1", limit_s=150)
    told = scene.sh("cat /sys/class/nvme/nvme*/serial").split()
    if told != [serial]:
        raise WrongTurn(f"the guest sees {told}, not {serial}")


def _devices(scene: Scene) -> set[str]:
    return {one["name"] for one in scene.monitor.qmp("qom-list", path="/machine/peripheral")}


@GROUP.row(
    "none: a whole run on disks that bear ext4, swap, FAT, LUKS, LVM, md and ZFS leaves them as they are", PASSES
)
def whole_run_leaves_disks_alone(scene: Scene) -> None:
    disks = tuple(
        full(scene, kind, how) for kind, how in zip(KINDS, ("nvme", "sata", "scsi", "virtio") * 2, strict=False)
    )
    before = sums_of(disk.file for disk in disks if disk.file)
    scene.boot(Machine(disks=disks), shutdown_when_completed=False)
    scene.until_ended()
    scene.sh("! grep -v '^Filename' /proc/swaps")
    scene.sh("! grep -E ' /dev/(sd|vd|nvme)' /proc/self/mountinfo")
    scene.sh("! ls /sys/block | grep -E '^(dm-|md)'")
    must_be_untouched(scene, before)


ROWS = (
    blank_disk_is_written,
    blank_disk_keeps_stamps,
    data_wiped_by_override,
    override_for_another,
    members_refused,
    raw_data_refused,
    disk_not_expected,
    no_disk_expected,
    wrong_size_not_written,
    twins_not_written,
    boot_medium_not_written,
    mounted_not_written,
    swap_not_written,
    usb_disk_not_written,
    write_protected,
    swapped_in_a_hold,
    exchanged_in_storage,
    whole_run_leaves_disks_alone,
)

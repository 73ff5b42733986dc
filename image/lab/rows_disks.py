"""Disks that are not those of the claim, and disks that fail, dawdle or leave while they are read."""

from __future__ import annotations

from image.lab.bad_disk import bad_disk
from image.lab.row import PASSES, Group, fails, warns
from image.lab.scene import Scene, WrongTurn, findings
from image.lab.wiping import boot_to_write, expected, must_be_all, must_be_written
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("SMART and disks")
MIB = 2**20
SIZE = 64 * MIB
NVME = Disk("nvme", "VETNVME1", SIZE)


@GROUP.row("a disk of the claim is not in the machine", fails("Inventory", "disk_missing", "disk:ABSENT1"))
def disk_missing(scene: Scene) -> None:
    claim = [expected("VETNVME1", SIZE), expected("ABSENT1", SIZE)]
    scene.boot(Machine(disks=(NVME,)), "Inventory", expected_disks=claim)
    scene.walk()


@GROUP.row("a disk is 3 % smaller than the claim says", fails("Inventory", "disk_size_mismatch", "disk:VETNVME1"))
def disk_of_wrong_size(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "Inventory", expected_disks=[expected("VETNVME1", SIZE * 103 // 100)])
    scene.walk()


@GROUP.row("two disks tell the same serial number", warns("Inventory", "disk_serial_ambiguous", "disk:TWIN1"))
def disks_with_one_serial(scene: Scene) -> None:
    twins = (Disk("scsi", "TWIN1", SIZE), Disk("scsi", "TWIN1", SIZE))
    scene.boot(Machine(disks=twins), "Inventory,Storage")
    scene.walk()


@GROUP.row("a disk tells no serial number", warns("Inventory", "disk_serial_ambiguous", "disk:sda"))
def disk_without_serial(scene: Scene) -> None:
    scene.boot(Machine(disks=(Disk("scsi", "", SIZE),)), "Inventory,Storage")
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


@GROUP.row(
    "NVMe: reads of one place fail (EIO)", fails("Storage", "disk_io_error", "disk:BAD1", also=("coverage_low",))
)
def read_error_nvme(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE, eio_read=[[40 * MIB, 4096]])
    scene.boot(Machine(disks=(NVME, bad.disk("nvme", "BAD1"))), "Storage")
    scene.walk()
    bad.must_have_hit("eio_read")


@GROUP.row(
    "SATA: reads of one place fail (EIO), and the kernel tries again",
    fails("Storage", "disk_io_error", "disk:BAD1", also=("coverage_low",)),
)
def read_error_sata(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE, eio_read=[[40 * MIB, 4096]])
    scene.boot(Machine(disks=(bad.disk("sata", "BAD1"),)), "Storage")
    scene.walk()
    bad.must_have_hit("eio_read")


@GROUP.row(
    "a disk gives 3 MB/s where 40 are the floor",
    fails("Storage", "disk_slow", "disk:SLOW1", also=("coverage_low",)),
)
def disk_slow(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE)
    slow = bad.disk("nvme", "SLOW1")
    scene.boot(Machine(disks=(slow,)), "Storage", parameters={"Storage": {"floor_virtual_mb_s": 40.0}})
    scene.until_claimed()
    bad.breaks(delay=[[0, SIZE, 20]])
    scene.walk()
    bad.must_have_hit("delay")


@GROUP.row("none: the same disk at its own speed, where 1 MB/s is the floor", PASSES)
def disk_not_slow(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE)
    scene.boot(
        Machine(disks=(bad.disk("nvme", "SOUND1"),)), "Storage", parameters={"Storage": {"floor_virtual_mb_s": 1.0}}
    )
    view = scene.walk()
    if any(one["reason_code"] == "disk_slow" for one in findings(view, "Storage")):
        raise WrongTurn("a sound disk was called slow")


@GROUP.row(
    "a tenth of a disk is ten times slower than the rest",
    fails("Storage", "disk_slow", "disk:WEAK1", also=("coverage_low",)),
)
def disk_slow_in_one_zone(scene: Scene) -> None:
    size = 128 * MIB
    bad = bad_disk(scene, size, delay=[[size * 3 // 10, size // 10, 80]])
    parameters = {"Storage": {"duration_s": 20.0, "floor_virtual_mb_s": 12.0}}
    scene.boot(Machine(disks=(bad.disk("nvme", "WEAK1"),)), "Storage", parameters=parameters)
    view = scene.walk()
    said = scene.finding(view, "Storage", "disk_slow")["message"]
    if "is weak in" not in said:
        raise WrongTurn(f"the zone is not named: {said}")


@GROUP.row("one request takes seven seconds, all others are quick", warns("Storage", "disk_slow", "disk:STALL1"))
def one_request_stalls(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE)
    scene.boot(Machine(disks=(bad.disk("nvme", "STALL1"),)), "Storage", parameters={"Storage": {"duration_s": 20.0}})
    scene.until_claimed()
    bad.breaks(stall=[[33 * MIB, 4096, 7000]])
    scene.walk()
    bad.must_have_hit("stall")


@GROUP.row("writes to one place fail (EIO), reads do not", fails("Storage", "disk_io_error", "disk:BAD1"))
def write_error(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE, eio_write=[[40 * MIB, 4096]])
    boot_to_write(scene, Machine(disks=(bad.disk("nvme", "BAD1"),)), [expected("BAD1", SIZE)])
    scene.until_ended()
    bad.must_have_hit("eio_write")


@GROUP.row(
    "silent corruption: one bit of what is written to one place is turned over",
    fails("Storage", "disk_verify_mismatch", "disk:BAD1"),
)
def silent_corruption(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE, alter=[[40 * MIB, 4096]])
    boot_to_write(scene, Machine(disks=(bad.disk("nvme", "BAD1"),)), [expected("BAD1", SIZE)])
    said = scene.finding(scene.until_ended(), "Storage", "disk_verify_mismatch")["message"]
    bad.must_have_hit("alter")
    if "altered" not in said:
        raise WrongTurn(f"the kind of the fault is not named: {said}")


@GROUP.row(
    "writes to one place are acknowledged and lost",
    fails("Storage", "disk_verify_mismatch", "disk:BAD1"),
)
def dropped_writes(scene: Scene) -> None:
    bad = bad_disk(scene, SIZE, drop=[[40 * MIB, 4096]])
    boot_to_write(scene, Machine(disks=(bad.disk("sata", "BAD1"),)), [expected("BAD1", SIZE)])
    scene.until_ended()
    bad.must_have_hit("drop")


@GROUP.row(
    "a disk sells 256 MiB and has 96: beyond them it begins at its start again",
    fails("Storage", "disk_capacity_fraud", "disk:FRAUD1", also=("disk_verify_mismatch",)),
)
def capacity_fraud(scene: Scene) -> None:
    bad = bad_disk(scene, 256 * MIB, real_size=96 * MIB)
    boot_to_write(scene, Machine(disks=(bad.disk("nvme", "FRAUD1"),)), [expected("FRAUD1", 256 * MIB)])
    scene.until_ended()
    bad.must_have_hit("real_size")


@GROUP.row("none: a disk with sectors of 4 KiB is read, written and verified", PASSES)
def sectors_of_4_kib(scene: Scene) -> None:
    disk = Disk("nvme", "FOURK1", SIZE, options="logical_block_size=4096,physical_block_size=4096")
    boot_to_write(scene, Machine(disks=(disk,)), [expected("FOURK1", SIZE)])
    scene.until_ended()
    scene.sh("grep -q 4096 /sys/block/nvme0n1/queue/logical_block_size")
    must_be_written(scene, 0, 2 * SIZE)
    must_be_all(scene.folder / "disk0.img")


ROWS = (
    disk_missing,
    disk_of_wrong_size,
    disks_with_one_serial,
    disk_without_serial,
    disk_leaves_in_storage,
    read_error_nvme,
    read_error_sata,
    disk_slow,
    disk_not_slow,
    disk_slow_in_one_zone,
    one_request_stalls,
    write_error,
    silent_corruption,
    dropped_writes,
    capacity_fraud,
    sectors_of_4_kib,
)

"""The kernel log: every pattern against lines that real kernels printed, quoted from public lists and issues."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.host import Host
from probes.kernel_log import KernelLog, Kind, ata_port, disk_events, events, read

UE = (
    "EDAC MC3: 1 UE memory read error on CPU_SrcID#0_MC#3_Chan#0_DIMM#0 (channel:0 slot:0 page:0x7e025e offset:0x400 "
    "grain:32 -  err_code:0x00a0:0x0090  SystemAddress:0x7e025e400)"
)
CE = (
    "EDAC MC1: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x2031c14 "
    "offset:0x940 grain:32 syndrome:0x0 -  OVERFLOW area:DRAM err_code:0001:0091 socket:0 ha:0)"
)
# A real line of a corrected error with its class changed: CE to UE.
RESTARTABLE = "[Hardware Error]: CPU:2 (17:1:2) MC4_STATUS[-|UE|MiscV|AddrV|-|SyndV|UECC|-|-|-]: 0xbd7d410092080813"

REAL_LINES = [
    ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00000000000151", Kind.MCE_CORRECTED, "0", 0),
    ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408", Kind.MCE_UNCORRECTED, "0", 0),
    ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 9: bd000000000000c0", Kind.MCE_UNCORRECTED, "3", 0),
    (
        "[Hardware Error]: CPU:0 (17:31:0) MC27_STATUS[Over|CE|MiscV|-|-|-|SyndV|-|-|-]: 0xd82000000002080b",
        Kind.MCE_CORRECTED,
        "0",
        0,
    ),
    (RESTARTABLE, Kind.MCE_UNCORRECTED, "2", 0),
    ("{1}[Hardware Error]: event severity: recoverable", Kind.MCE_UNCORRECTED, "", 0),
    ("{3}[Hardware Error]: event severity: corrected", Kind.MCE_CORRECTED, "", 0),
    (UE, Kind.MEMORY_UNCORRECTED, "CPU_SrcID#0_MC#3_Chan#0_DIMM#0", 1),
    (CE, Kind.MEMORY_CORRECTED, "CPU_SrcID#0_Ha#0_Chan#1_DIMM#0", 262),
    (
        "EDAC MC0: 4 CE error on CPU#0Channel#2_DIMM#0 (channel:2 slot:0 page:0x0 offset:0x0 grain:8 syndrome:0x0)",
        Kind.MEMORY_CORRECTED,
        "CPU#0Channel#2_DIMM#0",
        4,
    ),
    (
        "Memory failure: 0x7740c0: recovery action for dirty page: Recovered",
        Kind.PAGE_POISONED,
        "0x7740c0",
        0,
    ),
    (
        "pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer",
        Kind.AER_FATAL,
        "0000:89:02.0",
        0,
    ),
    (  # linux-pci list: an igb card behind 0000:00:1c.5
        "igb 0000:09:00.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)",
        Kind.AER_NONFATAL,
        "0000:09:00.0",
        0,
    ),
    (  # balena-os/balena-intel#304
        "pcieport 0000:00:1c.0: AER: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)",
        Kind.AER_CORRECTED,
        "0000:00:1c.0",
        0,
    ),
    (  # qualcomm-linux/kernel#1137
        "pcieport 0000:00:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)",
        Kind.AER_CORRECTED,
        "0000:00:00.0",
        0,
    ),
    ("watchdog: BUG: soft lockup - CPU#5 stuck for 26 seconds! [bash:537]", Kind.SOFT_LOCKUP, "5", 0),
    ("BUG: soft lockup - CPU#0 stuck for 61s! [kbd:3360]", Kind.SOFT_LOCKUP, "0", 0),
    ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", Kind.HARD_LOCKUP, "1", 0),
    ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", Kind.HARD_LOCKUP, "3", 0),
    ("INFO: task kworker/u16:9:7088 blocked for more than 120 seconds.", Kind.HUNG_TASK, "kworker/u16:9", 7088),
    ("rcu: INFO: rcu_sched self-detected stall on CPU", Kind.RCU_STALL, "rcu_sched", 0),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Kind.RCU_STALL, "rcu_preempt", 0),
    (
        "Memory cgroup out of memory: Killed process 4182 (order-worker) total-vm:812044kB, anon-rss:518420kB",
        Kind.CGROUP_OOM_KILL,
        "order-worker",
        4182,
    ),
    (
        "Out of memory: Killed process 1669 (xdg-desktop-por) total-vm:105068kB, anon-rss:9792kB, file-rss:10972kB",
        Kind.OOM_KILL,
        "xdg-desktop-por",
        1669,
    ),
    ("Kernel panic - not syncing: Watchdog detected hard LOCKUP on cpu 0", Kind.HARD_LOCKUP, "0", 0),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000008", Kind.OOPS, "", 0),
    ("Oops: 0000 [#1] PREEMPT SMP NOPTI", Kind.OOPS, "", 0),  # sonic-net/sonic-buildimage#22166
    ("Oops [#1]", Kind.OOPS, "", 0),  # riscv-software-src/opensbi#35
    ("Internal error: Oops: 17 [#1] ARM", Kind.OOPS, "", 0),  # openbmc/linux#186
    ("NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.", Kind.GPU_XID, "0000:01:00", 79),
    ("blk_update_request: critical medium error, dev sdc, sector 557528", Kind.DISK_ERROR, "sdc", 0),
    (
        "I/O error, dev nvme0n1, sector 10000 op 0x0:(READ) flags 0x80700 phys_seg 3 prio class 0",
        Kind.DISK_ERROR,
        "nvme0n1",
        0,
    ),
    ("Buffer I/O error on dev sda1, logical block 0, async page read", Kind.DISK_ERROR, "sda1", 0),
    (
        "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10",
        Kind.DISK_ERROR,
        "nvme0",
        0,
    ),
    ("nvme nvme0: I/O 12 QID 5 timeout, aborting", Kind.DISK_ERROR, "nvme0", 0),  # linux-surface/linux-surface#733
    ("nvme nvme0: I/O 897 QID 2 timeout, completion polled", Kind.DISK_ERROR, "nvme0", 0),  # starfive-tech/linux#98
    (  # a log on a public kernel list
        "sd 3:0:0:0: [sdc] tag#180 FAILED Result: hostbyte=DID_TIME_OUT driverbyte=DRIVER_OK cmd_age=1s",
        Kind.DISK_ERROR,
        "sdc",
        0,
    ),
    (  # linrunner/TLP#130
        "ata1.00: exception Emask 0x0 SAct 0x3ffffff8 SErr 0x50000 action 0x6 frozen",
        Kind.DISK_ERROR,
        "ata1.00",
        0,
    ),
    ("sd 6:0:0:0: [sda] tag#0 Sense Key : Medium Error [current]", Kind.DISK_ERROR, "sda", 0),
    ("mce: [Hardware Error]: Machine check events logged", Kind.MCE_UNTOLD, "", 0),
    ("ata3.00: exception Emask 0x10 SAct 0x0 SErr 0x4010000 action 0xe frozen", Kind.DISK_ERROR, "ata3.00", 0),
]

INNOCENT_LINES = [
    "EDAC MC: Ver: 3.0.0",
    "EDAC sbridge MC1: HANDLING MCE MEMORY ERROR",
    "EDAC sbridge MC1: CPU 1: Machine Check Event: 0 Bank 11: 8c00004f000800c2",
    "mce: CPU supports 7 MCE banks",
    "[Hardware Error]: Corrected error, no action required.",
    "pcieport 0000:00:1c.0: AER: enabled with IRQ 122",
    "EXT4-fs error (device sda4): ext4_journal_check_start:83: comm worker: Detected aborted journal",
    "ata1: hard resetting link",
    "APIC: Switch to symmetric I/O mode setup",
    "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
    "critical target error, dev sdb, sector 0 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 0",
]


@pytest.mark.parametrize(("line", "kind", "subject", "number"), REAL_LINES)
def test_a_real_line_is_understood(line: str, kind: Kind, subject: str, number: int) -> None:
    (event,) = events([line])
    assert (event.kind, event.subject, event.number, event.line) == (kind, subject, number, line)


@pytest.mark.parametrize("line", INNOCENT_LINES)
def test_an_innocent_line_is_left_alone(line: str) -> None:
    assert events([line]) == []


def machine(tmp_path: Path, *records: str) -> Host:
    (tmp_path / "dev").mkdir(exist_ok=True)
    (tmp_path / "dev" / "kmsg").write_text("".join(record + "\n" for record in records))
    return Host(root=tmp_path)


@pytest.mark.parametrize("line", [line for line, *_ in REAL_LINES])
def test_no_line_that_means_something_is_lost_on_reading(tmp_path: Path, line: str) -> None:
    log = read(machine(tmp_path, f"3,7,1000,-,caller=T1;{line}", " SUBSYSTEM=pci"))
    assert [entry.text for entry in log.lines] == [line]


def test_what_a_program_wrote_into_the_log_is_not_believed(tmp_path: Path) -> None:
    forged = "11,8,1000,-;mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408"
    genuine = "3,9,1001,-;NMI watchdog: Watchdog detected hard LOCKUP on cpu 1"
    log = read(machine(tmp_path, forged, genuine))
    assert [line.sequence for line in log.lines] == [9]
    assert (log.first_sequence, log.last_sequence) == (8, 9)


def test_only_what_came_after_the_first_reading_is_new(tmp_path: Path) -> None:
    old = "3,41,1000,-;Oops: 0002 [#1] SMP NOPTI"
    before = read(machine(tmp_path, old))
    after = read(machine(tmp_path, old, "6,42,1001,-;usb 1-1: new device", f"3,43,1002,-;{CE}"))
    assert after.since(before) == (CE,)
    assert after.lost_since(before) == 0


def test_records_that_nobody_saw_are_counted(tmp_path: Path) -> None:
    before = read(machine(tmp_path, "6,41,1000,-;quiet"))
    after = read(machine(tmp_path, "6,50,1000,-;quiet", "6,51,1001,-;quiet"))
    assert after.lost_since(before) == 8


def test_lines_after_an_empty_log_are_new(tmp_path: Path) -> None:
    before = read(machine(tmp_path))
    after = read(machine(tmp_path, f"3,0,1,-;{UE}"))
    assert after.since(before) == (UE,)


def test_a_record_of_several_lines_is_taken_apart(tmp_path: Path) -> None:
    log = read(machine(tmp_path, "3,5,1000,-;something\\x0aOops: 0002 [#1] SMP NOPTI"))
    assert [line.text for line in log.lines] == ["Oops: 0002 [#1] SMP NOPTI"]


def test_garbage_is_survived(tmp_path: Path) -> None:
    assert read(machine(tmp_path, "not a record", "3;no sequence", "9,x,;")).lines == ()


def test_a_missing_log_is_said_to_be_unreadable(tmp_path: Path) -> None:
    log = read(Host(root=tmp_path))
    assert log.unreadable is not None
    assert "No such file" in log.unreadable
    assert log.since(KernelLog()) == ()


def test_a_machine_that_is_slow_is_given_the_time_for_its_log(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev" / "kmsg")
    writer = os.open(tmp_path / "dev" / "kmsg", os.O_RDWR)  # while it is open, an empty log waits for more
    try:
        os.write(writer, b"6,1,5,-;mce: [Hardware Error]: Machine check events logged\n")
        log = read(Host(root=tmp_path), limit_s=0.0)
    finally:
        os.close(writer)
    assert log.unreadable is None
    assert log.last_sequence == 1


def test_a_log_that_never_ends_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kmsg").symlink_to("/dev/zero")
    assert "faster than it can be read" in str(read(Host(root=tmp_path), limit_s=0.1).unreadable)


@pytest.mark.root
@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log is not readable here")
def test_the_real_log_is_read_without_waiting() -> None:
    log = read(Host())
    assert log.unreadable is None
    assert log.last_sequence is not None
    assert log.last_sequence >= (log.first_sequence or 0)


def test_disk_lines_go_to_their_disk() -> None:
    lines = [line for line, kind, *_ in REAL_LINES if kind is Kind.DISK_ERROR]
    assert [event.subject for event in disk_events(lines, "sda")] == ["sda1", "sda"]
    assert [event.subject for event in disk_events(lines, "nvme0n1")] == ["nvme0n1", *["nvme0"] * 3]
    assert [event.subject for event in disk_events(lines, "sdd", port="ata3")] == ["ata3.00"]
    assert disk_events(lines, "sd") == []


def test_the_sata_port_of_a_disk(tmp_path: Path) -> None:
    device = tmp_path / "sys/devices/pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0/block/sda"
    device.mkdir(parents=True)
    block = tmp_path / "sys/block"
    block.mkdir()
    (block / "sda").symlink_to(device)
    assert ata_port(Host(root=tmp_path), "sda") == "ata3"
    assert ata_port(Host(root=tmp_path), "nvme0n1") is None

"""Reads the kernel log and says what its lines mean for the hardware.

Each pattern stands beside a line that a real kernel printed. Only records whose facility is "kern" are believed:
whoever may write to the log device can put any text there, but the kernel marks such text with another facility.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from probes.host import Host

RECORD_BYTES = 8192
"""A read of the log device gives one record, and fails when that does not fit."""


class Kind(StrEnum):
    """What a line of the kernel log reports."""

    MCE_UNCORRECTED = "mce_uncorrected"
    MCE_CORRECTED = "mce_corrected"
    MCE_UNTOLD = "mce_untold"
    """Hardware errors were taken in; what they were stands in other lines, if the kernel says it at all."""
    MEMORY_UNCORRECTED = "memory_uncorrected"
    MEMORY_CORRECTED = "memory_corrected"
    PAGE_POISONED = "page_poisoned"
    AER_FATAL = "aer_fatal"
    AER_NONFATAL = "aer_nonfatal"
    AER_CORRECTED = "aer_corrected"
    SOFT_LOCKUP = "soft_lockup"
    HARD_LOCKUP = "hard_lockup"
    HUNG_TASK = "hung_task"
    RCU_STALL = "rcu_stall"
    OOM_KILL = "oom_kill"
    CGROUP_OOM_KILL = "cgroup_oom_kill"
    OOPS = "oops"
    DISK_ERROR = "disk_error"
    GPU_XID = "gpu_xid"


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One line and its meaning. `subject` is what it happened to: a CPU number, an address, a disk, a process, a page.

    `number` is the count of errors of an EDAC line, the XID of a GPU line, the process id of a kill, else 0.
    """

    kind: Kind
    subject: str
    line: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One line the kernel itself wrote, with its place in the log."""

    sequence: int
    text: str


@dataclass(frozen=True, slots=True)
class KernelLog:
    """The log at one moment: how far it reaches, and those of its lines that mean something for the hardware."""

    unreadable: str | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    lines: tuple[KernelLine, ...] = ()

    def since(self, before: KernelLog) -> tuple[str, ...]:
        """The lines that came after `before` was read; none where it was not: then they may be as old as the log."""
        if before.unreadable:
            return ()
        return tuple(line.text for line in self.lines if line.sequence > before.last_or_none)

    def lost_since(self, before: KernelLog) -> int:
        """How many records were overwritten between the two readings, before anybody saw them."""
        if self.first_sequence is None or before.last_sequence is None:
            return 0
        return max(0, self.first_sequence - before.last_sequence - 1)

    @property
    def last_or_none(self) -> int:
        """The last sequence number; -1 when the log was empty."""
        return -1 if self.last_sequence is None else self.last_sequence


MANY_RECORDS = 20_000
"""More than the log of a machine holds that is only slow."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read(host: Host, *, limit_s: float = 5.0) -> KernelLog:
    """The kernel log of the machine, old entries included. Never raises: see `KernelLog.unreadable`."""
    try:
        fd = os.open(host.dev("kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        return KernelLog(unreadable=f"the kernel log cannot be opened: {problem.strerror}")
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return _log_of(_records_of_text(_whole(fd)))
        return _log_of(_records_of_device(fd, time.monotonic() + limit_s))
    except OSError as problem:
        return KernelLog(unreadable=f"the kernel log cannot be read: {problem.strerror}")
    finally:
        os.close(fd)


def _whole(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))


def _records_of_text(text: bytes) -> Iterable[bytes]:
    """A recorded log: one record a line, continuation lines indented."""
    return (line for line in text.split(b"\n") if line[:1].isdigit())


def _records_of_device(fd: int, deadline: float) -> Iterable[bytes]:
    read = 0
    # A machine that is slow with all it does reads few records in the time; a log that grows gives ever more.
    while read < MANY_RECORDS or time.monotonic() < deadline:
        read += 1
        try:
            yield os.read(fd, RECORD_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue  # records were overwritten while we read; the next read goes on with the oldest left
    raise TimeoutError(0, "it grows faster than it can be read")


def _log_of(records: Iterable[bytes]) -> KernelLog:
    first = last = None
    lines: list[KernelLine] = []
    for record in records:
        head, _, rest = record.partition(b";")
        fields = head.split(b",")
        if len(fields) < 2 or not all(re.fullmatch(rb"[0-9]{1,19}", field) for field in fields[:2]):
            continue
        last = int(fields[1])
        first = last if first is None else first
        from_kernel = int(fields[0]) >> 3 == 0
        if from_kernel and _SIEVE.search(rest):
            text = rest.partition(b"\n")[0].decode(errors="replace")
            lines += [KernelLine(last, part) for part in text.split("\\x0a") if _event_of(part)]
    return KernelLog(first_sequence=first, last_sequence=last, lines=tuple(lines))


_SIEVE = re.compile(
    rb"Hardware Error|EDAC|PCIe Bus Error|Memory failure|lockup|LOCKUP|blocked for|stall|Killed process|BUG|Oops"
    rb"|protection|panic|Internal error|Xid|error|timeout|timing out|is down|not ready|DID_|Medium|Emask"
)
"""Cheap: a full log has tens of thousands of records, and most say nothing."""


# --- meaning ---------------------------------------------------------------------------------------------------------

_MCI_STATUS_UC = 1 << 61
FIGURE_DIGITS = 18
"""More digits than any count has; Python refuses to read thousands of them."""
_Make = Callable[[re.Match[str], str], KernelEvent | None]


def events(lines: Iterable[str]) -> list[KernelEvent]:
    """What the lines report, in their order; lines without meaning for the hardware are left out."""
    return [event for line in lines if (event := _event_of(line)) is not None]


def disk_events(lines: Iterable[str], disk_name: str, port: str | None = None) -> list[KernelEvent]:
    """Errors, timeouts and resets of one disk (`sda`, `nvme0n1`), its partitions and its controller.

    `port` is the disk's SATA port ("ata3", see `ata_port`): libata's lines name only that.
    """
    names = {disk_name, _nvme_controller(disk_name), port}
    found = (event for event in events(lines) if event.kind is Kind.DISK_ERROR)
    return [event for event in found if _whole_disk(event.subject) in names]


def ata_port(host: Host, disk_name: str) -> str | None:
    """The SATA port that a disk hangs on, as libata's log lines name it ("ata3"); None for other disks."""
    try:
        device = host.sys("block", disk_name).resolve()
    except OSError:
        return None
    return next((part for part in device.parts if re.fullmatch(r"ata\d+", part)), None)


def _whole_disk(name: str) -> str:
    """nvme0n1 of nvme0n1p3, sda of sda1, ata3 of ata3.00; other names as they are."""
    if match := re.fullmatch(r"((?:nvme\d+n|mmcblk|nbd|loop)\d+)p\d+", name):
        return match[1]
    if match := re.fullmatch(r"((?:sd|vd|xvd|hd)[a-z]+)\d+", name):
        return match[1]
    return name.partition(".")[0]


def _nvme_controller(disk_name: str) -> str | None:
    match = re.fullmatch(r"(nvme\d+)n\d+", disk_name)
    return match[1] if match else None


def _event_of(line: str) -> KernelEvent | None:
    for pattern, make in _PATTERNS:
        if match := pattern.search(line):
            return make(match, line)
    return None


def _of(kind: Kind) -> _Make:
    """Makes events of one kind; the pattern's group `subject` names what it happened to, `number` a figure."""

    def make(match: re.Match[str], line: str) -> KernelEvent:
        groups = match.groupdict()
        figure = int((groups.get("number") or "0")[:FIGURE_DIGITS])
        return KernelEvent(kind, groups.get("subject") or "", line, figure)

    return make


def _machine_check(match: re.Match[str], line: str) -> KernelEvent:
    """The status register says whether the error was corrected: bit 61 is UC."""
    uncorrected = int(match["status"], 16) & _MCI_STATUS_UC
    return KernelEvent(Kind.MCE_UNCORRECTED if uncorrected else Kind.MCE_CORRECTED, match["subject"], line)


def _amd_machine_check(match: re.Match[str], line: str) -> KernelEvent:
    corrected = match["class"] == "CE"
    return KernelEvent(Kind.MCE_CORRECTED if corrected else Kind.MCE_UNCORRECTED, match["subject"], line)


def _firmware_first(match: re.Match[str], line: str) -> KernelEvent | None:
    kind = {"corrected": Kind.MCE_CORRECTED, "info": None}.get(match["severity"], Kind.MCE_UNCORRECTED)
    return KernelEvent(kind, "", line) if kind else None


def _bus_error(match: re.Match[str], line: str) -> KernelEvent:
    severity = match["severity"]
    if "Non-Fatal" in severity:
        kind = Kind.AER_NONFATAL
    else:
        kind = Kind.AER_FATAL if "Fatal" in severity else Kind.AER_CORRECTED
    return KernelEvent(kind, match["subject"], line)


_DISK = r"(?P<subject>[a-z][a-z0-9]+)"
_PCI = r"(?P<subject>[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
_PATTERNS: tuple[tuple[re.Pattern[str], _Make], ...] = (
    # mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408
    # mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 9: bd000000000000c0
    # EDAC sbridge MC1: CPU 1: Machine Check Event: 0 Bank 11: 8c00004f000800c2 -- repeats the line of mce: left out
    (
        re.compile(
            r"Hardware Error\]: CPU (?P<subject>\d+): Machine Check(?: Exception)?: \w+ Bank \d+: "
            r"(?P<status>[0-9a-f]{16})"
        ),
        _machine_check,
    ),
    # mce: [Hardware Error]: Machine check events logged
    #   -- alone, when the kernel's collector of corrected errors (RAS_CEC) keeps the rest: Linux 6.12 of Debian 13
    (re.compile(r"Hardware Error\]: Machine check events logged"), _of(Kind.MCE_UNTOLD)),
    # [Hardware Error]: CPU:2 (17:1:2) MC4_STATUS[-|CE|MiscV|AddrV|-|SyndV|CECC|-|-|Scrub]: 0x9c7d410092080813
    (
        re.compile(r"Hardware Error\]: CPU:(?P<subject>\d+) \([0-9a-f:]+\) MC\d+_STATUS\[[^|]*\|(?P<class>[^|]*)\|"),
        _amd_machine_check,
    ),
    # {1}[Hardware Error]: event severity: recoverable
    (re.compile(r"\}\[Hardware Error\]: event severity: (?P<severity>\w+)"), _firmware_first),
    # EDAC MC3: 1 UE memory read error on CPU_SrcID#0_MC#3_Chan#0_DIMM#0 (channel:0 slot:0 page:0x7e025e …)
    (re.compile(r"EDAC MC\d+: (?P<number>\d+) UE .*? on (?P<subject>\S+)"), _of(Kind.MEMORY_UNCORRECTED)),
    # EDAC MC1: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x2031c14 …)
    (re.compile(r"EDAC MC\d+: (?P<number>\d+) CE .*?on (?P<subject>\S+)"), _of(Kind.MEMORY_CORRECTED)),
    # Memory failure: 0x7740c0: recovery action for dirty page: Recovered
    (re.compile(r"Memory failure: (?P<subject>0x[0-9a-f]+): recovery action for"), _of(Kind.PAGE_POISONED)),
    # pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)
    # pcieport 0000:00:01.4: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)
    # igb 0000:09:00.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)
    #   -- linux-pci list, "This resulted in panic", igb behind 0000:00:1c.5
    # pcieport 0000:00:1c.0: AER: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Transmitter ID)
    #   -- balena-os/balena-intel#304
    # pcieport 0000:00:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)
    #   -- newer kernels say it so: qualcomm-linux/kernel#1137
    (re.compile(_PCI + r": (?:AER: )?PCIe Bus Error: severity=(?P<severity>[^,]+)"), _bus_error),
    # watchdog: BUG: soft lockup - CPU#5 stuck for 26 seconds! [bash:537]
    (re.compile(r"BUG: soft lockup - CPU#(?P<subject>\d+) stuck"), _of(Kind.SOFT_LOCKUP)),
    # NMI watchdog: Watchdog detected hard LOCKUP on cpu 1
    (re.compile(r"[Ww]atchdog detected hard LOCKUP on cpu (?P<subject>\d+)"), _of(Kind.HARD_LOCKUP)),
    # INFO: task kworker/u16:9:7088 blocked for more than 120 seconds.
    (re.compile(r"INFO: task (?P<subject>.+):(?P<number>\d+) blocked for more than \d+ seconds"), _of(Kind.HUNG_TASK)),
    # rcu: INFO: rcu_sched self-detected stall on CPU
    # rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
    (re.compile(r"INFO: (?P<subject>rcu\w*) (?:self-)?detected (?:expedited )?stalls? on CPU"), _of(Kind.RCU_STALL)),
    # Memory cgroup out of memory: Killed process 4182 (order-worker) total-vm:812044kB, anon-rss:518420kB, …
    (
        re.compile(r"Memory cgroup out of memory: Killed process (?P<number>\d+) \((?P<subject>.*?)\)"),
        _of(Kind.CGROUP_OOM_KILL),
    ),
    # Out of memory: Killed process 1669 (xdg-desktop-por) total-vm:105068kB, anon-rss:9792kB, file-rss:10972kB, …
    (re.compile(r"Out of memory.*: Killed process (?P<number>\d+) \((?P<subject>.*?)\)"), _of(Kind.OOM_KILL)),
    # Kernel panic - not syncing: Watchdog detected hard LOCKUP on cpu 0
    # BUG: unable to handle page fault for address: ffffffffc0a0b000
    # BUG: kernel NULL pointer dereference, address: 0000000000000008
    # BUG: Bad page state in process stress-ng  pfn:3f8e21
    # kernel BUG at mm/slub.c:305!
    # general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP PTI
    # Internal error: synchronous external abort: 0000000096000210 [#1] SMP
    # Oops: 0000 [#1] PREEMPT SMP NOPTI                       sonic-net/sonic-buildimage#22166
    # Oops [#1]                                               RISC-V: riscv-software-src/opensbi#35
    # Internal error: Oops: 17 [#1] ARM                       openbmc/linux#186
    (
        re.compile(
            r"Kernel panic - not syncing|BUG: unable to handle|BUG: kernel NULL pointer|BUG: Bad (?:page|rss)"
            r"|kernel BUG at|general protection fault.*\[#\d+\]|Internal error: .*\[#\d+\]|Oops(?:: .*)? ?\[#\d+\]"
        ),
        _of(Kind.OOPS),
    ),
    # NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.
    (re.compile(r"NVRM: Xid \(PCI:(?P<subject>[0-9a-fA-F:.]+)\): (?P<number>\d+)"), _of(Kind.GPU_XID)),
    # blk_update_request: critical medium error, dev sdc, sector 557528
    # I/O error, dev nvme0n1, sector 10000 op 0x0:(READ) flags 0x80700 phys_seg 3 prio class 0
    # critical target error, dev sdb, sector 0 op 0x3:(DISCARD) -- a refused discard is no fault: left out below
    (
        re.compile(r"(?:I/O|critical medium|timeout|transport|nexus|protection) error, dev " + _DISK + r", sector"),
        _of(Kind.DISK_ERROR),
    ),
    # Buffer I/O error on dev sda1, logical block 0, async page read
    (re.compile(r"Buffer I/O error on dev(?:ice)? " + _DISK + r","), _of(Kind.DISK_ERROR)),
    # nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10
    # nvme nvme0: I/O 12 QID 5 timeout, aborting              linux-surface/linux-surface#733
    # nvme nvme0: I/O 897 QID 2 timeout, completion polled    starfive-tech/linux#98
    # nvme nvme0: I/O tag 149 (d095) opcode 0x2 (I/O Cmd) QID 5 timeout, aborting req_op:READ(0) size:131072
    (
        re.compile(r"nvme (?P<subject>nvme\d+): (?:controller is down|I/O .*timeout|Device not ready; aborting)"),
        _of(Kind.DISK_ERROR),
    ),
    # sd 6:0:0:0: [sda] tag#0 Sense Key : Medium Error [current]
    # sd 3:0:0:0: [sdc] tag#180 FAILED Result: hostbyte=DID_TIME_OUT driverbyte=DRIVER_OK cmd_age=1s
    #   -- a log on a public kernel list (scsi_eh tracing); "cmd_age" is missing in older kernels
    # sd 2:0:0:0: [sdb] tag#12 timing out command, waited 180s
    (
        re.compile(
            r"\[(?P<subject>sd[a-z]+)\] .*(?:Sense Key : (?:Medium|Hardware) Error|hostbyte=DID_(?:TIME_OUT|NO_CONNECT"
            r"|ERROR|RESET|TRANSPORT)|timing out command)"
        ),
        _of(Kind.DISK_ERROR),
    ),
    # ata1.00: exception Emask 0x0 SAct 0x3ffffff8 SErr 0x50000 action 0x6 frozen     linrunner/TLP#130
    # ata3.00: exception Emask 0x10 SAct 0x0 SErr 0x4010000 action 0xe frozen
    # ata1: hard resetting link -- at boot a normal step, so it is not taken for a fault
    (re.compile(r"(?P<subject>ata\d+\.\d+): exception Emask"), _of(Kind.DISK_ERROR)),
)

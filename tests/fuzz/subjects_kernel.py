"""Entries for the kernel's own words: its log, and the files of /proc and /sys of recorded machines."""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from probes import boot_medium, bus, counters, inventory, kernel_log, load, memory, pci, sensors
from probes.host import Host
from probes.notes import Notes
from stages import deltas
from stages import inventory as inventory_stage
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser, verdict_of
from tests.support.replay import HOSTS, host_in

# --- the log ---------------------------------------------------------------------------------------------------------

FAULTS = (
    "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 9: bd000000000000c0",
    "EDAC MC3: 1 UE memory read error on CPU_SrcID#0_MC#3_Chan#0_DIMM#0 (channel:0 slot:0 page:0x7e025e)",
    "pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
    "watchdog: BUG: soft lockup - CPU#5 stuck for 26 seconds! [bash:537]",
    "INFO: task kworker/u16:9:7088 blocked for more than 120 seconds.",
    "Out of memory: Killed process 1669 (xdg-desktop-por) total-vm:105068kB, anon-rss:9792kB",
    "NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.",
    "[Hardware Error]: CPU:2 (17:1:2) MC4_STATUS[-|UE|MiscV|AddrV|-|SyndV|CECC|-|-|Scrub]: 0x9c7d410092080813",
    "{1}[Hardware Error]: event severity: fatal",
    "EDAC MC1: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0)",
    "blk_update_request: critical medium error, dev sdc, sector 557528",
)
QUIET = ("Linux version 6.1.0-13-amd64", "e1000e: eth0 NIC Link is Up 1000 Mbps Full Duplex", "EXT4-fs (sda1): mounted")


def _log(*texts: str, start: int = 100) -> bytes:
    return "".join(f"3,{start + at},{at * 1000},-;{text}\n" for at, text in enumerate(texts)).encode()


def _log_recordings() -> tuple[Recording, ...]:
    sick = [Recording(f"fault-{at:02}", _log(*QUIET, text, *QUIET), sick=True) for at, text in enumerate(FAULTS)]
    return (Recording("quiet", _log(*QUIET * 2)), Recording("all", _log(*QUIET, *FAULTS, *QUIET)), *sick)


def _kmsg(mutant: Mutant) -> str:
    """The records as the stage saw them, against a log that ended just before them."""
    now = kernel_log._log_of(kernel_log._records_of_text(mutant.data))
    before = counters.Counters(kernel_log=kernel_log.KernelLog(last_sequence=99))
    after = counters.Counters(kernel_log=now)
    kernel_log.disk_events([line.text for line in now.lines], "sdc")
    findings, _ = deltas.judge(before, after, needed=True)
    return verdict_of(findings)


def _kmsg_excused(mutant: Mutant) -> str | None:
    return "the kernel's log has no end mark: a record that is not there was never written"


# --- recorded trees --------------------------------------------------------------------------------------------------


@cache
def _tree(machine: str) -> Path:
    """A copy of a recorded machine that is changed and put right again; removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="vetting-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(shutil.copytree(HOSTS / machine, folder / machine, symlinks=True))


def _files(*machines: str) -> Callable[[], tuple[Recording, ...]]:
    """Every file of these machines that a probe may read: one for each name and text, since 100 CPUs are alike."""

    @cache
    def found() -> tuple[Recording, ...]:
        seen: dict[tuple[str, str, bytes], Recording] = {}
        for machine in machines:
            for path in sorted((HOSTS / machine).rglob("*")):
                if path.is_symlink() or not path.is_file():
                    continue
                data = path.read_bytes()
                name = f"{machine}:{path.relative_to(HOSTS / machine)}"
                seen.setdefault((machine, path.name, data), Recording(name, data))
        return tuple(seen.values())

    return found


def _with_file(mutant: Mutant, read: Callable[[Host], str]) -> str:
    """Put the mutant in its place, read the machine, put the file right again."""
    machine, _, name = mutant.recording.name.partition(":")
    root = _tree(machine)
    path = root / name
    path.write_bytes(mutant.data)
    try:
        return read(host_in(root))
    finally:
        path.write_bytes(mutant.recording.data)


def _inventory(host: Host) -> str:
    """Every section read, or null with a note; what is found can be sent as JSON."""
    found = asyncio.run(inventory.collect(host))
    json.dumps(asdict(found), allow_nan=False)
    judged = inventory_stage.judge(inventory_stage.Readings(found, ()), inventory_stage.Options())
    inventory_stage.summary(found)
    assert verdict_of(judged.findings) in {"pass", "fail", "unknown"}
    return READ


def _readers(host: Host) -> str:
    """The readers that run beside every stage, and those of one subject; none raises, whatever a file holds."""
    before = counters.read(host)
    deltas.judge(before, counters.read(host), needed=True)
    deltas.earlier(before)
    for reading in sensors.read_all(host):
        assert reading.value == reading.value, f"not a number: {reading}"
    load.busy_share(load.cpu_times(host), load.cpu_times(host))
    load.available_bytes(host)
    load.mean_mhz(host)
    bus.bus_of(host, "sda")
    with suppress(OSError):
        boot_medium.boot_devices(host, (None,))
    pci.degraded_links(pci.read(host, Notes()))
    with suppress(ValueError):
        memory.read(host, Notes())
    return READ


ENTRIES = (
    Parser(
        "kernel-log",
        ("probes/kernel_log.py", "stages/deltas.py"),
        _log_recordings,
        _kmsg,
        excused=_kmsg_excused,
        share=4,
    ),
    Parser(
        "machine-inventory",
        (
            *("probes/attachment.py", "probes/block_use.py", "probes/cpu.py", "probes/disks.py", "probes/ethtool.py"),
            *("probes/host.py", "probes/inquiry.py", "probes/inventory.py", "probes/memory.py", "probes/nics.py"),
            *("probes/notes.py", "probes/pci.py", "probes/smbios.py", "probes/system.py", "stages/inventory.py"),
        ),
        _files("dell-xeon", "huawei-arm", "virtual-machine"),
        lambda mutant: _with_file(mutant, _inventory),
        share=1,
    ),
    Parser(
        "machine-counters",
        (
            *("probes/boot_medium.py", "probes/bus.py", "probes/counters.py", "probes/load.py", "probes/memory.py"),
            "probes/sensors.py",
        ),
        _files("sensors-two-sockets", "virtual-machine"),
        lambda mutant: _with_file(mutant, _readers),
        share=1,
    ),
)

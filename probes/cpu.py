"""The processors: model, topology, microcode, what is present and what is online.

Sources: cpuinfo of proc, and the cpu and node folders of sysfs (kernel ABI page sysfs-devices-system-cpu).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes

MOST_CPUS = 65536
FLAGS_OF_INTEREST = frozenset(
    {
        *("aes", "avx", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16", "fma", "sha_ni", "vmx", "svm", "sgx", "sev", "sev_es", "sev_snp", "tme"),
        *("hypervisor", "constant_tsc", "nonstop_tsc", "ht", "rdrand", "rdseed", "pdpe1gb", "x2apic"),
        *("asimd", "sve", "sve2", "sha2", "sha512", "atomics", "bf16", "i8mm", "pmull", "crc32"),
    }
)
# MIDR implementers and parts, from Arm's and the vendors' technical reference manuals.
# fmt: off
ARM_IMPLEMENTERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x50: "APM", 0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0x6D: "Microsoft", 0x70: "Phytium",
    0xC0: "Ampere",
}
ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD83): "Neoverse-V3AE", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD8E): "Neoverse-N3",
    (0x43, 0x0A1): "ThunderX", (0x43, 0x0AF): "ThunderX2", (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "TaiShan v110 (Kunpeng 920)", (0x4E, 0x004): "Carmel", (0x50, 0x000): "X-Gene",
    (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1A",
}
# fmt: on


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A memory node and the CPUs near it; `cpus` is a list like "0-7,16-23"."""

    node: int
    cpus: str | None
    memory_gib: float | None


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of the first CPU; `shared_by` is how many CPUs use it."""

    level: int
    kind: str | None
    size_kib: int | None
    shared_by: int | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors, taken as one. Counts are of online CPUs unless they say otherwise."""

    model: str | None
    vendor: str | None
    family: str | None
    model_number: str | None
    stepping: str | None
    sockets: int | None
    physical_cores: int | None
    logical_cores: int | None
    threads_per_core: int | None
    present: int | None
    """CPUs that the firmware announced."""
    offline: tuple[int, ...]
    """CPUs present but not online, by number."""
    smt: str | None
    """`on`, `off`, `forceoff`, `notsupported`: whether a core runs several threads."""
    microcode: str | None
    numa: tuple[NumaNode, ...]
    caches: tuple[Cache, ...]
    flags: tuple[str, ...]
    """Those that matter for loads and for placing work."""
    governor: str | None
    scaling_driver: str | None
    min_mhz: float | None
    max_mhz: float | None
    address_bits: str | None


async def collect(host: Host, notes: Notes) -> Cpu:
    """The processors. Raises ValueError when cpuinfo shows none."""
    return await apart(lambda: read(host, notes), "cpu")


def read(host: Host, notes: Notes) -> Cpu:
    """As `collect`, blocking."""
    blocks = _blocks(text_of(host.proc("cpuinfo")) or "")
    first = blocks[0] if blocks else {}
    folder = host.sys("devices", "system", "cpu")
    present = cpu_list(text_of(folder / "present"))
    online = cpu_list(text_of(folder / "online"))
    if not blocks and not online:
        raise ValueError("the kernel shows no CPU: neither cpuinfo nor the list of online CPUs is readable")
    topology = _topology(folder, online)
    cpu = Cpu(
        model=_model(first),
        vendor=first.get("vendor_id") or ARM_IMPLEMENTERS.get(_number(first.get("CPU implementer"))),
        family=first.get("cpu family") or first.get("CPU architecture"),
        model_number=first.get("model") or first.get("CPU part"),
        stepping=first.get("stepping") or first.get("CPU revision"),
        sockets=len({socket for socket, _ in topology}) or None,
        physical_cores=len(set(topology)) or None,
        logical_cores=len(online) or len(blocks) or None,
        threads_per_core=_ratio(len(topology), len(set(topology))),
        present=len(present) or None,
        offline=tuple(sorted(set(present) - set(online))) if online else (),
        smt=text_of(folder / "smt" / "control"),
        microcode=_joined(block.get("microcode") for block in blocks) or text_of(folder / "cpu0/microcode/version"),
        numa=_numa(host),
        caches=_caches(folder / "cpu0" / "cache"),
        flags=tuple(sorted(FLAGS_OF_INTEREST & set((first.get("flags") or first.get("Features") or "").split()))),
        governor=text_of(folder / "cpu0" / "cpufreq" / "scaling_governor"),
        scaling_driver=text_of(folder / "cpu0" / "cpufreq" / "scaling_driver"),
        min_mhz=_mhz(folder / "cpu0" / "cpufreq" / "cpuinfo_min_freq"),
        max_mhz=_mhz(folder / "cpu0" / "cpufreq" / "cpuinfo_max_freq"),
        address_bits=first.get("address sizes"),
    )
    _note_missing(cpu, bool(online), notes)
    return cpu


def _note_missing(cpu: Cpu, online_known: bool, notes: Notes) -> None:
    for name in ("model", "sockets", "physical_cores", "microcode", "present", "governor", "max_mhz"):
        if getattr(cpu, name) is None:
            notes.add(f"cpu: {name}", "the kernel does not show it on this machine")
    if not online_known:
        notes.add("cpu: offline", "the list of online CPUs is not readable")
    if cpu.microcode and "," in cpu.microcode:
        notes.add("cpu: microcode", f"the CPUs run different versions: {cpu.microcode}")
    if not cpu.numa:
        notes.add("cpu: numa", "the kernel shows no memory nodes")


def cpu_list(text: str | None) -> tuple[int, ...]:
    """The numbers in a kernel list like "0-3,8,10-11"; empty when absent or not such a list."""
    numbers: list[int] = []
    for part in (text or "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            return ()
        low, high = int(match[1]), int(match[2] or match[1])
        if high - low > MOST_CPUS:
            return ()
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def _blocks(text: str) -> list[Mapping[str, str]]:
    """The CPUs of cpuinfo; lines of no CPU (Arm's and IBM's last ones) belong to the first block."""
    blocks: list[dict[str, str]] = []
    rest: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        values: dict[str, str] = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                values.setdefault(name.strip(), value.strip())
        if "processor" in values:
            blocks.append(values)
        else:
            rest.update(values)
    if blocks:
        blocks[0] = {**rest, **blocks[0]}
    return list(blocks)


def _model(first: Mapping[str, str]) -> str | None:
    for name in ("model name", "cpu model", "cpu"):
        if first.get(name):
            return " ".join(first[name].split())
    implementer, part = _number(first.get("CPU implementer")), _number(first.get("CPU part"))
    if implementer < 0:
        return None
    maker = ARM_IMPLEMENTERS.get(implementer, f"implementer {implementer:#04x}")
    return f"{maker} {ARM_PARTS.get((implementer, part), f'part {part:#05x}')}"


def _number(text: str | None) -> int:
    """The hex number, or -1."""
    try:
        return int(text or "", 16)
    except ValueError:
        return -1


def _topology(folder: Path, online: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """(socket, (socket and die, core)) of each online CPU that tells; cores are counted by the pair."""
    found = []
    for number in online:
        topology = folder / f"cpu{number}" / "topology"
        socket, core = int_of(topology / "physical_package_id"), int_of(topology / "core_id")
        if socket is None or core is None:
            continue
        die = int_of(topology / "die_id") or 0
        found.append((max(0, socket), (max(0, die), core)))
    return found


def _ratio(threads: int, cores: int) -> int | None:
    """Threads of a core; None where cores differ (hybrid CPUs) or none are known."""
    return threads // cores if cores and threads % cores == 0 else None


def _joined(values: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({value for value in values if value})) or None


def _mhz(path: Path) -> float | None:
    khz = int_of(path)
    return None if khz is None else khz / 1000


def _numa(host: Host) -> tuple[NumaNode, ...]:
    nodes = []
    for folder in entries_of(host.sys("devices", "system", "node")):
        if match := re.fullmatch(r"node(\d{1,5})", folder.name):
            nodes.append(NumaNode(int(match[1]), text_of(folder / "cpulist"), _node_memory(folder)))
    return tuple(sorted(nodes, key=lambda node: node.node))


def _node_memory(folder: Path) -> float | None:
    match = re.search(r"MemTotal:\s+(\d{1,15}) kB", text_of(folder / "meminfo") or "")
    return round(int(match[1]) / 2**20, 2) if match else None


def _caches(folder: Path) -> tuple[Cache, ...]:
    caches = []
    for index in entries_of(folder):
        level = int_of(index / "level")
        if level is None:
            continue
        size = re.fullmatch(r"(\d{1,9})K", text_of(index / "size") or "")
        shared = len(cpu_list(text_of(index / "shared_cpu_list"))) or None
        caches.append(Cache(level, text_of(index / "type"), int(size[1]) if size else None, shared))
    return tuple(caches)


# --- one CPU ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CpuPlace:
    """Where one logical CPU sits, and what tells its package from others. None: not shown."""

    package: int | None
    core: int | None
    signature: str
    """Family, model and stepping: "6/106/6". CPUs of one signature run one microcode."""
    microcode: str | None
    ppin: str | None
    """The Protected Processor Inventory Number: the serial number of the package (root, and where firmware allows)."""

    def __str__(self) -> str:
        named = (("package", self.package), ("core", self.core), ("microcode", self.microcode), ("PPIN", self.ppin))
        return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "place unknown"


async def places(host: Host) -> dict[int, CpuPlace]:
    """Every logical CPU of cpuinfo, by number; empty where cpuinfo cannot be read."""
    return await apart(lambda: read_places(host), "cpu places")


def read_places(host: Host) -> dict[int, CpuPlace]:
    """As `places`, blocking."""
    found: dict[int, CpuPlace] = {}
    for block in _blocks(text_of(host.proc("cpuinfo")) or ""):
        if (number := block.get("processor", "")).isdigit():
            found[int(number)] = _place(host.sys("devices", "system", "cpu", f"cpu{number}"), block)
    return found


def _place(folder: Path, block: Mapping[str, str]) -> CpuPlace:
    names = ("cpu family", "model", "stepping")
    return CpuPlace(
        package=int_of(folder / "topology" / "physical_package_id"),
        core=int_of(folder / "topology" / "core_id"),
        signature="/".join(block.get(name, "?") for name in names),
        microcode=block.get("microcode") or text_of(folder / "microcode" / "version"),
        ppin=text_of(folder / "topology" / "ppin"),
    )

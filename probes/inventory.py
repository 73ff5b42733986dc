"""The whole machine in one object: every section read at once, and none able to spoil another.

A section that cannot be read is None, with a line in the notes and an entry in `failed`. What a readable section
could not tell is None in it, with a line in the notes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probes import bmc, cpu, disks, gpus, memory, nics, pci, psus, smbios, system
from probes.bmc import Bmc
from probes.cpu import Cpu
from probes.disks import Disk
from probes.gpus import Gpu
from probes.host import Host
from probes.memory import Memory
from probes.nics import Nic
from probes.notes import Notes
from probes.pci import PciDevice
from probes.psus import Psu
from probes.smbios import Structure
from probes.system import Boot, System, Tpm

SECTION_LIMIT_S = 30.0
SectionT = TypeVar("SectionT")


@dataclass(frozen=True, slots=True)
class SectionFailure:
    """A section that could not be read, and why."""

    section: str
    message: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The machine, as docs/protocol.md describes it under "Inventory". `dataclasses.asdict` makes it JSON."""

    system: System | None
    cpu: Cpu | None
    memory: Memory | None
    disks: tuple[Disk, ...] | None
    nics: tuple[Nic, ...] | None
    gpus: tuple[Gpu, ...] | None
    psus: tuple[Psu, ...] | None
    bmc: Bmc | None
    tpm: Tpm | None
    boot: Boot | None
    pci: tuple[PciDevice, ...] | None
    notes: tuple[str, ...]
    failed: tuple[SectionFailure, ...]


@dataclass(frozen=True, slots=True)
class _Section:
    """One section being read: its own notes, so that their order does not depend on who was first."""

    name: str
    notes: Notes
    failures: list[SectionFailure]

    async def read(self, reading: Awaitable[SectionT], limit_s: float) -> SectionT | None:
        """The section, or None with a failure. Only a cancel gets through."""
        try:
            async with asyncio.timeout(limit_s):
                return await reading
        except TimeoutError:
            self._failed(f"not read within {limit_s:g} s: a device or its driver hangs")
        except Exception as problem:  # one bad section must not cost the others
            self._failed(f"{type(problem).__name__}: {problem}")
        return None

    def _failed(self, message: str) -> None:
        self.notes.add(self.name, f"could not be read: {message}")
        self.failures.append(SectionFailure(self.name, message))


async def collect(host: Host, limit_s: float = SECTION_LIMIT_S) -> Inventory:
    """Read all sections at once, each for at most `limit_s` seconds. Raises nothing."""
    sections: list[_Section] = []

    def start(name: str, read: Callable[[Notes], Awaitable[SectionT]]) -> asyncio.Task[SectionT | None]:
        section = _Section(name, Notes(), [])
        sections.append(section)
        return group.create_task(section.read(read(section.notes), limit_s))

    async with asyncio.TaskGroup() as group:
        tables = start("smbios", lambda _: _tables(host))
        machine = start("system", lambda notes: system.collect(host, notes))
        processors = start("cpu", lambda notes: cpu.collect(host, notes))
        main_memory = start("memory", lambda notes: _memory(host, notes, tables))
        block_devices = start("disks", lambda notes: disks.collect(host, notes))
        interfaces = start("nics", lambda notes: nics.collect(host, notes))
        accelerators = start("gpus", lambda notes: _tuple(gpus.inventory(host, notes)))
        supplies = start("psus", lambda notes: _tuple(psus.inventory(host, notes)))
        controller = start("bmc", lambda notes: bmc.inventory(host, notes))
        trust = start("tpm", lambda notes: system.tpm(host, notes))
        booted = start("boot", lambda notes: system.boot(host, notes))
        functions = start("pci", lambda notes: pci.collect(host, notes))
    return Inventory(
        system=machine.result(),
        cpu=processors.result(),
        memory=main_memory.result(),
        disks=block_devices.result(),
        nics=interfaces.result(),
        gpus=accelerators.result(),
        psus=supplies.result(),
        bmc=controller.result(),
        tpm=trust.result(),
        boot=booted.result(),
        pci=functions.result(),
        notes=tuple(dict.fromkeys(line for section in sections for line in section.notes.lines)),
        failed=tuple(failure for section in sections for failure in section.failures),
    )


async def _tables(host: Host) -> Sequence[Structure] | None:
    """The SMBIOS tables; None where the firmware has none."""
    return await smbios.read(host) if smbios.present(host) else None


async def _memory(host: Host, notes: Notes, tables: asyncio.Task[Sequence[Structure] | None]) -> Memory:
    await asyncio.wait([tables])  # not `await tables`: a time limit here must not cancel the other section
    return await memory.collect(host, notes, tables.result())


async def _tuple(reading: Awaitable[Sequence[SectionT]]) -> tuple[SectionT, ...]:
    return tuple(await reading)


def components(inventory: Inventory) -> list[str]:
    """What the machine is made of, as sorted "kind:serial" strings that stay the same from boot to boot.

    Not listed: what may come and go (removable and remote disks, virtual functions, addresses made up at boot).
    """
    found = [
        *_system_component(inventory.system),
        *_cpu_component(inventory.cpu),
        *(f"dimm:{one.slot}/{one.serial or one.part or one.size}" for one in _modules(inventory.memory)),
        *(f"disk:{_disk_identity(disk)}" for disk in inventory.disks or () if _is_built_in(disk)),
        *(f"nic:{_nic_identity(nic)}" for nic in inventory.nics or () if _is_permanent(nic)),
        *(f"gpu:{gpu.uuid or gpu.pci}" for gpu in inventory.gpus or ()),
        *(f"psu:{psu.serial or psu.name}" for psu in inventory.psus or () if psu.present is not False),
    ]
    return sorted(found)


def _system_component(one: System | None) -> Iterable[str]:
    identity = one and (one.serial or one.board_serial or one.uuid)
    return [f"system:{identity}"] if identity else []


def _cpu_component(one: Cpu | None) -> Iterable[str]:
    return [f"cpu:{one.model or 'unknown'} x {one.sockets or '?'} ({one.present or '?'} CPUs)"] if one else []


def _modules(one: Memory | None) -> Iterable[memory.Dimm]:
    return (one.dimms or ()) if one else ()


def _is_built_in(disk: Disk) -> bool:
    return disk.is_local and disk.removable is not True


def _disk_identity(disk: Disk) -> str:
    """Never the kernel's name, which changes with the order in which disks answer."""
    return disk.serial or disk.wwn or f"{disk.model or disk.transport}/{disk.size_bytes}"


def _is_permanent(nic: Nic) -> bool:
    return nic.mac is not None and not nic.virtual_function and nic.mac_source != "random"


def _nic_identity(nic: Nic) -> str:
    """The MAC; of InfiniBand the port's GUID, since the queue pair before it changes with each boot."""
    mac = nic.mac or ""
    return ":".join(mac.split(":")[-8:]) if nic.kind == "infiniband" else mac

"""The compute GPUs: what PCI shows, and what their drivers say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probes import amd_gpus, pci
from probes.apart import apart
from probes.host import Host, entries_of, text_of
from probes.notes import Notes
from probes.nvml import GpuFacts, NvmlSample, NvmlUnusable, sample_nvml
from probes.pci import PciDevice
from probes.tools import ToolMissing

NVIDIA, AMD = "0x10de", "0x1002"
# Vendor -> PCI class and subclass of what computes. A BMC's VGA, integrated graphics and virtual displays are none.
COMPUTE_CLASSES: Mapping[str, tuple[str, ...]] = {
    NVIDIA: ("0x0300", "0x0302"),
    AMD: ("0x1200", "0x0380"),  # AMD Instinct; its desktop cards and integrated graphics are 0x0300
    "0x1da3": ("0x1200",),  # Habana Gaudi
}
VENDOR_NAMES = {NVIDIA: "NVIDIA", AMD: "AMD", "0x1da3": "Habana"}
NVSWITCH_CLASS = "0x0680"
FABRIC_MANAGER = "nv-fabricmanage"
"""The kernel keeps 15 letters of a process's name."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One compute GPU, as the inventory has it. None where nothing tells."""

    index: int | None
    """NVML's index; None where no driver shows it."""
    model: str | None
    uuid: str | None
    memory_gib: float | None
    pci: str
    vbios: str | None
    driver: str | None
    """Version of the driver, or the name of the kernel module where only that is known."""


def compute_devices(host: Host, notes: Notes) -> tuple[PciDevice, ...]:
    """The compute GPUs on PCI, by address. Blocking."""
    return tuple(device for device in pci.read(host, notes) if is_compute(device))


def is_compute(device: PciDevice) -> bool:
    """Whether it is a GPU to be tested, by vendor and class."""
    classes = COMPUTE_CLASSES.get(device.vendor_id or "", ())
    return not device.virtual_function and (device.class_id or "")[:6] in classes


def is_nvswitch(device: PciDevice) -> bool:
    """Whether it is a switch between NVIDIA GPUs. Those of a B200 board do not show on PCI."""
    return device.vendor_id == NVIDIA and (device.class_id or "")[:6] == NVSWITCH_CLASS


def fabric_manager_runs(host: Host) -> bool | None:
    """Whether NVIDIA's Fabric Manager runs; None where no process can be seen, as on a recorded machine. Blocking."""
    processes = [entry for entry in entries_of(host.proc()) if entry.name.isdigit()]
    return any(text_of(entry / "comm") == FABRIC_MANAGER for entry in processes) if processes else None


async def inventory(host: Host, notes: Notes) -> list[Gpu]:
    """Every compute GPU that PCI shows. NVML is asked only where there is an NVIDIA GPU with a driver."""
    devices = await apart(lambda: compute_devices(host, notes), "gpus")
    sample = None
    if any(device.vendor_id == NVIDIA and device.driver for device in devices):
        try:
            sample = (await sample_nvml(host))[0]
        except (NvmlUnusable, ToolMissing) as problem:
            notes.add("gpus", problem)
    facts = {gpu.pci: gpu for gpu in sample.gpus} if sample else {}
    amd = [device.address for device in devices if device.vendor_id == AMD and device.driver]
    if amd:
        told = await amd_gpus.read(host, amd)
        facts |= {gpu.pci: gpu for gpu in told.gpus}
        for failed in told.problems:
            notes.add("gpus", failed)
    return [_gpu(device, facts.get(device.address), sample, notes) for device in devices]


def _gpu(device: PciDevice, facts: GpuFacts | None, sample: NvmlSample | None, notes: Notes) -> Gpu:
    if facts is None:
        notes.add(f"gpu {device.address}", "only PCI shows it: no driver tells its model, memory and serial")
        return Gpu(None, _vendor_name(device), None, None, device.address, None, device.driver)
    size = facts.amount("memory_bytes")
    return Gpu(
        index=facts.index,
        model=facts.text("name") or _vendor_name(device),
        uuid=facts.uuid,
        memory_gib=None if size is None else round(size / 2**30, 1),
        pci=device.address,
        vbios=facts.text("vbios"),
        driver=sample.driver if sample and device.vendor_id == NVIDIA else device.driver,
    )


def _vendor_name(device: PciDevice) -> str:
    return f"{VENDOR_NAMES.get(device.vendor_id or '', 'GPU')} {device.device_id or ''}".strip()

"""What is said of an AMD GPU: its health facts are judged, and it never passes, since no load exists for it here."""

from __future__ import annotations

from collections.abc import Iterator

from probes.nvml import GpuFacts
from probes.pci import PciDevice
from stages.gpu_case import believed
from stages.outcome import Finding, Measurement, ReasonCode, error, warning

HEATS = (
    ("temperature", "temperature_slowdown", "hottest spot"),
    ("edge_temperature", "edge_temperature_max", "edge"),
    ("memory_temperature", "temperature_memory_max", "memory"),
)
MEASURED = (
    ("temperature", "C"),
    ("memory_temperature", "C"),
    ("power", "W"),
    ("utilization", "%"),
    ("ecc_corrected", "count"),
    ("ecc_deferred", "count"),
    ("ecc_uncorrected", "count"),
    ("pages_retired", "count"),
    ("pcie_replays", "count"),
)


def judge(device: PciDevice, gpu: GpuFacts | None) -> Iterator[Finding]:
    """`gpu` is None where nothing was read of it."""
    component, name = component_of(device, gpu), _name(device, gpu)
    if device.driver is None:
        text = f"{name}: no driver is bound to it (amdgpu is missing or refuses it): nothing tells of its health"
        yield error(ReasonCode.GPU_DRIVER_MISSING, component, text)
    elif gpu is not None and "handle" in gpu.errors:
        yield error(ReasonCode.GPU_HUNG, component, f"{name}: {gpu.errors['handle']}: the GPU or its driver hangs")
    elif gpu is not None:
        yield from (_as_error(component, name, code, text) for code, text in _faults(gpu))
        yield from _unread(component, name, gpu)
        if retired := gpu.amount("pages_retired"):
            text = f"{name}: {retired:.0f} bad pages of its memory are taken out of use"
            yield warning(ReasonCode.GPU_PAGES_RETIRED, component, text)
    known = "its health facts were read" if _tells(gpu) else "nothing was read of its health"
    text = f"{name}: it was not tested under load: there is no load for AMD GPUs here; {known}"
    yield error(ReasonCode.GPU_NOT_LOADED, component, text)


def component_of(device: PciDevice, gpu: GpuFacts | None) -> str:
    return f"gpu:{gpu.uuid}" if gpu is not None and gpu.uuid else f"pci:{device.address}"


def measure(device: PciDevice, gpu: GpuFacts) -> Iterator[Measurement]:
    for name, unit in MEASURED:
        value = believed(gpu, name)
        if value is not None:
            yield Measurement(name, component_of(device, gpu), value, unit)


def _name(device: PciDevice, gpu: GpuFacts | None) -> str:
    model = (gpu.text("name") if gpu else None) or f"AMD GPU {device.device_id or ''}".strip()
    return f"{model} ({device.address})"


def _tells(gpu: GpuFacts | None) -> bool:
    return gpu is not None and any(gpu.amount(name) is not None for name in ("ecc_uncorrected", "temperature"))


def _as_error(component: str, name: str, code: ReasonCode, text: str) -> Finding:
    return error(code, component, f"{name}: {text}")


def _faults(gpu: GpuFacts) -> Iterator[tuple[ReasonCode, str]]:
    if count := gpu.amount("ecc_uncorrected"):
        yield ReasonCode.GPU_ECC_UNCORRECTED, f"{count:.0f} uncorrected errors counted by its RAS blocks"
    if count := gpu.amount("pages_failed"):
        yield ReasonCode.GPU_REMAP_FAILED, f"{count:.0f} bad pages of its memory could not be taken out of use"
    if count := gpu.amount("pages_pending"):
        yield ReasonCode.GPU_REMAP_PENDING, f"{count:.0f} bad pages of its memory wait to be taken out of use"
    retired, most = gpu.amount("pages_retired"), gpu.amount("bad_page_limit")
    if retired and most and retired >= most:
        yield ReasonCode.GPU_PAGES_RETIRED, f"{retired:.0f} bad pages of its memory, its maker allows {most:.0f}"
    for fact, bound, words in HEATS:
        heat, limit = believed(gpu, fact), gpu.amount(bound)
        if heat is not None and limit and heat >= limit:
            yield ReasonCode.GPU_OVERHEATED, f"its {words} is at {heat:.0f} °C, {limit:.0f} °C is critical"


def _unread(component: str, name: str, gpu: GpuFacts) -> Iterator[Finding]:
    """What the driver has for this GPU and did not tell. What the GPU does not have is no fault."""
    for fact, why in sorted(gpu.errors.items()):
        yield error(ReasonCode.PROBE_ERROR, component, f"{name}: {fact} could not be read: {why}")

"""The compute GPUs: what PCI shows, and what NVML says of each.

NVML is asked in a child process (`probes.nvml_child`), since a sick GPU can hang every driver call for good.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from probes import pci
from probes.apart import apart
from probes.host import Host
from probes.json_paths import dig, number, rows
from probes.notes import Notes
from probes.pci import PciDevice
from probes.tools import ToolError, ToolMissing, ToolTimeout, ToolUnkillable

NVIDIA = "0x10de"
# Vendor -> PCI class and subclass of what computes. A BMC's VGA, integrated graphics and virtual displays are none.
COMPUTE_CLASSES: Mapping[str, tuple[str, ...]] = {
    NVIDIA: ("0x0300", "0x0302"),
    "0x1002": ("0x1200", "0x0380"),  # AMD Instinct; its desktop cards and integrated graphics are 0x0300
    "0x1da3": ("0x1200",),  # Habana Gaudi
}
VENDOR_NAMES = {NVIDIA: "NVIDIA", "0x1002": "AMD", "0x1da3": "Habana"}
NVML_LIMIT_S = 30.0
MOST = 1e300
"""Without persistence mode the driver starts each GPU on the first call: seconds for eight of them."""


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


@dataclass(frozen=True, slots=True)
class NvLink:
    """One NVLink. `active` is None where the state could not be read; `crc_errors` where they are not counted."""

    number: int
    active: bool | None
    crc_errors: int | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What NVML said of one GPU at one moment. A fact is absent from `values` where it is not known."""

    index: int
    values: Mapping[str, Any]
    """By the names in `probes.nvml_child`."""
    unsupported: frozenset[str]
    """Facts that this GPU or driver does not have. Not the same as 0."""
    errors: Mapping[str, str]
    """Facts that could not be read, with the driver's words; `handle` when the GPU itself is not reachable."""
    nvlinks: tuple[NvLink, ...]

    @property
    def uuid(self) -> str | None:
        return self.text("uuid")

    @property
    def pci(self) -> str:
        """The PCI address as sysfs writes it."""
        return _sysfs_address(self.text("pci") or "")

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def amount(self, name: str) -> float | None:
        value = self.values.get(name)
        return value if _is_figure(value) else None


def _is_figure(value: Any) -> TypeGuard[float]:
    """A number that can be one: NaN and infinity are not less than any bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


@dataclass(frozen=True, slots=True)
class NvmlSample:
    """All GPUs at one moment. `time_s` is a monotonic clock."""

    time_s: float
    driver: str | None
    gpus: tuple[GpuFacts, ...]


class NvmlUnusable(Exception):
    """NVML told nothing. `kind`: no_module, no_library, no_driver, init, hung, crashed, unreadable."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def compute_devices(host: Host, notes: Notes) -> tuple[PciDevice, ...]:
    """The compute GPUs on PCI, by address. Blocking."""
    return tuple(device for device in pci.read(host, notes) if is_compute(device))


def is_compute(device: PciDevice) -> bool:
    """Whether it is a GPU to be tested, by vendor and class."""
    classes = COMPUTE_CLASSES.get(device.vendor_id or "", ())
    return not device.virtual_function and (device.class_id or "")[:6] in classes


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
    return [_gpu(device, facts.get(device.address), sample, notes) for device in devices]


def _gpu(device: PciDevice, facts: GpuFacts | None, sample: NvmlSample | None, notes: Notes) -> Gpu:
    if facts is None:
        notes.add(f"gpu {device.address}", "only PCI shows it: no driver tells its model, memory and serial")
        name = f"{VENDOR_NAMES.get(device.vendor_id or '', 'GPU')} {device.device_id or ''}".strip()
        return Gpu(None, name, None, None, device.address, None, device.driver)
    size = facts.amount("memory_bytes")
    return Gpu(
        index=facts.index,
        model=facts.text("name"),
        uuid=facts.uuid,
        memory_gib=None if size is None else round(size / 2**30, 1),
        pci=device.address,
        vbios=facts.text("vbios"),
        driver=sample.driver if sample else device.driver,
    )


async def sample_nvml(
    host: Host,
    *,
    samples: int = 1,
    interval_s: float = 0.0,
    limit_s: float = NVML_LIMIT_S,
    on_sample: Callable[[NvmlSample], None] | None = None,
) -> list[NvmlSample]:
    """Ask NVML `samples` times, `interval_s` apart; `limit_s` is what all driver calls together may take.

    Raises NvmlUnusable, ToolMissing.
    """

    def on_line(line: str) -> None:
        if on_sample is not None:
            with contextlib.suppress(NvmlUnusable):  # judged when the whole output is read
                on_sample(parse_sample(line))

    command = (sys.executable, "-I", "-m", "probes.nvml_child", str(samples), str(interval_s))
    limit_s += max(0, samples - 1) * interval_s
    try:
        result = await host.tools.run(*command, timeout_s=limit_s, on_line=on_line)
    except (ToolTimeout, ToolUnkillable) as problem:
        text = f"the NVIDIA driver did not answer within {limit_s:.0f} s: a GPU or its driver hangs"
        raise NvmlUnusable("hung", text) from problem
    except ToolMissing:
        raise
    except ToolError as problem:
        words = problem.result.last_words() if problem.result else ""
        raise NvmlUnusable("crashed", f"the process that asks NVML died: {problem} {words}".strip()) from problem
    seen = [parse_sample(line) for line in result.stdout.splitlines()]
    if len(seen) != samples:
        raise NvmlUnusable("unreadable", f"NVML was to be read {samples} times, and was {len(seen)} times")
    return seen


def parse_sample(line: str) -> NvmlSample:
    """One line of `probes.nvml_child`. Raises NvmlUnusable."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise NvmlUnusable("unreadable", f"the NVML reader printed no JSON: {line[:80]!r}") from None
    failure = dig(document, "failure")
    if isinstance(failure, str):
        raise NvmlUnusable(failure, str(dig(document, "message")))
    when = dig(document, "time")
    count = number(dig(document, "count", "value"))
    gpus = tuple(_facts(row) for row in rows(document, "gpus"))
    if not _is_figure(when) or count != len(gpus):
        words = dig(document, "count", "error") or "its output has another form than expected"
        raise NvmlUnusable("unreadable", f"NVML did not list its GPUs: {words}")
    driver = dig(document, "driver", "value")
    return NvmlSample(float(when), driver if isinstance(driver, str) else None, gpus)


def _facts(row: object) -> GpuFacts:
    index = number(dig(row, "index"))
    if not isinstance(row, Mapping) or index is None:
        raise NvmlUnusable("unreadable", f"a GPU without an index: {row!r:.80}")
    facts = {name: fact for name, fact in row.items() if isinstance(fact, Mapping)}
    return GpuFacts(
        index=index,
        values={name: fact["value"] for name, fact in facts.items() if "value" in fact},
        unsupported=frozenset(name for name, fact in facts.items() if fact.get("unsupported") is True),
        errors={name: str(fact["error"]) for name, fact in facts.items() if "error" in fact},
        nvlinks=tuple(_nvlink(link) for link in rows(row, "nvlinks")),
    )


def _nvlink(row: object) -> NvLink:
    counts = [number(dig(row, "errors", name, "value")) for name in ("crc_flit", "crc_data")]
    known = [count for count in counts if count is not None]
    active = dig(row, "active", "value")
    return NvLink(
        number(dig(row, "link")) or 0, active if isinstance(active, bool) else None, sum(known) if known else None
    )


def _sysfs_address(bus_id: str) -> str:
    """NVML writes 00000000:3B:00.0, sysfs 0000:3b:00.0."""
    domain, _, rest = bus_id.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return bus_id.lower()

"""What NVML's facts say of a GPU: samples in, findings and measurements out. Nothing here touches the machine.

A fact that the GPU does not have ("unsupported") is not judged; one that it should have told and did not is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probes.gpus import GpuFacts, NvmlSample
from probes.pci import PciDevice
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning

# Bits of NVML's clock event reasons that mean "held down for heat or by the board", not for power or by choice.
HELD_DOWN = {0x08: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}
NEEDED = (
    "temperature",
    "ecc_uncorrected",
    "remapped_rows",
    "retired_single_bit",
    "retired_double_bit",
    "throttle_reasons",
    "pcie_width",
)
"""Facts without which a GPU is not judged, unless it does not have them."""


@dataclass(frozen=True, slots=True)
class Limits:
    retired_pages: int
    throttled_percent: float
    nvlink_expected: bool


@dataclass(frozen=True, slots=True)
class Path:
    """How wide the way to a GPU can be: the least of what the ports above it offer. None: not known."""

    address: str
    max_width: int | None


@dataclass(frozen=True, slots=True)
class Judged:
    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]


def path_of(device: PciDevice, everything: Sequence[PciDevice]) -> Path:
    """The width of the port right above: wider ports further up do not help, narrower ones have links of their own."""
    port = next((one for one in everything if one.address == device.upstream), None)
    return Path(device.address, port.link.max_width if port and port.link else None)


def judge_gpus(
    devices: Sequence[PciDevice], paths: Sequence[Path], samples: Sequence[NvmlSample], limits: Limits
) -> Judged:
    """All NVIDIA GPUs: those that PCI shows and NVML does not, then each that NVML shows."""
    findings: list[Finding] = []
    measurements: list[Measurement] = []
    first, last = samples[0], samples[-1]
    driven = {gpu.pci for sample in samples for gpu in sample.gpus}
    for device in devices:
        if device.address not in driven:
            text = f"The GPU at PCI {device.address} is there, but the NVIDIA driver does not show it"
            findings.append(error(ReasonCode.GPU_MISSING, f"pci:{device.address}", text))
    widths = {path.address: path.max_width for path in paths}
    for gpu in last.gpus:
        history = [one for sample in samples for one in sample.gpus if _same(one, gpu)]
        case = _Case(gpu, history, last.time_s - first.time_s, widths.get(gpu.pci), limits)
        findings += case.judge()
        measurements += case.measure()
    for gpu in first.gpus:
        if not any(_same(gpu, one) for one in last.gpus):
            text = f"{_name(gpu)} was there when the stage began and was gone when it ended"
            findings.append(error(ReasonCode.GPU_MISSING, _component(gpu), text))
    return Judged(tuple(findings), tuple(measurements))


def _same(one: GpuFacts, other: GpuFacts) -> bool:
    return one.uuid == other.uuid if one.uuid and other.uuid else one.index == other.index


def _component(gpu: GpuFacts) -> str:
    return f"gpu:{gpu.uuid or gpu.pci or gpu.index}"


def _name(gpu: GpuFacts) -> str:
    return f"{gpu.text('name') or 'GPU'} ({gpu.pci or f'index {gpu.index}'})"


@dataclass(frozen=True, slots=True)
class _Case:
    """One GPU: its last facts, all its samples, and over how many seconds they were taken."""

    gpu: GpuFacts
    history: Sequence[GpuFacts]
    seconds: float
    path_width: int | None
    limits: Limits

    def judge(self) -> list[Finding]:
        if "handle" in self.gpu.errors:
            text = f"GPU {self.gpu.index} cannot be reached any more: {self.gpu.errors['handle']}"
            return [self._error(ReasonCode.GPU_MISSING, text)]
        findings = [*self._memory(), *self._heat(), *self._pcie(), *self._nvlink(), *self._unknown()]
        if not any(finding.severity == "error" for finding in findings):
            text = f"{_name(self.gpu)}: its health facts are good, but no load has been run on it"
            findings.append(self._error(ReasonCode.GPU_NOT_LOADED, text))
        return findings

    def _error(self, code: ReasonCode, message: str, evidence: str = "") -> Finding:
        return error(code, _component(self.gpu), message, evidence)

    def _memory(self) -> Iterator[Finding]:
        name, gpu = _name(self.gpu), self.gpu
        _, uncorrectable, pending, failed = _remapped(gpu) or (0, 0, 0, 0)
        if failed:
            text = f"{name}: a memory row could not be remapped, its spare rows are used up: replace it"
            yield self._error(
                ReasonCode.GPU_REMAP_FAILED, text, f"{uncorrectable} rows remapped for uncorrectable errors"
            )
        if pending or gpu.values.get("retired_pending") is True:
            text = f"{name}: bad memory waits to be taken out of use: reset the GPU and run again"
            yield self._error(ReasonCode.GPU_REMAP_PENDING, text)
        count = gpu.amount("ecc_uncorrected")
        if count:
            text = f"{name}: {count:.0f} uncorrected memory errors since its driver started"
            yield self._error(ReasonCode.GPU_ECC_UNCORRECTED, text)
        retired = (gpu.amount("retired_single_bit") or 0) + (gpu.amount("retired_double_bit") or 0)
        if retired >= self.limits.retired_pages:
            text = f"{name}: {retired:.0f} memory pages retired, {self.limits.retired_pages} is the limit"
            yield self._error(ReasonCode.GPU_PAGES_RETIRED, text)
        if gpu.values.get("ecc_enabled") is False:
            text = f"{name}: it could correct memory errors (ECC), but that is switched off"
            yield warning(ReasonCode.GPU_ECC_UNCORRECTED, _component(gpu), text)

    def _heat(self) -> Iterator[Finding]:
        hottest = max((value for one in self.history if (value := one.amount("temperature")) is not None), default=None)
        slowdown = self.gpu.amount("temperature_slowdown")
        if hottest is not None and slowdown and hottest >= slowdown:
            text = f"{_name(self.gpu)}: {hottest:.0f} °C, it slows itself down at {slowdown:.0f} °C"
            yield self._error(ReasonCode.GPU_OVERHEATED, text)
        percent, how = self._throttled()
        if percent is not None and percent > self.limits.throttled_percent:
            text = f"{_name(self.gpu)}: its clocks were held down for {percent:.0f} % of the stage ({how})"
            yield self._error(ReasonCode.GPU_THROTTLED, text, f"limit {self.limits.throttled_percent:.0f} %")

    def _throttled(self) -> tuple[float | None, str]:
        """Percent of the time, by the violation counter and by the samples: the greater of the two."""
        masks = [int(mask) for one in self.history if (mask := one.amount("throttle_reasons")) is not None]
        held = [mask for mask in masks if any(mask & bit for bit in HELD_DOWN)]
        by_samples = 100 * len(held) / len(masks) if masks else None
        words = sorted({word for mask in held for bit, word in HELD_DOWN.items() if mask & bit})
        first, last = (one.amount("thermal_violation") for one in (self.history[0], self.history[-1]))
        if first is not None and last is not None and self.seconds > 0:
            by_time = 100 * max(0.0, last - first) / self.seconds
            if by_samples is None or by_time > by_samples:
                return by_time, "thermal violation time"
        return by_samples, ", ".join(words)

    def _pcie(self) -> Iterator[Finding]:
        width, own = self.gpu.amount("pcie_width"), self.gpu.amount("pcie_width_max")
        able = min((value for value in (own, self.path_width) if value), default=None)
        if width is not None and able is not None and width < able:
            text = f"{_name(self.gpu)}: its PCIe link runs at x{width:.0f}, GPU and slot can do x{able:.0f}"
            yield self._error(ReasonCode.GPU_PCIE_DEGRADED, text)

    def _nvlink(self) -> Iterator[Finding]:
        links, name = self.gpu.nvlinks, _name(self.gpu)
        unread = [str(link.number) for link in links if link.active is None]
        if unread:
            yield self._error(
                ReasonCode.PROBE_ERROR, f"{name}: the state of NVLink {', '.join(unread)} could not be read"
            )
        dark = [str(link.number) for link in links if link.active is False]
        if dark and (any(link.active for link in links) or self.limits.nvlink_expected):
            text = f"{name}: NVLink {', '.join(dark)} inactive, of {len(links)}"
            yield self._error(ReasonCode.GPU_NVLINK, text)
        elif dark:
            text = f"{name}: none of its {len(links)} NVLinks is active; sound where no bridge or switch joins them"
            yield info(ReasonCode.GPU_NVLINK, _component(self.gpu), text)
        before = {link.number: link.crc_errors for link in self.history[0].nvlinks}
        for link in links:
            new = (link.crc_errors or 0) - (before.get(link.number) or 0)
            if new > 0:
                text = f"{name}: {new} new CRC errors on NVLink {link.number} during the stage"
                yield self._error(ReasonCode.GPU_NVLINK, text)

    def _unknown(self) -> Iterator[Finding]:
        """What had to be read and was not. Told apart from what the GPU does not have."""
        for fact in NEEDED:
            known = _remapped(self.gpu) if fact == "remapped_rows" else self.gpu.amount(fact)
            if known is None and fact not in self.gpu.unsupported:
                why = self.gpu.errors.get(fact, "the driver gave no number")
                yield self._error(ReasonCode.PROBE_ERROR, f"{_name(self.gpu)}: {fact} could not be read: {why}")

    def measure(self) -> Iterator[Measurement]:
        gpu, component = self.gpu, _component(self.gpu)
        heat, slowdown = gpu.amount("temperature"), gpu.amount("temperature_slowdown")
        if heat is not None:
            yield Measurement("temperature", component, heat, "C", slowdown, heat < slowdown if slowdown else None)
        for name, unit in (
            ("power", "W"),
            ("clock", "MHz"),
            ("ecc_corrected", "count"),
            ("ecc_uncorrected", "count"),
            ("ecc_uncorrected_lifetime", "count"),
            ("pcie_generation", "gen"),
            ("pcie_width", "lanes"),
        ):
            value = gpu.amount(name)
            if value is not None:
                yield Measurement(name, component, value, unit)


def _remapped(gpu: GpuFacts) -> tuple[int, int, int, int] | None:
    """(correctable, uncorrectable, pending, failed); None where the GPU does not tell."""
    value = gpu.values.get("remapped_rows")
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(part, int) for part in value):
        return None
    return value[0], value[1], value[2], value[3]

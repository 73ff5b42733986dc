"""What NVML's facts say of a GPU: samples in, findings and measurements out. Nothing here touches the machine.

A fact that the GPU does not have ("unsupported") is not judged; one that it should have told and did not is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probes.nvml import GpuFacts, NvmlSample
from probes.pci import PciDevice
from stages import gpu_heat_judge, gpu_links_judge
from stages.deltas import FATAL_XIDS
from stages.gpu_case import Case, Limits, Path, believed, component_of, newest, same
from stages.gpu_links_judge import Fabric
from stages.outcome import Finding, Measurement, ReasonCode, error, warning

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
ASKED = ("sram_errors_over_limit", "retired_pending", "pcie_generation", "recovery_action")
"""Facts that an old recording may lack; but a driver that was asked and failed leaves the GPU unknown."""
RECOVERY_ACTIONS = {
    1: "be reset",
    2: "have its node rebooted",
    3: "be drained of peer-to-peer traffic",
    4: "be drained and reset",
    5: "have its fabric domain recovered",
    6: "have its bus reset",
    7: "have its system rebooted",
}
PROHIBITED = 2


@dataclass(frozen=True, slots=True)
class Judged:
    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]


def judge_gpus(
    devices: Sequence[PciDevice],
    paths: Sequence[Path],
    samples: Sequence[NvmlSample],
    limits: Limits,
    fabric: Fabric | None = None,
    *,
    cut_short: bool = False,
) -> Judged:
    """All NVIDIA GPUs: those that PCI shows and NVML does not, then each that NVML shows, then what joins them.

    Each without an error ends as not loaded: what a load found of it is judged elsewhere (`stages.gpu_burn_judge`).
    `cut_short`: the driver failed in the midst of it, and each GPU has its error for that.
    """
    findings = [*_not_driven(devices, samples)]
    measurements: list[Measurement] = []
    fabric = fabric or Fabric()
    cases = [*_cases(paths, samples, limits, fabric)]
    for case in cases:
        findings += _judge(case, cut_short=cut_short)
        measurements += _measure(case)
    findings += _gone(samples)
    findings += gpu_links_judge.judge_fabric([case.gpu for case in cases], fabric)
    return Judged((*findings, *_events(samples)), tuple(measurements))


def _cases(paths: Sequence[Path], samples: Sequence[NvmlSample], limits: Limits, fabric: Fabric) -> Iterator[Case]:
    known = {path.address: path for path in paths}
    seconds = samples[-1].time_s - samples[0].time_s
    told = [event for sample in samples for event in sample.events]
    for last in samples[-1].gpus:
        history = [one for sample in samples for one in sample.gpus if same(one, last)]
        gpu = newest(history)
        path = known.get(gpu.pci, Path(gpu.pci, None))
        events = [event for event in told if event.index == gpu.index]
        yield Case(gpu, history, seconds, path, limits, events, fabric.joins(gpu))


def _not_driven(devices: Sequence[PciDevice], samples: Sequence[NvmlSample]) -> Iterator[Finding]:
    driven = {gpu.pci for sample in samples for gpu in sample.gpus}
    for device in devices:
        if device.address not in driven:
            text = f"The GPU at PCI {device.address} is there, but the NVIDIA driver does not show it"
            yield error(ReasonCode.GPU_MISSING, f"pci:{device.address}", text)


def _gone(samples: Sequence[NvmlSample]) -> Iterator[Finding]:
    for gpu in samples[0].gpus:
        if not any(same(gpu, one) for one in samples[-1].gpus):
            text = f"{gpu.text('name') or 'GPU'} ({gpu.pci}) was there when the stage began and was gone when it ended"
            yield error(ReasonCode.GPU_MISSING, component_of(gpu), text)


def _events(samples: Sequence[NvmlSample]) -> Iterator[Finding]:
    """Faults of no known GPU, and events that could not be waited for: the kernel log remains for these."""
    numbers = sorted({event.xid for sample in samples for event in sample.events if event.index is None})
    if fatal := FATAL_XIDS.intersection(numbers):
        text = f"The NVIDIA driver reported a hardware fault of a GPU that it did not name: XID {_listed(fatal)}"
        yield error(ReasonCode.GPU_XID, "gpu", text)
    if why := next((sample.events_error for sample in samples if sample.events_error), None):
        text = f"The NVIDIA driver's fault events could not be waited for: {why}; its lines in the kernel log remain"
        yield warning(ReasonCode.PROBE_ERROR, "gpu", text)


def _judge(case: Case, *, cut_short: bool) -> list[Finding]:
    gpu = case.gpu
    if gpu.lost or "handle" in gpu.errors:
        why = gpu.errors.get("handle", "its driver has lost it")
        return [*_xids(case), case.error(ReasonCode.GPU_MISSING, f"it cannot be reached any more: {why}")]
    findings = [
        *_memory(case),
        *_xids(case),
        *_recovery(case),
        *gpu_heat_judge.judge(case),
        *gpu_links_judge.judge_pcie(case),
        *gpu_links_judge.judge_nvlink(case),
        *gpu_links_judge.judge_membership(case),
        *_modes(case),
        *_unknown(case, case.gpu if cut_short else case.history[-1]),
    ]
    if not cut_short and not any(finding.severity == "error" for finding in findings):
        text = "its health facts are good, but no load has been run on it"
        findings.append(case.error(ReasonCode.GPU_NOT_LOADED, text))
    return findings


def _memory(case: Case) -> Iterator[Finding]:
    gpu = case.gpu
    _, uncorrectable, pending, failed = _remapped(gpu) or (0, 0, 0, 0)
    if failed:
        text = "a memory row could not be remapped, its spare rows are used up: replace it"
        yield case.error(ReasonCode.GPU_REMAP_FAILED, text, f"{uncorrectable} rows remapped for uncorrectable errors")
    elif banks := case.amount("remap_banks_used_up"):
        yield case.warning(ReasonCode.GPU_REMAP_FAILED, f"{banks:.0f} banks of its memory have no spare rows left")
    if pending or gpu.values.get("retired_pending") is True:
        text = "bad memory waits to be taken out of use: reset the GPU and run again"
        yield case.error(ReasonCode.GPU_REMAP_PENDING, text)
    if count := case.highest("ecc_uncorrected"):
        text = f"{count:.0f} uncorrected memory errors since its driver started"
        yield case.error(ReasonCode.GPU_ECC_UNCORRECTED, text)
    if gpu.values.get("sram_errors_over_limit") is True:
        text = "its on-chip memory had more uncorrectable errors than its maker allows: replace it"
        yield case.error(ReasonCode.GPU_ECC_UNCORRECTED, text)
    retired = (case.amount("retired_single_bit") or 0) + (case.amount("retired_double_bit") or 0)
    if retired >= case.limits.retired_pages:
        text = f"{retired:.0f} memory pages retired, {case.limits.retired_pages} is the limit"
        yield case.error(ReasonCode.GPU_PAGES_RETIRED, text)
    if gpu.values.get("ecc_enabled") is False:
        text = "it could correct memory errors (ECC), but that is switched off"
        yield case.warning(ReasonCode.GPU_ECC_UNCORRECTED, text)
    lifetime = case.amount("ecc_uncorrected_lifetime")
    if lifetime and not count:
        text = f"{lifetime:.0f} uncorrected memory errors in its lifetime, not charged to this run"
        yield case.info(ReasonCode.EARLIER_EVENTS, text)


def _xids(case: Case) -> Iterator[Finding]:
    numbers = {event.xid for event in case.events}
    if fatal := FATAL_XIDS & numbers:
        text = f"the NVIDIA driver reported a hardware fault of it: XID {_listed(fatal)}"
        yield case.error(ReasonCode.GPU_XID, text, f"{len(case.events)} events by NVML's event set")
    if others := numbers - FATAL_XIDS:
        text = f"the NVIDIA driver reported XID {_listed(others)}, which by itself is no fault of the hardware"
        yield case.info(ReasonCode.GPU_XID, text)


def _listed(numbers: frozenset[int] | set[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


def _recovery(case: Case) -> Iterator[Finding]:
    action = case.highest("recovery_action")
    if action:
        wish = RECOVERY_ACTIONS.get(int(action), f"recover by action {action:.0f}")
        yield case.error(ReasonCode.GPU_RESET_NEEDED, f"its driver says that it has to {wish}")
    elif case.gpu.reset_required:
        yield case.error(ReasonCode.GPU_RESET_NEEDED, "its driver answers that it has to be reset")


def _modes(case: Case) -> Iterator[Finding]:
    """Settings in which no load can be run on the whole GPU."""
    if case.amount("mig_mode"):
        text = "it is divided (MIG mode is on), so that no load can be run on it as a whole"
        yield case.warning(ReasonCode.GPU_NOT_LOADED, text)
    if case.amount("compute_mode") == PROHIBITED:
        yield case.warning(ReasonCode.GPU_NOT_LOADED, "its compute mode is prohibited: no load can be run on it")


def _unknown(case: Case, last: GpuFacts) -> Iterator[Finding]:
    """What had to be read at the end and was not. Told apart from what the GPU does not have."""
    for fact in (*NEEDED, *ASKED):
        known = _remapped(last) if fact == "remapped_rows" else believed(last, fact)
        if known is None and fact not in last.unsupported and (fact in NEEDED or fact in last.errors):
            why = last.errors.get(fact, "the driver gave no number that it could be")
            yield case.error(ReasonCode.PROBE_ERROR, f"{fact} could not be read: {why}")


MEASURED = (
    ("clock", "MHz"),
    ("utilization", "%"),
    ("ecc_corrected", "count"),
    ("ecc_uncorrected", "count"),
    ("ecc_corrected_lifetime", "count"),
    ("ecc_uncorrected_lifetime", "count"),
    ("pcie_generation", "gen"),
    ("pcie_width", "lanes"),
)
GAINED = (
    ("ecc_corrected", "count"),
    ("pcie_replays", "count"),
    ("power_violation", "s"),
    ("board_limit_violation", "s"),
    ("thermal_violation", "s"),
)


def _measure(case: Case) -> Iterator[Measurement]:
    component = case.component
    for name, bound in (("temperature", "temperature_slowdown"), ("memory_temperature", "temperature_memory_max")):
        heat, limit = case.highest(name), case.amount(bound)
        if heat is not None:
            yield Measurement(name, component, heat, "C", limit, heat < limit if limit else None)
    power, limit = case.highest("power"), case.amount("power_limit")
    if power is not None:
        yield Measurement("power", component, power, "W", limit, None)
    for name, unit in MEASURED:
        value = case.highest(name) if name in {"clock", "utilization", "pcie_generation"} else case.amount(name)
        if value is not None:
            yield Measurement(name, component, value, unit)
    for name, unit in GAINED:
        gain = case.gained(name)
        if gain is not None:
            yield Measurement(f"{name}_gained", component, round(gain, 3), unit)


def _remapped(gpu: GpuFacts) -> tuple[int, int, int, int] | None:
    """(correctable, uncorrectable, pending, failed); None where the GPU does not tell."""
    value = gpu.values.get("remapped_rows")
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(part, int) for part in value):
        return None
    return value[0], value[1], value[2], value[3]

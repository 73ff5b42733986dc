"""What a stage says of the hardware: verdict, findings, measurements, coverage.

An `Outcome` is the `summary` object of the wire (docs/protocol.md, "Outcome"). Its verdict is computed from its
findings, never set: a stage states what it found, and cannot say "passed".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Verdict(StrEnum):
    """The judgement of one stage."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """The hardware is there, or was expected, and could not be judged."""
    NOT_APPLICABLE = "not_applicable"
    """No such hardware here and none expected."""
    CANCELLED = "cancelled"


class Severity(StrEnum):
    """An error finding decides the verdict; a warning or an info never does."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class ReasonCode(StrEnum):
    """The closed list of reasons. `stages.reasons` says of each what it means and what to do."""

    # Inventory
    PROBE_ERROR = "probe_error"
    DISK_MISSING = "disk_missing"
    DISK_SIZE_MISMATCH = "disk_size_mismatch"
    CPU_OFFLINE = "cpu_offline"
    MEMORY_MISSING = "memory_missing"
    PCIE_LINK_DEGRADED = "pcie_link_degraded"
    DISK_SERIAL_AMBIGUOUS = "disk_serial_ambiguous"
    # SMART
    SMART_HEALTH_FAILED = "smart_health_failed"
    SMART_PREFAIL = "smart_prefail"
    SMART_UNREADABLE = "smart_unreadable"
    NVME_CRITICAL_WARNING = "nvme_critical_warning"
    NVME_SPARE_LOW = "nvme_spare_low"
    NVME_WORN = "nvme_worn"
    DISK_MEDIA_ERRORS = "disk_media_errors"
    DISK_REALLOCATED = "disk_reallocated"
    DISK_WORN = "disk_worn"
    DISK_LINK_ERRORS = "disk_link_errors"
    SMART_SELF_TEST_FAILED = "smart_self_test_failed"
    SMART_SELF_TEST_TIMEOUT = "smart_self_test_timeout"
    SMART_SELF_TEST_NOT_RUN = "smart_self_test_not_run"
    DISK_OVERHEATED = "disk_overheated"
    # CPUStress
    CPU_MISCOMPUTE = "cpu_miscompute"
    MEMORY_MISCOMPUTE = "memory_miscompute"
    MCE_UNCORRECTED = "mce_uncorrected"
    MCE_CORRECTED = "mce_corrected"
    ECC_UNCORRECTED = "ecc_uncorrected"
    ECC_CORRECTED = "ecc_corrected"
    PCIE_AER_FATAL = "pcie_aer_fatal"
    PCIE_AER_ERRORS = "pcie_aer_errors"
    THERMAL_THROTTLED = "thermal_throttled"
    THERMAL_CRITICAL = "thermal_critical"
    KERNEL_FAULT = "kernel_fault"
    LOAD_OOM_KILLED = "load_oom_killed"
    CPU_SLOW = "cpu_slow"
    MICROCODE_MISMATCH = "microcode_mismatch"
    BMC_EVENT = "bmc_event"
    # Storage
    DISK_IO_ERROR = "disk_io_error"
    DISK_VERIFY_MISMATCH = "disk_verify_mismatch"
    DISK_CAPACITY_FRAUD = "disk_capacity_fraud"
    DISK_SLOW = "disk_slow"
    DISK_LOST = "disk_lost"
    DISK_NOT_TESTED = "disk_not_tested"
    WIPE_REFUSED_DATA_PRESENT = "wipe_refused_data_present"
    WIPE_REFUSED_NOT_EXPECTED = "wipe_refused_not_expected"
    WIPE_REFUSED_IN_USE = "wipe_refused_in_use"
    # Network
    NET_LINK_DOWN = "net_link_down"
    NET_LINK_DEGRADED = "net_link_degraded"
    NET_ERRORS = "net_errors"
    NET_THROUGHPUT_LOW = "net_throughput_low"
    NET_THROUGHPUT_NOT_TESTED = "net_throughput_not_tested"
    NET_RETRANSMITS = "net_retransmits"
    IPERF_UNREACHABLE = "iperf_unreachable"
    NET_TRANSCEIVER = "net_transceiver"
    NET_PAUSE_STORM = "net_pause_storm"
    NET_NEIGHBOR = "net_neighbor"
    NET_NEIGHBOR_UNSEEN = "net_neighbor_unseen"
    NET_ADDRESS_DUPLICATE = "net_address_duplicate"
    NET_MTU_BLACK_HOLE = "net_mtu_black_hole"
    # GPU
    GPU_MISSING = "gpu_missing"
    GPU_DRIVER_MISSING = "gpu_driver_missing"
    GPU_HUNG = "gpu_hung"
    GPU_REMAP_FAILED = "gpu_remap_failed"
    GPU_REMAP_PENDING = "gpu_remap_pending"
    GPU_ECC_UNCORRECTED = "gpu_ecc_uncorrected"
    GPU_PAGES_RETIRED = "gpu_pages_retired"
    GPU_XID = "gpu_xid"
    GPU_RESET_NEEDED = "gpu_reset_needed"
    GPU_PCIE_DEGRADED = "gpu_pcie_degraded"
    GPU_NVLINK = "gpu_nvlink"
    GPU_FABRIC = "gpu_fabric"
    GPU_THROTTLED = "gpu_throttled"
    GPU_OVERHEATED = "gpu_overheated"
    GPU_MISCOMPUTE = "gpu_miscompute"
    GPU_MEMORY_ERROR = "gpu_memory_error"
    GPU_SLOW = "gpu_slow"
    GPU_NOT_LOADED = "gpu_not_loaded"
    GPU_DCGM_HEALTH = "gpu_dcgm_health"
    # PSU
    PSU_FAILED = "psu_failed"
    PSU_ABSENT = "psu_absent"
    PSU_INPUT_LOST = "psu_input_lost"
    PSU_REDUNDANCY_LOST = "psu_redundancy_lost"
    PSU_EVENT = "psu_event"
    PSU_IMBALANCE = "psu_imbalance"
    BMC_UNREADABLE = "bmc_unreadable"
    # any stage
    STAGE_TIMEOUT = "stage_timeout"
    STAGE_CRASHED = "stage_crashed"
    TOOL_MISSING = "tool_missing"
    TOOL_FAILED = "tool_failed"
    OUTPUT_UNREADABLE = "output_unreadable"
    UNKILLABLE = "unkillable"
    CANCELLED = "cancelled"
    UNKNOWN_STAGE = "unknown_stage"
    BAD_PARAMETER = "bad_parameter"
    COVERAGE_LOW = "coverage_low"
    NOTHING_TO_TEST = "nothing_to_test"
    EARLIER_EVENTS = "earlier_events"
    # the run: found by the orchestrator
    HOST_REBOOTED = "host_rebooted"
    AGENT_CRASH_LOOP = "agent_crash_loop"
    SPEC_MISMATCH = "spec_mismatch"
    COMPONENTS_CHANGED = "components_changed"
    PEER_OUTLIER = "peer_outlier"
    STALLED = "stalled"


INCONCLUSIVE: frozenset[ReasonCode] = frozenset(
    {
        ReasonCode.PROBE_ERROR,
        ReasonCode.SMART_UNREADABLE,
        ReasonCode.SMART_SELF_TEST_TIMEOUT,
        ReasonCode.SMART_SELF_TEST_NOT_RUN,
        ReasonCode.LOAD_OOM_KILLED,
        ReasonCode.DISK_NOT_TESTED,
        ReasonCode.NET_THROUGHPUT_NOT_TESTED,
        ReasonCode.IPERF_UNREACHABLE,
        ReasonCode.NET_NEIGHBOR_UNSEEN,
        ReasonCode.GPU_DRIVER_MISSING,
        ReasonCode.GPU_FABRIC,
        ReasonCode.GPU_NOT_LOADED,
        ReasonCode.BMC_UNREADABLE,
        ReasonCode.STAGE_TIMEOUT,
        ReasonCode.STAGE_CRASHED,
        ReasonCode.TOOL_MISSING,
        ReasonCode.TOOL_FAILED,
        ReasonCode.OUTPUT_UNREADABLE,
        ReasonCode.UNKILLABLE,
        ReasonCode.COVERAGE_LOW,
        ReasonCode.NOTHING_TO_TEST,
    }
)
"""Codes that say "could not be judged": alone they make a verdict unknown. Any other error finding makes it fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `component` is kind:serial or a name; `evidence` is the line or figure that shows it."""

    reason_code: ReasonCode
    severity: Severity
    component: str
    message: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure. `ok` is None where no `limit` applies."""

    name: str
    component: str
    value: float
    unit: str
    limit: float | None = None
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one execution of a stage found."""

    headline: str
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    coverage: Mapping[str, float] = field(default_factory=dict)
    """Part tested, 0 to 1, by component: {"disk:SERIAL": 1.0, "memory": 0.91}."""
    duration_s: float = 0.0
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    hardware_present: bool = True
    """False: there is no such hardware here and none was expected."""

    @property
    def verdict(self) -> Verdict:
        """Cancelled, then fail, then unknown, then not applicable; pass only when nothing speaks against it."""
        codes = {finding.reason_code for finding in self.errors}
        if ReasonCode.CANCELLED in codes:
            return Verdict.CANCELLED
        if codes - INCONCLUSIVE:
            return Verdict.FAIL
        if codes:
            return Verdict.UNKNOWN
        return Verdict.PASS if self.hardware_present else Verdict.NOT_APPLICABLE

    @property
    def passed(self) -> bool:
        """True exactly for pass and not applicable."""
        return self.verdict in {Verdict.PASS, Verdict.NOT_APPLICABLE}

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that decide the verdict."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def message(self) -> str:
        """The first error's message, else the headline."""
        return self.errors[0].message if self.errors else self.headline

    def plus(self, findings: Iterable[Finding], measurements: Iterable[Measurement] = ()) -> Outcome:
        """This outcome with more findings and measurements."""
        return replace(
            self,
            findings=(*self.findings, *findings),
            measurements=(*self.measurements, *measurements),
        )


def error(code: ReasonCode, component: str, message: str, evidence: str = "") -> Finding:
    """A finding that decides the verdict."""
    return Finding(code, Severity.ERROR, component, message, evidence)


def warning(code: ReasonCode, component: str, message: str, evidence: str = "") -> Finding:
    """A finding that a person should look at."""
    return Finding(code, Severity.WARNING, component, message, evidence)


def info(code: ReasonCode, component: str, message: str, evidence: str = "") -> Finding:
    """A finding worth knowing."""
    return Finding(code, Severity.INFO, component, message, evidence)


def cancelled_outcome(by: str = "the operator") -> Outcome:
    """The outcome of a stage that was stopped on request."""
    finding = error(ReasonCode.CANCELLED, "stage", f"Cancelled by {by} before it was done")
    return Outcome(headline=f"Cancelled by {by}", findings=(finding,))

"""Which facts `probes.nvml_child` asks NVML for, of each GPU, and by which call. Source: NVML's API reference.

Watts, degrees C, bytes, MHz; times for which clocks were held down in seconds. Used in that child process only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

Readers = dict[str, Callable[[], Any]]

NVLINK_COUNTERS = ("REPLAY", "RECOVERY", "CRC_FLIT", "CRC_DATA")
NVLINK_FIELDS = {
    # NVLink 5 counts by field, and has none of the counters above.
    "recovery_failed": "NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS",
    "effective": "NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS",
}
CHANGING = (
    "uuid",
    "pci",
    "name",
    "temperature",
    "memory_temperature",
    "temperature_margin",
    "power",
    "clock",
    "utilization",
    "throttle_reasons",
    "pcie_generation",
    "pcie_width",
    "ecc_uncorrected",
    "recovery_action",
)
"""What is read in every sample: what changes under load, and what says whose it is."""
# By NVML's value type: double, unsigned int, unsigned long, unsigned long long, long long, int, unsigned short.
FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
NANOSECONDS = 1e9


def fact(nvml: Any, read: Callable[[], Any]) -> dict[str, Any]:
    """What a call says, as `probes.nvml_child` describes it."""
    missing = (
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nvml.NVML_ERROR_DEPRECATED,
    )
    try:
        return {"value": read()}
    except nvml.NVMLError as problem:
        if problem.value in missing:
            return {"unsupported": True}
        marks = {nvml.NVML_ERROR_GPU_IS_LOST: "lost", nvml.NVML_ERROR_RESET_REQUIRED: "reset"}
        mark = marks.get(problem.value)
        return {"error": str(problem), **({mark: True} if mark else {})}


def of(nvml: Any, gpu: Any, everything: bool) -> dict[str, Any]:
    """The facts of one GPU by name; only those that change where not `everything` is wanted."""
    readers = {**_identity(nvml, gpu), **_memory_health(nvml, gpu), **_heat(nvml, gpu), **_state(nvml, gpu)}
    if not everything:
        return {name: fact(nvml, readers[name]) for name in CHANGING}
    return {name: fact(nvml, read) for name, read in readers.items()} | {"nvlinks": _nvlinks(nvml, gpu)}


def address_behind(handle: Any) -> int | None:
    """What NVML's opaque handle of a GPU points to: the same for the same GPU."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _identity(nvml: Any, gpu: Any) -> Readers:
    return {
        "name": lambda: nvml.nvmlDeviceGetName(gpu),
        "uuid": lambda: nvml.nvmlDeviceGetUUID(gpu),
        "serial": lambda: nvml.nvmlDeviceGetSerial(gpu),
        "pci": lambda: nvml.nvmlDeviceGetPciInfo(gpu).busId,
        "vbios": lambda: nvml.nvmlDeviceGetVbiosVersion(gpu),
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    }


def _memory_health(nvml: Any, gpu: Any) -> Readers:
    uncorrected, corrected = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED

    def ecc(kind: int, counter: int) -> Callable[[], Any]:
        return lambda: nvml.nvmlDeviceGetTotalEccErrors(gpu, kind, counter)

    def retired(cause: int) -> Callable[[], Any]:
        return lambda: len(nvml.nvmlDeviceGetRetiredPages(gpu, cause))

    return {
        "ecc_enabled": lambda: bool(nvml.nvmlDeviceGetEccMode(gpu)[0]),
        "ecc_uncorrected": ecc(uncorrected, nvml.NVML_VOLATILE_ECC),
        "ecc_corrected": ecc(corrected, nvml.NVML_VOLATILE_ECC),
        "ecc_uncorrected_lifetime": ecc(uncorrected, nvml.NVML_AGGREGATE_ECC),
        "ecc_corrected_lifetime": ecc(corrected, nvml.NVML_AGGREGATE_ECC),
        # correctable, uncorrectable, pending, failure
        "remapped_rows": lambda: list(nvml.nvmlDeviceGetRemappedRows(gpu)),
        "remap_banks_used_up": lambda: nvml.nvmlDeviceGetRowRemapperHistogram(gpu).none,
        "sram_errors_over_limit": lambda: _sram_over_limit(nvml, gpu),
        "retired_single_bit": retired(nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS),
        "retired_double_bit": retired(nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR),
        "retired_pending": lambda: bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu)),
    }


def _sram_over_limit(nvml: Any, gpu: Any) -> bool:
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = nvml.nvmlEccSramErrorStatus_v1
    nvml.nvmlDeviceGetSramEccErrorStatus(gpu, ctypes.byref(status))
    return bool(status.bThresholdExceeded)


def _heat(nvml: Any, gpu: Any) -> Readers:
    def threshold(kind: int) -> Callable[[], Any]:
        return lambda: nvml.nvmlDeviceGetTemperatureThreshold(gpu, kind)

    def violation(policy: int) -> Callable[[], Any]:
        return lambda: nvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime / NANOSECONDS

    def held_down(field: int) -> Callable[[], Any]:
        return lambda: _field(nvml, gpu, field) / NANOSECONDS

    return {
        "temperature": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "temperature_slowdown": threshold(nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "temperature_shutdown": threshold(nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "temperature_memory_max": threshold(nvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
        "temperature_gpu_max": threshold(nvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
        "memory_temperature": lambda: _field(nvml, gpu, nvml.NVML_FI_DEV_MEMORY_TEMP),
        # From Hopper on: degrees left to the highest at which it may run, and what is left where it slows down (-2).
        "temperature_margin": lambda: nvml.nvmlDeviceGetMarginTemperature(gpu),
        "slowdown_margin": lambda: _field(nvml, gpu, nvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT),
        "power": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        "power_limit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
        "power_limit_default": lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1000,
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        "thermal_violation": violation(nvml.NVML_PERF_POLICY_THERMAL),
        "power_violation": violation(nvml.NVML_PERF_POLICY_POWER),
        "board_limit_violation": violation(nvml.NVML_PERF_POLICY_BOARD_LIMIT),
        "software_thermal_time": held_down(nvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN),
        "hardware_thermal_time": held_down(nvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN),
        "power_brake_time": held_down(nvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN),
    }


def _state(nvml: Any, gpu: Any) -> Readers:
    return {
        "pcie_generation": lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
        "pcie_generation_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu),
        "pcie_width": lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
        "pcie_width_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu),
        "pcie_replays": lambda: nvml.nvmlDeviceGetPcieReplayCounter(gpu),
        "clock": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "clock_max": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "recovery_action": lambda: _field(nvml, gpu, nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        "persistence_mode": lambda: nvml.nvmlDeviceGetPersistenceMode(gpu),
        "mig_mode": lambda: nvml.nvmlDeviceGetMigMode(gpu)[0],
        "compute_mode": lambda: nvml.nvmlDeviceGetComputeMode(gpu),
        "fabric": lambda: _fabric(nvml, gpu),
    }


def _field(nvml: Any, gpu: Any, field: int, scope: int = 0) -> Any:
    """One field value. A driver that does not know the field calls the argument invalid: it does not have it."""
    [row] = nvml.nvmlDeviceGetFieldValues(gpu, [(field, scope)])
    if row.nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
    if row.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(row.nvmlReturn)
    return getattr(row.value, FIELD_MEMBERS[row.valueType])


def _fabric(nvml: Any, gpu: Any) -> list[int]:
    """[state, status, health mask] of the registration with the NVLink fabric; drivers before 545 know no mask."""
    try:
        newer = nvml.c_nvmlGpuFabricInfo_v2_t()
        nvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(newer))
    except nvml.NVMLError as problem:
        if problem.value not in (nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH):
            raise
    else:
        return [newer.state, newer.status, newer.healthMask]
    older = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(gpu, ctypes.byref(older))
    return [older.state, older.status, 0]


def _nvlinks(nvml: Any, gpu: Any) -> list[dict[str, Any]]:
    """One row a link. NVML has no count of links: the first number that is invalid ends the list."""
    links = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            active: dict[str, Any] = {"value": bool(nvml.nvmlDeviceGetNvLinkState(gpu, link))}
        except nvml.NVMLError as problem:
            ends = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT)
            if problem.value in ends:
                break
            active = {"error": str(problem)}
        links.append({"link": link, "active": active, "errors": _link_errors(nvml, gpu, link)})
    return links


def _link_errors(nvml: Any, gpu: Any, link: int) -> dict[str, Any]:
    def read(counter: str) -> Callable[[], Any]:
        number = getattr(nvml, f"NVML_NVLINK_ERROR_DL_{counter}")
        return lambda: nvml.nvmlDeviceGetNvLinkErrorCounter(gpu, link, number)

    def read_field(name: str) -> Callable[[], Any]:
        return lambda: _field(nvml, gpu, getattr(nvml, name), link)

    counted = {counter.lower(): fact(nvml, read(counter)) for counter in NVLINK_COUNTERS}
    return counted | {name: fact(nvml, read_field(constant)) for name, constant in NVLINK_FIELDS.items()}

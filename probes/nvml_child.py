"""Reads NVIDIA GPUs through NVML and prints what it finds. Run as a process of its own, never imported by the agent.

    python -I -m probes.nvml_child SAMPLES INTERVAL_S

Driver calls can hang in the kernel for good; a process can be killed. It prints one JSON line a sample:

    {"driver": FACT, "gpus": [{"index": 0, "uuid": FACT, "ecc_uncorrected": FACT, …}]}

where a FACT is {"value": …}, {"unsupported": true} (this GPU or driver does not have it; never to be taken
for 0) or {"error": "…"} (it should have told, and did not). Where NVML cannot be used at all the only
line is {"failure": KIND, "message": "…"}, with KIND `no_module`, `no_library`, `no_driver` or `init`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

NVLINK_COUNTERS = ("REPLAY", "RECOVERY", "CRC_FLIT", "CRC_DATA")


def main(arguments: list[str]) -> int:
    samples, interval_s = int(arguments[0]), float(arguments[1])
    try:
        import pynvml
    except ImportError as problem:
        return _say({"failure": "no_module", "message": f"the Python module pynvml is not installed: {problem}"})
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return _say({"failure": _kind(pynvml, problem), "message": str(problem)})
    for number in range(samples):
        if number:
            time.sleep(interval_s)
        _say(_snapshot(pynvml))
    return 0


def _say(document: dict[str, Any]) -> int:
    print(json.dumps(document), flush=True)  # noqa: T201  # this program's output
    return 0


def _kind(nvml: Any, problem: Any) -> str:
    kinds = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_library", nvml.NVML_ERROR_DRIVER_NOT_LOADED: "no_driver"}
    return kinds.get(problem.value, "init")


def _fact(nvml: Any, read: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": read()}
    except nvml.NVMLError as problem:
        if problem.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return {"unsupported": True}
        return {"error": str(problem)}


def _snapshot(nvml: Any) -> dict[str, Any]:
    driver = _fact(nvml, nvml.nvmlSystemGetDriverVersion)
    count = _fact(nvml, nvml.nvmlDeviceGetCount)
    gpus = [_gpu(nvml, index) for index in range(count.get("value") or 0)]
    return {"time": time.monotonic(), "driver": driver, "count": count, "gpus": gpus}


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as problem:
        return {"index": index, "handle": {"error": str(problem)}}
    facts = {name: _fact(nvml, read) for name, read in _readers(nvml, handle).items()}
    return {"index": index, "handle": {"value": True}, **facts, "nvlinks": _nvlinks(nvml, handle)}


def _readers(nvml: Any, gpu: Any) -> dict[str, Callable[[], Any]]:
    """What is read of each GPU, by the name it gets. Watts, degrees C, bytes, MHz; violation times in seconds."""
    return {
        **_identity(nvml, gpu),
        **_memory_health(nvml, gpu),
        "temperature": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "temperature_slowdown": lambda: nvml.nvmlDeviceGetTemperatureThreshold(
            gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        "temperature_shutdown": lambda: nvml.nvmlDeviceGetTemperatureThreshold(
            gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN
        ),
        "power": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        "power_limit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        "thermal_violation": lambda: _violation_s(nvml, gpu, nvml.NVML_PERF_POLICY_THERMAL),
        "power_violation": lambda: _violation_s(nvml, gpu, nvml.NVML_PERF_POLICY_POWER),
        "pcie_generation": lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
        "pcie_generation_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu),
        "pcie_width": lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
        "pcie_width_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu),
        "clock": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "clock_max": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
    }


def _identity(nvml: Any, gpu: Any) -> dict[str, Callable[[], Any]]:
    return {
        "name": lambda: nvml.nvmlDeviceGetName(gpu),
        "uuid": lambda: nvml.nvmlDeviceGetUUID(gpu),
        "serial": lambda: nvml.nvmlDeviceGetSerial(gpu),
        "pci": lambda: nvml.nvmlDeviceGetPciInfo(gpu).busId,
        "vbios": lambda: nvml.nvmlDeviceGetVbiosVersion(gpu),
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    }


def _memory_health(nvml: Any, gpu: Any) -> dict[str, Callable[[], Any]]:
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
        "retired_single_bit": retired(nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS),
        "retired_double_bit": retired(nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR),
        "retired_pending": lambda: bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu)),
    }


def _violation_s(nvml: Any, gpu: Any, policy: int) -> float:
    """How long the clocks were held down since the driver started. NVML counts it in nanoseconds."""
    return float(nvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime / 1e9)


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

    return {counter.lower(): _fact(nvml, read(counter)) for counter in NVLINK_COUNTERS}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Reads NVIDIA GPUs through NVML and prints what it finds. Run as a process of its own, never imported by the agent.

    python -I -m probes.nvml_child SAMPLES INTERVAL_S

Driver calls can hang in the kernel for good; a process can be killed. It prints one JSON line a sample:

    {"driver": FACT, "gpus": [{"index": 0, "uuid": FACT, "ecc_uncorrected": FACT, …}], "events": FACT, …}

where a FACT is {"value": …}, {"unsupported": true} (this GPU or driver does not have it; never to be taken
for 0) or {"error": "…"} (it should have told, and did not; with "lost": true where the GPU is gone, "reset": true
where it wants a reset). The first sample and the last have all facts, those between have what changes under load.

`events` are the XIDs that the driver told of since the sample before, by NVML's event set, in whose wait the
time between two samples is spent: [{"index": 0, "pci": "…", "xid": 79}, …].

Before it asks anything that can hang it says what: {"asking": "driver"}, {"asking": "events"}, or {"asking": 3,
"pci": "…"} for one GPU. Where NVML cannot be used at all the only other line is {"failure": KIND, "message": "…"},
with KIND `no_module`, `no_library`, `no_driver` or `init`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from probes import nvml_facts
from probes.nvml_facts import fact

MOST_EVENTS = 100
"""A GPU that dies can tell of thousands; so many are kept of one interval."""
WAIT_MS = 1000


def main(arguments: list[str]) -> int:
    samples, interval_s = int(arguments[0]), float(arguments[1])
    try:
        import pynvml
    except ImportError as problem:
        return _say({"failure": "no_module", "message": f"the Python module pynvml is not installed: {problem}"})
    _say({"asking": "driver"})
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return _say({"failure": _kind(pynvml, problem), "message": str(problem)})
    _Reader(pynvml).run(samples, interval_s)
    return 0


def _say(document: dict[str, Any]) -> int:
    print(json.dumps(document), flush=True)  # noqa: T201  # this program's output
    return 0


def _kind(nvml: Any, problem: Any) -> str:
    kinds = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_library", nvml.NVML_ERROR_DRIVER_NOT_LOADED: "no_driver"}
    return kinds.get(problem.value, "init")


class _Reader:
    """Takes the samples. It listens for events from before the first sample until after the last."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.places: dict[int, str | None] = {}
        """The PCI address of each GPU that could be reached once, by index."""
        self.handles: dict[int | None, int] = {}
        """Index by the address behind NVML's handle, which is what an event names its GPU by."""
        self.listening = fact(nvml, nvml.nvmlEventSetCreate)
        self.registered = False
        self.refused: dict[str, Any] | None = None
        """Why the events of a GPU cannot be had, though it is one that has them."""

    def run(self, samples: int, interval_s: float) -> None:
        count = fact(self.nvml, self.nvml.nvmlDeviceGetCount)
        for index in range(count.get("value") or 0):
            self._meet(index)
        due = time.monotonic()
        for number in range(samples):
            events = self._listen_until(due) if number else []
            due = time.monotonic() + interval_s
            sample = self._sample(everything=number in {0, samples - 1})
            events += self._listen_until(0.0)
            _say({**sample, "events": self._told(events)})

    def _meet(self, index: int) -> None:
        """Learn where a GPU is, and ask for its events."""
        _say({"asking": index})
        found = fact(self.nvml, lambda: self.nvml.nvmlDeviceGetHandleByIndex(index))
        if (gpu := found.get("value")) is None:
            return
        self.handles[nvml_facts.address_behind(gpu)] = index
        self.places[index] = fact(self.nvml, lambda: self.nvml.nvmlDeviceGetPciInfo(gpu).busId).get("value")
        self._register(gpu)

    def _register(self, gpu: Any) -> None:
        events = self.listening.get("value")
        if events is None:
            return
        kinds = self.nvml.nvmlEventTypeXidCriticalError
        done = fact(self.nvml, lambda: self.nvml.nvmlDeviceRegisterEvents(gpu, kinds, events))
        self.registered |= "value" in done
        if "error" in done:
            self.refused = done

    def _told(self, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if self.refused is not None and not events:
            return self.refused
        if "value" not in self.listening:
            return self.listening
        return {"value": list(events[:MOST_EVENTS])} if self.registered else {"unsupported": True}

    def _listen_until(self, due: float) -> list[dict[str, Any]]:
        """The events that come until then; at least those that wait already. Sleeps where events cannot be had."""
        found: list[dict[str, Any]] = []
        while self.registered:
            left_ms = max(0, min(WAIT_MS, round((due - time.monotonic()) * 1000)))
            try:
                found.append(self._event(left_ms))
            except self.nvml.NVMLError as problem:
                if problem.value != self.nvml.NVML_ERROR_TIMEOUT:
                    self.refused, self.registered = {"error": str(problem)}, False
                elif left_ms == 0 or time.monotonic() >= due:
                    break
            if len(found) > MOST_EVENTS:
                break
        time.sleep(max(0.0, due - time.monotonic()))
        return found

    def _event(self, wait_ms: int) -> dict[str, Any]:
        data = self.nvml.nvmlEventSetWait_v2(self.listening["value"], wait_ms)
        index = self.handles.get(nvml_facts.address_behind(data.device))
        place = self.places.get(index) if index is not None else None
        return {"index": index, "pci": place, "xid": int(data.eventData)}

    def _sample(self, *, everything: bool) -> dict[str, Any]:
        _say({"asking": "driver"})
        driver = fact(self.nvml, self.nvml.nvmlSystemGetDriverVersion)
        count = fact(self.nvml, self.nvml.nvmlDeviceGetCount)
        gpus = [self._gpu(index, everything=everything) for index in range(count.get("value") or 0)]
        return {"time": time.monotonic(), "driver": driver, "count": count, "gpus": gpus}

    def _gpu(self, index: int, *, everything: bool) -> dict[str, Any]:
        place = self.places.get(index)
        _say({"asking": index, "pci": place})
        handle = fact(self.nvml, lambda: self.nvml.nvmlDeviceGetHandleByIndex(index))
        if "value" not in handle:
            return {"index": index, "handle": handle, **({"pci": {"value": place}} if place else {})}
        return {"index": index, "handle": {"value": True}, **nvml_facts.of(self.nvml, handle["value"], everything)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

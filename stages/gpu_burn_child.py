"""Puts load on one GPU and checks what it does, or copies between several. A process of its own, never the agent's.

    python -I -m stages.gpu_burn_child PLAN

PLAN is a JSON object, made by `stages.gpu_burn`:

    {"gpus": ["0000:3b:00.0"], "folders": [...], "steps": [{"test": "memory", "seconds": 5}, …], "memory_share": 0.96}

With one GPU the steps are carried out in order; with several, each pair copies to each other; with none the driver is
started and no more. The step "cublas" stands alone in its plan: it is carried out by a library that is not ours, in a
process in which no result of ours can be lost. A driver call can hang for good: whoever started this watches the
lines, which come at least every second while work is done.

    {"gpu": {"pci": …, "name": …, "uuid": …, "capability": "9.0", "driver": "12.4"}}
    {"alive": "memory"}
    {"result": {"test": "memory", "rate": …, "words": …, "wrong": 0, "first": [], …}}
    {"unavailable": "fp8", "message": …}                what this GPU does not have, or "cublas": this host
    {"failure": KIND, "message": …, "test": …}          the last line; KIND: no_library, init, no_device, sliced,
                                                        no_kernels, cublas, or cuda with the driver's name of it
                                                        in "name"
    {"done": true}                                      the last line when all steps were carried out

`spoil` (test -> word whose bit is flipped), `fault` (kernels that compute one result wrong) and `pace` (share of the
time that the GPU is starved) are for tests, which show that each is found; no option of the stage sets them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import cublas, gpu_burn_cublas, gpu_burn_memory, gpu_burn_products
from stages.cublas import CublasError, CublasMissing
from stages.cuda_driver import CudaError, Driver, DriverMissing
from stages.gpu_burn_device import Device
from stages.gpu_burn_products import PRODUCTS, Load
from stages.gpu_kernels import KernelsUnavailable

ALIVE_S = 0.2
WIDE = {"bf16": "bf16_wgmma", "fp8": "fp8_wgmma"}
PULSE_S = 0.5


class Ended(Exception):
    """The work cannot go on. `line` is what is said of it."""

    def __init__(self, kind: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.line = {"failure": kind, "message": message, "name": name}


def say(document: Mapping[str, Any]) -> None:
    print(json.dumps(document), flush=True)  # noqa: T201  # this program's output


@dataclass(slots=True)
class Alive:
    """Says now and then that calls come back, and in which test."""

    test: str = ""
    said: float = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self.said >= ALIVE_S:
            self.said = time.monotonic()
            say({"alive": self.test})


def main(arguments: list[str]) -> int:
    plan = json.loads(arguments[0])
    alive = Alive("start")
    try:
        _work(plan, alive)
    except Ended as end:
        say({**end.line, "test": alive.test})
    except KernelsUnavailable as problem:
        say({"failure": "no_kernels", "message": str(problem), "test": alive.test})
    except CublasError as problem:
        say({"failure": "cublas", "message": str(problem), "test": alive.test})
    except CudaError as problem:
        say({"failure": "cuda", "name": problem.name, "message": str(problem), "test": alive.test})
    else:
        say({"done": True})
    return 0


def _work(plan: Mapping[str, Any], alive: Alive) -> None:
    if any(step["test"] == "cublas" for step in plan["steps"]):
        _extra(plan, alive)
        return
    devices = _ready(plan)
    if len(devices) > 1:
        alive.test = "peer"
        for result in gpu_burn_memory.peers(devices, plan.get("peer_s", 0.5), alive):
            say({"result": result})
        return
    for step in plan["steps"]:
        for result in _step(devices[0], plan, step["test"], step["seconds"], alive):
            say({"result": result})


def _ready(plan: Mapping[str, Any]) -> list[Device]:
    """The plan's GPUs, each with its kernels; the last one is in use."""
    driver = _driver()
    devices = [_open(driver, pci) for pci in plan["gpus"]]
    folders = [Path(folder) for folder in plan["folders"]]
    for device in devices:
        facts = {"pci": device.pci, "name": device.name, "uuid": device.uuid, "driver": driver.version()}
        say({"gpu": {**facts, "capability": "{}.{}".format(*device.capability)}})
        if device.sliced:
            raise Ended("sliced", f"{device.name} is divided (MIG is on): only a slice of it could be loaded")
        device.use()
        device.load(folders, fault=bool(plan.get("fault")))
    return devices


def _extra(plan: Mapping[str, Any], alive: Alive) -> None:
    """The library is looked for before the GPU is opened: most hosts have none."""
    alive.test = "cublas"
    alive()
    try:
        libraries = cublas.load()
    except CublasMissing as problem:
        say({"unavailable": "cublas", "message": str(problem)})
        return
    load = Load(plan["steps"][0]["seconds"], size=plan.get("size", 0), alive=alive)
    say({"result": gpu_burn_cublas.run(_ready(plan)[0], libraries, load)})


def _driver() -> Driver:
    try:
        return Driver()
    except DriverMissing as problem:
        raise Ended("no_library", str(problem)) from None
    except CudaError as problem:
        kind = "no_device" if problem.name == "CUDA_ERROR_NO_DEVICE" else "init"
        raise Ended(kind, str(problem), problem.name) from None


def _open(driver: Driver, pci: str) -> Device:
    seen = []
    for number in driver.devices():
        seen.append(driver.pci(number))
        if seen[-1] == pci:
            return Device(driver, number)
    raise Ended("no_device", f"CUDA does not show the GPU at PCI {pci}, only: {', '.join(seen) or 'none'}")


def _step(device: Device, plan: Mapping[str, Any], test: str, seconds: float, alive: Alive) -> Iterator[dict[str, Any]]:
    alive.test = test
    alive()
    spoil = plan.get("spoil", {})
    if test == "memory":
        yield gpu_burn_memory.memory(device, seconds, plan["memory_share"], alive, spoil.get(test))
    elif test == "copy":
        yield gpu_burn_memory.device_copy(device, seconds, alive)
    elif test == "host":
        yield from gpu_burn_memory.host_copies(device, seconds, alive)
    else:
        yield from _products(device, plan, test, seconds, alive)


def _products(
    device: Device, plan: Mapping[str, Any], test: str, seconds: float, alive: Alive
) -> Iterator[dict[str, Any]]:
    """A product; where the GPU has the wide kind of it too, that one gets most of the time. `pulse`: the fastest bf16,
    on and off."""
    kind = "bf16" if test == "pulse" else test
    wide = WIDE.get(kind, "")
    if not wide or plan.get("portable") or not device.has(PRODUCTS[wide].kernel):
        wide = ""
    if not device.has(PRODUCTS[kind].kernel):
        say({"unavailable": test, "message": f"{device.name} has no matrix units for {kind}"})
        return
    load = Load(seconds, pace=plan.get("pace", 0.0), size=plan.get("size", 0), alive=alive)
    if test == "pulse":
        load.on_s = load.off_s = PULSE_S
        yield {**gpu_burn_products.run(device, wide or kind, load), "test": test}
        return
    load.spoil = plan.get("spoil", {}).get(test)
    load.seconds = seconds / 4 if wide else seconds
    yield gpu_burn_products.run(device, kind, load)
    if wide:
        load.spoil, load.seconds = plan.get("spoil", {}).get(wide), 3 * seconds / 4
        yield gpu_burn_products.run(device, wide, load)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

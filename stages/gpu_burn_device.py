"""One GPU in the burn's child process: its memory, its kernels, and the clock of its stream."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from stages import gpu_kernels
from stages.cuda_driver import BLOCKING_SYNC, DYNAMIC_SHARED, MAJOR, MINOR, MULTIPROCESSORS, CudaError, Driver

KEPT = 16
THREADS = 256


class Wrong(ctypes.Structure):
    """`struct Wrong` of check.h."""

    _fields_ = (("place", c_uint64), ("expected", c_uint64), ("seen", c_uint64))


class Report(ctypes.Structure):
    """`struct Report` of check.h."""

    _fields_ = (
        ("wrong", c_uint64),
        ("rows", c_uint64),
        ("looked", c_uint32),
        ("stalled", c_uint32),
        ("row", c_uint64 * KEPT),
        ("first", Wrong * KEPT),
    )

    def words(self) -> list[dict[str, int]]:
        """The wrong words that were kept, by place."""
        kept = [self.first[i] for i in range(min(self.wrong, KEPT))]
        rows = [{"place": one.place, "expected": one.expected, "seen": one.seen} for one in kept]
        return sorted(rows, key=lambda row: row["place"])


class Device:
    """An opened GPU. Every call may raise CudaError; `load` also KernelsUnavailable."""

    def __init__(self, driver: Driver, number: int) -> None:
        self.driver, self.number = driver, number
        self.pci, self.name, self.uuid = driver.pci(number), driver.name(number), driver.uuid(number)
        self.capability = (driver.attribute(number, MAJOR), driver.attribute(number, MINOR))
        self.processors = driver.attribute(number, MULTIPROCESSORS)
        driver.call("cuDevicePrimaryCtxSetFlags_v2", number, BLOCKING_SYNC)
        self.context = driver.handle("cuDevicePrimaryCtxRetain", number)
        self.use()
        self.stream = driver.handle("cuStreamCreate", 0)
        self._functions: dict[str, c_void_p] = {}
        self._module = c_void_p()
        self._code = b""
        self._report = 0
        self.stages = 0
        """How many steps of a product its kernels keep in shared memory."""

    @property
    def sliced(self) -> bool:
        """Whether MIG is on: then only a slice of the GPU is seen."""
        try:
            return self.uuid != self.driver.uuid(self.number, of_instance=True)
        except CudaError:  # a driver before MIG
            return False

    def use(self) -> None:
        self.driver.call("cuCtxSetCurrent", self.context)

    def load(self, folders: Sequence[Path], *, fault: bool = False) -> None:
        """The kernels for this GPU from the first folder that has them."""
        major, minor = self.capability
        name = gpu_kernels.nearest(major, minor)
        if name is None:
            known = ", ".join(gpu_kernels.ARCHITECTURES)
            text = f"the kernels are not made for {self.name}, compute capability {major}.{minor}, only for {known}"
            raise gpu_kernels.KernelsUnavailable(text)
        self.stages = gpu_kernels.ARCHITECTURES[name].stages
        file = gpu_kernels.find(name, folders, fault)
        if file is None:
            raise gpu_kernels.KernelsUnavailable(f"there is no machine code for {name} ({self.name})")
        self._code = file.read_bytes()
        self._module = self.driver.handle("cuModuleLoadData", self._code)
        self._report = self.allocate(ctypes.sizeof(Report))
        self.clear_report()

    def has(self, kernel: str) -> bool:
        try:
            self._function(kernel)
        except CudaError as problem:
            if problem.name == "CUDA_ERROR_NOT_FOUND":
                return False
            raise
        return True

    def _function(self, kernel: str) -> c_void_p:
        if kernel not in self._functions:
            name = kernel.encode()
            self._functions[kernel] = self.driver.handle("cuModuleGetFunction", self._module, name)
        return self._functions[kernel]

    def launch(
        self, kernel: str, blocks: int | tuple[int, int], *arguments: Any, threads: int = THREADS, shared: int = 0
    ) -> None:
        function = self._function(kernel)
        if shared:
            self.driver.call("cuFuncSetAttribute", function, DYNAMIC_SHARED, shared)
        x, y = blocks if isinstance(blocks, tuple) else (blocks, 1)
        addresses = (c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        self.driver.call("cuLaunchKernel", function, x, y, 1, threads, 1, 1, shared, self.stream, addresses, None)

    def spread(self, kernel: str, *arguments: Any) -> None:
        """Launch a kernel whose threads stride over all there is."""
        self.launch(kernel, self.processors * 8, *arguments)

    def sync(self) -> None:
        self.driver.call("cuStreamSynchronize", self.stream)

    # --- memory

    def free_bytes(self) -> tuple[int, int]:
        """Free, total."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        address = c_uint64()
        self.driver.call("cuMemAlloc_v2", byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        self.driver.call("cuMemFree_v2", address)

    def flip(self, address: int, bit: int) -> None:
        """Plant a fault: turn one bit of the 32-bit word at an address. For tests alone."""
        self.sync()
        word = c_uint32()
        self.driver.call("cuMemcpyDtoH_v2", byref(word), address, 4)
        word.value ^= 1 << bit
        self.driver.call("cuMemcpyHtoD_v2", address, byref(word), 4)

    # --- what the checks found

    @property
    def report(self) -> c_uint64:
        return c_uint64(self._report)

    def read_report(self) -> Report:
        self.sync()
        found = Report()
        self.driver.call("cuMemcpyDtoH_v2", byref(found), self._report, ctypes.sizeof(Report))
        return found

    def clear_report(self) -> None:
        self.sync()
        self.driver.call("cuMemsetD8_v2", self._report, 0, ctypes.sizeof(Report))

    # --- time

    def event(self) -> c_void_p:
        return self.driver.handle("cuEventCreate", 1)  # CU_EVENT_BLOCKING_SYNC

    def mark(self, event: c_void_p) -> None:
        self.driver.call("cuEventRecord", event, self.stream)

    def seconds(self, first: c_void_p, last: c_void_p) -> float:
        """Between two events that are over."""
        milliseconds = c_float()
        self.driver.call("cuEventElapsedTime", byref(milliseconds), first, last)
        return milliseconds.value / 1000

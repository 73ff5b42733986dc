"""The CUDA driver (`libcuda.so.1`) through ctypes, as far as the burn calls it. For a process of its own alone: any
call can hang in the kernel for good.

Errors: CudaError, whose `name` is the driver's own ("CUDA_ERROR_OUT_OF_MEMORY"), and DriverMissing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

LIBRARY = "libcuda.so.1"
BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC: a waiting thread sleeps
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76  # CUdevice_attribute
DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
SWIZZLE_128, PROMOTE_256 = 3, 3  # CUtensorMapSwizzle, CUtensorMapL2promotion
PEER_ENABLED_ALREADY = "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED"

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDeviceGetUuid": (c_void_p, c_int),
    "cuDeviceGetUuid_v2": (c_void_p, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceCanAccessPeer": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxSetFlags_v2": (c_int, c_uint),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxEnablePeerAccess": (c_void_p, c_uint),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemsetD8_v2": (c_uint64, ctypes.c_ubyte, c_size_t),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyPeerAsync": (c_uint64, c_void_p, c_uint64, c_void_p, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), c_void_p),
    "cuTensorMapEncodeTiled": (
        *(c_void_p, c_int, c_uint, c_uint64),
        *(POINTER(c_uint64), POINTER(c_uint64), POINTER(c_uint), POINTER(c_uint)),
        *(c_int, c_int, c_int, c_int),
    ),
}


class DriverMissing(Exception):
    """There is no libcuda.so.1, or it is none that can be used."""


class CudaError(Exception):
    """A call of the driver failed."""

    def __init__(self, call: str, name: str, words: str) -> None:
        super().__init__(f"{call}: {name} ({words})")
        self.call, self.name = call, name


class TensorMap(ctypes.Structure):
    """CUtensorMap: opaque, and on an address that is a multiple of 64."""

    _fields_ = (("opaque", c_uint64 * 16),)


class Driver:
    """The library after cuInit. `call` runs one function, and raises CudaError where it did not succeed."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as problem:
            raise DriverMissing(str(problem)) from None
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CudaError(name, "CUDA_ERROR_NOT_FOUND", "this driver does not have the function") from None
        function.argtypes, function.restype = _SIGNATURES[name], c_int
        status = function(*arguments)
        if status:
            raise CudaError(name, self._text("cuGetErrorName", status), self._text("cuGetErrorString", status))

    def _text(self, getter: str, status: int) -> str:
        text = c_char_p()
        function = getattr(self._library, getter)
        function.argtypes, function.restype = _SIGNATURES[getter], c_int
        function(status, byref(text))
        return text.value.decode(errors="replace") if text.value else f"CUDA error {status}"

    def version(self) -> str:
        """The newest CUDA that the driver can run: "12.4"."""
        value = self.number("cuDriverGetVersion")
        return f"{value // 1000}.{value % 1000 // 10}"

    def number(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value

    def handle(self, name: str, *arguments: Any) -> c_void_p:
        value = c_void_p()
        self.call(name, byref(value), *arguments)
        return value

    def devices(self) -> list[int]:
        return [self.number("cuDeviceGet", index) for index in range(self.number("cuDeviceGetCount"))]

    def attribute(self, device: int, which: int) -> int:
        return self.number("cuDeviceGetAttribute", which, device)

    def name(self, device: int) -> str:
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, 256, device)
        return text.value.decode(errors="replace")

    def pci(self, device: int) -> str:
        """As sysfs writes it."""
        text = ctypes.create_string_buffer(32)
        self.call("cuDeviceGetPCIBusId", text, 32, device)
        return text.value.decode(errors="replace").lower()

    def uuid(self, device: int, *, of_instance: bool = False) -> str:
        """Of the GPU; `of_instance`: of the slice of it that is seen, which is another one where MIG is on."""
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid_v2" if of_instance else "cuDeviceGetUuid", raw, device)
        text = bytes(raw).hex()
        return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def tensor_map(
        self, kind: int, address: int, rows: int, elements: int, line: int, box: tuple[int, int]
    ) -> tuple[TensorMap, Any]:
        """Of a matrix of `rows` lines, each `line` bytes; `box` is what one load takes: elements, rows.

        The second value owns the memory of the first.
        """
        memory = ctypes.create_string_buffer(ctypes.sizeof(TensorMap) + 64)
        aligned = (ctypes.addressof(memory) + 63) & ~63
        self.call(
            "cuTensorMapEncodeTiled",
            *(aligned, kind, 2, address),
            *(_array(c_uint64, (elements, rows)), _array(c_uint64, (line,))),
            *(_array(c_uint, box), _array(c_uint, (1, 1))),
            *(0, SWIZZLE_128, PROMOTE_256, 0),
        )
        return TensorMap.from_address(aligned), memory


def _array(kind: Any, values: Sequence[int]) -> Any:
    return (kind * len(values))(*values)

"""cuBLAS (`libcublas`) through ctypes, as far as the burn calls it: the maker's own matrix products as extra load.

For a process of its own alone: any call can hang for good, and the library is not ours. It is looked for, never
brought: a site's image or a CUDA toolkit may have it. Signatures, types and numbers: NVIDIA's cuBLAS documentation,
"cublasGemmEx".

Errors: CublasMissing where there is none, CublasError where one is there and does not do its work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_uint64, c_void_p
from pathlib import Path
from typing import Any

LIBRARIES = ("libcublas.so.13", "libcublas.so.12")
TOOLKIT = Path("/usr/local/cuda/lib64")
"""Where a CUDA toolkit lies, which the loader is not always told of."""
AS_IT_IS, TRANSPOSED = 0, 1  # cublasOperation_t
REAL_32F, REAL_16BF = 0, 14  # cudaDataType_t
COMPUTE_32F, DEFAULT_ALGORITHM = 68, -1  # cublasComputeType_t, cublasGemmAlgo_t

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (POINTER(c_void_p),),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasGetVersion_v2": (c_void_p, POINTER(c_int)),
    "cublasGemmEx": (
        *(c_void_p, c_int, c_int, c_int, c_int, c_int, POINTER(c_float)),
        *(c_uint64, c_int, c_int, c_uint64, c_int, c_int, POINTER(c_float)),
        *(c_uint64, c_int, c_int, c_int, c_int),
    ),
}


class CublasMissing(Exception):
    """No libcublas is installed."""


class CublasError(Exception):
    """A libcublas that cannot be loaded, or a call of it that failed."""


def load() -> list[ctypes.CDLL]:
    """All that there are, the newest first: one may be too new for the driver. Never empty."""
    found, problems = [], []
    for name in LIBRARIES:
        for path in (name, str(TOOLKIT / name)):
            try:
                found.append(_loaded(path))
                break
            except OSError as problem:
                problems.append((path, str(problem)))
    broken = [words for path, words in problems if not words.startswith(f"{path}: cannot open shared object file")]
    if not found and broken:
        raise CublasError(broken[0])
    if not found:
        raise CublasMissing(f"cuBLAS is not installed ({' or '.join(LIBRARIES)})")
    return found


def _loaded(path: str) -> ctypes.CDLL:
    beside = path.replace("libcublas.", "libcublasLt.")
    if beside.startswith("/") and Path(beside).is_file():
        ctypes.CDLL(beside, ctypes.RTLD_GLOBAL)  # which it needs, and would look for elsewhere
    return ctypes.CDLL(path)


class Cublas:
    """A handle on the context that is current, working on `stream`: of the first library that gives one.

    It is not destroyed: the process that has it ends when its work is done.
    """

    def __init__(self, libraries: Sequence[ctypes.CDLL], stream: c_void_p) -> None:
        self._handle = c_void_p()
        self._library = self._opened(libraries)
        self._call("cublasSetStream_v2", self._handle, stream)

    def _opened(self, libraries: Sequence[ctypes.CDLL]) -> ctypes.CDLL:
        problem = CublasError("there is no cuBLAS")
        for library in libraries:
            try:
                _call(library, "cublasCreate_v2", byref(self._handle))
            except CublasError as refused:
                problem = refused
            else:
                return library
        raise problem

    def version(self) -> str:
        """ "12.9.1"."""
        value = c_int()
        self._call("cublasGetVersion_v2", self._handle, byref(value))
        major, minor, patch = value.value // 10_000, value.value // 100 % 100, value.value % 100
        return f"{major}.{minor}.{patch}"

    def multiply(self, a: int, b: int, c: int, n: int, k: int) -> None:
        """C = A * B', begun on the stream: A and B of `n` rows of `k` bf16 side by side, C of `n` rows of `n` fp32.

        cuBLAS counts by columns, to which our matrices are their own transposes: it gives C' = B * A'.
        """
        one, zero = c_float(1.0), c_float(0.0)
        self._call(
            "cublasGemmEx",
            *(self._handle, TRANSPOSED, AS_IT_IS, n, n, k, byref(one)),
            *(b, REAL_16BF, k, a, REAL_16BF, k, byref(zero)),
            *(c, REAL_32F, n, COMPUTE_32F, DEFAULT_ALGORITHM),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        _call(self._library, name, *arguments)


def _call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    function = _function(library, name)
    function.argtypes, function.restype = _SIGNATURES[name], c_int
    status = function(*arguments)
    if status:
        raise CublasError(f"{name}: {_text(library, status)}")


def _function(library: ctypes.CDLL, name: str) -> Any:
    try:
        return getattr(library, name)
    except AttributeError:
        raise CublasError(f"{library._name} does not have {name}") from None


def _text(library: ctypes.CDLL, status: int) -> str:
    """The library's own name of an error; older ones do not tell it."""
    try:
        function = library.cublasGetStatusName
    except AttributeError:
        return f"cuBLAS status {status}"
    function.argtypes, function.restype = (c_int,), c_char_p
    name = function(status)
    return name.decode(errors="replace") if name else f"cuBLAS status {status}"

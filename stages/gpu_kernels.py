"""Compiles the burn's kernels (`stages/cuda`) to machine code with NVRTC, which needs no GPU.

    python -m stages.gpu_kernels FOLDER [ARCHITECTURE …]

writes `burn-sm_90-DIGEST.cubin` and its like for each architecture; the digest is of the sources, so that machine code
of other sources is never taken for theirs. The image's build runs it into `stages/cubin`; elsewhere it is run at first
use, into the user's cache. It loads a library of 100 MB, and so runs as a process of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).with_name("cuda")
SHIPPED = Path(__file__).with_name("cubin")
FILES = ("burn.cu", "check.h", "portable.cu", "gemm.cu", "wgmma.cu")
LIBRARIES = ("libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so")
PACKAGE = "nvidia.cuda_nvrtc"
"""Where `nvidia-cuda-nvrtc-cu12` of PyPI keeps the library."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One target. `stages`: how many steps of a product are in shared memory at a time."""

    target: str
    stages: int
    wgmma: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        wide = ("-DWGMMA",) if self.wgmma else ()
        return (f"--gpu-architecture={self.target}", "--std=c++17", f"-DSTAGES={self.stages}", *wide)


ARCHITECTURES: Mapping[str, Architecture] = {
    "sm_80": Architecture("sm_80", 3),
    "sm_86": Architecture("sm_86", 2),
    "sm_89": Architecture("sm_89", 2),
    "sm_90": Architecture("sm_90a", 4, wgmma=True),
    "sm_100": Architecture("sm_100", 4),
    "sm_103": Architecture("sm_103", 4),
    "sm_120": Architecture("sm_120", 2),
}
"""By the name of the compute capability. Shared memory of a block: 163 KiB (8.0), 99 (8.6, 8.9, 12.0), 227 (9.0, 10.x);
a stage takes 48 (CUDA C++ Programming Guide, "Compute Capabilities")."""


class KernelsUnavailable(Exception):
    """There is no machine code for this GPU, and none could be made. `str()` names the architecture and says why."""


def digest(fault: bool = False) -> str:
    """Of all sources and options."""
    state = hashlib.sha256(b"fault" if fault else b"")
    for name in FILES:
        state.update((SOURCES / name).read_bytes())
    for name, architecture in ARCHITECTURES.items():
        state.update(f"{name} {architecture.options}".encode())
    return state.hexdigest()[:16]


def file_name(architecture: str, fault: bool = False) -> str:
    return f"{'fault' if fault else 'burn'}-{architecture}-{digest(fault)}.cubin"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The user's own. It is used only where the image does not bring the machine code."""
    home = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or '/root'}/.cache"
    return Path(home) / "vetting-agent" / "cubin"


def nearest(major: int, minor: int) -> str | None:
    """The architecture whose machine code a GPU runs: its own, or the nearest below it of the same major number."""
    return next((name for low in range(minor, -1, -1) if (name := f"sm_{major}{low}") in ARCHITECTURES), None)


def find(architecture: str, folders: Sequence[Path], fault: bool = False) -> Path | None:
    """The machine code for an architecture, where one of the folders has it."""
    files = (folder / file_name(architecture, fault) for folder in folders)
    return next((file for file in files if file.is_file() and file.stat().st_size), None)


def compile_cubin(architecture: str, fault: bool = False) -> bytes:
    """The machine code. `fault`: one result of each product is made wrong, for tests. Raises KernelsUnavailable."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise KernelsUnavailable(f"{architecture} is no architecture that the kernels are made for: {known}")
    options = ARCHITECTURES[architecture].options + (("-DPLANTED_FAULT",) if fault else ())
    return Compiler().compile(architecture, options)


def write(folder: Path, architecture: str, fault: bool = False) -> Path:
    """Compile into a folder, unless it is there. Never leaves half a file under the name."""
    file = folder / file_name(architecture, fault)
    if file.is_file() and file.stat().st_size:
        return file
    code = compile_cubin(architecture, fault)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(code)
    part.replace(file)
    return file


def library_path() -> str:
    """NVRTC of the Python environment, else by its name, as the loader finds that of a CUDA toolkit."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in LIBRARIES:
            if (path := Path(folder) / "lib" / library).is_file():
                return str(path)
    return ""


class Compiler:
    """NVRTC, as far as it is needed. Every failure is a KernelsUnavailable."""

    def __init__(self) -> None:
        self.library = self._load()
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @staticmethod
    def _load() -> ctypes.CDLL:
        problems = []
        for name in filter(None, (library_path(), *LIBRARIES)):
            try:
                return ctypes.CDLL(name)
            except OSError as problem:
                problems.append(str(problem))
        raise KernelsUnavailable(
            "NVRTC, the compiler for GPU kernels, is not installed (nvidia-cuda-nvrtc-cu12 of PyPI has it, or a CUDA "
            f"toolkit): {problems[-1]}"
        )

    def compile(self, architecture: str, options: Sequence[str]) -> bytes:
        program = ctypes.c_void_p()
        texts = {name: (SOURCES / name).read_bytes() for name in FILES}
        headers = {name: text for name, text in texts.items() if name != FILES[0]}
        count = len(headers)
        bodies = (ctypes.c_char_p * count)(*headers.values())
        names = (ctypes.c_char_p * count)(*(name.encode() for name in headers))
        main = FILES[0]
        made = self.library.nvrtcCreateProgram(ctypes.byref(program), texts[main], main.encode(), count, bodies, names)
        self._check(architecture, "nvrtcCreateProgram", made)
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self.library.nvrtcCompileProgram(program, len(options), flags)
            if status:
                self._refuse(architecture, status, self._read(program, "ProgramLog").decode(errors="replace"))
            code = self._read(program, "CUBIN")
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))
        if not code.startswith(b"\x7fELF"):
            raise KernelsUnavailable(f"{architecture}: NVRTC said that all went well, and gave no machine code")
        return code

    def _refuse(self, architecture: str, status: int, log: str) -> None:
        if "gpu-architecture" in log:
            raise KernelsUnavailable(f"{architecture}: this NVRTC ({self.version()}) does not know it: {log.strip()}")
        raise KernelsUnavailable(f"{architecture}: {self._words(status)}: {log.strip()[:2000]}")

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        if getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)):
            return b""
        text = ctypes.create_string_buffer(max(1, size.value))
        if getattr(self.library, f"nvrtcGet{what}")(program, text):
            return b""
        return text.raw.rstrip(b"\0") if what == "ProgramLog" else text.raw

    def _words(self, status: int) -> str:
        return str(self.library.nvrtcGetErrorString(status).decode())

    def _check(self, architecture: str, call: str, status: int) -> None:
        if status:
            raise KernelsUnavailable(f"{architecture}: {call}: {self._words(status)}")


def main(arguments: Sequence[str]) -> int:
    """Compile each architecture that is named, or all; 1 when one of them could not be."""
    fault = "--fault" in arguments
    words = [word for word in arguments if word != "--fault"]
    if not words or words[0].startswith("-"):
        print("usage: python -m stages.gpu_kernels FOLDER [ARCHITECTURE …]", file=sys.stderr)  # noqa: T201
        return 2
    failed = 0
    for architecture in words[1:] or ARCHITECTURES:
        try:
            print(write(Path(words[0]), architecture, fault))  # noqa: T201  # this program's output
        except (KernelsUnavailable, OSError) as problem:
            print(problem, file=sys.stderr)  # noqa: T201
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

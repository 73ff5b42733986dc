"""Builds the stand-in for NVIDIA's CUDA driver, writes the script that it plays, and compiles kernels for the tests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from stages import gpu_kernels

FOLDER = Path(__file__).with_name("cuda")
SOURCE = FOLDER / "cuda_stand_in.cpp"
LIBRARY = "libcuda.so.1"
FLAGS = ("-std=c++17", "-O3", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function")
CUBLAS_SOURCE = FOLDER / "cublas_stand_in.c"
CUBLAS = "libcublas.so.12"
MEMORY = 3 << 20
"""Of a GPU of the stand-in: so little that the products are of 256 and 512 rows."""


def built(config: pytest.Config, source: Path = SOURCE) -> Path:
    """The library of a source that includes the kernels' own, compiled in this or an earlier session of pytest."""
    sources = [source, *sorted(FOLDER.glob("*.h")), *(gpu_kernels.SOURCES / name for name in gpu_kernels.FILES)]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:16]
    library = config.cache.mkdir("cuda") / f"{source.stem}-{digest}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}.part")
        includes = (f"-I{gpu_kernels.SOURCES}", f"-I{FOLDER}")
        subprocess.run(["g++", "-shared", "-fPIC", *FLAGS, *includes, "-o", part, source], check=True)
        part.replace(library)
    return library


def cublas(folder: Path, *flags: str, **script: str) -> None:
    """Put a stand-in of cuBLAS beside the driver's, with what it is to play."""
    options = ("-O2", "-Wall", "-Wextra", *flags)
    subprocess.run(["gcc", "-shared", "-fPIC", *options, "-o", folder / CUBLAS, CUBLAS_SOURCE, "-ldl"], check=True)
    (folder / "cublas.script").write_text("".join(f"{key}={value}\n" for key, value in script.items()))


def cubins(config: pytest.Config, architectures: Sequence[str] = ("sm_90",), *, fault: bool = False) -> Path:
    """A folder with the machine code for these architectures, compiled in this or an earlier session of pytest."""
    folder = config.cache.mkdir("cubin")
    flags = ["--fault"] if fault else []
    missing = [name for name in architectures if not gpu_kernels.find(name, [folder], fault)]
    if missing:
        subprocess.run([sys.executable, "-m", "stages.gpu_kernels", folder, *missing, *flags], check=True)
    return folder


def install(folder: Path, library: Path) -> Path:
    """Put the library into a folder of its own, beside which its script will lie."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LIBRARY).symlink_to(library)
    return folder


def uuid_of(number: int) -> str:
    """As the driver and NVML write it."""
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def pci_of(number: int) -> str:
    return f"0000:{0x3B + number:02x}:00.0"


def script(folder: Path, *gpus: Mapping[str, str], **top: str) -> None:
    """Write what the library in `folder` is to be: GPUs at 0000:3b, 0000:3c …, each with its own facts and faults."""
    lines = [f"gpus={len(gpus)}", *(f"{key}={value}" for key, value in top.items())]
    for index, facts in enumerate(gpus):
        usual = {"pci": pci_of(index), "uuid": f"{index:08d}{0:024d}", "name": "NVIDIA H200", "memory": str(MEMORY)}
        lines += [f"{index}.{key}={value}" for key, value in {**usual, **facts}.items()]
    (folder / "cuda.script").write_text("\n".join(lines) + "\n")

"""Builds the stand-in for NVIDIA's CUDA driver, and writes the script that it plays."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from stages import gpu_kernels

SOURCE = Path(__file__).with_name("cuda") / "cuda_stand_in.cpp"
LIBRARY = "libcuda.so.1"
FLAGS = ("-std=c++17", "-x", "c++", "-O2", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function")


def build(folder: Path, *flags: str) -> Path:
    """Compile the library into `folder`, which is what belongs on LD_LIBRARY_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    includes = (f"-I{gpu_kernels.SOURCES}", f"-I{SOURCE.parent}")
    subprocess.run(["g++", "-shared", "-fPIC", *FLAGS, *includes, *flags, "-o", folder / LIBRARY, SOURCE], check=True)
    return folder


def uuid_of(number: int) -> str:
    """As the driver and NVML write it."""
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def script(folder: Path, *gpus: Mapping[str, str], **top: str) -> None:
    """Write what the library in `folder` is to be: GPUs at 0000:3b, 0000:3c …, each with its own facts and faults."""
    lines = [f"gpus={len(gpus)}", *(f"{key}={value}" for key, value in top.items())]
    for index, facts in enumerate(gpus):
        usual = {"pci": f"0000:{0x3B + index:02x}:00.0", "uuid": f"{index:08d}{0:024d}", "name": "NVIDIA H200"}
        lines += [f"{index}.{key}={value}" for key, value in {**usual, **facts}.items()]
    (folder / "cuda.script").write_text("\n".join(lines) + "\n")

"""The kernels' machine code for each architecture: it is there, and it uses the units that it is meant to load."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages import gpu_kernels
from stages.gpu_burn_products import PRODUCTS
from stages.gpu_kernels import ARCHITECTURES, KernelsUnavailable
from tests.support import cuda_driver

CHECKS = {
    *("expect_columns", "expect_rows", "weigh_f32", "weigh_f64", "weigh_s32", "compare_rows", "locate_f32"),
    *("locate_f64", "locate_s32", "next_round", "memory_write", "memory_check", "memory_invert", "device_copy"),
    *("fill_bf16", "fill_fp32", "fill_fp64", "fill_int8", "fill_fp8"),
}
EVERYWHERE = {
    "gemm_fp32": "FFMA",
    "gemm_fp64": "DMMA",
    "gemm_bf16": "HMMA.16816.F32.BF16",
    "gemm_int8": "IMMA.16832.S8.S8",
}
FP8 = {
    "sm_89": {"gemm_fp8": "QMMA.16832.F32.E4M3.E4M3"},
    "sm_90": {"gemm_fp8_wgmma": "QGMMA.64x256x32.F32.E4M3.E4M3", "gemm_bf16_wgmma": "HGMMA.64x256x16.F32.BF16"},
    # Their own fp8 units are reached in another way: this product is computed by those for fp16.
    "sm_100": {"gemm_fp8": "HMMA.16816.F32"},
    "sm_103": {"gemm_fp8": "HMMA.16816.F32"},
    "sm_120": {"gemm_fp8": "QMMA.16832.F32.E4M3.E4M3"},
}


def disassembler() -> Path:
    spec = find_spec("nvidia")
    assert spec is not None
    found = [file for place in spec.submodule_search_locations or () for file in Path(place).glob("cu*/bin/nvdisasm")]
    assert found, "nvidia-cuda-nvdisasm is not installed"
    return found[0]


def bodies(cubin: Path) -> dict[str, str]:
    """Of each kernel, its machine code as text."""
    text = subprocess.run([disassembler(), "-c", cubin], check=True, capture_output=True, text=True).stdout
    parts = re.split(r"\.section\s+\.text\.(\w+),", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def instructions(cubin: Path) -> dict[str, set[str]]:
    """Of each kernel, the names of the instructions in it."""
    return {name: set(re.findall(r"\b[A-Z][\w.]+", body)) for name, body in bodies(cubin).items()}


def test_hoppers_products_keep_their_sums_in_registers_and_wait_once_a_step(pytestconfig: pytest.Config) -> None:
    """A warp has 232 registers once it has asked for them, the one that fetches 40; the compiler does not hold them to
    it. Products that it could not leave in flight together it would wait for one by one."""
    file = gpu_kernels.find("sm_90", [cuda_driver.cubins(pytestconfig)])
    assert file is not None
    for kernel, body in bodies(file).items():
        if kernel.endswith("_wgmma"):
            multiplying, fetching = body.split("USETMAXREG.DEALLOC")
            assert max(registers(multiplying)) < 232, kernel
            assert max(registers(fetching)) < 40, kernel
            assert len(re.findall(r"\b[HQ]GMMA\.", body)) == 4, kernel
            assert len(re.findall(r"\bWARPGROUP\.DEPBAR", body)) == 1, kernel
        if kernel.startswith("gemm_") and kernel != "gemm_fp8":  # which Hopper's other units compute by detours
            assert not re.search(r"\b(?:LDL|STL)\b", body), f"{kernel} has no room for all in registers"


def registers(body: str) -> set[int]:
    return {int(number) for number in re.findall(r"\bR(\d+)\b", body)}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_has_all_kernels_and_they_use_its_matrix_units(
    architecture: str, pytestconfig: pytest.Config
) -> None:
    file = gpu_kernels.find(architecture, [cuda_driver.cubins(pytestconfig, [architecture])])
    assert file is not None
    found = instructions(file)
    wanted = {**EVERYWHERE, **FP8.get(architecture, {})}
    assert found.keys() >= CHECKS | wanted.keys()
    for kernel, instruction in wanted.items():
        assert any(one.startswith(instruction) for one in found[kernel]), f"{kernel} without {instruction}"
    assert any(one.startswith("LDGSTS") for one in found["gemm_bf16"])  # copies into shared memory that run beside
    if "gemm_bf16_wgmma" in wanted:
        assert any(one.startswith("UTMALDG") for one in found["gemm_bf16_wgmma"])


def test_the_checks_use_no_matrix_unit(pytestconfig: pytest.Config) -> None:
    """What is expected has to come about in another way than what is checked."""
    file = gpu_kernels.find("sm_90", [cuda_driver.cubins(pytestconfig)])
    assert file is not None
    found = instructions(file)
    for kernel in CHECKS:
        assert not any("MMA" in one for one in found[kernel]), kernel


@pytest.mark.slow
def test_the_planted_fault_is_in_its_own_file_and_in_no_other(pytestconfig: pytest.Config) -> None:
    good = gpu_kernels.find("sm_90", [cuda_driver.cubins(pytestconfig)])
    bad = gpu_kernels.find("sm_90", [cuda_driver.cubins(pytestconfig, fault=True)], fault=True)
    assert good is not None
    assert bad is not None
    assert good.name != bad.name
    assert good.read_bytes() != bad.read_bytes()


def test_an_architecture_that_the_kernels_are_not_made_for_is_named() -> None:
    with pytest.raises(KernelsUnavailable, match=r"sm_70 is no architecture .* sm_80, sm_86"):
        gpu_kernels.compile_cubin("sm_70")


def test_an_architecture_that_the_compiler_does_not_know_is_named() -> None:
    with pytest.raises(KernelsUnavailable, match=r"sm_999: this NVRTC \(1\d\.\d+\) does not know it"):
        gpu_kernels.Compiler().compile("sm_999", ("--gpu-architecture=sm_999",))


def test_what_the_compiler_complains_of_is_told() -> None:
    options = ("--gpu-architecture=sm_80", "-DSTAGES=no_number")
    with pytest.raises(KernelsUnavailable, match=r"(?s)sm_80: NVRTC_ERROR_COMPILATION: .*no_number"):
        gpu_kernels.Compiler().compile("sm_80", options)


def test_without_a_compiler_it_says_where_to_get_one(tmp_path: Path) -> None:
    """Without the environment's packages."""
    root = gpu_kernels.SOURCES.parents[1]
    command = [sys.executable, "-S", "-m", "stages.gpu_kernels", str(tmp_path / "cubin"), "sm_80"]
    environment = {"PYTHONPATH": str(root), "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nvidia-cuda-nvrtc-cu12" in done.stderr
    assert not (tmp_path / "cubin").exists()


def test_what_is_compiled_already_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / gpu_kernels.file_name("sm_80")
    file.write_bytes(b"there")
    assert gpu_kernels.write(tmp_path, "sm_80") == file
    assert file.read_bytes() == b"there"


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [(9, 0, "sm_90"), (8, 7, "sm_86"), (12, 1, "sm_120"), (10, 3, "sm_103"), (7, 5, None), (11, 0, None)],
)
def test_a_gpu_runs_machine_code_of_its_own_major_number(major: int, minor: int, name: str | None) -> None:
    assert gpu_kernels.nearest(major, minor) == name


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_sum_of_a_product_is_exact(name: str) -> None:
    """In fp32 whole numbers up to 2^24 are; Hopper's fp8 units keep about 14 bits of a sum."""
    product = PRODUCTS[name]
    most = product.range**2 * product.k
    exact = {"fp8": 2**13, "fp64": 2**53, "int8": 2**31}.get(product.fill, 2**24)
    assert most < exact
    assert product.size % product.tile[0] == product.size % product.tile[1] == 0
    assert product.k * product.bytes % 128 == 0

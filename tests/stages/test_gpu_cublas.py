"""cuBLAS as extra load: it is never a verdict, whatever becomes of it; the GPU that it was put on still has one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from probes.host import Host
from stages.gpu_burn import BurnPlan
from stages.gpu_burn_judge import Judged
from stages.outcome import ReasonCode, Severity
from tests.support import burn_rig, cuda_driver
from tests.support.burn_rig import GPU_0, GPU_1, Rig, codes

SHORT_S = 20.0
"""Enough for a child's start on a busy machine."""
CHECKED = """
import json, sys
from pathlib import Path
from stages import cublas, gpu_burn_cublas
from stages.cuda_driver import Driver
from stages.gpu_burn_device import Device
from stages.gpu_burn_products import PRODUCTS, Load, workspace
driver = Driver()
device = Device(driver, driver.devices()[0])
device.load([Path(sys.argv[1])])
library = cublas.Cublas(cublas.load(), device.stream)
with workspace(device, PRODUCTS["bf16"], 256) as space:
    for turn in (0, 1, 0):
        library.multiply(space.a, space.b[turn], space.c, space.n, space.k)
        space.check(turn)
    right = device.read_report().rows
    space.check(1)
    print(right, device.read_report().rows, library.version())
"""


@pytest.fixture
def rig(tmp_path: Path, host: Host, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return burn_rig.built(tmp_path, host, pytestconfig, monkeypatch)


def with_cublas(rig: Rig, silence_s: float = burn_rig.SILENCE_S) -> BurnPlan:
    return replace(rig.plan(silence_s), cublas=True)


def figures(judged: Judged, component: str = GPU_0) -> Mapping[str, float]:
    return {one.name: one.value for one in judged.measurements if "cublas" in one.name and one.component == component}


async def test_it_loads_all_gpus_last_of_all_and_its_speed_stands_beside_ours(rig: Rig) -> None:
    cuda_driver.cublas(rig.library)
    said = await rig.burn({}, {}, plan=with_cublas(rig))
    assert [one.phase for one in said[-2:]] == ["cublas", "cublas"]
    assert {result.library for result in said[-1].results} == {"12.9.1"}
    judged = rig.judge(said)
    assert judged.findings == ()
    for gpu in (GPU_0, GPU_1):
        assert round(figures(judged, gpu)["gpu_cublas_bf16"]) == 780
        assert figures(judged, gpu)["gpu_cublas_load"] > 0


async def test_where_it_is_not_installed_nothing_is_missed(rig: Rig) -> None:
    judged = await rig.judged({}, plan=with_cublas(rig))
    assert judged.findings == ()
    assert figures(judged) == {"gpu_cublas_load": 0.0}


async def test_its_speed_is_no_verdict(rig: Rig) -> None:
    cuda_driver.cublas(rig.library, tflops="1")
    judged = await rig.judged({}, plan=with_cublas(rig))
    assert judged.findings == ()
    (speed,) = (one for one in judged.measurements if one.name == "gpu_cublas_bf16")
    assert (round(speed.value), speed.limit, speed.ok) == (1, None, None)


FAILING: list[tuple[Mapping[str, str], tuple[str, ...], str]] = [
    ({"fail": "cublasCreate_v2"}, (), "CUBLAS_STATUS_NOT_INITIALIZED"),
    ({"fail": "cublasGemmEx", "status": "13"}, (), "CUBLAS_STATUS_EXECUTION_FAILED"),
    ({"fail": "cublasSetStream_v2", "status": "77"}, (), "cuBLAS status 77"),
    ({"crash": "cublasGemmEx"}, (), "died"),
    ({"sticky": "719"}, (), "CUDA_ERROR_LAUNCH_FAILED"),
    ({}, ("-DWITHOUT_GEMM",), "does not have cublasGemmEx"),
]


@pytest.mark.parametrize(("script", "flags", "words"), FAILING, ids=lambda value: str(value)[:40])
async def test_its_failure_is_told_and_the_gpu_stays_sound(
    rig: Rig, script: Mapping[str, str], flags: tuple[str, ...], words: str
) -> None:
    cuda_driver.cublas(rig.library, *flags, **script)
    (one,) = await rig.findings({}, plan=with_cublas(rig))
    assert (one.severity, one.reason_code, one.component) == (Severity.INFO, ReasonCode.TOOL_FAILED, GPU_0)
    assert words in one.message


async def test_a_library_that_is_none_is_told(rig: Rig) -> None:
    (rig.library / cuda_driver.CUBLAS).write_bytes(b"no library" * 400)
    (one,) = await rig.findings({}, plan=with_cublas(rig))
    assert one.severity is Severity.INFO
    assert "invalid ELF header" in one.message


@pytest.mark.slow
async def test_one_that_hangs_is_ended_and_the_gpu_is_asked_again(rig: Rig) -> None:
    cuda_driver.cublas(rig.library, hang="cublasGemmEx")
    said = await rig.burn({}, plan=with_cublas(rig, silence_s=SHORT_S))
    assert [one.phase for one in said] == ["together", "cublas", "after"]
    assert {result.test for result in said[-1].results} == {"bf16", "bf16_wgmma"}
    (one,) = rig.judge(said).findings
    assert one.severity is Severity.INFO
    assert "no call of the driver came back" in one.message


@pytest.mark.slow
async def test_a_gpu_that_hangs_for_our_own_load_too_is_hung(rig: Rig) -> None:
    cuda_driver.cublas(rig.library, hang="cublasGemmEx", leaves="0.hang=cuLaunchKernel")
    found = await rig.findings({}, plan=with_cublas(rig, silence_s=SHORT_S))
    assert codes(found) == {(ReasonCode.GPU_HUNG, GPU_0)}


@pytest.mark.parametrize(("error", "code"), [("214", ReasonCode.GPU_ECC_UNCORRECTED), ("220", ReasonCode.GPU_NVLINK)])
async def test_what_the_driver_says_of_the_hardware_meanwhile_counts(rig: Rig, error: str, code: ReasonCode) -> None:
    cuda_driver.cublas(rig.library, sticky=error)
    assert codes(await rig.findings({}, plan=with_cublas(rig))) == {(code, GPU_0)}


async def test_a_gpu_that_failed_is_not_loaded_with_it(rig: Rig) -> None:
    cuda_driver.cublas(rig.library)
    said = await rig.burn({"fail": "cuDevicePrimaryCtxRetain", "error": "46"}, plan=with_cublas(rig))
    assert "cublas" not in {one.phase for one in said}


async def test_a_cancel_ends_it(rig: Rig) -> None:
    """The conftest looks for what is left of the children."""
    cuda_driver.cublas(rig.library, hang="cublasGemmEx")
    working = asyncio.ensure_future(rig.burn({}, plan=with_cublas(rig)))
    try:
        async with asyncio.timeout(60):
            while "gpu_pulse" not in {name for name, *_ in rig.listener.samples}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
    finally:
        working.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert time.monotonic() - began < 30


def test_its_product_is_the_one_that_ours_are_checked_for(rig: Rig) -> None:
    """The stand-in transposes as it is told; the burn's own check then finds nothing, and the other product wrong."""
    cuda_driver.script(rig.library, {})
    cuda_driver.cublas(rig.library)
    argv = [sys.executable, "-c", CHECKED, str(rig.cubins)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
    assert done.stdout.split() == ["0", "256", "12.9.1"]

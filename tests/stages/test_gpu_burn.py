"""The burn end to end over a driver that plays a script: the children are real, and so are the kernels' checks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from probes.host import Host
from stages.gpu_burn import BurnPlan
from stages.gpu_burn_judge import judge_burn
from stages.outcome import ReasonCode, Severity
from tests.support import burn_rig, cuda_driver
from tests.support.burn_rig import GPU_0, GPU_1, SECONDS, SILENCE_S, Rig, codes
from tests.support.detection import detects, spares


@pytest.fixture
def rig(tmp_path: Path, host: Host, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return burn_rig.built(tmp_path, host, pytestconfig, monkeypatch)


@spares(ReasonCode.GPU_MISCOMPUTE, "stand-in CUDA driver whose H200 computes right")
@spares(ReasonCode.GPU_MEMORY_ERROR, "stand-in CUDA driver whose H200 keeps what is written")
@spares(ReasonCode.GPU_SLOW, "stand-in CUDA driver whose H200 is as fast as a sound one")
@spares(ReasonCode.GPU_NOT_LOADED, "stand-in CUDA driver whose H200 carries out all tests")
async def test_a_sound_gpu_is_tested_in_full_and_nothing_is_found(rig: Rig) -> None:
    (said,) = await rig.burn({})
    assert said.failure == ""
    tests = {result.test: result for result in said.results}
    assert tests.keys() == {
        *("memory", "bf16", "bf16_wgmma", "fp32", "fp64", "int8", "fp8", "fp8_wgmma"),
        *("copy", "to_host", "from_host", "pulse"),
    }
    assert all(result.words and result.rounds and not result.wrong for result in said.results)
    assert tests["memory"].bytes / tests["memory"].free >= 0.9
    assert round(tests["bf16_wgmma"].rate) == 700
    assert round(tests["copy"].rate) == 4300
    judged = judge_burn((said,), {said.pci: said.uuid}, 0.9)
    assert judged.findings == ()
    assert judged.coverage[GPU_0] >= 0.9
    assert ("gpu_fp32", GPU_0, 45.0, "TFLOP/s") in rig.listener.samples


WRONG: list[tuple[Mapping[str, str], ReasonCode, str]] = [
    ({"wrong_memory": "12345"}, ReasonCode.GPU_MEMORY_ERROR, "address 0x"),
    ({"wrong_transfer": "from_host"}, ReasonCode.GPU_MEMORY_ERROR, "address 0x"),
    ({"wrong_result": "gemm_bf16"}, ReasonCode.GPU_MISCOMPUTE, "row 128 column 5:"),
    ({"wrong_result": "gemm_bf16_wgmma"}, ReasonCode.GPU_MISCOMPUTE, "row 128 column 5:"),
    ({"wrong_result": "gemm_fp32"}, ReasonCode.GPU_MISCOMPUTE, "row 128 column 5:"),
    ({"wrong_result": "gemm_fp64"}, ReasonCode.GPU_MISCOMPUTE, "row 128 column 2:"),
    ({"wrong_result": "gemm_int8"}, ReasonCode.GPU_MISCOMPUTE, "column 5:"),
    ({"wrong_result": "gemm_fp8_wgmma"}, ReasonCode.GPU_MISCOMPUTE, "column 5:"),
    ({"stale": "gemm_fp32"}, ReasonCode.GPU_MISCOMPUTE, "row "),
    ({"garbage": "gemm_bf16"}, ReasonCode.GPU_MISCOMPUTE, "row 0 column 0:"),
    ({"garbage": "gemm_bf16_wgmma"}, ReasonCode.TOOL_FAILED, "row 0 column 0:"),
    ({"stall": "gemm_bf16_wgmma"}, ReasonCode.TOOL_FAILED, ""),
    ({"slow": "3"}, ReasonCode.GPU_SLOW, ""),
    ({"fail": "cuStreamSynchronize", "after": "20", "error": "214"}, ReasonCode.GPU_ECC_UNCORRECTED, ""),
    ({"fail": "cuStreamSynchronize", "after": "20", "error": "220"}, ReasonCode.GPU_NVLINK, ""),
    ({"fail": "cuLaunchKernel", "after": "90", "error": "999"}, ReasonCode.TOOL_FAILED, ""),
    ({"fail": "cuDevicePrimaryCtxRetain", "error": "46"}, ReasonCode.GPU_NOT_LOADED, ""),
    ({"crash": "cuMemAlloc_v2"}, ReasonCode.TOOL_FAILED, ""),
    ({"instance": "bb000000000000000000000000000000"}, ReasonCode.GPU_NOT_LOADED, ""),
    ({"capability": "7.5"}, ReasonCode.GPU_NOT_LOADED, ""),
    ({"pci": "0000:99:00.0"}, ReasonCode.GPU_NOT_LOADED, ""),
    ({"most": "2600000"}, ReasonCode.COVERAGE_LOW, ""),
]


@pytest.mark.slow
@detects(
    ReasonCode.GPU_MISCOMPUTE,
    "stand-in CUDA driver whose H200 gives one wrong product, or none at all, on each of its units",
)
@detects(
    ReasonCode.GPU_MEMORY_ERROR,
    "stand-in CUDA driver whose H200 flips one bit of its memory, or on the way from the host",
)
@detects(ReasonCode.GPU_SLOW, "stand-in CUDA driver whose H200 is three times too slow")
@detects(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in CUDA driver whose H200 ends the load with the driver's error for it")
@detects(ReasonCode.GPU_NVLINK, "stand-in CUDA driver whose H200 ends the load with the driver's error for it")
@detects(
    ReasonCode.GPU_NOT_LOADED, "stand-in CUDA driver whose H200 is divided, taken, of an unknown kind or not to be seen"
)
@detects(
    ReasonCode.TOOL_FAILED, "stand-in CUDA driver whose H200 makes the load crash, or does not suit one of its kernels"
)
@pytest.mark.parametrize(("fault", "code", "evidence"), WRONG, ids=lambda value: str(value)[:60])
async def test_each_fault_is_found_and_named(
    rig: Rig, fault: Mapping[str, str], code: ReasonCode, evidence: str
) -> None:
    found = [one for one in await rig.findings(fault) if one.severity is Severity.ERROR]
    assert {one.component for one in found} == {GPU_0}
    assert {one.reason_code for one in found} == {code}
    assert any(evidence in one.evidence for one in found)


async def test_a_driver_that_does_not_start_loads_nothing(rig: Rig) -> None:
    (one,) = await rig.findings({}, fail="cuInit", error="802")
    assert one.reason_code is ReasonCode.GPU_NOT_LOADED
    assert "Fabric Manager" in one.message


async def test_without_a_driver_no_gpu_passes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(rig.folder))
    found = await rig.findings({}, {})
    assert codes(found) == {(ReasonCode.GPU_NOT_LOADED, GPU_0), (ReasonCode.GPU_NOT_LOADED, GPU_1)}
    assert "libcuda.so.1" in found[0].message


async def test_kernels_that_are_not_there_are_said_to_be_missing(rig: Rig, tmp_path: Path) -> None:
    """The compiler, made to fail by a folder that is a file."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    plan = BurnPlan(SECONDS, SILENCE_S, folders=(str(blocked),))
    (one,) = await rig.findings({"capability": "8.0"}, plan=plan)
    assert one.reason_code is ReasonCode.GPU_NOT_LOADED
    assert "none could be made" in one.message


@pytest.mark.slow
@detects(ReasonCode.GPU_HUNG, "stand-in CUDA driver whose H200 never answers a call in the middle of the load")
async def test_a_gpu_that_hangs_is_named_and_its_sibling_is_still_tested(rig: Rig) -> None:
    plan = rig.plan(silence_s=20.0)  # a busy machine takes seconds to start a child
    hanging = {"hang": "cuStreamSynchronize", "after": "4"}
    found = await rig.findings({}, hanging, plan=plan)
    assert codes(found) == {(ReasonCode.GPU_HUNG, GPU_1)}
    assert "during bf16" in next(one.message for one in found if one.reason_code is ReasonCode.GPU_HUNG)


async def test_a_cancel_ends_all_children(rig: Rig) -> None:
    """The conftest looks for what is left of them."""
    hanging = asyncio.ensure_future(rig.burn({"hang": "cuLaunchKernel"}, {"hang": "cuLaunchKernel"}))
    await asyncio.sleep(1.0)
    hanging.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert time.monotonic() - began < 30


@detects(ReasonCode.GPU_SLOW, "stand-in CUDA driver whose H200 has a sibling twice as fast")
async def test_a_gpu_slower_than_its_siblings_is_named(rig: Rig) -> None:
    """Of a model without any floor."""
    sound = {"name": "NVIDIA Unheard"}
    found = await rig.findings(sound, {**sound, "slow": "1.4"}, sound)
    assert codes(found) == {(ReasonCode.GPU_SLOW, GPU_1)}


@spares(ReasonCode.GPU_SLOW, "stand-in CUDA driver whose H200 and its sibling differ by a tenth")
async def test_siblings_that_differ_by_a_tenth_are_sound_and_copy_to_each_other(rig: Rig) -> None:
    said = await rig.burn({}, {"slow": "1.1"})
    uuids = {cuda_driver.pci_of(number): cuda_driver.uuid_of(number) for number in range(2)}
    judged = judge_burn(said, uuids, 0.9)
    assert judged.findings == ()
    assert {one.phase for one in said} == {"alone", "together", "peers"}
    names = {one.name for one in judged.measurements}
    assert {"gpu_peer_copy", "gpu_bf16_alone", "gpu_bf16_wgmma"} <= names


@detects(ReasonCode.GPU_MEMORY_ERROR, "stand-in CUDA driver whose copies between GPUs flip a bit")
async def test_a_copy_between_gpus_that_arrives_wrong_is_found(rig: Rig) -> None:
    found = await rig.findings({"wrong_transfer": "peer"}, {})
    assert codes(found) == {(ReasonCode.GPU_MEMORY_ERROR, GPU_1)}
    assert "0000:3b:00.0 to 0000:3c:00.0" in found[0].message


@pytest.mark.parametrize(
    ("spoil", "code"), [({"memory": 77}, ReasonCode.GPU_MEMORY_ERROR), ({"fp32": 77}, ReasonCode.GPU_MISCOMPUTE)]
)
async def test_a_bit_planted_in_the_gpus_memory_is_found(rig: Rig, spoil: Mapping[str, int], code: ReasonCode) -> None:
    """The same plants are made on a real GPU by tests/gpu/run."""
    assert codes(await rig.findings({}, plan=rig.plan(spoil=spoil))) == {(code, GPU_0)}


async def test_a_starved_gpu_is_slow(rig: Rig) -> None:
    assert codes(await rig.findings({}, plan=rig.plan(pace=0.5))) == {(ReasonCode.GPU_SLOW, GPU_0)}

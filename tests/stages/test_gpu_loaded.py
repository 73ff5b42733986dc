"""The GPU stage with its load: NVML and the CUDA driver are both played, and a sound GPU passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from probes.host import Host
from stages import gpu_kernels
from stages.gpu import SAMPLES_MORE, STAGE, Options
from stages.outcome import Outcome, ReasonCode, Verdict
from tests.support import cuda_driver, nvml
from tests.support.detection import detects, spares
from tests.support.judging import outcome_of
from tests.support.stage_context import Remembering, stage_context
from tests.support.stand_ins import StandIns

QUICK = Options(duration_s=0.2, interval_s=0.1)


class Machine:
    """One with GPUs that both libraries show."""

    def __init__(self, host: Host, libraries: Path, folder: Path) -> None:
        self.host, self.libraries, self.folder = host, libraries, folder

    async def run(
        self, cuda: Mapping[str, str] | None, facts: Mapping[str, str], options: Options = QUICK
    ) -> tuple[Outcome, Remembering]:
        nvml.script(self.libraries, {"uuid": cuda_driver.uuid_of(0), "name": "NVIDIA H200", **facts})
        if cuda is None:
            (self.libraries / cuda_driver.LIBRARY).unlink()
        else:
            cuda_driver.script(self.libraries, cuda)
        context, listener = stage_context(self.folder / "evidence", self.host)
        return outcome_of(STAGE, await STAGE.run(context, options), options), listener


@pytest.fixture
def machine(
    tmp_path: Path, stand_ins: StandIns, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """The cache of kernels is the user's: here one of the test's own, with the kernels in it."""
    libraries = cuda_driver.install(nvml.build(tmp_path / "libraries"), cuda_driver.built(pytestconfig))
    cubins = cuda_driver.cubins(pytestconfig)
    cache = gpu_kernels.cache_folder({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    cache.mkdir(parents=True)
    name = gpu_kernels.file_name("sm_90")
    (cache / name).symlink_to(cubins / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    root = tmp_path / "host"
    nvml.pci_device(root, "0000:3a:00.0", "60400", "8086:347A", "pcieport")
    nvml.pci_device(root, "0000:3b:00.0", "30200", "10DE:2335", "nvidia", port="0000:3a:00.0")
    return Machine(Host(root=root, tools=stand_ins.tools()), libraries, tmp_path)


GPU = f"gpu:{cuda_driver.uuid_of(0)}"


def errors(outcome: Outcome) -> set[tuple[ReasonCode, str]]:
    return {(finding.reason_code, finding.component) for finding in outcome.errors}


@spares(ReasonCode.GPU_NOT_LOADED, "stand-in NVML and CUDA driver of an H200 that does all that is asked of it")
async def test_a_sound_gpu_that_was_loaded_passes(machine: Machine) -> None:
    outcome, listener = await machine.run({}, {})
    assert outcome.errors == ()
    assert outcome.verdict is Verdict.PASS
    assert outcome.coverage[GPU] >= 0.9
    rates = {one.name: one for one in outcome.measurements}
    assert rates["gpu_bf16_wgmma"].value == pytest.approx(700, rel=0.01)
    assert rates["gpu_copy"].ok
    assert "1 loaded" in outcome.headline
    assert ("temperature", GPU, 38, "C") in listener.samples


async def test_health_is_read_until_the_load_is_over(machine: Machine) -> None:
    """Each GPU alone, and the driver's start in each child, come on top of the time that is planned."""
    nvml.script(machine.libraries, {"uuid": cuda_driver.uuid_of(0), "name": "NVIDIA H200"})
    cuda_driver.script(machine.libraries, {})
    context, _ = stage_context(machine.folder / "evidence", machine.host)
    reading = await STAGE.run(context, QUICK)
    after_the_load = 1
    assert len(reading.samples) >= QUICK.samples + SAMPLES_MORE + after_the_load


async def test_cublas_is_used_where_the_site_has_it(machine: Machine) -> None:
    cuda_driver.cublas(machine.libraries)
    outcome, _ = await machine.run({}, {})
    assert outcome.verdict is Verdict.PASS
    assert outcome.tool_versions["cuBLAS"] == "12.9.1"
    assert "gpu_cublas_bf16" in {one.name for one in outcome.measurements}


async def test_cublas_can_be_left_out(machine: Machine) -> None:
    cuda_driver.cublas(machine.libraries)
    outcome, _ = await machine.run({}, {}, replace(QUICK, cublas=False))
    assert outcome.verdict is Verdict.PASS
    assert not [one for one in outcome.measurements if "cublas" in one.name]


@detects(ReasonCode.GPU_MISCOMPUTE, "stand-in NVML of a sound H200 whose CUDA driver gives one wrong product")
async def test_a_gpu_that_computes_wrong_fails_however_sound_its_facts(machine: Machine) -> None:
    outcome, _ = await machine.run({"wrong_result": "gemm_int8"}, {})
    assert errors(outcome) == {(ReasonCode.GPU_MISCOMPUTE, GPU)}
    assert outcome.verdict is Verdict.FAIL


async def test_a_sick_gpu_stays_sick_however_right_its_results(machine: Machine) -> None:
    outcome, _ = await machine.run({}, {"remapped_rows": "0,8,0,1"})
    assert errors(outcome) == {(ReasonCode.GPU_REMAP_FAILED, GPU)}


@detects(ReasonCode.GPU_NOT_LOADED, "stand-in NVML of a sound H200 on a host without a CUDA driver")
async def test_a_gpu_without_a_cuda_driver_is_unknown(machine: Machine) -> None:
    outcome, _ = await machine.run(None, {})
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, GPU)}
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.coverage[GPU] == 0.0


async def test_a_load_that_was_not_asked_for_leaves_the_gpu_unknown(machine: Machine) -> None:
    options = Options(duration_s=0.2, interval_s=0.1, load=False)
    outcome, _ = await machine.run({}, {}, options)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, GPU)}


@detects(ReasonCode.GPU_HUNG, "stand-in NVML of a sound H200 whose CUDA driver never answers")
async def test_a_gpu_that_hangs_under_load_is_named(machine: Machine) -> None:
    options = Options(duration_s=0.2, interval_s=0.1, silence_s=5.0)
    outcome, _ = await machine.run({"hang": "cuMemAlloc_v2", "after": "3"}, {}, options)
    assert errors(outcome) == {(ReasonCode.GPU_HUNG, GPU)}

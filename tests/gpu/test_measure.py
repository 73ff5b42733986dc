"""The script for a machine with a GPU, run against drivers that are played: it works, its figures are not real."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.host import Host
from stages import gpu_kernels
from tests.gpu import measure
from tests.support import cuda_driver, nvml
from tests.support.stand_ins import StandIns


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One H200, and a cache with the kernels, those with the planted fault too."""
    libraries = cuda_driver.install(nvml.build(tmp_path / "libraries"), cuda_driver.built(pytestconfig))
    nvml.script(libraries, {"uuid": cuda_driver.uuid_of(0), "name": "NVIDIA H200", "power_mw": "70000|400000|690000"})
    cuda_driver.script(libraries, {})
    cache = gpu_kernels.cache_folder({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    cache.mkdir(parents=True)
    for fault in (False, True):
        name = gpu_kernels.file_name("sm_90", fault)
        (cache / name).symlink_to(cuda_driver.cubins(pytestconfig, fault=fault) / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    root = tmp_path / "host"
    nvml.pci_device(root, "0000:3b:00.0", "30200", "10DE:2335", "nvidia")
    return Host(root=root, tools=stand_ins.tools())


@pytest.mark.slow
async def test_the_page_tells_figures_faults_and_curves(machine: Host, tmp_path: Path) -> None:
    measured = await measure.measure(machine, tmp_path / "evidence", 0.3, 0.05)
    caught = {one.what: one for one in measured.caught}
    # The driver that is played computes by itself: kernels that are made to be wrong are not, with it.
    faulty = caught.pop("kernels that compute one result wrong")
    assert faulty.said == ()
    assert all(one.right for one in caught.values()), [one for one in caught.values() if not one.right]
    out = tmp_path / "docs" / "gpu.md"
    out.parent.mkdir()
    out.write_text(f"It has not run.\n\n{measure.KEPT}\n\nBy sums.\n")
    measure.write(measured, out, "2026-01-01")
    text = out.read_text()
    assert "It has not run" not in text
    assert text.endswith(f"\n\n{measure.KEPT}\n\nBy sums.\n")
    assert "on NVIDIA H200, driver 550.90.07" in text
    assert "The verdict of the stage: **pass**" in text
    assert "| gpu_bf16_wgmma | gpu:GPU-00000000-0000-0000-0000-000000000000 | 700 TFLOP/s | 326.4 | ≥ 600" in text
    assert "| one bit flipped in the GPU's memory | `gpu_memory_error`" in text
    assert "pictures/gpu-power.svg" in text
    assert "<polyline" in (out.parent / "pictures" / "gpu-power.svg").read_text()


def test_a_machine_without_a_gpu_leaves_the_page_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This one, or it would have been measured."""
    out = tmp_path / "gpu.md"
    if any(Path("/dev").glob("nvidia*")):
        pytest.skip("there is a GPU here")
    assert measure.main(["--out", str(out)]) == 2
    assert not out.exists()
    assert "nothing was measured" in capsys.readouterr().out

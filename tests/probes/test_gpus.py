"""What counts as a compute GPU, and NVML read through a real child process and a library that plays a script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from probes import gpus
from probes.host import Host
from probes.notes import Notes
from probes.nvml import NvmlUnusable, parse_sample, sample_nvml
from tests.support import nvml
from tests.support.stand_ins import StandIns

H100 = ("30200", "10DE:2330")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns, library: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A recorded machine without PCI devices yet, and a driver library that can be scripted."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    (tmp_path / "host").mkdir()
    return Host(root=tmp_path / "host", tools=stand_ins.tools())


@pytest.mark.parametrize(
    ("pci_class", "pci_id", "computes"),
    [
        ("30200", "10DE:2330", True),  # H100
        ("30000", "10DE:2204", True),  # GeForce RTX 3090
        ("120000", "1002:74A1", True),  # Instinct MI300X
        ("38000", "1002:740F", True),  # Instinct MI210
        ("30000", "1002:1638", False),  # graphics inside a Ryzen
        ("30000", "1A03:2000", False),  # ASPEED in a BMC
        ("30000", "102B:0538", False),  # Matrox in a BMC
        ("30000", "8086:3E98", False),  # graphics inside a Core
        ("30000", "1234:1111", False),  # QEMU's VGA
        ("30000", "1AF4:1050", False),  # virtio GPU
        ("68000", "10DE:22A3", False),  # NVSwitch
        ("40300", "10DE:22BC", False),  # sound function of a GPU
    ],
)
async def test_only_gpus_that_compute_count(machine: Host, pci_class: str, pci_id: str, computes: bool) -> None:
    nvml.pci_device(machine.root, "0000:3b:00.0", pci_class, pci_id)
    assert bool(gpus.compute_devices(machine, Notes())) is computes


def test_a_virtual_function_of_a_gpu_is_not_one_more_gpu(machine: Host) -> None:
    nvml.pci_device(machine.root, "0000:3b:00.0", *H100)
    [device] = gpus.compute_devices(machine, Notes())
    assert not gpus.is_compute(replace(device, virtual_function=True))


async def test_inventory_joins_pci_and_nvml(machine: Host, library: Path) -> None:
    nvml.pci_device(machine.root, "0000:3b:00.0", *H100, "nvidia")
    nvml.script(library, {})
    assert await gpus.inventory(machine, notes := Notes()) == [
        gpus.Gpu(
            index=0,
            model="NVIDIA H100 80GB HBM3",
            uuid="GPU-11111111-2222-3333-4444-555555555555",
            memory_gib=79.6,
            pci="0000:3b:00.0",
            vbios="96.00.89.00.01",
            driver="550.90.07",
        )
    ]
    assert notes.lines == []


async def test_a_gpu_without_a_driver_is_listed_with_a_note(machine: Host) -> None:
    nvml.pci_device(machine.root, "0000:3b:00.0", *H100)
    [gpu] = await gpus.inventory(machine, notes := Notes())
    assert (gpu.pci, gpu.uuid, gpu.driver, gpu.index) == ("0000:3b:00.0", None, None, None)
    assert any("0000:3b:00.0" in line for line in notes.lines)


async def test_a_machine_without_gpus_asks_no_driver(machine: Host, library: Path) -> None:
    nvml.script(library, init="crash")
    nvml.pci_device(machine.root, "0000:03:00.0", "30000", "1A03:2000", "ast")
    assert await gpus.inventory(machine, Notes()) == []


async def test_unsupported_is_not_zero(machine: Host, library: Path) -> None:
    nvml.script(library, {"ecc_uncorrected": "unsupported", "ecc_corrected": "0", "power_mw": "error"})
    [sample] = await sample_nvml(machine)
    [gpu] = sample.gpus
    assert "ecc_uncorrected" in gpu.unsupported
    assert gpu.amount("ecc_uncorrected") is None
    assert gpu.amount("ecc_corrected") == 0
    assert "Unknown" in gpu.errors["power"]
    assert gpu.amount("power_limit") == 700
    assert len(gpu.nvlinks) == 18


async def test_a_function_that_the_driver_lacks_is_unsupported(
    machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = nvml.build(tmp_path / "old", "-DWITHOUT_REMAPPED_ROWS")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old))
    nvml.script(old, {"remapped_rows": "0,0,0,0"})
    [sample] = await sample_nvml(machine)
    assert "remapped_rows" in sample.gpus[0].unsupported


@pytest.mark.parametrize(
    ("top", "kind"),
    [({"init": "not_loaded"}, "no_driver"), ({"init": "error"}, "init"), ({"init": "crash"}, "crashed")],
)
async def test_a_driver_that_does_not_start(machine: Host, library: Path, top: dict[str, str], kind: str) -> None:
    nvml.script(library, **top)
    with pytest.raises(NvmlUnusable) as caught:
        await sample_nvml(machine)
    assert caught.value.kind == kind


async def test_no_library(machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(NvmlUnusable) as caught:
        await sample_nvml(machine)
    assert caught.value.kind == "no_library"


async def test_a_driver_call_that_hangs_is_killed(machine: Host, library: Path) -> None:
    nvml.script(library, {"temperature": "hang"})
    with pytest.raises(NvmlUnusable, match="hangs") as caught:
        await sample_nvml(machine, limit_s=1.5)
    assert caught.value.kind == "hung"


async def test_a_gpu_that_fell_off_the_bus(machine: Host, library: Path) -> None:
    nvml.script(library, {}, {"handle": "lost"})
    [sample] = await sample_nvml(machine)
    assert "lost" in sample.gpus[1].errors["handle"].lower()


async def test_samples_are_told_as_they_come(machine: Host, library: Path) -> None:
    nvml.script(library, {"temperature": "40|50|60"})
    seen: list[float | None] = []
    samples = await sample_nvml(
        machine, samples=3, interval_s=0.05, on_sample=lambda sample: seen.append(sample.gpus[0].amount("temperature"))
    )
    assert seen == [40, 50, 60]
    assert samples[2].time_s - samples[0].time_s >= 0.1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Segmentation fault",
        "[]",
        "{}",
        '{"time": 1, "count": {"value": 1}, "gpus": []}',
        '{"time": 1, "count": {"error": "x"}, "gpus": []}',
        '{"time": 1, "count": {"value": 1}, "gpus": [7]}',
        json.dumps({"time": 1, "count": {"value": 1}, "gpus": [{"index": 0}]})[:-9],
    ],
)
def test_output_that_is_not_what_it_should_be_is_unreadable(line: str) -> None:
    with pytest.raises(NvmlUnusable) as caught:
        parse_sample(line)
    assert caught.value.kind == "unreadable"


def test_a_reader_without_its_module_says_so() -> None:
    with pytest.raises(NvmlUnusable, match="not installed") as caught:
        parse_sample('{"failure": "no_module", "message": "pynvml is not installed"}')
    assert caught.value.kind == "no_module"

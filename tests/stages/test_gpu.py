"""The GPU stage end to end over a library that plays a script: each fault is found, and nothing passes untested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from probes.host import Host
from probes.pci import PciDevice
from stages.gpu import Options, Readings, judge
from stages.outcome import ReasonCode, Verdict
from tests.support import nvml
from tests.support.detection import detects, spares
from tests.support.gpu_stage import UUID, errors, many, quick, run
from tests.support.stand_ins import StandIns


@detects(ReasonCode.GPU_NOT_LOADED, "stand-in NVML of a healthy H100 on which no load is run")
@spares(ReasonCode.GPU_MISSING, "stand-in NVML that shows the H100 which PCI shows")
@spares(ReasonCode.GPU_DRIVER_MISSING, "stand-in NVML that starts and answers")
@spares(ReasonCode.GPU_HUNG, "stand-in NVML that starts and answers")
async def test_a_healthy_gpu_does_not_pass_without_a_load(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {})
    outcome, listener = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}
    assert outcome.verdict is Verdict.UNKNOWN
    assert ("temperature", f"gpu:{UUID}", 38, "C") in listener.samples
    assert listener.fractions[-1] == 1.0
    assert outcome.tool_versions == {"NVIDIA driver": "550.90.07"}


FAULTS: list[tuple[Mapping[str, str], ReasonCode]] = [
    ({"remapped_rows": "0,8,0,1"}, ReasonCode.GPU_REMAP_FAILED),
    ({"remapped_rows": "0,1,1,0"}, ReasonCode.GPU_REMAP_PENDING),
    ({"retired_pending": "1"}, ReasonCode.GPU_REMAP_PENDING),
    ({"ecc_uncorrected": "2"}, ReasonCode.GPU_ECC_UNCORRECTED),
    ({"retired_single_bit": "60", "retired_double_bit": "3"}, ReasonCode.GPU_PAGES_RETIRED),
    ({"temperature": "60|93|60"}, ReasonCode.GPU_OVERHEATED),
    ({"thermal_violation_ns": "0|100000000000"}, ReasonCode.GPU_THROTTLED),
    ({"throttle_reasons": "0x40"}, ReasonCode.GPU_THROTTLED),
    ({"pcie_width": "8"}, ReasonCode.GPU_PCIE_DEGRADED),
    ({"nvlink7": "0"}, ReasonCode.GPU_NVLINK),
    ({"nvlink3.crc": "5|9"}, ReasonCode.GPU_NVLINK),
    ({"temperature": "error"}, ReasonCode.PROBE_ERROR),
    ({"ecc_uncorrected": "error"}, ReasonCode.PROBE_ERROR),
    ({"remapped_rows": "error"}, ReasonCode.PROBE_ERROR),
    ({"pcie_width": "error"}, ReasonCode.PROBE_ERROR),
]
NO_FAULTS: list[Mapping[str, str]] = [
    {"ecc_corrected": "400", "retired_single_bit": "62"},
    {"throttle_reasons": "0x5"},  # idle, and capped by its power limit
    {"remapped_rows": "3,1,0,0"},  # done its work
    {"temperature": "91"},
    {"nvlink0.crc": "5|5"},  # old errors
    {"pcie_generation": "1"},  # saves power while idle
    {"ecc_uncorrected": "unsupported", "remapped_rows": "unsupported", "nvlinks": "0"},  # a consumer card
    {f"nvlink{link}": "0" for link in range(18)},  # a card without a bridge
]


@detects(ReasonCode.GPU_REMAP_FAILED, "stand-in NVML of an H100 whose row remap failed")
@detects(ReasonCode.GPU_REMAP_PENDING, "stand-in NVML of an H100 with a remap, or retired pages, pending")
@detects(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in NVML of an H100 with two uncorrected ECC errors")
@detects(ReasonCode.GPU_PAGES_RETIRED, "stand-in NVML of an H100 with 63 retired pages")
@detects(ReasonCode.GPU_OVERHEATED, "stand-in NVML of an H100 that gets to 93 °C")
@detects(ReasonCode.GPU_THROTTLED, "stand-in NVML of an H100 slowed down by heat or by its hardware")
@detects(ReasonCode.GPU_PCIE_DEGRADED, "stand-in NVML of an H100 on 8 of 16 lanes")
@detects(ReasonCode.GPU_NVLINK, "stand-in NVML of an H100 with an inactive NVLink, or new CRC errors on one")
@detects(ReasonCode.PROBE_ERROR, "stand-in NVML that cannot tell temperature, ECC, remaps or PCIe width")
async def test_each_fault_is_found_and_named(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [facts for facts, _ in FAULTS])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(code, f"gpu:G{number}") for number, (_, code) in enumerate(FAULTS)}
    assert outcome.verdict is Verdict.FAIL


@spares(ReasonCode.GPU_REMAP_FAILED, "stand-in NVML of an H100 with three remaps that succeeded")
@spares(ReasonCode.GPU_REMAP_PENDING, "stand-in NVML of an H100 with three remaps that succeeded")
@spares(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in NVML of an H100 with 400 corrected ECC errors")
@spares(ReasonCode.GPU_PAGES_RETIRED, "stand-in NVML of an H100 with 62 retired pages")
@spares(ReasonCode.GPU_OVERHEATED, "stand-in NVML of an H100 at 91 °C, under its limit")
@spares(ReasonCode.GPU_THROTTLED, "stand-in NVML of an H100 that idles or is capped by its power limit")
@spares(ReasonCode.GPU_PCIE_DEGRADED, "stand-in NVML of an idle H100 at PCIe generation 1")
@spares(ReasonCode.GPU_NVLINK, "stand-in NVML of an H100 with old CRC errors, and of one without a bridge")
async def test_what_is_no_fault(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, NO_FAULTS)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:G{number}") for number in range(len(NO_FAULTS))}


async def test_facts_that_cannot_be_read_alone_are_unknown(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {"ecc_uncorrected": "error"})
    outcome, _ = await run(machine, tmp_path)
    assert outcome.verdict is Verdict.UNKNOWN


async def test_a_slot_that_is_narrower_than_the_gpu_is_no_fault(
    tmp_path: Path, stand_ins: StandIns, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    nvml.pci_device(tmp_path, "0000:3a:00.0", "60400", "8086:347A", "pcieport", width=8)
    nvml.pci_device(tmp_path, "0000:3b:00.0", "30200", "10DE:2330", "nvidia", port="0000:3a:00.0", width=8)
    nvml.script(library, {"pcie_width": "8"})
    outcome, _ = await run(Host(root=tmp_path, tools=stand_ins.tools()), tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}


async def test_inactive_nvlinks_fail_where_they_are_expected(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {f"nvlink{link}": "0" for link in range(18)})
    outcome, _ = await run(machine, tmp_path, quick(nvlink_expected=True))
    assert errors(outcome) == {(ReasonCode.GPU_NVLINK, f"gpu:{UUID}")}


@detects(ReasonCode.GPU_HUNG, "stand-in NVML that freezes at its start")
@detects(ReasonCode.GPU_DRIVER_MISSING, "stand-in NVML that says its driver is not loaded")
@pytest.mark.parametrize(
    ("top", "code", "verdict"),
    [
        ({"init": "not_loaded"}, ReasonCode.GPU_DRIVER_MISSING, Verdict.UNKNOWN),
        ({"init": "error"}, ReasonCode.GPU_DRIVER_MISSING, Verdict.UNKNOWN),
        ({"init": "crash"}, ReasonCode.TOOL_FAILED, Verdict.UNKNOWN),
        ({"init": "hang"}, ReasonCode.GPU_HUNG, Verdict.FAIL),
    ],
)
async def test_a_driver_that_does_not_work(
    machine: Host, library: Path, tmp_path: Path, top: Mapping[str, str], code: ReasonCode, verdict: Verdict
) -> None:
    nvml.script(library, **top)
    limit_s = 1.5 if code is ReasonCode.GPU_HUNG else 30.0
    outcome, _ = await run(machine, tmp_path, quick(answer_limit_s=limit_s))
    assert errors(outcome) == {(code, "pci:0000:3b:00.0")}
    assert outcome.verdict is verdict


@detects(ReasonCode.GPU_DRIVER_MISSING, "made PCI tree with an H100, and no NVIDIA library on this machine")
async def test_no_driver_at_all(machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "nowhere"))
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_DRIVER_MISSING, "pci:0000:3b:00.0")}
    assert outcome.verdict is Verdict.UNKNOWN


@detects(ReasonCode.GPU_MISSING, "stand-in NVML that shows one of the two GPUs which PCI shows")
async def test_a_gpu_that_the_driver_does_not_show(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.pci_device(machine.root, "0000:5e:00.0", "30200", "10DE:2330", "nvidia")
    nvml.script(library, {})
    outcome, _ = await run(machine, tmp_path)
    assert (ReasonCode.GPU_MISSING, "pci:0000:5e:00.0") in errors(outcome)
    assert outcome.verdict is Verdict.FAIL


@detects(ReasonCode.GPU_MISSING, "stand-in NVML of a GPU that is lost between two samples")
async def test_a_gpu_that_is_lost_during_the_stage(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {"handle": "ok|lost"})
    outcome, _ = await run(machine, tmp_path)
    assert ReasonCode.GPU_MISSING in {code for code, _ in errors(outcome)}
    assert outcome.verdict is Verdict.FAIL


async def test_fewer_gpus_than_expected(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {})
    outcome, _ = await run(machine, tmp_path, quick(expected_count=8))
    assert (ReasonCode.GPU_MISSING, "gpu") in errors(outcome)


@spares(
    ReasonCode.GPU_NOT_LOADED,
    "made PCI tree with a BMC's graphics only (any compute GPU has this code: no load exists yet)",
)
async def test_none_here_and_none_expected(tmp_path: Path, stand_ins: StandIns) -> None:
    nvml.pci_device(tmp_path, "0000:03:00.0", "30000", "1A03:2000", "ast")
    host = Host(root=tmp_path, tools=stand_ins.tools())
    outcome, _ = await run(host, tmp_path)
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    outcome, _ = await run(host, tmp_path, quick(expected_count=1))
    assert outcome.verdict is Verdict.FAIL


async def test_a_gpu_of_another_maker_is_not_passed(tmp_path: Path, stand_ins: StandIns) -> None:
    nvml.pci_device(tmp_path, "0000:03:00.0", "120000", "1002:74A1", "amdgpu")
    outcome, _ = await run(Host(root=tmp_path, tools=stand_ins.tools()), tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, "pci:0000:03:00.0")}
    assert outcome.verdict is Verdict.UNKNOWN


def test_a_gpu_without_any_reading_of_its_health_is_unknown() -> None:
    device = PciDevice(
        address="0000:17:00.0",
        class_id="0x030200",
        kind=None,
        vendor_id="0x10de",
        device_id=None,
        subsystem_vendor_id=None,
        subsystem_device_id=None,
        revision=None,
        driver=None,
        numa_node=None,
        upstream=None,
        slot=None,
        virtual_function=False,
        link=None,
    )
    outcome = judge(Readings((device,)), Options())
    assert outcome.verdict is Verdict.UNKNOWN
    assert errors(outcome) == {(ReasonCode.OUTPUT_UNREADABLE, "pci:0000:17:00.0")}


async def test_a_machine_that_shows_no_buses_is_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    outcome, _ = await run(Host(root=tmp_path / "empty", tools=stand_ins.tools()), tmp_path)
    assert outcome.verdict is Verdict.UNKNOWN

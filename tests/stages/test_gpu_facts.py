"""The GPU stage's facts: margins, times, counters, events, fabric. Each fault is found, each sound thing left alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from probes.host import Host
from stages.gpu import MOST_SAMPLES, Options
from stages.outcome import ReasonCode, Verdict
from tests.support import nvml
from tests.support.detection import detects, spares
from tests.support.gpu_stage import CONSUMER, H100, LOADED, NVSWITCH, UUID, errors, many, quick, run, said
from tests.support.stand_ins import StandIns

FAULTS: list[tuple[Mapping[str, str], ReasonCode]] = [
    ({"recovery_action": "1"}, ReasonCode.GPU_RESET_NEEDED),
    ({"recovery_action": "0|2"}, ReasonCode.GPU_RESET_NEEDED),
    ({"power_mw": "reset"}, ReasonCode.GPU_RESET_NEEDED),
    ({"ecc_uncorrected": "3|0"}, ReasonCode.GPU_ECC_UNCORRECTED),  # set back by a reset in the midst of the stage
    ({"sram_errors_over_limit": "1"}, ReasonCode.GPU_ECC_UNCORRECTED),
    ({"memory_temperature": "60|96|60"}, ReasonCode.GPU_OVERHEATED),
    ({"temperature_slowdown": "unsupported", "temperature_margin": "40|-3"}, ReasonCode.GPU_OVERHEATED),
    ({"hardware_thermal_ns": "5|900000000000"}, ReasonCode.GPU_THROTTLED),
    ({"software_thermal_ns": "5|900000000000"}, ReasonCode.GPU_THROTTLED),
    ({"power_brake_ns": "5|900000000000"}, ReasonCode.GPU_THROTTLED),
    ({**LOADED, "pcie_generation": "4"}, ReasonCode.GPU_PCIE_DEGRADED),
    ({"nvlink2.recoveries": "1|2"}, ReasonCode.GPU_NVLINK),
    ({"nvlink2.crc": "unsupported", "nvlink2.failed_recoveries": "0|1"}, ReasonCode.GPU_NVLINK),
    ({f"nvlink{link}": "1|0" for link in range(18)}, ReasonCode.GPU_NVLINK),  # all went dark in the midst of it
    ({"fabric": "3,999,0"}, ReasonCode.GPU_NVLINK),
    ({"fabric": "3,0,1"}, ReasonCode.GPU_NVLINK),  # degraded bandwidth, by the health mask
    ({"fabric": "3,0,768"}, ReasonCode.GPU_NVLINK),  # wrong configuration, likewise
    ({"temperature": "lost"}, ReasonCode.GPU_MISSING),
    ({"xid": "31|79"}, ReasonCode.GPU_XID),
    ({"temperature": "4294967295"}, ReasonCode.PROBE_ERROR),
    ({"pcie_width": "255"}, ReasonCode.PROBE_ERROR),
    ({"recovery_action": "error"}, ReasonCode.PROBE_ERROR),
    ({"sram_errors_over_limit": "error"}, ReasonCode.PROBE_ERROR),
]
NO_FAULTS: list[Mapping[str, str]] = [
    {**LOADED, "thermal_violation_ns": "7|7", "power_violation_ns": "0|900000000000"},  # held at its power limit
    {"temperature_margin": "1", "slowdown_margin": "-2"},
    {"memory_temperature": "94"},
    {"nvlink2.recoveries": "4|4", "nvlink2.replays": "9|9"},  # from before
    {"ecc_uncorrected_lifetime": "12", "remap_banks_used_up": "0"},
    {"pcie_replays": "1000|1003"},
    {"xid": "13|31|43|63|94"},  # programs' faults, and what is judged by the remap state
    {"fabric": "3,0,426"},  # each part of the health mask says that all is well
    {"fabric": "0,0,0"},  # a card without a fabric
]


@detects(ReasonCode.GPU_RESET_NEEDED, "stand-in NVML of an H100 whose driver asks for a reset or a reboot")
@detects(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in NVML of an H100 with more on-chip memory errors than allowed")
@detects(ReasonCode.GPU_OVERHEATED, "stand-in NVML of an H100 whose memory is too hot, or that used up its margin")
@detects(ReasonCode.GPU_THROTTLED, "stand-in NVML of an H100 with growing times of thermal slowdown or power brake")
@detects(ReasonCode.GPU_PCIE_DEGRADED, "stand-in NVML of a loaded H100 at PCIe generation 4 of 5")
@detects(ReasonCode.GPU_NVLINK, "stand-in NVML of an H100 whose links recover, go dark, or belong to a sick fabric")
@detects(ReasonCode.GPU_MISSING, "stand-in NVML that answers that the GPU is lost")
@detects(ReasonCode.GPU_XID, "stand-in NVML that delivers XID 79 by its event set")
@detects(ReasonCode.PROBE_ERROR, "stand-in NVML that tells 4294967295 °C or 255 lanes")
async def test_each_fault_is_found_and_named(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, [facts for facts, _ in FAULTS])
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(code, f"gpu:G{number}") for number, (_, code) in enumerate(FAULTS)}
    assert outcome.verdict is Verdict.FAIL
    assert "XID 79" in said(outcome, ReasonCode.GPU_XID)
    assert "be reset" in said(outcome, ReasonCode.GPU_RESET_NEEDED)


@spares(ReasonCode.GPU_RESET_NEEDED, "stand-in NVML of an H100 that needs no recovery")
@spares(ReasonCode.GPU_OVERHEATED, "stand-in NVML of an H100 a degree under its limits")
@spares(ReasonCode.GPU_THROTTLED, "stand-in NVML of a loaded H100 that is held at its power limit all the time")
@spares(ReasonCode.GPU_NVLINK, "stand-in NVML of an H100 in a healthy fabric, and of one without a fabric")
@spares(ReasonCode.GPU_XID, "stand-in NVML that delivers XIDs 13, 31, 43, 63 and 94")
@spares(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in NVML of an H100 with twelve uncorrected errors in its lifetime")
@spares(ReasonCode.GPU_FABRIC, "stand-in NVML of H100s that have joined their fabric, or have none")
async def test_what_is_no_fault(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, NO_FAULTS)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:G{number}") for number in range(len(NO_FAULTS))}
    assert [one for one in outcome.findings if one.severity == "warning"] == []
    assert "12 uncorrected memory errors in its lifetime" in said(outcome, ReasonCode.EARLIER_EVENTS)


async def test_what_is_told_but_fails_nothing(machine: Host, library: Path, tmp_path: Path) -> None:
    told: list[tuple[Mapping[str, str], ReasonCode]] = [
        ({"pcie_replays": "0|50"}, ReasonCode.GPU_PCIE_DEGRADED),
        ({"remap_banks_used_up": "1"}, ReasonCode.GPU_REMAP_FAILED),
        ({"power_limit_mw": "350000"}, ReasonCode.GPU_THROTTLED),
        ({"mig_mode": "1"}, ReasonCode.GPU_NOT_LOADED),
        ({"compute_mode": "2"}, ReasonCode.GPU_NOT_LOADED),
        ({"nvlink0.replays": "0|3"}, ReasonCode.GPU_NVLINK),
    ]
    many(machine, library, [facts for facts, _ in told])
    outcome, _ = await run(machine, tmp_path)
    warnings = {(one.reason_code, one.component) for one in outcome.findings if one.severity == "warning"}
    assert warnings == {(code, f"gpu:G{number}") for number, (_, code) in enumerate(told)}
    assert {code for code, _ in errors(outcome)} == {ReasonCode.GPU_NOT_LOADED}


EIGHT = [LOADED] * 8


@spares(ReasonCode.GPU_MISSING, "stand-in NVML of eight H100 joined by four NVSwitches")
@spares(ReasonCode.GPU_PCIE_DEGRADED, "stand-in NVML of eight loaded H100 at PCIe generation 5, 16 lanes")
@spares(ReasonCode.PROBE_ERROR, "stand-in NVML of eight H100 that tell all their facts")
async def test_eight_sound_h100_lack_nothing_but_a_load(machine: Host, library: Path, tmp_path: Path) -> None:
    many(machine, library, EIGHT)
    for number in range(4):
        nvml.pci_device(machine.root, f"0000:{number + 5:02x}:00.0", *NVSWITCH, "nvidia-nvswitch")
    outcome, listener = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:G{number}") for number in range(8)}
    assert len(outcome.findings) == 8
    figures = {one.name: one for one in outcome.measurements if one.component == "gpu:G7"}
    assert (figures["temperature"].value, figures["temperature"].limit, figures["temperature"].ok) == (71, 92, True)
    assert (figures["power"].value, figures["power"].limit) == (690, 700)
    assert (figures["memory_temperature"].limit, figures["pcie_replays_gained"].value) == (95, 0)
    assert any("MIG off, compute mode default, power limit 700 W of 700 W" in line for _, line in listener.lines)


LACKED_BY_CONSUMERS = (
    *("ecc_enabled", "ecc_uncorrected", "ecc_corrected", "ecc_uncorrected_lifetime", "ecc_corrected_lifetime"),
    *("remapped_rows", "remap_banks_used_up", "sram_errors_over_limit", "memory_temperature", "temperature_margin"),
    *("slowdown_margin", "mig_mode", "fabric", "recovery_action", "serial", "board_limit_violation_ns"),
)
CONSUMER_CARD = {
    "name": "NVIDIA GeForce RTX 3090",
    "nvlinks": "0",
    "power_limit_mw": "350000",
    "power_limit_default_mw": "350000",
    "temperature_memory_max": "unsupported",
    **dict.fromkeys(LACKED_BY_CONSUMERS, "unsupported"),
}


@spares(ReasonCode.PROBE_ERROR, "stand-in NVML of a GeForce without ECC, row remap, NVLink and memory temperature")
async def test_a_consumer_card_lacks_much_and_is_sound(tmp_path: Path, stand_ins: StandIns, library: Path) -> None:
    nvml.pci_device(tmp_path, "0000:3b:00.0", *CONSUMER, "nvidia")
    nvml.script(library, {**CONSUMER_CARD, "events": "unsupported"}, events="unsupported")
    outcome, _ = await run(Host(root=tmp_path, tools=stand_ins.tools()), tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}
    assert len(outcome.findings) == 1
    names = {one.name for one in outcome.measurements}
    assert not {name for name in names if "ecc" in name or "memory" in name}  # n/a is not 0


async def test_an_old_driver_lacks_much_and_is_no_fault(
    machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = nvml.build(tmp_path / "old", "-DOLD_DRIVER")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old))
    nvml.script(old, {})
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}


@pytest.mark.parametrize("facts", [LOADED, {}])
async def test_a_slow_link_is_a_fault_under_load_only(
    machine: Host, library: Path, tmp_path: Path, facts: Mapping[str, str]
) -> None:
    nvml.script(library, {**facts, "pcie_generation": "1"})
    outcome, _ = await run(machine, tmp_path)
    assert (ReasonCode.GPU_PCIE_DEGRADED in {code for code, _ in errors(outcome)}) is bool(facts)


async def test_a_link_that_just_changes_its_speed_is_no_fault(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {**LOADED, "pcie_generation": "1|5|5"})
    outcome, _ = await run(machine, tmp_path, quick(duration_s=0.2))
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}


# The links of a GPU behind a switch: root port - switch (upstream port, downstream port) - GPU.
ROOT_PORT, UPSTREAM, DOWNSTREAM, GPU = (f"0000:{bus:02x}:00.0" for bus in (0x10, 0x11, 0x12, 0x13))


def behind_a_switch(root: Path, **of_upstream: str) -> None:
    nvml.pci_device(root, ROOT_PORT, "60400", "8086:347A", "pcieport")
    nvml.pci_device(root, UPSTREAM, "60400", "1000:C030", "pcieport", port=ROOT_PORT)
    nvml.pci_device(root, DOWNSTREAM, "60400", "1000:C030", "pcieport", port=f"{ROOT_PORT}/{UPSTREAM}")
    nvml.pci_device(root, GPU, *H100, "nvidia", port=f"{ROOT_PORT}/{UPSTREAM}/{DOWNSTREAM}")
    for name, value in of_upstream.items():
        (root / "sys" / "bus" / "pci" / "devices" / UPSTREAM / name).write_text(value + "\n")


@detects(ReasonCode.GPU_PCIE_DEGRADED, "made PCI tree with a switch above the GPU on 8 of 16 lanes, or slow under load")
@spares(ReasonCode.GPU_PCIE_DEGRADED, "made PCI tree with a switch above the GPU, its link sound or slow while idle")
@pytest.mark.parametrize(
    ("link", "facts", "degraded"),
    [
        ({"current_link_width": "8"}, {}, True),
        ({"current_link_speed": "16.0 GT/s PCIe"}, LOADED, True),
        ({"current_link_speed": "16.0 GT/s PCIe"}, {}, False),
        ({}, LOADED, False),
    ],
)
async def test_a_link_above_the_gpu(
    tmp_path: Path,
    stand_ins: StandIns,
    library: Path,
    link: Mapping[str, str],
    facts: Mapping[str, str],
    degraded: bool,
) -> None:
    behind_a_switch(tmp_path, **link)
    nvml.script(library, {**facts, "pci": "00000000:13:00.0"})
    outcome, _ = await run(Host(root=tmp_path, tools=stand_ins.tools()), tmp_path)
    wanted = {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}
    assert errors(outcome) == wanted | ({(ReasonCode.GPU_PCIE_DEGRADED, f"pci:{UPSTREAM}")} if degraded else set())
    if degraded:
        assert ROOT_PORT in said(outcome, ReasonCode.GPU_PCIE_DEGRADED)


def switched(host: Host, processes: tuple[str, ...] = ()) -> None:
    """Four NVSwitches beside the GPU, and the processes of that machine."""
    for number in range(4):
        nvml.pci_device(host.root, f"0000:{number + 5:02x}:00.0", *NVSWITCH, "nvidia-nvswitch")
    for pid, name in zip(itertools.count(1), ("systemd", *processes)):
        host.proc(str(pid)).mkdir(parents=True)
        host.proc(str(pid), "comm").write_text(f"{name}\n")


DARK = {f"nvlink{link}": "0" for link in range(18)}
MANAGER = ("nv-fabricmanage",)


@detects(ReasonCode.GPU_FABRIC, "made machine with NVSwitches, the Fabric Manager missing or not done")
@pytest.mark.parametrize(
    ("facts", "processes", "words"),
    [
        ({**DARK, "fabric": "1,0,0"}, (), "is not running"),
        ({"fabric": "2,0,0"}, MANAGER, "has not brought it about"),
        ({**DARK, "fabric": "unsupported"}, (), "is not running"),
    ],
)
async def test_a_fabric_that_is_not_there(
    machine: Host, library: Path, tmp_path: Path, facts: Mapping[str, str], processes: tuple[str, ...], words: str
) -> None:
    switched(machine, processes)
    nvml.script(library, facts)
    outcome, _ = await run(machine, tmp_path)
    assert (ReasonCode.GPU_FABRIC, "gpu") in errors(outcome)
    assert words in said(outcome, ReasonCode.GPU_FABRIC)
    assert outcome.verdict is Verdict.UNKNOWN  # what is missing is software: no link is blamed


@spares(ReasonCode.GPU_FABRIC, "made machine with NVSwitches and a Fabric Manager, with fabric state and without")
@pytest.mark.parametrize("facts", [{}, {"fabric": "unsupported"}])
async def test_a_fabric_that_is_there(machine: Host, library: Path, tmp_path: Path, facts: Mapping[str, str]) -> None:
    switched(machine, MANAGER)
    nvml.script(library, facts)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}


@detects(ReasonCode.GPU_NVLINK, "made machine with NVSwitches and their manager, on which an H100 has no active link")
@pytest.mark.parametrize("facts", [DARK, {"nvlinks": "0"}])
async def test_dark_links_are_a_fault_where_switches_join_them(
    machine: Host, library: Path, tmp_path: Path, facts: Mapping[str, str]
) -> None:
    switched(machine, MANAGER)
    nvml.script(library, facts)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NVLINK, f"gpu:{UUID}")}


async def test_without_a_switch_in_sight_the_fabric_is_a_warning(machine: Host, library: Path, tmp_path: Path) -> None:
    nvml.script(library, {"fabric": "1,0,0"})
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}
    assert "could not be read" in said(outcome, ReasonCode.GPU_FABRIC)  # whether the manager runs: no processes here


@pytest.mark.parametrize(
    ("top", "facts", "words"),
    [
        ({"events": "error"}, {}, "Unknown"),
        ({"event_wait": "lost"}, {}, "lost"),
        ({}, {"events": "error"}, "Unknown"),
    ],
)
async def test_events_that_cannot_be_waited_for_are_told(
    machine: Host, library: Path, tmp_path: Path, top: Mapping[str, str], facts: Mapping[str, str], words: str
) -> None:
    nvml.script(library, facts, **top)
    outcome, _ = await run(machine, tmp_path)
    assert words in said(outcome, ReasonCode.PROBE_ERROR)
    assert errors(outcome) == {(ReasonCode.GPU_NOT_LOADED, f"gpu:{UUID}")}  # the kernel log remains


def test_a_long_stage_is_sampled_seldom() -> None:
    options = Options(duration_s=86_400.0)
    assert options.samples == MOST_SAMPLES
    assert (options.samples - 1) * options.every_s == pytest.approx(86_400.0)

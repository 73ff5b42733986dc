"""AMD's GPUs in the GPU stage: faults that sysfs and amd-smi tell are found, and none ever passes without a load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from probes import gpus
from probes.amd_gpus import facts_of, rows_of
from probes.host import Host
from probes.json_paths import parsed
from probes.notes import Notes
from stages.outcome import ReasonCode, Verdict
from tests.support import recordings
from tests.support.amd_gpu import ADDRESS, PORT, UNIQUE_ID, amd_smi, in_sysfs
from tests.support.detection import detects, spares
from tests.support.gpu_stage import errors, quick, run, said
from tests.support.stand_ins import StandIns

COMPONENT = f"gpu:{UNIQUE_ID}"
NOT_LOADED = (ReasonCode.GPU_NOT_LOADED, COMPONENT)
FEW_PAGES = recordings.text("sysfs", "amdgpu-bad-pages.out")


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Host:
    return Host(root=tmp_path / "host", tools=stand_ins.tools())


@detects(ReasonCode.GPU_NOT_LOADED, "made sysfs of a healthy AMD MI210: no load exists for it")
async def test_a_healthy_one_is_told_to_be_untested(machine: Host, tmp_path: Path) -> None:
    in_sysfs(machine.root)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {NOT_LOADED}
    assert outcome.verdict is Verdict.UNKNOWN
    assert "it was not tested under load" in said(outcome, ReasonCode.GPU_NOT_LOADED)
    assert "its health facts were read" in said(outcome, ReasonCode.GPU_NOT_LOADED)
    figures = {one.name: one.value for one in outcome.measurements}
    assert figures == {
        "temperature": 37,
        "memory_temperature": 41,
        "power": 42,
        "utilization": 0,
        "pcie_replays": 0,
        "ecc_corrected": 2,
        "ecc_uncorrected": 0,
        "ecc_deferred": 0,
        "pages_retired": 0,
    }


@detects(ReasonCode.GPU_ECC_UNCORRECTED, "made sysfs of an AMD MI210 with an uncorrected error in one RAS block")
@detects(ReasonCode.GPU_REMAP_FAILED, "made sysfs of an AMD MI210 with a bad page that could not be taken out of use")
@detects(ReasonCode.GPU_REMAP_PENDING, "made sysfs of an AMD MI210 with a bad page that waits")
@detects(ReasonCode.GPU_OVERHEATED, "made sysfs of an AMD MI210 whose hottest spot or memory is at its critical limit")
@detects(ReasonCode.PROBE_ERROR, "made sysfs of an AMD MI210 whose RAS counters are garbage")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ras/sdma_err_count": "ue: 1\nce: 0"}, ReasonCode.GPU_ECC_UNCORRECTED),
        ({"ras/umc_err_count": None, "ras/aca_umc": "ue: 3\nce: 0\nde: 1"}, ReasonCode.GPU_ECC_UNCORRECTED),  # MI300
        ({"ras/gpu_vram_bad_pages": f"{FEW_PAGES}0x027f5f63 : 0x00001000 : F"}, ReasonCode.GPU_REMAP_FAILED),
        ({"ras/gpu_vram_bad_pages": f"{FEW_PAGES}0x027f5f63 : 0x00001000 : P"}, ReasonCode.GPU_REMAP_PENDING),
        ({"hwmon/hwmon7/temp2_input": "100000"}, ReasonCode.GPU_OVERHEATED),
        ({"hwmon/hwmon7/temp3_input": "95000"}, ReasonCode.GPU_OVERHEATED),
        ({"ras/gfx_err_count": "sick"}, ReasonCode.PROBE_ERROR),
        ({"ras/gfx_err_count": "ue: -1\nce: 0"}, ReasonCode.PROBE_ERROR),
        ({"ras/gpu_vram_bad_pages": "0x027f5d43 : 0x00001000"}, ReasonCode.PROBE_ERROR),
        ({"mem_info_vram_total": "many"}, ReasonCode.PROBE_ERROR),
        ({"current_link_width": "8"}, ReasonCode.GPU_PCIE_DEGRADED),
        ({"current_link_speed": "8.0 GT/s PCIe", "gpu_busy_percent": "98"}, ReasonCode.GPU_PCIE_DEGRADED),
    ],
)
async def test_each_fault_is_found(
    machine: Host, tmp_path: Path, changes: Mapping[str, str | None], code: ReasonCode
) -> None:
    in_sysfs(machine.root, changes)
    outcome, _ = await run(machine, tmp_path)
    assert {one for one, _ in errors(outcome)} == {code, ReasonCode.GPU_NOT_LOADED}
    assert outcome.verdict is (Verdict.UNKNOWN if code is ReasonCode.PROBE_ERROR else Verdict.FAIL)


@spares(ReasonCode.GPU_ECC_UNCORRECTED, "made sysfs of an AMD MI210 with corrected and deferred errors only")
@spares(ReasonCode.GPU_PAGES_RETIRED, "made sysfs of an AMD MI210 with eight retired pages of 655: a warning")
@spares(ReasonCode.PROBE_ERROR, "made sysfs of an AMD MI210 whose driver has no RAS and no sensors")
@pytest.mark.parametrize(
    "changes",
    [
        {"ras/umc_err_count": "ue: 0\nce: 400\nde: 3"},
        {"ras/gpu_vram_bad_pages": FEW_PAGES},
        {"hwmon/hwmon7/temp2_input": "99000"},
        {"current_link_speed": "8.0 GT/s PCIe"},  # idle
        dict.fromkeys(("ras/umc_err_count", "ras/gfx_err_count", "ras/sdma_err_count", "pcie_replay_count")),
        {"hwmon/hwmon7/temp2_label": None, "ras/gpu_vram_bad_pages": None, "unique_id": UNIQUE_ID},
    ],
)
async def test_what_is_no_fault(machine: Host, tmp_path: Path, changes: Mapping[str, str | None]) -> None:
    in_sysfs(machine.root, changes)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {NOT_LOADED}


@detects(ReasonCode.GPU_PAGES_RETIRED, "made sysfs of an AMD MI210 with 700 retired pages, 655 allowed by amd-smi")
async def test_amd_smi_knows_how_many_bad_pages_are_too_many(
    machine: Host, tmp_path: Path, stand_ins: StandIns
) -> None:
    amd_smi(stand_ins)
    pages = "\n".join(f"0x{number:08x} : 0x00001000 : R" for number in range(700))
    in_sysfs(machine.root, {"ras/gpu_vram_bad_pages": pages})
    outcome, _ = await run(machine, tmp_path)
    assert (ReasonCode.GPU_PAGES_RETIRED, COMPONENT) in errors(outcome)
    assert "AMD Instinct MI210" in said(outcome, ReasonCode.GPU_PAGES_RETIRED)


@detects(ReasonCode.GPU_ECC_UNCORRECTED, "stand-in amd-smi, its recording edited, that counts errors unknown to sysfs")
async def test_errors_that_amd_smi_alone_counts(machine: Host, tmp_path: Path, stand_ins: StandIns) -> None:
    amd_smi(stand_ins, ecc={"total_uncorrectable_count": 2})
    in_sysfs(machine.root)
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {NOT_LOADED, (ReasonCode.GPU_ECC_UNCORRECTED, COMPONENT)}


@detects(ReasonCode.TOOL_FAILED, "stand-in amd-smi that fails, prints garbage or dies beside a healthy AMD MI210")
@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(3)",
        "print('GPU: 0')",
        "print('[]')",
        "print('[{}]')",
        "print('[' * 100000)",
        "os.kill(os.getpid(), 11)",
    ],
)
async def test_amd_smi_that_does_not_work_is_told(
    machine: Host, tmp_path: Path, stand_ins: StandIns, body: str
) -> None:
    stand_ins.python("amd-smi", f"{body}\n")
    in_sysfs(machine.root)
    outcome, _ = await run(machine, tmp_path)
    assert NOT_LOADED in errors(outcome)
    assert {component for _, component in errors(outcome)} == {COMPONENT, "gpu"}
    assert outcome.verdict is Verdict.UNKNOWN


async def test_amd_smi_that_hangs_holds_nobody(machine: Host, tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.python("amd-smi", "import time; time.sleep(3600)\n")
    in_sysfs(machine.root)
    outcome, _ = await run(machine, tmp_path, quick(answer_limit_s=1.0))
    assert errors(outcome) == {NOT_LOADED, (ReasonCode.TOOL_FAILED, "gpu")}


@detects(ReasonCode.GPU_HUNG, "made sysfs of an AMD MI210, one of whose files never answers (a FIFO without a writer)")
async def test_a_driver_that_hangs_is_named(machine: Host, tmp_path: Path) -> None:
    in_sysfs(machine.root, {"gpu_busy_percent": None})
    fifo = machine.root / "sys" / "bus" / "pci" / "devices" / ADDRESS / "gpu_busy_percent"
    os.mkfifo(fifo)
    try:
        outcome, _ = await run(machine, tmp_path, quick(answer_limit_s=1.0))
    finally:
        os.close(os.open(fifo, os.O_RDWR))  # lets the reader go
    assert (ReasonCode.GPU_HUNG, f"pci:{ADDRESS}") in errors(outcome)
    assert outcome.verdict is Verdict.FAIL


@detects(ReasonCode.GPU_DRIVER_MISSING, "made PCI tree with an AMD MI210 to which no driver is bound")
async def test_without_a_driver(machine: Host, tmp_path: Path) -> None:
    in_sysfs(machine.root, driver="")
    outcome, _ = await run(machine, tmp_path)
    where = f"pci:{ADDRESS}"
    assert errors(outcome) == {(ReasonCode.GPU_DRIVER_MISSING, where), (ReasonCode.GPU_NOT_LOADED, where)}
    assert "nothing was read of its health" in said(outcome, ReasonCode.GPU_NOT_LOADED)


async def test_a_file_that_cannot_be_read_is_unknown(machine: Host, tmp_path: Path) -> None:
    in_sysfs(machine.root, {"pcie_replay_count": None})
    (machine.root / "sys" / "bus" / "pci" / "devices" / ADDRESS / "pcie_replay_count").mkdir()
    outcome, _ = await run(machine, tmp_path)
    assert errors(outcome) == {NOT_LOADED, (ReasonCode.PROBE_ERROR, COMPONENT)}
    assert "pcie_replays could not be read: Is a directory" in said(outcome, ReasonCode.PROBE_ERROR)


async def test_the_link_is_named_by_both_its_ends(machine: Host, tmp_path: Path) -> None:
    in_sysfs(machine.root, {"current_link_width": "4"})
    outcome, _ = await run(machine, tmp_path)
    assert f"from {PORT} to {ADDRESS} ran at x4" in said(outcome, ReasonCode.GPU_PCIE_DEGRADED)


async def test_the_inventory_has_what_sysfs_and_amd_smi_say(machine: Host, stand_ins: StandIns) -> None:
    amd_smi(stand_ins)
    in_sysfs(machine.root)
    [gpu] = await gpus.inventory(machine, notes := Notes())
    assert (gpu.model, gpu.uuid, gpu.memory_gib) == ("AMD Instinct MI210", UNIQUE_ID, 64.0)
    assert (gpu.vbios, gpu.driver, gpu.pci) == ("113-D67301-063", "amdgpu", ADDRESS)
    assert notes.lines == []


async def test_the_inventory_does_without_amd_smi(machine: Host) -> None:
    in_sysfs(machine.root)
    [gpu] = await gpus.inventory(machine, Notes())
    assert (gpu.model, gpu.memory_gib) == ("AMD 0x740f", 64.0)


def test_what_amd_smi_says_of_a_consumer_card() -> None:
    both: dict[str, object] = {}
    for part in ("static", "metric"):
        [(index, row)] = rows_of(parsed(recordings.text("amd-smi", f"rx6600-{part}.out")))
        both.update(row)
    facts = facts_of(both)
    assert index == 0
    assert {name: fact["value"] for name, fact in facts.items() if "value" in fact} == {
        "name": "Navi 23 [Radeon RX 6600/6600 XT",
        "vbios": "020.003.000.030.000000",
        "temperature": 37,
        "temperature_slowdown": 110,
        "edge_temperature": 36,
        "edge_temperature_max": 100,
        "memory_temperature": 32,
        "temperature_memory_max": 100,
        "power": 6,
        "power_limit": 100,
        "utilization": 1,
        "ecc_uncorrected": 0,
        "ecc_corrected": 0,
        "ecc_deferred": 0,
        "memory_bytes": 8176 * 2**20,
    }
    assert {name for name, fact in facts.items() if fact.get("unsupported")} == {
        *("serial", "bad_page_limit", "pcie_replays"),
    }

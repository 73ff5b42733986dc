"""The processors of recorded machines, of odd ones, and of this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes import cpu
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import recorded_host
from tests.support.trees import copy_of, plant

CPU = "sys/devices/system/cpu"


def test_a_recorded_xeon_server() -> None:
    found = cpu.read(recorded_host("dell-xeon"), Notes())
    assert found.model == "Intel(R) Xeon(R) CPU E5-2680 0 @ 2.70GHz"
    assert (found.sockets, found.physical_cores, found.logical_cores, found.threads_per_core) == (2, 16, 16, 1)
    assert (found.present, found.offline) == (16, ())
    assert [(node.node, node.cpus, node.memory_gib) for node in found.numa] == [(0, "0-7", 15.97), (1, "8-15", 16.0)]
    assert [(cache.level, cache.size_kib, cache.shared_by) for cache in found.caches][-1] == (3, 20480, 8)
    assert (found.governor, found.max_mhz) == ("performance", 2701.0)
    assert "avx" in found.flags
    assert "avx2" not in found.flags


def test_an_arm_server_is_named_by_implementer_and_part() -> None:
    notes = Notes()
    found = cpu.read(recorded_host("huawei-arm"), notes)
    assert found.model == "HiSilicon TaiShan v110 (Kunpeng 920)"
    assert (found.vendor, found.logical_cores, found.physical_cores, found.sockets) == ("HiSilicon", 4, 4, 1)
    assert any(line.startswith("cpu: microcode:") for line in notes.lines)


def test_an_arm_part_nobody_knows_is_named_by_its_numbers(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/cpuinfo": "processor : 0\nCPU implementer : 0xee\nCPU part : 0x123"})
    assert cpu.read(Host(root), Notes()).model == "implementer 0xee part 0x123"


def test_an_offline_cpu_is_named(tmp_path: Path) -> None:
    root = plant(copy_of("dell-xeon", tmp_path), {f"{CPU}/online": "0-2,4-14"})
    found = cpu.read(Host(root), Notes())
    assert found.offline == (3, 15)
    assert (found.present, found.logical_cores) == (16, 14)


def test_offline_cpus_are_not_guessed_where_the_list_is_unreadable(tmp_path: Path) -> None:
    root = plant(copy_of("dell-xeon", tmp_path), {f"{CPU}/online": "garbage"})
    notes = Notes()
    assert cpu.read(Host(root), notes).offline == ()
    assert "cpu: offline: the list of online CPUs is not readable" in notes.lines


def test_dies_do_not_share_core_numbers(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": "processor : 0\nmodel name : X", f"{CPU}/online": "0-3", f"{CPU}/present": "0-3"}
    for number, (die, core) in enumerate([(0, 0), (0, 0), (1, 0), (1, 0)]):
        topology = f"{CPU}/cpu{number}/topology"
        files |= {f"{topology}/physical_package_id": "0", f"{topology}/die_id": str(die)}
        files |= {f"{topology}/core_id": str(core)}
    found = cpu.read(Host(plant(tmp_path, dict(files))), Notes())
    assert (found.sockets, found.physical_cores, found.logical_cores, found.threads_per_core) == (1, 2, 4, 2)


def test_two_microcode_versions_are_a_note(tmp_path: Path) -> None:
    text = "processor : 0\nmodel name : X\nmicrocode : 0x1\n\nprocessor : 1\nmodel name : X\nmicrocode : 0x2\n"
    notes = Notes()
    assert cpu.read(Host(plant(tmp_path, {"proc/cpuinfo": text})), notes).microcode == "0x1, 0x2"
    assert any("different versions" in line for line in notes.lines)


def test_no_cpu_at_all_is_an_error_and_never_an_empty_answer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CPU"):
        cpu.read(Host(tmp_path), Notes())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-1,8,10-11", (0, 1, 8, 10, 11)),
        ("", ()),
        (None, ()),
        ("0-999999", ()),
        ("0-", ()),
        ("a", ()),
    ],
)
def test_kernel_lists(text: str | None, numbers: tuple[int, ...]) -> None:
    assert cpu.cpu_list(text) == numbers


async def test_this_machine() -> None:
    found = await cpu.collect(Host(), Notes())
    assert found.logical_cores == os.cpu_count()
    assert found.present is not None
    assert found.present >= (found.physical_cores or 0) >= (found.sockets or 0) >= 1
    assert found.model

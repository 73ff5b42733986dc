"""Every recorded machine: its inventory and the verdicts on it are those that a person has written down."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest

from probes.inventory import Inventory, collect
from stages.outcome import Verdict
from tests.support.recorded_facts import facts, golden, machines, outcome
from tests.support.replay import HOSTS, host_in, recorded_host
from tests.support.trees import copy_of

SIZE_LIMIT = 500 * 1024
# docs/protocol.md, "Inventory".
SECTIONS = {"system", "cpu", "memory", "disks", "nics", "gpus", "psus", "bmc", "tpm", "boot", "pci", "notes"}
FIELDS = {
    "disks": {"name", "serial", "wwn", "model", "size_gb", "transport", "rotational", "firmware", "pci"},
    "nics": {"name", "mac", "speed_mbps", "link", "driver", "pci", "firmware"},
    "gpus": {"index", "model", "uuid", "memory_gib", "pci"},
    "psus": {"name", "serial", "watts", "present"},
}


def test_there_are_as_many_machines_as_promised() -> None:
    assert len(machines()) >= 8


@pytest.mark.parametrize("machine", machines())
async def test_its_inventory_and_verdicts_are_the_expected_ones(machine: str, tmp_path: Path) -> None:
    found, expected = await facts(machine, tmp_path), golden(machine)
    assert found["inventory"] == expected["inventory"]
    assert found["stages"] == expected["stages"]


@pytest.mark.parametrize("machine", machines())
async def test_its_inventory_has_the_form_of_the_wire(machine: str) -> None:
    found = await collect(recorded_host(machine))
    document = json.loads(json.dumps(asdict(found)))
    assert document.keys() >= SECTIONS
    assert msgspec.convert(document, Inventory) == found
    for section, names in FIELDS.items():
        assert all(row.keys() >= names for row in document[section] or [])
    for section in SECTIONS - {"notes"}:
        if document[section] is None:
            assert any(re.match(rf"{section}\b", line) for line in found.notes) or section == "bmc"


@pytest.mark.parametrize("machine", machines())
def test_it_says_where_it_comes_from_and_is_lean(machine: str) -> None:
    folder = HOSTS / machine
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < SIZE_LIMIT
    origin = next(path for path in files if path.name in {"ORIGIN", "ORIGIN.md"})
    assert len(origin.read_text()) > 100


@pytest.mark.parametrize("machine", machines())
def test_nothing_passes_of_which_nothing_was_recorded(machine: str) -> None:
    """No GPU and no supply is passed without a load; a disk only by a self-test that is in the recording."""
    stages = golden(machine)["stages"]
    assert stages["GPU"]["verdict"] in {"unknown", "not_applicable", "fail"}
    assert stages["PSU"]["verdict"] in {"unknown", "not_applicable", "fail"}
    if stages["SMART"]["verdict"] == "pass":
        calls = {path.name for path in (HOSTS / machine / "tools").iterdir()}
        assert any(re.search("selftest|self-test-log|nvme id-ctrl", name) for name in calls)


async def test_without_its_self_test_the_mini_pc_is_unknown(tmp_path: Path) -> None:
    root = copy_of("mini-pc", tmp_path)
    for path in (root / "tools").glob("*-t short*"):
        path.unlink()
    result = await outcome(host_in(root), "SMART", tmp_path / "evidence")
    assert result.verdict is Verdict.UNKNOWN
    assert [one.component for one in result.errors] == ["disk:SSD-HEALTHY-1"]


async def test_a_supply_that_failed_shows_in_a_recording(tmp_path: Path) -> None:
    root = copy_of("two-socket-raid", tmp_path)
    for path in (root / "tools").glob("*sdr*.out"):
        path.write_text(
            path.read_text().replace("10.2 | Presence detected", "10.2 | Presence detected, Failure detected")
        )
    result = await outcome(host_in(root), "PSU", tmp_path / "evidence")
    assert result.verdict is Verdict.FAIL
    assert "psu_failed" in {one.reason_code.value for one in result.errors}

"""What changed between two vettings of a host, by part; and nothing where nothing did."""

from __future__ import annotations

import copy
from typing import Any

from orchestrator.reports.drift import Change, drift
from stages.outcome import Measurement, ReasonCode, error
from tests.support.run_views import SOUND, done, found, run_view
from vetting_agent.run_view import RunView

INVENTORY: dict[str, Any] = {
    "system": {"vendor": "Supermicro", "serial": "S1", "bios": "3.4"},
    "memory": {
        "total_gib": 63.7,
        "dimms": [{"slot": "A1", "serial": "D1"}, {"slot": "B1", "serial": "D2"}],
    },
    "disks": [
        {"name": "sda", "serial": "K1", "model": "WDC", "firmware": "1A"},
        {"name": "sdb", "serial": "K2", "model": "WDC", "firmware": "1A"},
    ],
    "nics": [{"name": "eno1", "mac": "52:54:00:00:00:01", "link": True}],
    "notes": ["no TPM"],
}


def run(**changed: Any) -> RunView:
    return run_view([done("Inventory", SOUND)], inventory={**copy.deepcopy(INVENTORY), **changed})


def changes(after: RunView, before: RunView | None = None) -> list[tuple[str, str, str]]:
    return [(one.component, one.kind, one.what) for one in drift(before or run(), after)]


def test_an_unchanged_host_has_no_drift() -> None:
    assert changes(run()) == []
    assert drift(run_view([]), run_view([])) == []


def test_another_order_and_other_kernel_names_are_no_change() -> None:
    disks = [{**INVENTORY["disks"][1], "name": "sda"}, {**INVENTORY["disks"][0], "name": "sdb"}]
    assert changes(run(disks=disks)) == []


def test_a_disk_that_was_replaced_is_one_gone_and_one_new() -> None:
    disks = [INVENTORY["disks"][0], {**INVENTORY["disks"][1], "serial": "K9"}]
    assert changes(run(disks=disks)) == [("disks:K2", "gone", "part"), ("disks:K9", "new", "part")]


def test_another_dimm_in_a_slot_and_new_firmware_are_changes_of_that_part() -> None:
    memory = {"total_gib": 63.7, "dimms": [{"slot": "A1", "serial": "D1"}, {"slot": "B1", "serial": "D7"}]}
    disks = [{**INVENTORY["disks"][0], "firmware": "2B"}, INVENTORY["disks"][1]]
    found_changes = changes(run(memory=memory, disks=disks))
    assert found_changes == [("disks:K1", "changed", "firmware"), ("dimms:B1", "changed", "serial")]


def test_two_parts_of_one_name_are_both_compared() -> None:
    twins = [INVENTORY["disks"][0], INVENTORY["disks"][0]]
    assert changes(run(disks=twins[:1]), run(disks=twins)) == [("disks:K1 #2", "gone", "part")]


def test_a_section_that_could_not_be_read_any_more_is_told() -> None:
    assert ("system", "changed", "bios") in changes(run(system=None))
    assert ("nics:52:54:00:00:00:01", "gone", "part") in changes(run(nics=None))


def test_verdicts_findings_and_measurements_are_compared() -> None:
    def smart(value: float, *, is_sick: bool) -> RunView:
        findings = [error(ReasonCode.DISK_MEDIA_ERRORS, "disk:K1", "8 pending")] if is_sick else []
        return run_view(
            [done("SMART", found(*findings, measurements=(Measurement("rate", "disk:K1", value, "MB/s"),)))]
        )

    made = drift(smart(100.0, is_sick=False), smart(80.0, is_sick=True))
    assert Change(component="SMART", kind="verdict", what="verdict", before="pass", after="fail") in made
    assert Change(component="disk:K1", kind="finding", what="disk_media_errors", after="8 pending") in made
    assert Change(component="disk:K1", kind="measured", what="rate (MB/s)", before=100.0, after=80.0) in made
    assert not [one for one in drift(smart(100.0, is_sick=False), smart(95.0, is_sick=False)) if one.kind == "measured"]

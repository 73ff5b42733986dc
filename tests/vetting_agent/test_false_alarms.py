"""Ordinary machines raise no alarm, and docs/false-alarms.md says so as it is."""

from __future__ import annotations

import pytest

from tests.tables.false_alarms import (
    DOCUMENT,
    LOADED,
    MACHINES,
    NEEDS_LOAD,
    Loaded,
    document,
    hot_server,
    verdicts,
    worst,
)

SOUND = {"pass", "not applicable", NEEDS_LOAD}


@pytest.mark.parametrize("machine", sorted({one.machine for one in MACHINES}))
async def test_an_ordinary_machine_passes_or_is_honestly_not_applicable(machine: str) -> None:
    told = await verdicts(machine)
    assert set(told.values()) <= SOUND
    assert told["Inventory"] == told["SMART"] == "pass"


@pytest.mark.parametrize("case", LOADED, ids=lambda case: case.kind)
def test_what_a_load_brings_out_on_a_sound_machine_is_no_fault(case: Loaded) -> None:
    assert worst(case.findings()).startswith("pass")


def test_the_same_on_a_machine_made_for_the_load_is_a_fault() -> None:
    """Else the row would show no more than a judge that never speaks."""
    assert worst(hot_server()) == "fail"


async def test_the_page_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == await document(), "run: python -m tests.tables.false_alarms --write"


def test_the_page_names_every_ordinary_machine_of_the_rule() -> None:
    text = DOCUMENT.read_text()
    for words in ("without BMC", "consumer SSD", "1 GbE", "laptop-class CPU at its limit", "virtio disks"):
        assert words in text

"""Power supplies from sensor tables: recorded from a simulated BMC, and from public recordings of real machines."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from probes import ipmi, psus
from probes.host import Host
from probes.ipmi import SensorRow
from probes.notes import Notes
from probes.psus import Psu, PsuReading
from tests.support.recordings import text
from tests.support.stand_ins import StandIns


def reading(case: str) -> PsuReading:
    return psus.reading_of(ipmi.rows(text("ipmitool", f"{case}-sdr.out")))


def summary(case: str) -> list[tuple[str, bool | None, bool, bool]]:
    return [(psu.name, psu.present, psu.failed, psu.input_lost) for psu in reading(case).supplies]


@pytest.mark.parametrize(
    ("case", "wanted", "redundant"),
    [
        ("sim-sound", [("PSU1", True, False, False), ("PSU2", True, False, False)], True),
        ("sim-failed", [("PSU1", True, False, False), ("PSU2", True, True, False)], False),
        ("sim-aclost", [("PSU1", True, False, False), ("PSU2", True, False, True)], False),
        ("sim-predictive", [("PSU1", True, False, False), ("PSU2", None, True, False)], False),
        ("sim-absent", [("PSU1", True, False, False), ("PSU2", False, False, False)], False),
        ("dell-r740xd", [("PSU 1", True, False, False), ("PSU 2", True, False, False)], True),
        ("dell-idrac", [("PSU 1", True, False, False), ("PSU 2", True, False, False)], True),
        ("hpe-ilo2", [("Power Supply 1", True, True, False), ("Power Supply 2", True, False, False)], False),
        ("node-psu2-absent", [("PSU1", True, False, False), ("PSU2", False, False, False)], False),
        (
            "dgx1-aclost",
            [
                ("PSU1", True, False, True),
                ("PSU2", True, False, True),
                ("PSU3", True, False, False),
                ("PSU4", True, False, False),
            ],
            False,
        ),
    ],
)
def test_the_text_is_read_and_not_the_ok_column(
    case: str, wanted: list[tuple[str, bool | None, bool, bool]], redundant: bool
) -> None:
    assert summary(case) == wanted
    assert [row.full for row in reading(case).redundancy] == [redundant]


def test_watts_and_amps() -> None:
    assert [psu.watts for psu in reading("hpe-ilo2").supplies] == [0.0, 95.0]
    assert [psu.amps for psu in reading("dell-idrac").supplies] == [1.0, 0.2]
    assert [psu.watts for psu in reading("node-psu2-absent").supplies] == [128.0, None]  # input before output


@pytest.mark.parametrize(
    "row",
    [
        SensorRow("Status", "ok", 3, 1, "Presence detected"),  # a processor
        SensorRow("CMOS Battery", "ok", 7, 1, "Presence Detected"),
        SensorRow("Fan Redundancy", "ok", 7, 1, "Redundancy Lost"),
        SensorRow("Temp 12", "ok", 10, 4, "32 degrees C"),
        SensorRow("PSU1 Temp", "ns", 10, 1, "No Reading"),
        SensorRow("Fans", "ok", 7, 5, "0 percent, Fully Redundant"),
    ],
)
def test_what_is_no_supply(row: SensorRow) -> None:
    found = psus.reading_of([row])
    assert (found.supplies, found.redundancy, found.units) == ((), (), ())


def test_a_supply_whose_sensor_is_silent_is_absent() -> None:
    found = psus.reading_of([SensorRow("PS2 Status", "ns", 10, 2, "No Reading")])
    assert [(psu.name, psu.present) for psu in found.supplies] == [("PS2", False)]


@pytest.mark.parametrize(
    ("states", "failed", "lost"),
    [
        ("Presence detected", False, False),
        ("Presence detected, Predictive failure", True, False),
        ("Presence detected, Config Error", True, False),
        ("Presence detected, Power Supply AC lost", False, True),
        ("AC lost or out-of-range", False, True),
        ("AC out-of-range, but present", False, True),
        ("Presence detected, Power Supply Inactive", False, False),
        ("Presence detected, Failure detected", True, False),
        ("Config Error: Vendor Mismatch", True, False),
        ("Presence detected, Power Supply AC lost, Predictive failure", True, True),
        # Generic event types 04h and 07h in place of the sensor's own offsets.
        ("Predictive Failure Deasserted", False, False),
        ("Predictive Failure Asserted", True, False),
        ("Transition to OK", False, False),
        ("Transition to Critical from less severe", True, False),
        ("Transition to Non-recoverable from less severe", True, False),
        ("Transition to Non-Critical from OK", False, False),
    ],
)
def test_states(states: str, failed: bool, lost: bool) -> None:
    psu = Psu("PSU1", True, states)
    assert (psu.failed, psu.input_lost) == (failed, lost)


def test_a_supply_that_is_only_uneasy_is_troubled() -> None:
    assert Psu("PSU1", True, "Transition to Non-Critical from OK").troubled
    assert not Psu("PSU1", True, "Presence detected").troubled


# IPMI v2.0, table 42-2, event type 0Bh, in ipmitool's words.
REDUNDANCY = {
    "Fully Redundant": True,
    "0 percent, Fully Redundant": True,
    "Redundancy Lost": False,
    "Redundancy Degraded": False,
    "Non-Redundant: Sufficient from Redundant": False,
    "Non-Redundant: Sufficient from Insufficient": False,
    "Non-Redundant: Insufficient Resources": False,
    "Redundancy Degraded from Fully Redundant": False,
    "Redundancy Degraded from Non-Redundant": False,
    "Fully Redundant, Redundancy Degraded": False,
}


@pytest.mark.parametrize(("state", "full"), REDUNDANCY.items())
def test_redundancy(state: str, full: bool) -> None:
    (row,) = psus.reading_of([SensorRow("PS Redundancy", "ok", 7, 1, state)]).redundancy
    assert row.full is full


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ("", False),
        ("Power off/down", False),
        ("Failure detected", True),
        ("Predictive failure", True),
        ("Soft-power control failure", True),
        ("AC lost", False),
        ("240VA power down", False),
        ("Interlock power down", False),
    ],
)
def test_the_power_unit_as_a_whole(state: str, fault: bool) -> None:
    """Sensor type 09h, which names no single supply."""
    reading = psus.reading_of([SensorRow("Pwr Unit Status", "ok", 21, 1, state)])
    assert bool(reading.units) is fault
    assert reading.supplies == ()


FRUS = """FRU Device Description : Builtin FRU Device (ID 0)
 Board Serial          : MB-1
 Product Serial        : BOX-1

FRU Device Description : PSU1 FRU (ID 3)
 Product Serial        : AB:12

FRU Device Description : Pwr Supply 2 FRU (ID 4)
 Board Serial          : CD34
FRU Device Description : PSU3 (ID 5)
 Device not present (Requested sensor, data, or record not found)
"""


def test_serial_numbers_of_parts() -> None:
    found = ipmi.fru_serials(FRUS)
    assert found == {"Builtin FRU Device": "BOX-1", "PSU1 FRU": "AB:12", "Pwr Supply 2 FRU": "CD34"}
    assert ipmi.fru_serials("garbage\n:::\n") == {}


def test_a_reading_survives_json() -> None:
    before = reading("hpe-ilo2")
    assert PsuReading.of_json(json.loads(json.dumps(asdict(before)))) == before


def supply(root: Path, name: str, **attributes: object) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for attribute, value in attributes.items():
        (folder / attribute).write_text(f"{value}\n")


async def test_mains_of_the_kernel(tmp_path: Path, only_stand_ins: StandIns) -> None:
    supply(tmp_path, "ACAD", type="Mains", online=1)
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device")  # a mouse
    supply(tmp_path, "ucsi-source-psy-1", type="USB", online=0)
    machine = Host(root=tmp_path, tools=only_stand_ins.tools())
    assert psus.has_sensors(machine)
    (psu,) = await psus.inventory(machine, Notes())
    assert (psu.name, psu.present, psu.input_lost, psu.source) == ("ACAD", True, False, "power_supply")


async def test_a_laptops_adapter_is_no_supply(tmp_path: Path, only_stand_ins: StandIns) -> None:
    supply(tmp_path, "AC", type="Mains", online=0)
    supply(tmp_path, "BAT0", type="Battery")
    machine = Host(root=tmp_path, tools=only_stand_ins.tools())
    assert not psus.has_sensors(machine)
    assert await psus.inventory(machine, Notes()) == []


async def test_inventory_asks_for_supplies_only(tmp_path: Path, only_stand_ins: StandIns) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "ipmi0").touch()
    only_stand_ins.says("ipmitool", text("ipmitool", "dell-r740xd-sdr.out"))
    found = await psus.inventory(Host(root=tmp_path, tools=only_stand_ins.tools()), Notes())
    assert [psu.name for psu in found] == ["PSU 1", "PSU 2"]
    assert only_stand_ins.calls("ipmitool") == [["ipmitool", "sdr", "type", "0x08"]]


async def test_a_bmc_without_supply_sensors_is_noted(tmp_path: Path, only_stand_ins: StandIns) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "ipmi0").touch()
    only_stand_ins.says("ipmitool", "")
    notes = Notes()
    assert await psus.inventory(Host(root=tmp_path, tools=only_stand_ins.tools()), notes) == []
    assert notes.lines

"""Sensors from a recorded tree, and with dead, lying and vanished ones in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from probes.host import Host
from probes.sensors import SensorKind, SensorReading, read_all
from tests.support.stand_ins import StandIns

RECORDED = Path(__file__).parents[1] / "fixtures" / "hosts" / "sensors-two-sockets"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the recorded machine that a test may break."""
    return Path(shutil.copytree(RECORDED, tmp_path / "host", symlinks=True))


def readings(root: Path, stand_ins: StandIns) -> dict[str, SensorReading]:
    found = read_all(Host(root=root, tools=stand_ins.tools()))
    by_key = {reading.key: reading for reading in found}
    assert len(by_key) == len(found), "two sensors share a key"
    return by_key


def chip(root: Path, name: str) -> Path:
    return (root / "sys" / "class" / "hwmon" / name).resolve()


def test_values_units_limits_and_components(stand_ins: StandIns) -> None:
    found = readings(RECORDED, stand_ins)
    assert found["coretemp/Core 0"] == SensorReading(
        SensorKind.TEMPERATURE, "coretemp/Core 0", 54.0, "degC", 100.0, False, "socket:0"
    )
    assert found["coretemp.1/Core 3"].component == "socket:1"
    assert found["nvme0/Composite"].value == 43.85
    assert found["nvme0/Composite"].crit == 94.85
    assert found["nvme0/Composite"].component == "disk:2328E6EDD8A7"
    assert found["i350bb@0000:45:00.0/loc1"].component == "nic:68:05:ca:f0:cb:12"
    fan = found["nct6779/fan2"]
    assert (fan.kind, fan.value, fan.unit) == (SensorKind.FAN, 1098.0, "RPM")
    volts = found["nct6779/in0"]
    assert (volts.kind, volts.value, volts.unit) == (SensorKind.VOLTAGE, 0.792, "V")
    assert len(found) == 5 + 5 + 1 + 3 + 4


def test_a_disk_without_serial_is_named_by_its_sensor(tree: Path, stand_ins: StandIns) -> None:
    (chip(tree, "hwmon4") / "device" / "serial").unlink()
    assert readings(tree, stand_ins)["nvme0/Composite"].component == "sensor:nvme0/Composite"


def test_a_dead_sensor_drops_out_alone(tree: Path, stand_ins: StandIns) -> None:
    whole = set(readings(tree, stand_ins))
    folder = chip(tree, "hwmon0")
    (folder / "temp2_input").write_text("nan\n")
    (folder / "temp3_input").unlink()
    (folder / "temp3_input").mkdir()  # reading it is an error of the file system, as a dead bus would give
    (folder / "temp4_input").unlink()
    (folder / "temp5_fault").write_text("1\n")
    gone = whole - set(readings(tree, stand_ins))
    assert gone == {"coretemp/Core 0", "coretemp/Core 1", "coretemp/Core 2", "coretemp/Core 3"}


def test_a_vanished_chip_takes_only_its_own(tree: Path, stand_ins: StandIns) -> None:
    shutil.rmtree(chip(tree, "hwmon1"))
    found = readings(tree, stand_ins)
    assert "coretemp.1/Core 0" not in found
    assert "coretemp/Core 0" in found


def test_keys_do_not_follow_the_numbering(tree: Path, stand_ins: StandIns) -> None:
    links = tree / "sys" / "class" / "hwmon"
    before = set(readings(tree, stand_ins))
    (links / "hwmon1").rename(links / "hwmon9")
    assert set(readings(tree, stand_ins)) == before


def test_two_sensors_with_one_label_keep_two_keys(tree: Path, stand_ins: StandIns) -> None:
    (chip(tree, "hwmon0") / "temp3_label").write_text("Core 0\n")
    assert readings(tree, stand_ins)["coretemp/Core 0 (temp3)"].value == 52.0


def test_power_by_input_or_by_average(tree: Path, stand_ins: StandIns) -> None:
    folder = tree / "sys" / "class" / "hwmon" / "hwmon20"
    folder.mkdir()
    (folder / "name").write_text("power_meter\n")
    (folder / "power1_average").write_text("213000000\n")
    (folder / "power2_average").write_text("1\n")
    (folder / "power2_input").write_text("98500000\n")
    (folder / "curr1_input").write_text("1250\n")
    found = readings(tree, stand_ins)
    assert (found["power_meter/power1"].value, found["power_meter/power1"].unit) == (213.0, "W")
    assert found["power_meter/power2"].value == 98.5
    assert (found["power_meter/curr1"].value, found["power_meter/curr1"].unit) == (1.25, "A")


def test_thermal_zones_only_where_hwmon_has_no_temperature(tree: Path, stand_ins: StandIns) -> None:
    assert not [key for key in readings(tree, stand_ins) if key.startswith("thermal_zone")]
    shutil.rmtree(tree / "sys" / "class" / "hwmon")
    zone = (tree / "sys" / "class" / "thermal" / "thermal_zone0").resolve()
    (zone / "trip_point_0_type").write_text("passive\n")
    (zone / "trip_point_0_temp").write_text("80000\n")
    (zone / "trip_point_1_type").write_text("critical\n")
    (zone / "trip_point_1_temp").write_text("105000\n")
    (reading,) = readings(tree, stand_ins).values()
    assert (reading.key, reading.value, reading.crit) == ("thermal_zone0/cpu-thermal", 12.376, 105.0)


@pytest.mark.parametrize(
    ("value", "crit", "over"),
    [
        (101.0, 100.0, True),
        (100.0, 100.0, True),
        (99.9, 100.0, False),
        (60.0, 0.0, False),
        (40.0, 20.0, False),
        (70000.0, 65261.85, False),
        (120.0, None, False),
    ],
)
def test_only_a_believable_limit_counts(value: float, crit: float | None, over: bool) -> None:
    reading = SensorReading(SensorKind.TEMPERATURE, "chip/temp1", value, "degC", crit, None, "sensor:chip/temp1")
    assert reading.over_crit is over


def test_a_machine_without_sensors_has_none(tmp_path: Path, stand_ins: StandIns) -> None:
    assert readings(tmp_path, stand_ins) == {}

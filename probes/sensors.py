"""Temperatures, fans, power, voltages and currents, as the kernel's hwmon (or thermal zones) shows them.

Source: Documentation/hwmon/sysfs-interface.rst of the Linux kernel. One sensor that cannot be read drops out
alone: it is simply absent from the list, and comes back when it can be read again.

Reading can block (an ACPI power meter asks its firmware, a drive sensor asks the drive): call it in a thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from probes.host import Host, entries_of, int_of, text_of

BELIEVABLE_CRIT_C = (40.0, 130.0)
CPU_DRIVERS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}
AMD_NODE_0_SLOT = 0x18
INPUT = re.compile(r"(temp|fan|power|in|curr)(\d+)_(input|average)")


class SensorKind(StrEnum):
    """What a sensor measures; the `kind` of a sample on the wire."""

    TEMPERATURE = "temperature"
    FAN = "fan"
    POWER = "power"
    VOLTAGE = "voltage"
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class SensorReading:
    """One sensor at one moment."""

    kind: SensorKind
    key: str
    """Chip and label, the same at each reading and each boot: "coretemp/Core 0"."""
    value: float
    unit: str
    """degC, RPM, W, V or A, by kind."""
    crit: float | None
    """The sensor's own critical limit in `unit`, as the driver gives it: it may be nonsense (0, or 65261 degC)."""
    crit_alarm: bool | None
    """The driver's alarm bit for that limit; None where it has none."""
    component: str
    """What it sits on: socket:N, disk:SERIAL, nic:MAC, psu:NAME, else sensor:KEY."""

    @property
    def over_crit(self) -> bool:
        """A temperature at or over a critical limit that can be believed (40 to 130 degC)."""
        low, high = BELIEVABLE_CRIT_C
        if self.kind is not SensorKind.TEMPERATURE or self.crit is None:
            return False
        return low <= self.crit <= high and self.value >= self.crit


@dataclass(frozen=True, slots=True)
class _Scale:
    kind: SensorKind
    divisor: float
    unit: str


SCALES = {
    "temp": _Scale(SensorKind.TEMPERATURE, 1e3, "degC"),
    "fan": _Scale(SensorKind.FAN, 1.0, "RPM"),
    "power": _Scale(SensorKind.POWER, 1e6, "W"),
    "in": _Scale(SensorKind.VOLTAGE, 1e3, "V"),
    "curr": _Scale(SensorKind.CURRENT, 1e3, "A"),
}


def read_all(host: Host) -> list[SensorReading]:
    """All sensors that can be read now: those of hwmon, and the thermal zones where hwmon has no temperature."""
    readings = [reading for chip in entries_of(host.sys("class", "hwmon")) for reading in _read_chip(chip)]
    if not any(reading.kind is SensorKind.TEMPERATURE for reading in readings):
        zones = entries_of(host.sys("class", "thermal"))
        readings += [reading for zone in zones if (reading := _read_zone(zone)) is not None]
    return readings


def _read_chip(chip: Path) -> list[SensorReading]:
    # Drivers from before 2013 keep their attributes beside the device, not in the hwmon folder.
    folder = chip if _inputs(chip) else chip / "device"
    name = text_of(chip / "name") or text_of(folder / "name") or chip.name
    label = _chip_label(chip, name)
    component = _component(chip, name)
    readings: list[SensorReading] = []
    seen: set[str] = set()
    for sensor, attribute in _inputs(folder):
        text = text_of(folder / f"{sensor}_label") or sensor
        key = f"{label}/{text}" if text not in seen else f"{label}/{text} ({sensor})"
        seen.add(text)
        reading = _read_sensor(folder, sensor, attribute, key, component or f"sensor:{key}")
        if reading is not None:
            readings.append(reading)
    return readings


def _inputs(folder: Path) -> list[tuple[str, str]]:
    """[(sensor, attribute)] in their numbers' order: ("temp2", "input"). A power meter may have only averages."""
    found: dict[tuple[str, int], str] = {}
    for entry in entries_of(folder):
        match = INPUT.fullmatch(entry.name)
        if match is not None and (match[3] == "input" or match[1] == "power"):
            found[match[1], int(match[2])] = (
                "input" if match[3] == "input" else found.get((match[1], int(match[2])), "average")
            )
    return [(f"{kind}{number}", found[kind, number]) for kind, number in sorted(found)]


def _read_sensor(folder: Path, sensor: str, attribute: str, key: str, component: str) -> SensorReading | None:
    scale = SCALES[sensor.rstrip("0123456789")]
    raw = int_of(folder / f"{sensor}_{attribute}")
    if raw is None or int_of(folder / f"{sensor}_fault") == 1:
        return None
    crit = int_of(folder / f"{sensor}_crit")
    alarm = int_of(folder / f"{sensor}_crit_alarm")
    return SensorReading(
        kind=scale.kind,
        key=key,
        value=raw / scale.divisor,
        unit=scale.unit,
        crit=None if crit is None else crit / scale.divisor,
        crit_alarm=None if alarm is None else alarm != 0,
        component=component,
    )


def _chip_label(chip: Path, name: str) -> str:
    """A name that does not change with the order in which drivers load, as hwmonN does.

    "coretemp" for coretemp.0, "coretemp.1" for the second socket's, "nvme0", "k10temp@0000:00:18.3".
    """
    device = _device_name(chip)
    if device in {None, name, f"{name}.0"}:
        return name
    assert device is not None
    return device if device.startswith(name) else f"{name}@{device}"


def _device_name(chip: Path) -> str | None:
    link = chip / "device"
    try:
        return link.resolve(strict=True).name
    except OSError:
        return None


def _component(chip: Path, name: str) -> str | None:
    """What the chip sits on, where its device tells."""
    device = chip / "device"
    if name in CPU_DRIVERS:
        return f"socket:{_socket(_device_name(chip) or '')}"
    if name == "nvme":
        serial = text_of(device / "serial")
        return f"disk:{serial}" if serial else None
    if name == "drivetemp":
        serial = _scsi_serial(device)
        return f"disk:{serial}" if serial else None
    macs = [mac for port in entries_of(device / "net") if (mac := text_of(port / "address"))]
    if macs:
        return f"nic:{macs[0].lower()}"
    return f"psu:{_device_name(chip)}" if text_of(device / "type") == "Mains" else None


def _socket(device: str) -> int:
    """The CPU socket: N of coretemp.N; an AMD node's functions are PCI devices 18h, 19h and so on of bus 0."""
    if match := re.fullmatch(r"\w+\.(\d+)", device):
        return int(match[1])
    if match := re.fullmatch(r"[0-9a-f]{4}:00:([0-9a-f]{2})\.[0-7]", device):
        return max(0, int(match[1], 16) - AMD_NODE_0_SLOT)
    return 0


def _scsi_serial(device: Path) -> str | None:
    """The unit serial number page of a SCSI device: four bytes of header, then the serial."""
    try:
        page = (device / "vpd_pg80").read_bytes()
    except OSError:
        return None
    return page[4:].decode("ascii", "replace").strip("\x00 ") or None


def _read_zone(zone: Path) -> SensorReading | None:
    kind = text_of(zone / "type")
    raw = int_of(zone / "temp")
    if not zone.name.startswith("thermal_zone") or kind is None or raw is None:
        return None
    key = f"{zone.name}/{kind}"
    crit = _critical_trip(zone)
    component = "socket:0" if kind == "x86_pkg_temp" else f"sensor:{key}"
    return SensorReading(SensorKind.TEMPERATURE, key, raw / 1e3, "degC", crit, None, component)


def _critical_trip(zone: Path) -> float | None:
    for entry in entries_of(zone):
        match = re.fullmatch(r"trip_point_(\d+)_type", entry.name)
        if match is not None and text_of(entry) == "critical":
            limit = int_of(zone / f"trip_point_{match[1]}_temp")
            return None if limit is None else limit / 1e3
    return None

"""Power supplies: what the BMC's sensors and the kernel's power_supply class say of them.

A supply's state stands in the text of its status sensor ("Presence detected, Failure detected"), which ipmitool makes
of the asserted bits and the sensor's SDR; its "ok" column says nothing for such sensors. IPMI v2.0, table 42-3, sensor
types 08h (power supply) and 09h (power unit), and table 42-2, event types 04h, 07h and 0Bh (redundancy).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes import ipmi
from probes.host import Host, entries_of, int_of, text_of
from probes.ipmi import SensorRow
from probes.notes import Notes

ENTITY_POWER_SUPPLY = 10
POWER_ENTITIES = frozenset({ENTITY_POWER_SUPPLY, 19, 20, 21})
"""Power supply, power unit, power module, power management (IPMI v2.0, table 43-13)."""
POWER_UNITS = POWER_ENTITIES - {ENTITY_POWER_SUPPLY}
SENSOR_TYPE_POWER_SUPPLY = 0x08
INVENTORY_LIMIT_S = 25.0


@dataclass(frozen=True, slots=True)
class Psu:
    """One power supply. `present` is None where its sensor shows states but not that one.

    `states` are the sensor's own words. `watts` is what it draws, else what it delivers; `amps` its input current.
    """

    name: str
    present: bool | None
    states: str = ""
    watts: float | None = None
    amps: float | None = None
    serial: str | None = None
    source: str = "ipmi"

    @property
    def failed(self) -> bool:
        """Failure, predictive failure, a configuration error, or critical by its own word."""
        return _asserted(self.states, _FAULT)

    @property
    def input_lost(self) -> bool:
        """No input power, or input power out of its range."""
        return _asserted(self.states, _INPUT_LOST)

    @property
    def troubled(self) -> bool:
        """It asks for attention, and says no more than that."""
        return _asserted(self.states, _TROUBLE)

    @property
    def tells_health(self) -> bool:
        """Whether its source says that it is well or not; where it is or has power is not enough."""
        return self.present is False or self.input_lost or "health " in self.states


_FAULT = re.compile(
    r"failure|config\w* error|fan fault|transition to (?:critical|non-recoverable)|health critical", re.IGNORECASE
)
_INPUT_LOST = re.compile(r"(?:AC|DC|input) lost|out-of-range|^offline$", re.IGNORECASE)
_TROUBLE = re.compile(r"transition to non-critical from ok|health warning|unavailableoffline", re.IGNORECASE)


def _asserted(states: str, wanted: re.Pattern[str]) -> bool:
    """Whether one of the states is meant; "Predictive Failure Deasserted" is the absence of one."""
    return any(wanted.search(part) and "deasserted" not in part.lower() for part in states.split(", "))


@dataclass(frozen=True, slots=True)
class Redundancy:
    """A sensor that says whether the supplies back each other up, in its own words ("Fully Redundant")."""

    name: str
    state: str

    @property
    def full(self) -> bool:
        """ "Redundancy Degraded from Fully Redundant" is not."""
        words = [part for part in self.state.lower().split(", ") if "redundan" in part]
        return bool(words) and all(part == "fully redundant" for part in words)


@dataclass(frozen=True, slots=True)
class UnitFault:
    """A sensor of the power unit as a whole that asserts a fault, in its own words ("Soft-power control failure")."""

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class Place:
    """A supply that has sensors, and none of its state. `reads`: whether one of them says that it carries anything."""

    name: str
    reads: bool


@dataclass(frozen=True, slots=True)
class PsuReading:
    """All supplies at one moment."""

    supplies: tuple[Psu, ...] = ()
    redundancy: tuple[Redundancy, ...] = ()
    units: tuple[UnitFault, ...] = ()
    places: tuple[Place, ...] = ()

    @staticmethod
    def of_json(raw: Mapping[str, Any]) -> PsuReading:
        """The inverse of dataclasses.asdict. Raises KeyError or TypeError on anything else."""
        return PsuReading(
            tuple(Psu(**psu) for psu in raw["supplies"]),
            tuple(Redundancy(**row) for row in raw["redundancy"]),
            tuple(UnitFault(**row) for row in raw.get("units", ())),
            tuple(Place(**row) for row in raw.get("places", ())),
        )


def has_sensors(host: Host) -> bool:
    """Whether anything on this machine could tell of its supplies. Asks no BMC."""
    return ipmi.present(host) or bool(_mains(host))


async def inventory(host: Host, notes: Notes) -> list[Psu]:
    """The supplies of this machine; empty when nothing shows any. Raises IpmiError or a ToolError."""
    if not ipmi.present(host):
        return _mains(host)
    rows = await ipmi.sensors_of_type(host, SENSOR_TYPE_POWER_SUPPLY, limit_s=INVENTORY_LIMIT_S)
    supplies = [*reading_of(rows).supplies, *_mains(host)]
    if not supplies:
        notes.add("psus", "the BMC has no power supply sensors")
    return supplies


async def sample(host: Host, cache: Path | None = None) -> PsuReading:
    """Read all supplies now. `cache` as in `ipmi.sensors`. Raises IpmiError or a ToolError."""
    reading = reading_of(await ipmi.sensors(host, cache)) if ipmi.present(host) else PsuReading()
    return replace(reading, supplies=(*reading.supplies, *_mains(host)))


# --- IPMI ------------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"^(PSU?|PWS|Power Supply|Pwr Supply)[ _-]?#?(\d{1,4})\b|^(PSU?)(\d{1,4})_", re.IGNORECASE)
_STATUS_NAME = re.compile(r"stat(?:us|e)?$|^(?:PSU?|PWS|Power Supply|Pwr Supply)[ _-]?#?\d+$", re.IGNORECASE)
_STATES = re.compile(
    r"presence detected|failure|(?:AC|DC|input) lost|out-of-range|config\w* error|supply inactive"
    r"|device (?:present|absent)|transition to (?:ok|critical|non-)",
    re.IGNORECASE,
)
_UNIT_FAULT = re.compile(r"failure", re.IGNORECASE)
"""Its other states (power down, AC lost, interlock) cannot be those of a machine that runs: they are of the past."""
_ELECTRIC = re.compile(r"(?:^|, )(\d{1,6}(?:\.\d{1,6})?) (?:Watts|Amps|Volts)", re.IGNORECASE)
_FIGURE = re.compile(r"(?:^|, )(\d+(?:\.\d+)?) (Watts|Amps)", re.IGNORECASE)


def reading_of(rows: Iterable[SensorRow]) -> PsuReading:
    """Supplies and redundancy from a sensor table (pure)."""
    supplies: dict[int, Psu] = {}
    figures: list[tuple[int, SensorRow]] = []
    redundancy: list[Redundancy] = []
    units: list[UnitFault] = []
    for row in rows:
        if row.entity in POWER_UNITS and _asserted(row.reading, _UNIT_FAULT):
            units.append(UnitFault(row.name, row.reading))
        if "redundan" in row.reading.lower():
            redundancy += [Redundancy(row.name, row.reading)] if _is_power(row) else []
            continue
        number = _number(row)
        if number is None:
            continue
        figures.append((number, row))
        if _is_status(row):
            supplies[number] = _merged(supplies.get(number), row, number)
    for number, row in figures:
        if number in supplies:
            supplies[number] = _with_figure(supplies[number], row)
    places = _places([(number, row) for number, row in figures if number not in supplies])
    listed = tuple(supplies[number] for number in sorted(supplies))
    return PsuReading(listed, tuple(redundancy), tuple(units), places)


def _places(rows: Iterable[tuple[int, SensorRow]]) -> tuple[Place, ...]:
    """Supplies without a sensor of their state. A temperature sensor can have any entity: HPE's "Temp 13" is 10.5."""
    found: dict[int, Place] = {}
    for number, row in rows:
        figure = _ELECTRIC.search(row.reading)
        if not (_NAME.match(row.name) or figure):
            continue
        reads = row.status != "ns" and figure is not None and float(figure[1]) > 0
        known = found.get(number)
        name = supply_name(row.name) or (known.name if known else f"PSU {number}")
        found[number] = Place(name, reads or (known is not None and known.reads))
    return tuple(found[number] for number in sorted(found))


def supply_name(sensor_name: str) -> str:
    """ "PSU2" of "PSU2 Status", "Power Supply 1" of itself, "" of "Status"."""
    match = _NAME.match(sensor_name)
    return f"{match[1] or match[3]}{' ' if ' ' in match[0] else ''}{match[2] or match[4]}" if match else ""


def _number(row: SensorRow) -> int | None:
    """Which supply a sensor belongs to: by its name, else by its entity; None when to none."""
    if match := _NAME.match(row.name):
        return int(match[2] or match[4])
    return row.instance if row.entity == ENTITY_POWER_SUPPLY else None


def _is_power(row: SensorRow) -> bool:
    """Fans and memory have redundancy sensors too."""
    return row.entity in POWER_ENTITIES or bool(re.match(r"PSU?[ _\d]|PSU?$|P(?:o)?we?r", row.name, re.IGNORECASE))


def _is_status(row: SensorRow) -> bool:
    """A sensor of states. One without any state asserted is told by its name alone."""
    return bool(_STATES.search(row.reading)) or (
        bool(_STATUS_NAME.search(row.name)) and (row.status == "ns" or not row.reading)
    )


def _merged(known: Psu | None, row: SensorRow, number: int) -> Psu:
    words = _FIGURE.sub("", row.reading).strip(", ")
    states = "" if row.status == "ns" else words
    if known is not None:
        states = ", ".join(part for part in (known.states, states) if part)
    name = known.name if known else supply_name(row.name) or f"PSU {number}"
    return Psu(name, _presence(states), states)


def _presence(states: str) -> bool | None:
    lower = states.lower()
    if not lower or "absent" in lower:
        return False
    return True if "presence detected" in lower or "device present" in lower else None


def _with_figure(psu: Psu, row: SensorRow) -> Psu:
    """Input power is preferred to output power: it is what the feed must carry."""
    match = _FIGURE.search(row.reading)
    if match is None or row.status == "ns":
        return psu
    value, unit = float(match[1]), match[2].lower()
    is_input = bool(re.search(r"p?in\b|input", row.name, re.IGNORECASE)) or row.name.upper().endswith("PIN")
    if unit == "watts":
        return replace(psu, watts=value) if psu.watts is None or is_input else psu
    return replace(psu, amps=value) if psu.amps is None or is_input else psu


# --- the kernel's power_supply class ---------------------------------------------------------------------------------


def _mains(host: Host) -> list[Psu]:
    """Supplies of type Mains. None where there is a battery (a laptop's adapter) or where they feed a device only."""
    folders = entries_of(host.sys("class", "power_supply"))
    kinds = {folder: text_of(folder / "type") for folder in folders}
    if any(kind == "Battery" and text_of(folder / "scope") != "Device" for folder, kind in kinds.items()):
        return []
    return [
        _of_class(folder) for folder, kind in kinds.items() if kind == "Mains" and text_of(folder / "scope") != "Device"
    ]


def _of_class(folder: Path) -> Psu:
    online = int_of(folder / "online")
    states = {0: "offline", None: ""}.get(online, "online")
    return Psu(folder.name, True, states, serial=text_of(folder / "serial_number"), source="power_supply")

"""Power supplies that the sensors leave out, and other sources tell of: part records, redundancy, firmware (pure).

A list of supplies that is one row short looks like a machine with fewer supplies, and passes. Each of these speaks of
more supplies than have a sensor of their state; none of them alone says that a machine with one supply lacks a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from probes.psus import PsuReading
from probes.smbios import Structure
from stages.outcome import Finding, ReasonCode, error, info, warning


def place_number(part: str) -> int | None:
    """The number of the supply that a part's name speaks of: "PSU1 FRU", "Pwr Supply 2 FRU", "PS1"."""
    match = re.match(r"(?:PSU?|PWS|P(?:o)?we?r[ _]?Supply)[ _-]?#?(\d+)", part, re.IGNORECASE)
    return int(match[1]) if match else None


def of_firmware(tables: Sequence[Structure]) -> tuple[str, ...]:
    """The supplies that SMBIOS (type 39) says are present, each by its serial or part number.

    A structure without either is a vendor's template, which boards without any such supply carry too.
    """
    found = {}
    for one in tables:
        serial, part = one.text("Serial Number"), one.text("Model Part Number")
        if one.values.get("Status", "").lower().startswith("present") and (serial or part):
            where = one.text("Location") or one.text("Name") or f"handle {one.handle:#06x}"
            found[serial or f"{part} at {where}"] = f"{where} ({serial or part})"
    return tuple(found.values())


def findings(
    samples: Sequence[PsuReading],
    known: Sequence[str],
    serials: Mapping[str, str],
    firmware: Sequence[str],
    expected_count: int | None,
) -> Iterator[Finding]:
    """`known` are the supplies whose state a sensor tells; `serials` by part of the BMC's own inventory."""
    places = _places(samples)
    if expected_count is None or expected_count > len(known):
        yield from _stateless(places, known)
    elif places:
        text = (
            f"There are sensors of {', '.join(places)}, and none of its state; {expected_count} supplies are expected"
        )
        yield info(ReasonCode.PSU_ABSENT, f"psu:{next(iter(places))}", text)
    told = len(known) + len(places)
    rows = sorted({row.name for reading in samples for row in reading.redundancy})
    if rows and known and told < 2 and expected_count is None:
        text = f"{', '.join(rows)} speaks of supplies that back each other up, but a sensor tells of {known[0]} only"
        yield warning(ReasonCode.PSU_ABSENT, "psu", text)
    parts = sorted(part for part in serials if place_number(part) is not None)
    for source, named in (("the BMC's inventory of parts", parts), ("the firmware's tables", list(firmware))):
        if known and len(named) > told:
            text = f"By {source} there are {len(named)} power supplies ({', '.join(named)}), and sensors tell of {told}"
            yield error(ReasonCode.BMC_UNREADABLE, "psu", f"{text}: the state of the others is not known")


def _places(samples: Sequence[PsuReading]) -> dict[str, bool]:
    """Supplies with sensors, none of which tells its state, by name; and whether any of them reads."""
    found: dict[str, bool] = {}
    for place in (place for reading in samples for place in reading.places):
        found[place.name] = found.get(place.name, False) or place.reads
    return found


def _stateless(places: Mapping[str, bool], known: Sequence[str]) -> Iterator[Finding]:
    for name, reads in places.items():
        component = f"psu:{name}"
        if reads:
            text = f"Power supply {name} carries load by its sensors, and none of them says how it is"
            yield (error if known else warning)(ReasonCode.BMC_UNREADABLE, component, text)
        elif known or any(places.values()):
            text = f"Power supply {name} has sensors, none of which reads, and none of its state: it may not be there"
            yield warning(ReasonCode.PSU_ABSENT, component, text)

"""Power supplies and their redundancy as a Redfish service tells them, in its older and its newer resource.

Older: Chassis/ID/Power with arrays (Power schema, to v1.7). Newer: Chassis/ID/PowerSubsystem with a collection of
PowerSupplies (PowerSubsystem and PowerSupply schemas, 2020.4). A chassis that has both is read by the newer one, and
by the older where the newer names no supply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from probes.printable import printable
from probes.psus import Psu, PsuReading, Redundancy
from probes.redfish import ROOT, Client, RedfishError, Service, talk

SOURCE = "redfish"
MEMBERS_MAX = 32
SAMPLE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading, and the answers it was made of, by path."""

    reading: PsuReading
    answers: dict[str, str] = field(default_factory=dict)


async def sample(service: Service, *, limit_s: float = SAMPLE_LIMIT_S) -> Sample:
    """Read all supplies now. Raises RedfishError; no supply at all is no error."""
    return await talk(service, lambda client: Sample(_read(client), client.answers), limit_s=limit_s)


def _read(client: Client) -> PsuReading:
    root = client.get(ROOT)
    chassis = _link(root, "Chassis")
    if chassis is None:
        raise RedfishError(f"{ROOT} names no chassis: this is no Redfish service with power supplies")
    supplies: dict[str, Psu] = {}
    redundancy: dict[str, Redundancy] = {}
    for path in _members(client.get(chassis)):
        for reading in _of_chassis(client, client.get(path)):
            # Several chassis may lead to the same supplies, as in a rack of nodes.
            supplies |= {f"{psu.name} {psu.serial}": psu for psu in reading.supplies}
            redundancy |= {row.name: row for row in reading.redundancy}
    return PsuReading(tuple(supplies.values()), tuple(redundancy.values()))


def _of_chassis(client: Client, chassis: dict[str, Any]) -> Iterator[PsuReading]:
    newer = _link(chassis, "PowerSubsystem")
    reading = _subsystem(client, newer) if newer else PsuReading()
    older = _link(chassis, "Power")
    if not reading.supplies and older:
        reading = of_power(client.get(older))
    yield reading


def _subsystem(client: Client, path: str) -> PsuReading:
    resource = client.get(path)
    collection = _link(resource, "PowerSupplies")
    found = []
    for member in _members(client.get(collection)) if collection else ():
        supply = client.get(member)
        metrics = _link(supply, "Metrics")
        found.append(of_supply(supply, client.get(metrics) if metrics else {}))
    return PsuReading(tuple(found), tuple(_redundancy(resource.get("PowerSupplyRedundancy"), "RedundancyGroup")))


def of_power(resource: dict[str, Any]) -> PsuReading:
    """The older resource (pure)."""
    supplies = [_supply(one, number) for number, one in enumerate(_objects(resource.get("PowerSupplies")))]
    return PsuReading(_distinct(supplies), tuple(_redundancy(resource.get("Redundancy"), "RedundancySet")))


def of_supply(resource: dict[str, Any], metrics: dict[str, Any]) -> Psu:
    """The newer resource and its metrics (pure)."""
    psu = _supply(resource, 0)
    watts = _reading(metrics, "InputPowerWatts") or _reading(metrics, "OutputPowerWatts")
    return replace(psu, watts=watts if watts is not None else psu.watts, amps=_reading(metrics, "InputCurrentAmps"))


def _distinct(supplies: list[Psu]) -> tuple[Psu, ...]:
    """Some services give all supplies one name; their places tell them apart."""
    names = [psu.name for psu in supplies]
    return tuple(
        replace(psu, name=f"{psu.name} {number}") if names.count(psu.name) > 1 else psu
        for number, psu in enumerate(supplies, start=1)
    )


def _supply(resource: dict[str, Any], number: int) -> Psu:
    status = resource.get("Status")
    status = status if isinstance(status, dict) else {}
    state, health = _word(status.get("State")), _word(status.get("Health"))
    line = _word(resource.get("LineInputStatus"))
    lost = line.lower() in {"lossofinput", "outofrange"} or _number(resource.get("LineInputVoltage")) == 0
    if lost:
        line = "input lost"
    words = [state, f"health {health}" if health and not (lost and health != "OK") else "", line]
    name = next((_word(resource.get(key)) for key in ("Name", "Id", "MemberId") if _word(resource.get(key))), "")
    return Psu(
        name=name or f"supply {number + 1}",
        present=_presence(state),
        states=", ".join(word for word in words if word),
        watts=next((value for key in _WATTS if (value := _number(resource.get(key))) is not None), None),
        serial=_word(resource.get("SerialNumber")) or None,
        source=SOURCE,
    )


_WATTS = ("PowerInputWatts", "PowerOutputWatts", "LastPowerOutputWatts")


def _presence(state: str) -> bool | None:
    """None where the service says nothing of it."""
    return None if not state else state.lower() != "absent"


def _redundancy(rows: object, members: str) -> Iterator[Redundancy]:
    """One row a group of at least two supplies; a group that is switched off says nothing."""
    for number, row in enumerate(_objects(rows)):
        status = row.get("Status")
        status = status if isinstance(status, dict) else {}
        state, health = _word(status.get("State")), _word(status.get("Health"))
        group = row.get(members)
        if state == "Disabled" or not (state or health) or (isinstance(group, list) and len(group) < 2):
            continue
        sound = state in {"", "Enabled"} and health in {"", "OK"}
        text = "Fully Redundant" if sound else f"redundancy {state or 'unknown'} health {health or 'unknown'}"
        yield Redundancy(_word(row.get("Name")) or f"Redundancy {number + 1}", text)


def _members(collection: dict[str, Any]) -> list[str]:
    members = _objects(collection.get("Members"))
    if len(members) > MEMBERS_MAX:
        raise RedfishError(f"a collection of {len(members)} members")
    return [path for member in members if isinstance(path := member.get("@odata.id"), str)]


def _link(resource: dict[str, Any], name: str) -> str | None:
    target = resource.get(name)
    path = target.get("@odata.id") if isinstance(target, dict) else None
    return path if isinstance(path, str) else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _reading(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return _number(value.get("Reading")) if isinstance(value, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _word(value: object) -> str:
    return printable(value).replace(",", " ") if isinstance(value, str) else ""

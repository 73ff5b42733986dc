"""Judges what a port shows beside its link and its flows: optics, FEC, pauses, its neighbour, its addresses. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from probes.lldp import Neighbor
from stages.network_readings import PortReading
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning


class Wanted(Protocol):
    """The limits that are judged here."""

    @property
    def transceiver_alarms_fail(self) -> bool: ...
    @property
    def pauses_per_second(self) -> float: ...
    @property
    def neighbors(self) -> Mapping[str, str]: ...


def gained(reading: PortReading, kind: str) -> int:
    """What a driver's counter rose by; 0 where it does not tell, or began anew."""
    before, after = reading.statistics_before.counts.get(kind), reading.statistics_after.counts.get(kind)
    return max(0, after - before) if before is not None and after is not None else 0


def lost_counters(reading: PortReading) -> list[str]:
    """A driver's counters that are lower than before, or gone."""
    before, after = reading.statistics_before.counts, reading.statistics_after.counts
    return sorted(kind for kind, count in before.items() if after.get(kind, -1) < count)


def judge(reading: PortReading, limits: Wanted) -> list[Finding]:
    """The findings of one port."""
    found = [*_neighbor(reading, limits), *_path(reading)]
    if reading.port.carrier and not reading.port.virtual:
        found += [*_transceiver(reading, limits), *_duplex(reading), *_pauses(reading, limits), *_symbols(reading)]
    return found


def unheard(readings: Sequence[PortReading], limits: Wanted) -> Iterator[Finding]:
    """Neighbours that are expected at ports which are not here: of other hosts of the profile, or misspelt."""
    here = {mac for reading in readings for mac in reading.port.macs}
    for mac, wanted in limits.neighbors.items():
        if mac not in here:
            text = f"No port here has the MAC address {mac}, which should be cabled to {wanted}: not looked for"
            yield info(ReasonCode.NET_NEIGHBOR_UNSEEN, f"nic:{mac}", text)


def measured(reading: PortReading) -> Iterator[Measurement]:
    """The figures of one port."""
    component = reading.port.component
    if reading.neighbor is not None:
        yield Measurement(f"lldp_neighbor {reading.neighbor}", component, 1.0, "neighbor")
    if (module := reading.statistics_after.module) is not None:
        if module.temperature_c is not None:
            yield Measurement("module_temperature", component, module.temperature_c, "°C")
        if module.receive_dbm is not None and reading.port.carrier:
            yield Measurement("receive_power", component, module.receive_dbm, "dBm")
    for kind in sorted(set(reading.statistics_before.counts) & set(reading.statistics_after.counts)):
        yield Measurement(f"new_{kind}", component, float(gained(reading, kind)), "count")


def _transceiver(reading: PortReading, limits: Wanted) -> Iterator[Finding]:
    """By the second reading: the flags hold what was until they are read. A dark port has no light, by nature."""
    module = reading.statistics_after.module
    if module is None or not (module.alarms or module.warnings):
        return
    name = (
        f"The transceiver of {reading.port.name} ({module.vendor} {module.part}, serial {module.serial or 'unknown'})"
    )
    code, component = ReasonCode.NET_TRANSCEIVER, reading.port.component
    if module.alarms:
        listed = ", ".join(module.alarms)
        severity = error if limits.transceiver_alarms_fail else warning
        yield severity(code, component, f"{name} raises an alarm: {listed}", listed)
    else:
        listed = ", ".join(module.warnings)
        yield info(code, component, f"{name} warns: {listed}", listed)


def _duplex(reading: PortReading) -> Iterator[Finding]:
    if reading.before is None or reading.after is None:
        return
    late = reading.after.late_collisions - reading.before.late_collisions
    if late > 0:
        text = f"{reading.port.name} counted {late} late collisions: one end of the link runs at half duplex"
        yield warning(ReasonCode.NET_LINK_DEGRADED, reading.port.component, text)


def _pauses(reading: PortReading, limits: Wanted) -> Iterator[Finding]:
    component = reading.port.component
    if storms := gained(reading, "pause_storm"):
        text = f"The driver of {reading.port.name} reports {storms} pause storms"
        yield warning(ReasonCode.NET_PAUSE_STORM, component, text)
    for kind, words in (("pause_received", "was told to pause"), ("pause_sent", "told its switch to pause")):
        rate = gained(reading, kind) / reading.watched_s if reading.watched_s > 0 else 0.0
        if rate > limits.pauses_per_second:
            text = f"{reading.port.name} {words} {rate:.0f} times a second"
            yield warning(ReasonCode.NET_PAUSE_STORM, component, text)


def _symbols(reading: PortReading) -> Iterator[Finding]:
    if count := gained(reading, "symbol"):
        fec = f" (FEC: {reading.statistics_after.fec})" if reading.statistics_after.fec else ""
        text = f"{reading.port.name} counted {count} symbol errors that nothing corrected{fec}"
        yield warning(ReasonCode.NET_ERRORS, reading.port.component, text)


# --- neighbour, addresses, path --------------------------------------------------------------------------------------


def expectation(reading: PortReading, neighbors: Mapping[str, str]) -> str | None:
    """What is expected at the other end of a port: "SYSTEM" or "SYSTEM/PORT"."""
    return next((neighbors[mac] for mac in sorted(reading.port.macs) if mac in neighbors), None)


def _neighbor(reading: PortReading, limits: Wanted) -> Iterator[Finding]:
    wanted = expectation(reading, limits.neighbors)
    if wanted is None:
        return
    name, component = reading.port.name, reading.port.component
    if reading.neighbor is None:
        text = f"{name} should be cabled to {wanted}, but no neighbour announced itself there"
        yield error(ReasonCode.NET_NEIGHBOR_UNSEEN, component, text)
    elif not _matches(wanted, reading.neighbor):
        text = f"{name} is cabled to {reading.neighbor}, not to {wanted}"
        yield error(ReasonCode.NET_NEIGHBOR, component, text, str(reading.neighbor))


def _matches(wanted: str, neighbor: Neighbor) -> bool:
    """By the name, with or without its domain, and by the port where one is asked for (port names hold slashes)."""
    system, _, port = wanted.lower().partition("/")
    name = neighbor.system.lower()
    return system in {name, name.partition(".")[0]} and port in {
        "",
        neighbor.port.lower(),
        neighbor.description.lower(),
    }


def _path(reading: PortReading) -> Iterator[Finding]:
    path, name, component = reading.path, reading.port.name, reading.port.component
    if path is None:
        return
    if path.problem:
        text = (
            f"Whether {name} is alone with its IP address and carries packets of its MTU is not known: {path.problem}"
        )
        yield info(ReasonCode.OUTPUT_UNREADABLE, component, text)
    elif path.small is False:
        text = f"The orchestrator answers no echo over {name}: whether packets of the MTU pass is not known"
        yield info(ReasonCode.NET_MTU_BLACK_HOLE, component, text)
    if path.claimed_by:
        listed = ", ".join(path.claimed_by)
        text = f"The IP address of {name} is used by another device as well: {listed}"
        yield warning(ReasonCode.NET_ADDRESS_DUPLICATE, component, text, listed)
    if path.small and not path.full:
        text = f"Packets of the MTU of {name}, {path.mtu} bytes, do not reach the orchestrator and back; small ones do"
        yield warning(ReasonCode.NET_MTU_BLACK_HOLE, component, text)


def same_addresses(readings: Sequence[PortReading]) -> Iterator[Finding]:
    """Ports of this machine that were given one address for life."""
    owners: dict[str, list[str]] = {}
    for reading in readings:
        if reading.port.own_mac is not None and not reading.port.virtual:
            owners.setdefault(reading.port.own_mac, []).append(reading.port.name)
    for mac, names in owners.items():
        if len(names) > 1:
            text = f"{' and '.join(names)} have the same MAC address {mac}"
            yield warning(ReasonCode.NET_ADDRESS_DUPLICATE, f"nic:{mac}", text)

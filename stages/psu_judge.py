"""Judges power supplies by what was sampled. Pure: no reading, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from probes import psus
from probes.ipmi import SelEntry
from probes.psus import Psu, PsuReading
from stages import psu_places
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, error, info, warning
from stages.psu_places import place_number

IMBALANCE_FLOOR_W = 100.0
"""Below this in total, the split says nothing: supplies share by a droop that only a load brings out."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as sound; `stages.psu.Options` explains each."""

    expected_count: int | None = None
    redundancy: bool | None = None
    bmc_expected: bool = False
    imbalance_limit: float = 0.2


@dataclass(frozen=True, slots=True)
class RedfishReadings:
    """What the Redfish service told, and each time that it did not, in words."""

    samples: tuple[PsuReading, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PsuReadings:
    """All that was read."""

    has_sensors: bool
    """Whether this machine shows anything that could tell of its supplies."""
    announced: bool = False
    """Whether its firmware names a BMC."""
    samples: tuple[PsuReading, ...] = ()
    failures: tuple[str, ...] = ()
    """Each time that the BMC did not answer, in words."""
    new_events: tuple[SelEntry, ...] = ()
    serials: Mapping[str, str] = field(default_factory=dict)
    """By the name of the part, for instance {"PSU1 FRU": "SERIAL"}."""
    firmware: tuple[str, ...] = ()
    """The supplies that the firmware's tables say are there."""
    problems: tuple[Finding, ...] = ()
    """What kept something from being read or loaded."""
    redfish: RedfishReadings | None = None


Seen = Mapping[str, Sequence[Psu]]


def judge(readings: PsuReadings, limits: Limits) -> Outcome:
    """Findings, figures and coverage from what was sampled."""
    local = _local(readings, limits)
    if readings.redfish is None:
        return local
    remote = _remote(readings.redfish, limits, local_known=bool(local.coverage))
    shown = [one for one in (local, remote) if one.hardware_present]
    return Outcome(
        "; ".join(one.headline for one in shown) or local.headline,
        (*local.findings, *remote.findings),
        (*local.measurements, *remote.measurements),
        {**local.coverage, **remote.coverage},
        hardware_present=bool(shown),
    )


# --- by the machine's own sensors ------------------------------------------------------------------------------------


def _local(readings: PsuReadings, limits: Limits) -> Outcome:
    if not readings.has_sensors:
        return _without_sensors(readings, limits)
    serials = {
        number: serial for part, serial in readings.serials.items() if (number := place_number(part)) is not None
    }
    samples = [_with_serials(sample, serials) for sample in readings.samples]
    found = _by_name(samples)
    left_out = [*psu_places.findings(samples, list(found), readings.serials, readings.firmware, limits.expected_count)]
    if not found:
        outcome = _no_supplies(readings, limits)
        return outcome.plus([*readings.problems, *left_out, *_units(samples), *_events(readings.new_events, {})])
    findings = [*_unread(readings.failures, len(samples), "BMC", "bmc"), *_group(samples, found, limits)]
    findings += [*left_out, *_units(samples), *_events(readings.new_events, found), *readings.problems]
    return _outcome(found, len(samples), findings)


def _without_sensors(readings: PsuReadings, limits: Limits) -> Outcome:
    if readings.announced:
        text = "The firmware names a BMC, but the kernel has no device for it: load ipmi_si and ipmi_devintf"
    elif (limits.bmc_expected or limits.expected_count) and readings.redfish is None:
        text = "A BMC was expected, but this machine shows none, so its power supplies cannot be judged"
    else:
        text = "No BMC and no power supply sensors, and none expected"
        return Outcome(text, readings.problems, hardware_present=False)
    return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "bmc", text), *readings.problems))


def _no_supplies(readings: PsuReadings, limits: Limits) -> Outcome:
    if not readings.samples:
        # What kept it from being read at all, such as a missing ipmitool, says it better.
        text = f"The BMC did not answer: {readings.failures[0] if readings.failures else 'no reading was taken'}"
        kept = readings.problems and not readings.failures
        return Outcome(text, () if kept else (error(ReasonCode.BMC_UNREADABLE, "bmc", text),))
    if limits.expected_count and readings.redfish is None:
        text = f"{limits.expected_count} power supplies expected, but the BMC has no sensor for any"
        return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "bmc", text),))
    return Outcome("The BMC has no power supply sensors, and none are expected", hardware_present=False)


def _with_serials(sample: PsuReading, serials: Mapping[int, str]) -> PsuReading:
    supplies = [replace(psu, serial=psu.serial or serials.get(place_number(psu.name) or 0)) for psu in sample.supplies]
    return replace(sample, supplies=tuple(supplies))


# --- by Redfish ------------------------------------------------------------------------------------------------------


def _remote(redfish: RedfishReadings, limits: Limits, *, local_known: bool) -> Outcome:
    found = _by_name(redfish.samples)
    if not redfish.samples:
        why = redfish.failures[0] if redfish.failures else "no reading was taken"
        text = f"The Redfish service could not be read: {why}"
        return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "redfish", text),))
    if not found:
        text = "The Redfish service shows no power supply"
        needed = bool(limits.expected_count) or not local_known
        return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "redfish", text),) if needed else ())
    findings = [
        *_unread(redfish.failures, len(redfish.samples), "Redfish service", "redfish"),
        *_group(redfish.samples, found, limits),
        *_silent(found, local_known=local_known),
    ]
    return _outcome(found, len(redfish.samples), findings)


def _silent(found: Seen, *, local_known: bool) -> Iterator[Finding]:
    """Services exist that list supplies without a word of how they are."""
    for name, seen in found.items():
        if not any(psu.tells_health for psu in seen):
            text = f"The Redfish service says nothing of the health of power supply {name}"
            yield (info if local_known else error)(ReasonCode.BMC_UNREADABLE, f"psu:{name}", text)


# --- of one source ---------------------------------------------------------------------------------------------------


def _outcome(found: Seen, samples: int, findings: Sequence[Finding]) -> Outcome:
    source = " by Redfish" if any(psu.source == "redfish" for seen in found.values() for psu in seen) else ""
    return Outcome(
        f"{len(found)} power supplies sampled {samples} times{source}",
        tuple(findings),
        tuple(_figures(found)),
        {f"psu:{name}": 1.0 for name in found},
    )


def _by_name(samples: Sequence[PsuReading]) -> dict[str, list[Psu]]:
    found: dict[str, list[Psu]] = {}
    for reading in samples:
        for psu in reading.supplies:
            found.setdefault(psu.name, []).append(psu)
    return found


def _group(samples: Sequence[PsuReading], found: Seen, limits: Limits) -> Iterator[Finding]:
    for name, seen in found.items():
        yield from _supply(name, seen, found, limits)
    yield from _vanished(samples, found)
    yield from _count(samples, limits)
    yield from _redundancy(samples, limits)
    yield from _imbalance(found, limits)


def _unread(failures: Sequence[str], answered: int, who: str, component: str) -> Iterator[Finding]:
    if failures:
        tried = len(failures) + answered
        text = f"The {who} did not answer {len(failures)} of {tried} times: {failures[-1]}"
        yield (error if len(failures) >= answered else warning)(ReasonCode.BMC_UNREADABLE, component, text)


def _called(psu: Psu) -> str:
    """As a person finds it: "PSU2 (serial 1234)"."""
    return f"{psu.name} (serial {psu.serial})" if psu.serial else psu.name


def _supply(name: str, seen: Sequence[Psu], found: Seen, limits: Limits) -> Iterator[Finding]:
    component = f"psu:{name}"
    if failed := next((psu for psu in seen if psu.failed), None):
        text = f"Power supply {_called(failed)} reports a fault: {failed.states}"
        yield error(ReasonCode.PSU_FAILED, component, text, failed.states)
    elif troubled := next((psu for psu in seen if psu.troubled), None):
        text = f"Power supply {_called(troubled)} asks for attention: {troubled.states}"
        yield warning(ReasonCode.PSU_FAILED, component, text, troubled.states)
    if lost := next((psu for psu in seen if psu.input_lost), None):
        if _believable(lost, found):
            text = f"Power supply {_called(lost)} has no (or bad) input power: {lost.states}. Check its cable and feed"
            yield error(ReasonCode.PSU_INPUT_LOST, component, text, lost.states)
        else:
            text = f"{name} claims to be without power, yet it is the only supply and the machine runs: not believed"
            yield info(ReasonCode.PSU_INPUT_LOST, component, text)
    if seen[-1].source == "power_supply" and not all(psu.states for psu in seen):
        text = f"The kernel lists power supply {name}, but does not say whether it has power"
        yield error(ReasonCode.OUTPUT_UNREADABLE, component, text)
    yield from _absence(name, seen, found, limits)


def _believable(psu: Psu, found: Seen) -> bool:
    """The kernel's own class has dead entries on some boards; a machine cannot run on no supply at all."""
    others = (seen[-1] for name, seen in found.items() if name != psu.name)
    return psu.source != "power_supply" or any(not other.input_lost for other in others)


def _absence(name: str, seen: Sequence[Psu], found: Seen, limits: Limits) -> Iterator[Finding]:
    missing = [psu.present is False for psu in seen]
    if not any(missing):
        return
    enough = limits.expected_count is not None and limits.expected_count <= _present(found)
    if enough and all(missing):
        text = f"The place of power supply {name} is empty; {limits.expected_count} are expected and there"
        yield info(ReasonCode.PSU_ABSENT, f"psu:{name}", text)
    else:
        when = "is not there" if all(missing) else "went away while the machine was under load"
        yield error(ReasonCode.PSU_ABSENT, f"psu:{name}", f"Power supply {name} {when}, says its sensor")


def _present(found: Seen) -> int:
    return sum(all(psu.present is not False for psu in seen) for seen in found.values())


def _vanished(samples: Sequence[PsuReading], found: Seen) -> Iterator[Finding]:
    """A supply whose sensor itself is gone from a later sample."""
    last = {psu.name for psu in samples[-1].supplies} if samples else set()
    for name in found:
        if name not in last:
            text = f"Power supply {name} was there at first, and its sensor is gone from the last sample"
            yield error(ReasonCode.PSU_ABSENT, f"psu:{name}", text)


def _count(samples: Sequence[PsuReading], limits: Limits) -> Iterator[Finding]:
    if limits.expected_count is None:
        return
    there = min(sum(psu.present is not False for psu in reading.supplies) for reading in samples)
    if there < limits.expected_count:
        text = f"{limits.expected_count} power supplies expected, {there} there"
        yield error(ReasonCode.PSU_ABSENT, "psu", text)


def _redundancy(samples: Sequence[PsuReading], limits: Limits) -> Iterator[Finding]:
    wanted = limits.redundancy if limits.redundancy is not None else limits.expected_count != 1
    rows = [row for reading in samples for row in reading.redundancy]
    if limits.redundancy and not rows:
        text = "The supplies must back each other up, but the BMC has no sensor that says whether they do"
        yield error(ReasonCode.BMC_UNREADABLE, "psu", text)
    for name in sorted({row.name for row in rows if not row.full}):
        state = next(row.state for row in rows if row.name == name and not row.full)
        text = f"The power supplies do not back each other up: {name} reads {state!r}"
        yield (error if wanted else info)(ReasonCode.PSU_REDUNDANCY_LOST, f"psu:{name}", text, state)


def _units(samples: Sequence[PsuReading]) -> Iterator[Finding]:
    """Faults of the power unit as a whole, once each."""
    for name, state in sorted({(fault.name, fault.state) for reading in samples for fault in reading.units}):
        yield error(
            ReasonCode.PSU_FAILED, f"psu:{name}", f"The power unit reports a fault: {name} reads {state!r}", state
        )


_SOUND_EVENT = re.compile(
    r"Presence detected \| Asserted|\| Fully Redundant \| Asserted|Power off/down|Power cycle|Reset"
    r"|(?:failure|lost|out-of-range[^|]*|error|inactive|degraded[^|]*|Non-Redundant[^|]*) \| Deasserted"
    r"|Failure detected \| Deasserted|Failure Deasserted",
    re.IGNORECASE,
)
_STANDBY_EVENT = re.compile(r"Supply Inactive \| Asserted", re.IGNORECASE)
"""A supply that goes to standby: by design where supplies are kept cold, a fault elsewhere."""


def _events(new_events: Sequence[SelEntry], found: Seen) -> Iterator[Finding]:
    """New entries about power, except good news."""
    for entry in new_events:
        if re.match(r"Power (?:Supply|Unit)\b", entry.text) and not _SOUND_EVENT.search(entry.text):
            sensor = re.sub(r"^Power (?:Supply|Unit) ", "", entry.text.split(" | ")[0])
            name = psus.supply_name(sensor)
            called = _called(found[name][-1]) if name in found else sensor
            text = f"The BMC logged a power event of {called} during the load: {entry.text}"
            severity = warning if _STANDBY_EVENT.search(entry.text) else error
            yield severity(ReasonCode.PSU_EVENT, f"psu:{name or sensor}", text, entry.text)


def _imbalance(found: Seen, limits: Limits) -> Iterator[Finding]:
    shares, unit = _shares(found)
    total = sum(shares.values())
    if len(shares) < 2 or total <= 0 or (unit == "W" and total < IMBALANCE_FLOOR_W):
        return
    even = total / len(shares)
    name, most = max(shares.items(), key=lambda share: share[1])
    if (excess := most / even - 1) > limits.imbalance_limit:
        listed = ", ".join(f"{psu} {value:.4g} {unit}" for psu, value in shares.items())
        text = f"The load is shared unevenly, {name} carries {excess:.0%} more than its part: {listed}"
        yield warning(ReasonCode.PSU_IMBALANCE, f"psu:{name}", text)


def _shares(found: Seen) -> tuple[dict[str, float], str]:
    """Mean watts (else amps) of each supply that is there and powered; in standby they carry nothing by design."""
    working = {name: seen for name, seen in found.items() if not any(_out_of_service(psu) for psu in seen)}
    watts = {name: [psu.watts for psu in seen if psu.watts is not None] for name, seen in working.items()}
    amps = {name: [psu.amps for psu in seen if psu.amps is not None] for name, seen in working.items()}
    chosen, unit = (watts, "W") if all(watts.values()) else (amps, "A")
    return {name: fmean(values) for name, values in chosen.items() if values}, unit


def _out_of_service(psu: Psu) -> bool:
    idle = re.search(r"inactive|standby|offline|disabled", psu.states, re.IGNORECASE)
    return psu.present is False or psu.failed or psu.input_lost or idle is not None


def _figures(found: Seen) -> Iterator[Measurement]:
    for name, seen in found.items():
        watts = [psu.watts for psu in seen if psu.watts is not None]
        if watts:
            yield Measurement("power_mean", f"psu:{name}", round(fmean(watts), 1), "W")
            yield Measurement("power_max", f"psu:{name}", max(watts), "W")

"""Power supplies: present, powered, sound and sharing the load while the machine works hard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from probes import ipmi, psus
from probes.ipmi import IpmiError, SelEntry
from probes.psus import Psu
from probes.tools import ToolError
from stages import psu_samples
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, error, info, warning
from stages.psu_samples import PsuSamples
from stages.runner import tool_finding
from stages.stage import Stage, StageContext

IMBALANCE_FLOOR_W = 100.0
"""Below this in total, the split says nothing: supplies share by a droop that only a load brings out."""


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage."""

    duration_s: float = field(default=30.0, metadata={"minimum": 0.0, "maximum": 86400.0})
    """Seconds of CPU load during which the supplies are sampled. 0: judge what CPUStress sampled."""
    expected_count: int | None = field(default=None, metadata={"minimum": 0})
    """How many supplies must be there. None: as many as the sensors have places for."""
    redundancy: bool | None = None
    """Whether they must back each other up. None: where a sensor speaks of it and one supply is not all expected."""
    bmc_expected: bool = False
    """Whether a machine without a BMC is one with a fault."""
    imbalance_limit: float = field(default=0.2, metadata={"minimum": 0.0})
    """How far a supply's share may lie above the even share, as a part of it."""


async def run(context: StageContext, options: Options) -> Outcome:
    """Sample the supplies under load and judge them."""
    host = context.host
    if not psus.has_sensors(host):
        return _without_sensors(options, announced=ipmi.announced(host))
    try:
        samples, load_findings = await _samples(context, options)
        new_events, event_findings = await _new_events(context, samples)
    except ToolError as problem:
        return Outcome("The power supplies could not be judged", (tool_finding(problem, "bmc"),))
    outcome = judge(samples, new_events, options)
    return outcome.plus([*load_findings, *event_findings])


def _without_sensors(options: Options, *, announced: bool) -> Outcome:
    if announced:
        text = "The firmware names a BMC, but the kernel has no device for it: load ipmi_si and ipmi_devintf"
    elif options.bmc_expected or options.expected_count:
        text = "A BMC was expected, but this machine shows none, so its power supplies cannot be judged"
    else:
        return Outcome("No BMC and no power supply sensors, and none expected", hardware_present=False)
    return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "bmc", text),))


# --- run ----------------------------------------------------------------------------------------------------------


async def _samples(context: StageContext, options: Options) -> tuple[PsuSamples, list[Finding]]:
    """Samples under load: our own, or those of CPUStress with one more taken now."""
    if options.duration_s > 0:
        return await _under_own_load(context, options.duration_s)
    samples = psu_samples.earlier(context.facts.earlier_evidence.get("CPUStress"))
    findings: list[Finding] = []
    if samples is None or not samples.readings:
        text = "The power supplies were not seen under load: CPUStress left no samples, and no load was asked for"
        findings.append(error(ReasonCode.COVERAGE_LOW, "psu", text))
        samples = samples or await psu_samples.begin(context.host)
    await psu_samples.take(context, samples)
    return samples, findings


async def _under_own_load(context: StageContext, duration_s: float) -> tuple[PsuSamples, list[Finding]]:
    samples = await psu_samples.begin(context.host)
    context.info(f"sampling the power supplies during {duration_s:g} s of CPU load")
    argv = ("stress-ng", "--cpu", "0", "--timeout", f"{max(1, round(duration_s))}s")
    load = asyncio.create_task(_load(context, argv, duration_s))
    progress = asyncio.create_task(_progress(context, duration_s))
    try:
        await psu_samples.watch(context, samples, load)
        return samples, await load
    finally:
        for task in (load, progress):
            task.cancel()
        await asyncio.wait({load, progress})


async def _load(context: StageContext, argv: Sequence[str], duration_s: float) -> list[Finding]:
    try:
        result = await context.host.tools.run(*argv, timeout_s=duration_s + 30, load=True)
    except ToolError as problem:
        return [tool_finding(problem, "psu")]
    if result.duration_s < 0.9 * duration_s:
        text = f"The load, and with it the test, ended after {result.duration_s:.1f} s of {duration_s:g} s"
        return [error(ReasonCode.TOOL_FAILED, "psu", text, result.last_words())]
    return []


async def _progress(context: StageContext, duration_s: float) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        elapsed = loop.time() - started
        context.progress(elapsed / duration_s, max(0.0, duration_s - elapsed))
        await asyncio.sleep(1.0)


async def _new_events(context: StageContext, samples: PsuSamples) -> tuple[list[SelEntry], list[Finding]]:
    """What the event log gained since the samples were begun."""
    if not ipmi.present(context.host):
        return [], []
    if samples.events_before is None:
        text = "The BMC's event log could not be read before the load, so new power events cannot be told"
        return [], [error(ReasonCode.BMC_UNREADABLE, "bmc", text, samples.failures[0] if samples.failures else "")]
    try:
        after = await ipmi.events(context.host, psu_samples.EVENTS_READ)
        return ipmi.new_entries(samples.events_before, after), []
    except IpmiError as problem:
        return [], [error(ReasonCode.BMC_UNREADABLE, "bmc", f"The BMC's event log could not be read: {problem}")]


# --- judge -----------------------------------------------------------------------------------------------------------


def judge(samples: PsuSamples, new_events: Sequence[SelEntry], options: Options) -> Outcome:
    """Findings, figures and coverage from what was sampled (pure)."""
    by_name = _by_name(samples)
    if not by_name:
        return _no_supplies(samples, options)
    findings = [
        *_unread(samples),
        *(finding for name, seen in by_name.items() for finding in _supply(name, seen, by_name, options)),
        *_count(samples, options),
        *_redundancy(samples, options),
        *_events(new_events),
        *_imbalance(by_name, options),
    ]
    return Outcome(
        f"{len(by_name)} power supplies sampled {len(samples.readings)} times",
        tuple(findings),
        tuple(_figures(by_name)),
        {f"psu:{name}": 1.0 for name in by_name},
    )


def _by_name(samples: PsuSamples) -> dict[str, list[Psu]]:
    found: dict[str, list[Psu]] = {}
    for reading in samples.readings:
        for psu in reading.supplies:
            found.setdefault(psu.name, []).append(psu)
    return found


def _no_supplies(samples: PsuSamples, options: Options) -> Outcome:
    if not samples.readings:
        text = f"The BMC did not answer: {samples.failures[0] if samples.failures else 'no reading was taken'}"
        return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "bmc", text),))
    if options.expected_count:
        text = f"{options.expected_count} power supplies expected, but the BMC has no sensor for any"
        return Outcome(text, (error(ReasonCode.BMC_UNREADABLE, "bmc", text),))
    return Outcome("The BMC has no power supply sensors, and none are expected", hardware_present=False)


def _unread(samples: PsuSamples) -> Iterator[Finding]:
    if samples.failures:
        tried = len(samples.failures) + len(samples.readings)
        text = f"The BMC did not answer {len(samples.failures)} of {tried} times: {samples.failures[-1]}"
        severe = len(samples.failures) >= len(samples.readings)
        yield (error if severe else warning)(ReasonCode.BMC_UNREADABLE, "bmc", text)


def _supply(name: str, seen: Sequence[Psu], all_seen: dict[str, list[Psu]], options: Options) -> Iterator[Finding]:
    component = f"psu:{name}"
    if failed := next((psu for psu in seen if psu.failed), None):
        text = f"Power supply {name} reports a fault: {failed.states}"
        yield error(ReasonCode.PSU_FAILED, component, text, failed.states)
    if lost := next((psu for psu in seen if psu.input_lost), None):
        if _believable(lost, all_seen):
            text = f"Power supply {name} has no (or bad) input power: {lost.states}. Check its cable and feed"
            yield error(ReasonCode.PSU_INPUT_LOST, component, text, lost.states)
        else:
            text = f"{name} claims to be without power, yet it is the only supply and the machine runs: not believed"
            yield info(ReasonCode.PSU_INPUT_LOST, component, text)
    yield from _absence(name, seen, all_seen, options)


def _believable(psu: Psu, all_seen: dict[str, list[Psu]]) -> bool:
    """The kernel's own class has dead entries on some boards; a machine cannot run on no supply at all."""
    others = (seen[-1] for name, seen in all_seen.items() if name != psu.name)
    return psu.source == "ipmi" or any(not other.input_lost for other in others)


def _absence(name: str, seen: Sequence[Psu], all_seen: dict[str, list[Psu]], options: Options) -> Iterator[Finding]:
    missing = [psu.present is False for psu in seen]
    if not any(missing):
        return
    enough = options.expected_count is not None and options.expected_count <= _present(all_seen)
    if enough and all(missing):
        text = f"The place of power supply {name} is empty; {options.expected_count} are expected and there"
        yield info(ReasonCode.PSU_ABSENT, f"psu:{name}", text)
    else:
        when = "is not there" if all(missing) else "went away while the machine was under load"
        yield error(ReasonCode.PSU_ABSENT, f"psu:{name}", f"Power supply {name} {when}, says its sensor")


def _present(all_seen: dict[str, list[Psu]]) -> int:
    return sum(all(psu.present is not False for psu in seen) for seen in all_seen.values())


def _count(samples: PsuSamples, options: Options) -> Iterator[Finding]:
    if options.expected_count is None:
        return
    there = min(sum(psu.present is not False for psu in reading.supplies) for reading in samples.readings)
    if there < options.expected_count:
        text = f"{options.expected_count} power supplies expected, {there} there"
        yield error(ReasonCode.PSU_ABSENT, "psu", text)


def _redundancy(samples: PsuSamples, options: Options) -> Iterator[Finding]:
    wanted = options.redundancy if options.redundancy is not None else options.expected_count != 1
    rows = [row for reading in samples.readings for row in reading.redundancy]
    if options.redundancy and not rows:
        text = "The supplies must back each other up, but the BMC has no sensor that says whether they do"
        yield error(ReasonCode.BMC_UNREADABLE, "psu", text)
    for name in sorted({row.name for row in rows if not row.full}):
        state = next(row.state for row in rows if row.name == name and not row.full)
        text = f"The power supplies do not back each other up: {name} reads {state!r}"
        yield (error if wanted else info)(ReasonCode.PSU_REDUNDANCY_LOST, f"psu:{name}", text, state)


_SOUND_EVENT = re.compile(
    r"Presence detected \| Asserted|Fully Redundant \| Asserted|Power off/down|Power cycle|Reset"
    r"|(?:failure|lost|out-of-range[^|]*|error|inactive|degraded[^|]*|Non-Redundant[^|]*) \| Deasserted"
    r"|Failure detected \| Deasserted",
    re.IGNORECASE,
)


def _events(new_events: Sequence[SelEntry]) -> Iterator[Finding]:
    """New entries about power, except good news."""
    for entry in new_events:
        if re.match(r"Power (?:Supply|Unit)\b", entry.text) and not _SOUND_EVENT.search(entry.text):
            sensor = re.sub(r"^Power (?:Supply|Unit) ", "", entry.text.split(" | ")[0])
            name = psus.supply_name(sensor)
            text = f"The BMC logged a power event during the load: {entry.text}"
            yield error(ReasonCode.PSU_EVENT, f"psu:{name or sensor}", text, entry.text)


def _imbalance(by_name: dict[str, list[Psu]], options: Options) -> Iterator[Finding]:
    shares, unit = _shares(by_name)
    total = sum(shares.values())
    if len(shares) < 2 or total == 0 or (unit == "W" and total < IMBALANCE_FLOOR_W):
        return
    even = total / len(shares)
    name, most = max(shares.items(), key=lambda share: share[1])
    if (excess := most / even - 1) > options.imbalance_limit:
        listed = ", ".join(f"{psu} {value:.4g} {unit}" for psu, value in shares.items())
        text = f"The load is shared unevenly, {name} carries {excess:.0%} more than its part: {listed}"
        yield warning(ReasonCode.PSU_IMBALANCE, f"psu:{name}", text)


def _shares(by_name: dict[str, list[Psu]]) -> tuple[dict[str, float], str]:
    """Mean watts (else amps) of each supply that is there and powered; in standby they carry nothing by design."""
    working = {name: seen for name, seen in by_name.items() if not any(_out_of_service(psu) for psu in seen)}
    watts = {name: [psu.watts for psu in seen if psu.watts is not None] for name, seen in working.items()}
    amps = {name: [psu.amps for psu in seen if psu.amps is not None] for name, seen in working.items()}
    chosen, unit = (watts, "W") if all(watts.values()) else (amps, "A")
    return {name: fmean(values) for name, values in chosen.items() if values}, unit


def _out_of_service(psu: Psu) -> bool:
    return psu.present is False or psu.failed or psu.input_lost or "inactive" in psu.states.lower()


def _figures(by_name: dict[str, list[Psu]]) -> Iterator[Measurement]:
    for name, seen in by_name.items():
        watts = [psu.watts for psu in seen if psu.watts is not None]
        if watts:
            yield Measurement("power_mean", f"psu:{name}", round(fmean(watts), 1), "W")
            yield Measurement("power_max", f"psu:{name}", max(watts), "W")


STAGE = Stage(
    name="PSU",
    state="PSU",
    title="Power supplies",
    options=Options,
    planned_s=lambda options: options.duration_s + 60.0,
    run=run,
    tools=("ipmitool", "stress-ng"),
)

"""Power supplies: present, powered, sound and sharing the load while the machine works hard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from probes import ipmi, psus, smbios
from probes.ipmi import IpmiError
from probes.tools import ToolError, ToolMissing, ToolUnkillable
from stages import psu_judge, psu_places, psu_redfish, psu_samples
from stages.outcome import Finding, Outcome, ReasonCode, error
from stages.psu_judge import Limits, PsuReadings
from stages.psu_samples import PsuSamples
from stages.runner import tool_finding
from stages.stage import Stage, StageContext

LOADING_STAGES = ("CPUStress", "GPU")
"""Those that may have left samples in their evidence, taken under their own load."""


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage."""

    duration_s: float = field(default=30.0, metadata={"minimum": 0.0, "maximum": 86400.0})
    """Seconds of CPU load during which the supplies are sampled. 0: judge what CPUStress and GPU sampled."""
    expected_count: int | None = field(default=None, metadata={"minimum": 0})
    """How many supplies must be there. None: as many as the sensors have places for."""
    redundancy: bool | None = None
    """Whether they must back each other up. None: where a sensor speaks of it and one supply is not all expected."""
    bmc_expected: bool = False
    """Whether a machine without a BMC is one with a fault."""
    imbalance_limit: float = field(default=0.2, metadata={"minimum": 0.0})
    """How far a supply's share may lie above the even share, as a part of it."""
    redfish_url: str = ""
    """https://HOST of the BMC's Redfish service, which is then asked as well. Empty: it is not."""
    redfish_user: str = ""
    redfish_password_file: str = ""
    """A file on this host whose first line is the password."""
    redfish_fingerprint: str = ""
    """SHA-256 of the service's certificate. Empty: its certificate must be of a CA that this host trusts."""
    redfish_insecure: bool = False
    """Take any certificate, and http."""

    def limits(self) -> Limits:
        """What counts as sound."""
        return Limits(self.expected_count, self.redundancy, self.bmc_expected, self.imbalance_limit)


async def run(context: StageContext, options: Options) -> PsuReadings:
    """Sample the supplies under load."""
    host = context.host
    watched = psu_redfish.watched(context, options)
    if not psus.has_sensors(host) and watched is None:
        return PsuReadings(has_sensors=False, announced=ipmi.announced(host))
    try:
        samples, problems = await _samples(context, options, watched)
    except (ToolMissing, ToolUnkillable) as problem:
        return PsuReadings(has_sensors=True, problems=(tool_finding(problem, "bmc"),))
    samples, problems = await _new_events(context, samples, problems)
    return PsuReadings(
        has_sensors=psus.has_sensors(host),
        announced=ipmi.announced(host),
        samples=tuple(samples.readings),
        failures=tuple(samples.failures),
        new_events=tuple(samples.events_new),
        serials=await _serials(context),
        firmware=await _firmware(context),
        problems=tuple(problems),
        redfish=watched.readings() if watched else None,
    )


Sampled = tuple[PsuSamples, list[Finding]]


async def _samples(context: StageContext, options: Options, watched: psu_redfish.Watch | None) -> Sampled:
    """Samples under load: our own, or those of earlier stages with one more taken now."""
    if options.duration_s > 0:
        samples = await psu_samples.begin(context.host)
        return samples, await _under_own_load(context, options.duration_s, samples, watched)
    findings: list[Finding] = []
    found = [psu_samples.earlier(context.facts.earlier_evidence.get(stage)) for stage in LOADING_STAGES]
    kept = [one for one in found if one is not None and one.readings]
    if kept:
        samples = psu_samples.joined(kept)
    else:
        text = "The power supplies were not seen under load: no stage left samples, and no load was asked for"
        findings.append(error(ReasonCode.COVERAGE_LOW, "psu", text))
        samples = await psu_samples.begin(context.host)
    await _take(context, samples, watched)
    return samples, findings


async def _under_own_load(
    context: StageContext, duration_s: float, samples: PsuSamples, watched: psu_redfish.Watch | None
) -> list[Finding]:
    context.info(f"sampling the power supplies during {duration_s:g} s of CPU load")
    argv = ("stress-ng", "--cpu", "0", "--timeout", f"{max(1, round(duration_s))}s")
    load = asyncio.create_task(_load(context, argv, duration_s))
    progress = asyncio.create_task(_progress(context, duration_s))
    try:
        while True:
            await _take(context, samples, watched)
            await asyncio.wait({load}, timeout=psu_samples.INTERVAL_S)
            if load.done():
                return await load
    finally:
        for task in (load, progress):
            task.cancel()
        await asyncio.wait({load, progress})


async def _take(context: StageContext, samples: PsuSamples, watched: psu_redfish.Watch | None) -> None:
    if psus.has_sensors(context.host):
        await psu_samples.take(context, samples)
    if watched is not None:
        await watched.take(context)


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


async def _new_events(context: StageContext, samples: PsuSamples, problems: list[Finding]) -> Sampled:
    """What the event log gained since the samples were begun."""
    if not ipmi.present(context.host):
        return samples, problems
    if samples.events_before is None:
        text = "The BMC's event log could not be read before the load, so new power events cannot be told"
        why = samples.failures[0] if samples.failures else ""
        return samples, [*problems, error(ReasonCode.BMC_UNREADABLE, "bmc", text, why)]
    try:
        after = await ipmi.events(context.host, psu_samples.EVENTS_READ)
    except (IpmiError, ToolMissing, ToolUnkillable) as problem:
        text = f"The BMC's event log could not be read: {problem}"
        return samples, [*problems, error(ReasonCode.BMC_UNREADABLE, "bmc", text)]
    samples.events_new = ipmi.new_entries(samples.events_before, after)
    return samples, problems


async def _serials(context: StageContext) -> dict[str, str]:
    """Serial numbers by part; a BMC that has none to tell is no fault."""
    if not ipmi.present(context.host):
        return {}
    try:
        return await ipmi.serials(context.host)
    except (IpmiError, ToolError) as problem:
        context.info(f"no serial numbers from the BMC: {problem}")
        return {}


async def _firmware(context: StageContext) -> tuple[str, ...]:
    """Supplies by the firmware's tables; one that has none, or none that can be read, is no fault."""
    if not ipmi.present(context.host) or not smbios.present(context.host):
        return ()
    try:
        return psu_places.of_firmware(await smbios.read(context.host, (smbios.POWER_SUPPLY,)))
    except (ToolError, smbios.UnreadableTables) as problem:
        context.info(f"no power supplies from the firmware's tables: {problem}")
        return ()


def judge(readings: PsuReadings, options: Options) -> Outcome:
    """The outcome for all supplies. Pure."""
    return psu_judge.judge(readings, options.limits())


STAGE = Stage(
    name="PSU",
    state="PSU",
    title="Power supplies",
    options=Options,
    planned_s=lambda options: options.duration_s + 60.0,
    run=run,
    readings=PsuReadings,
    judge=judge,
    tools=("ipmitool", "stress-ng"),
)

"""Ordinary machines, and what keeps each from a false alarm: `python -m tests.tables.false_alarms [--write]`.

Makes docs/false-alarms.md from what the product says of the recorded machines. A test fails when it is stale.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes import cpu, sensors
from probes.counters import Counters, Throttle, read, throttled_fraction
from probes.notes import Notes
from stages import deltas
from stages.cpu_stress_judge import throttle_findings
from stages.outcome import Finding, Severity, Verdict
from tests.support.recorded_facts import outcome
from tests.support.replay import recorded_host
from vetting_agent.recorded_stage import AT_REST
from vetting_agent.thermal import CRITICAL_SAMPLES, CriticalWatch

DOCUMENT = Path(__file__).parents[2] / "docs" / "false-alarms.md"
LOAD_S = 120.0
NEEDS_LOAD = "needs load"
"""The verdict of a stage that lacks nothing but a load, which a recording cannot be put under."""


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A sound machine of a common kind."""

    kind: str
    machine: str
    looks_like: str
    """What a careless judge would take for a fault."""
    kept_by: str
    """Why it is none here."""


MACHINES: Sequence[Ordinary] = (
    Ordinary(
        "home server without BMC",
        "mini-pc",
        'no BMC, no power supply sensors, SMBIOS full of "Default string", no serial number of its own',
        "PSU is not applicable where no BMC is and none is expected; placeholders count as not told, with a note",
    ),
    Ordinary(
        "consumer SSD",
        "mini-pc",
        "smartctl ends with exit code 4, because the SSD lacks a log",
        "bit 2 of the exit status matters only when data is missing that is needed here",
    ),
    Ordinary(
        "1 GbE, and ports with nothing plugged in",
        "mini-pc",
        "a 2.5 GbE port at 1 Gb/s, three ports without a link",
        "a port must reach what both sides offer; a dark one fails only if it is expected or was booted from",
    ),
    Ordinary(
        "x8 card in a slot of four lanes",
        "mini-pc",
        "the link is half as wide as the card could",
        "a link is measured by the lesser of both its ends, and is a warning unless the profile says error",
    ),
    Ordinary(
        "virtual machine with virtio disks",
        "qemu-sata-scsi",
        "disks without SMART data, of QEMU's make, a USB stick, no DIMM serials",
        "SMART does not apply to virtio, nor to virtual disks and USB bridges that have none; the others are judged",
    ),
    Ordinary(
        "NVMe disk without self-test",
        "qemu-nvme",
        "the controller has no device self-test",
        "not supported is told, not failed; health, spare, wear and media errors are judged all the same",
    ),
    Ordinary(
        "disks behind a RAID controller",
        "two-socket-raid",
        "a volume that answers smartctl with an error and without health",
        "the volume does not count; the disks behind it are reached by pass-through and judged one by one",
    ),
    Ordinary(
        "old events on record",
        "two-socket-raid",
        "three corrected memory errors counted, an event log that tells of a pulled cable long ago",
        "only what a counter or a log gains during a stage is charged to it",
    ),
    Ordinary(
        "Arm server",
        "arm-server",
        "no BIOS, no SMBIOS, no microcode version, no throttle counters",
        "what a machine does not have is a note; sections are judged by what is there",
    ),
    Ordinary(
        "GPU node at rest",
        "gpu-node-h100",
        "GPUs at 30 °C and 70 W, eight times",
        "health facts are sound; it takes a load to pass, and the verdict says no more than that",
    ),
    Ordinary(
        "machine with a BMC but no supply sensors",
        "qemu-bmc",
        "the BMC refuses `lan print` and shows no power supply",
        "none is expected; a BMC without a network port of its own is a note",
    ),
)


async def verdicts(machine: str) -> dict[str, str]:
    """What each stage that can judge a recording says of it."""
    found = {}
    with tempfile.TemporaryDirectory() as evidence:
        for name in sorted(AT_REST):
            result = await outcome(recorded_host(machine), name, Path(evidence))
            lacking = {finding.reason_code.value for finding in result.errors} <= {"tool_failed", "gpu_not_loaded"}
            said = " ".join(finding.message for finding in result.errors)
            needs_load = result.verdict is Verdict.UNKNOWN and lacking and "load" in said
            found[name] = NEEDS_LOAD if needs_load else result.verdict.value.replace("_", " ")
    return found


# --- what a load brings out ------------------------------------------------------------------------------------------


def hot_cpu() -> list[Finding]:
    """An N100 that stays at 97 °C of 105 and is throttled for a third of the load, as its maker meant it to be."""
    host = recorded_host("mini-pc")
    watch = CriticalWatch()
    alarms = [alarm for _ in range(2 * CRITICAL_SAMPLES) for alarm in watch.alarms(sensors.read_all(host))]
    before = read(host)
    after = _later(before, 40_000)
    model = cpu.read(host, Notes()).model or ""
    found, _ = throttle_findings(throttled_fraction(before, after, LOAD_S), 0.05, model)
    return [*(alarm.finding for alarm in alarms), *found]


def hot_server() -> list[Finding]:
    """The other side of it: the same on a Xeon is a fault."""
    before = Counters(throttle={"0": Throttle(0, 0)})
    after = Counters(throttle={"0": Throttle(9, 40_000)})
    return throttle_findings(throttled_fraction(before, after, LOAD_S), 0.05, "Intel(R) Xeon(R) CPU E5-2680 0")[0]


def quiet_counters() -> list[Finding]:
    """A server with old corrected memory errors, over a stage in which nothing happened."""
    counters = read(recorded_host("two-socket-raid"))
    return deltas.judge(counters, counters, needed=True)[0]


def _later(before: Counters, throttled_ms: int) -> Counters:
    from dataclasses import replace

    later = {
        name: replace(one, count=one.count + 900, time_ms=(one.time_ms or 0) + throttled_ms)
        for name, one in before.throttle.items()
    }
    return replace(before, throttle=later)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Something that a load brings out on a sound machine, and the judge's findings on it."""

    kind: str
    seen: str
    findings: Callable[[], list[Finding]]
    kept_by: str


LOADED: Sequence[Loaded] = (
    Loaded(
        "laptop-class CPU at its limit",
        "mini-pc: 97 °C of 105 °C for minutes, throttled for 33 % of the load",
        hot_cpu,
        "temperature alone is no fault; throttling fails server CPUs only, others are warned of",
    ),
    Loaded(
        "server with old memory errors",
        "two-socket-raid: three corrected errors before the stage, none in it",
        quiet_counters,
        "only the increase is judged; old errors are told for information",
    ),
)


def worst(findings: Sequence[Finding]) -> str:
    """The verdict that findings alone lead to: "fail" or "pass", with how many warnings."""
    severities = [finding.severity for finding in findings]
    if Severity.ERROR in severities:
        return "fail"
    warnings = severities.count(Severity.WARNING)
    return "pass" + (f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else "")


# --- the document ----------------------------------------------------------------------------------------------------


async def document() -> str:
    """The whole of docs/false-alarms.md."""
    names = sorted(AT_REST)
    said = {machine: await verdicts(machine) for machine in dict.fromkeys(one.machine for one in MACHINES)}
    lines = [
        "# Ordinary machines that must not raise an alarm",
        "",
        "Made by `python -m tests.tables.false_alarms --write` from what the product says of the recorded machines in",
        "`tests/fixtures/hosts` (each has a file that tells what of it is real); a test fails when this page is stale.",
        f'"{NEEDS_LOAD}": all that was read is sound, and a recording cannot be put under the load that a pass takes.',
        "",
        "| ordinary machine | recording | " + " | ".join(names) + " | looks like a fault | and why it is none |",
        "|---" * (len(names) + 4) + "|",
        *(_row(one, [said[one.machine][name] for name in names]) for one in MACHINES),
        "",
        "## Under load",
        "",
        "| ordinary machine | what is seen | verdict | and why it is no fault |",
        "|---|---|---|---|",
        *(f"| {one.kind} | {one.seen} | {worst(one.findings())} | {one.kept_by} |" for one in LOADED),
    ]
    return "\n".join(lines) + "\n"


def _row(one: Ordinary, told: Sequence[str]) -> str:
    return f"| {one.kind} | {one.machine} | {' | '.join(told)} | {one.looks_like} | {one.kept_by} |"


def main(words: Sequence[str]) -> int:
    text = asyncio.run(document())
    if "--write" in words:
        DOCUMENT.write_text(text)
        return 0
    sys.stdout.write(text)
    return 0 if DOCUMENT.exists() and DOCUMENT.read_text() == text else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

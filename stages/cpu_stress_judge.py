"""Reads what stress-ng and stressapptest said, and judges it. Pure: text in, findings out.

A tool that says it was successful is believed only when it shows its work: operations counted by the stressor that was
asked for, and at least 90 % of the time that was asked for, by its own clock and by ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from probes.tools import ToolResult
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning

MIB = 2**20
TIME_SHARE = 0.9
MISCOMPARES_QUOTED = 5
SERVER_CPU = re.compile(
    r"EPYC|Xeon|Opteron|Neoverse|Altra|AmpereOne|Graviton|Kunpeng|ThunderX|Grace|Axion|POWER\d", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class StressNgReport:
    """One run of one stressor. `fail_lines` are its verification failures, `operations` and `wall_s` what it counts."""

    stressor: str
    asked_s: float
    ran_s: float
    exit_code: int | None
    operations: float | None
    wall_s: float | None
    fail_lines: tuple[str, ...]
    last_words: str
    max_rss_kib: int | None = None

    @property
    def miscomputed(self) -> bool:
        return bool(self.fail_lines)


# "stress-ng: fail:  [8014] vm: detected 5 bit errors while stressing memory"
_FAIL_LINE = re.compile(r"^stress-ng: fail:\s+\[\d+\] (.*\S)\s*$", re.MULTILINE)
# Its own bookkeeping, spoilt when a stressor is killed in the middle of a write; says nothing of the arithmetic:
# "stress-ng: fail:  [20608] cpu instance 3 corrupted bogo-ops counter, 29344 vs 0"
# "stress-ng: fail:  [20608] metrics-check: stressor metrics corrupted, data is compromised"
_BOOKKEEPING = re.compile(r"bogo-ops counter|metrics-check")


def stress_ng_report(result: ToolResult, metrics: str | None, stressor: str, asked_s: float) -> StressNgReport:
    """From its output (messages go to standard output or error, by version) and its YAML file, if there is one."""
    lines = _FAIL_LINE.findall(result.stdout) + _FAIL_LINE.findall(result.stderr)
    figures = metrics_of(metrics or "", stressor)
    rss = figures.get("max-rss")
    return StressNgReport(
        stressor=stressor,
        asked_s=asked_s,
        ran_s=result.duration_s,
        exit_code=result.exit_code,
        operations=figures.get("bogo-ops"),
        wall_s=figures.get("wall-clock-time"),
        fail_lines=tuple(line for line in lines if not _BOOKKEEPING.search(line)),
        last_words=_complaint(result),
        max_rss_kib=None if rss is None else int(rss),
    )


def _complaint(result: ToolResult) -> str:
    """The first line in which it complains, else its last words."""
    match = re.search(r"^(?:stress-ng: )?(?:error|fail):.*$", f"{result.stderr}\n{result.stdout}", re.MULTILINE)
    return match[0][:200] if match else result.last_words()


def metrics_of(text: str, stressor: str) -> dict[str, float]:
    """The figures of one stressor in the YAML: "- stressor: cpu", then indented "name: figure" lines."""
    found: dict[str, float] = {}
    inside = False
    for line in text.splitlines():
        if match := re.match(r"\s*- stressor: '?([\w-]+)'?", line):
            inside = match[1] == stressor
        elif inside and (match := re.match(r"\s+([\w-]+): (\d{1,18}(?:\.\d{1,18})?)\s*$", line)):
            found[match[1]] = float(match[2])
    return found


def untested(report: StressNgReport) -> str | None:
    """Why a run without a miscompute proves nothing, or None when it was a real one."""
    name = f"stress-ng's {report.stressor} test"
    if report.exit_code != 0:
        return f"{name} ended with exit code {report.exit_code} without saying that a result was wrong"
    if not report.operations or report.wall_s is None:
        return f"{name} ended as if all were well, but reports no work"
    if min(report.wall_s, report.ran_s) < TIME_SHARE * report.asked_s:
        return f"{name} ended after {min(report.wall_s, report.ran_s):.1f} s of {report.asked_s:g} s"
    return None


def cpu_findings(report: StressNgReport, pinned: Mapping[int, StressNgReport]) -> Iterator[Finding]:
    """Findings for one stressor on all CPUs, and for its runs on each CPU alone after a miscompute."""
    if not report.miscomputed:
        if why := untested(report):
            code = ReasonCode.TOOL_FAILED if report.exit_code else ReasonCode.OUTPUT_UNREADABLE
            yield error(code, "cpu", why, report.last_words)
        return
    quoted = "\n".join(report.fail_lines[:MISCOMPARES_QUOTED])
    guilty = {cpu: run for cpu, run in pinned.items() if run.miscomputed}
    for cpu, run in guilty.items():
        text = f"CPU {cpu} computed wrong results in stress-ng's {report.stressor} test, with the test alone on it too"
        yield error(ReasonCode.CPU_MISCOMPUTE, f"cpu:{cpu}", text, "\n".join(run.fail_lines[:MISCOMPARES_QUOTED]))
    if not guilty:
        tried = "it did not come again on any CPU alone" if pinned else "no CPU could be tried alone"
        text = f"A CPU computed wrong results in stress-ng's {report.stressor} test; which one is not known: {tried}"
        yield error(ReasonCode.CPU_MISCOMPUTE, "cpu", text, quoted)


# --- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SatReport:
    """One run of stressapptest; what it did not print is None. `miscompares` are its "Hardware Error" lines."""

    asked_s: float
    ran_s: float
    exit_code: int | None
    status: str | None
    started_mib: int | None
    completed_mib: float | None
    completed_s: float | None
    incidents: int
    miscompares: tuple[str, ...]
    version: str | None
    last_words: str


# 1.0.11 begins each line with the time, 1.0.6 does not: "2026/11/21-05:09:28(UTC) Status: PASS - please verify …"
_SAT_TIME = re.compile(r"^\d{4}/\d\d/\d\d-\d\d:\d\d:\d\d\([^)]*\) ?", re.MULTILINE)

_FIGURE = r"(\d{1,12}(?:\.\d{1,12})?)"
_SAT_STATS = re.compile(rf"Stats: Completed: {_FIGURE}M in {_FIGURE}s .*with (\d{{1,12}}) hardware incidents")


def sat_report(result: ToolResult, asked_s: float) -> SatReport:
    """Parse stressapptest's output, of 1.0.6 (Debian 12) to 1.0.11 (Debian 13)."""
    text = _SAT_TIME.sub("", result.stdout)
    started = re.search(r"Starting SAT, (\d{1,12})M", text)
    completed = _SAT_STATS.search(text)
    status = re.search(r"^Status: (.*\S)", text, re.MULTILINE)
    version = re.search(r"SAT revision (\S+?),", text)
    return SatReport(
        asked_s=asked_s,
        ran_s=result.duration_s,
        exit_code=result.exit_code,
        status=status[1] if status else None,
        started_mib=int(started[1]) if started else None,
        completed_mib=float(completed[1]) if completed else None,
        completed_s=float(completed[2]) if completed else None,
        incidents=int(completed[3]) if completed else 0,
        miscompares=tuple(re.findall(r"^Hardware Error: .*$", text, re.MULTILINE)),
        version=version[1] if version else None,
        last_words=result.last_words(),
    )


def physical_addresses(miscompares: Iterable[str]) -> tuple[str, ...]:
    """The physical addresses of these lines, where they are to be believed.

    "miscompare on CPU 1(<-1) at 0x7f7051d68700(0x1cbf46705:DIMM Unknown): read:0x0000ba00…" is right: a physical
    address lies at the same place of its page as the virtual one (to the word; the last digit is the wrong byte).
    1.0.6 on today's kernels is not: "at 0x7fb3b2f20a70(0x1307784:DIMM Unknown)" mixes flags of pagemap into it.
    """
    found: dict[str, None] = {}
    for line in miscompares:
        for virtual, physical in re.findall(r" at 0x([0-9a-f]+)\(0x([0-9a-f]+):", line):
            if (int(virtual, 16) ^ int(physical, 16)) & 0xFF8 == 0:
                found[f"0x{physical}"] = None
    return tuple(found)


def sat_findings(
    report: SatReport, planned_mib: int, slots: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Finding]:
    """Findings of one run of stressapptest over `planned_mib`; `slots` are the DIMMs by physical address."""
    if report.incidents or report.miscompares or "HW problems" in (report.status or ""):
        yield from _sat_miscompares(report, slots or {})
    elif report.exit_code != 0 or not (report.status or "").startswith("PASS"):
        code = ReasonCode.TOOL_FAILED if report.exit_code else ReasonCode.OUTPUT_UNREADABLE
        said = report.status or "no status line"
        yield error(
            code, "memory", f"stressapptest gave no verdict: {said}, exit code {report.exit_code}", report.last_words
        )
    elif why := _sat_untested(report, planned_mib):
        yield error(ReasonCode.OUTPUT_UNREADABLE, "memory", f"stressapptest says PASS, but {why}", report.last_words)


def _sat_untested(report: SatReport, planned_mib: int) -> str | None:
    if report.started_mib is None or not report.completed_mib or report.completed_s is None:
        return "reports no work"
    if min(report.completed_s, report.ran_s) < TIME_SHARE * report.asked_s:
        return f"ended after {min(report.completed_s, report.ran_s):.1f} s of {report.asked_s:g} s"
    if report.started_mib < planned_mib:
        return f"tested {report.started_mib} MiB of {planned_mib}"
    return None


def _sat_miscompares(report: SatReport, slots: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """One finding a DIMM where one could be named, else one for all; with the CPUs, as a core may be to blame."""
    count = max(report.incidents, len(report.miscompares), 1)
    cpus = sorted({int(cpu) for line in report.miscompares for cpu in re.findall(r"on CPU (\d+)\(", line)})
    seen = f", seen by CPU {', '.join(map(str, cpus))}" if cpus else ""
    dimms = {dimm for line in report.miscompares for dimm in re.findall(r":([^():]+)\): read:", line)} - {
        "DIMM Unknown"
    }
    alone = {places[0] for places in slots.values() if len(places) == 1}
    shared = sorted({slot for places in slots.values() if len(places) > 1 for slot in places} - alone)
    if slots and not dimms:
        seen += f"; at {', '.join(list(slots)[:MISCOMPARES_QUOTED])}"
        seen += f", spread over {', '.join(shared)}" if shared else ""
        seen += ", by the firmware's table: hold it against EDAC" if alone or shared else ""
    for component in sorted(f"dimm:{dimm.strip()}" for dimm in dimms or alone) or ["memory"]:
        text = f"Memory gave back other data than was written to it: {count} miscompare(s) in stressapptest{seen}"
        yield error(ReasonCode.MEMORY_MISCOMPUTE, component, text, "\n".join(report.miscompares[:MISCOMPARES_QUOTED]))


def vm_findings(report: StressNgReport) -> Iterator[Finding]:
    """Findings of stress-ng's vm test, the memory load where there is no stressapptest."""
    if report.miscomputed:
        text = "Memory gave back other data than was written to it, in stress-ng's vm test"
        yield error(ReasonCode.MEMORY_MISCOMPUTE, "memory", text, "\n".join(report.fail_lines[:MISCOMPARES_QUOTED]))
    elif why := untested(report):
        code = ReasonCode.TOOL_FAILED if report.exit_code else ReasonCode.OUTPUT_UNREADABLE
        yield error(code, "memory", why, report.last_words)


# --- the machine under load ------------------------------------------------------------------------------------------


def idle_cpus(busy: Mapping[int, float], online: Sequence[int]) -> list[int]:
    """CPUs that the load did not reach: less than half busy while it ran."""
    return [cpu for cpu in online if busy.get(cpu, 0.0) < 0.5]


def throttle_findings(
    fractions: Mapping[str, float], limit: float, model: str
) -> tuple[list[Finding], list[Measurement]]:
    """Slowed down for heat, by the machine's own counters; a server CPU fails for it, others are warned of."""
    if not fractions:
        text = "This machine does not count the time for which its CPUs are slowed down for heat: not judged"
        return [info(ReasonCode.THERMAL_THROTTLED, "cpu", text)], []
    worst = max(fractions, key=lambda cpu: fractions[cpu])
    over = sorted((cpu for cpu, part in fractions.items() if part > limit), key=int)
    part = fractions[worst]
    measurements = [Measurement("throttled", f"cpu:{worst}", round(part, 4), "fraction", limit, part <= limit)]
    if not over:
        return [], measurements
    text = (
        f"CPU {worst} was slowed down for heat for {part:.0%} of the load ({len(over)} of {len(fractions)} CPUs over "
        f"{limit:.0%}): check fans, heat sink and air flow"
    )
    make = error if SERVER_CPU.search(model) else warning
    return [make(ReasonCode.THERMAL_THROTTLED, f"cpu:{worst}", text)], measurements

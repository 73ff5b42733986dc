"""OpenDCDiag, where it is installed: verified compute on all CPUs, in the widest vector and matrix units there are.

No distribution packages it; without it nothing is missing but its part of the time. Its forms are those that its own
tests hold it to (opendcdiag/opendcdiag, bats/sanity-check/20-selftests.bats): exit code 0 with "exit: pass", 1 with
"exit: fail", 2 with "exit: invalid"; and for each test "test:" and "result: pass|fail|skip|…".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from probes.tools import ToolError, ToolResult
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import StageContext

TOOL = "opendcdiag"
EXTRA_S = 120.0
"""It ends no test in the middle, and repeats failed ones."""


@dataclass(frozen=True, slots=True)
class DcdiagReading:
    """What it said: its last word ("pass"), its exit code, and the tests by result; or why it said nothing."""

    said: str | None = None
    exit_code: int | None = None
    passed: int = 0
    failed: tuple[str, ...] = ()
    last_words: str = ""
    problem: Finding | None = None


async def run(context: StageContext, seconds: float) -> DcdiagReading:
    """Run it on all CPUs that we may use."""
    context.info(f"OpenDCDiag on all CPUs for {seconds:.0f} s")
    argv = (TOOL, "-T", f"{max(1, round(seconds))}s", "--strict-runtime", "-Y", "-v", "-o", "/dev/null")
    try:
        return reading(await context.host.tools.run(*argv, timeout_s=2 * seconds + EXTRA_S, accept=None, load=True))
    except ToolError as problem:
        return DcdiagReading(problem=tool_finding(problem, "cpu"))


def reading(result: ToolResult) -> DcdiagReading:
    """Parse its YAML, as far as it is needed."""
    results: dict[str, list[str]] = {}
    name = ""
    for line in result.stdout.splitlines():
        if match := re.match(r"\s*- test: *(\S+)", line):
            name = match[1]
        elif match := re.match(r"\s*result: *(.+?)\s*$", line):
            results.setdefault(match[1], []).append(name)
    said = re.findall(r"^exit: *(\w+)\s*$", result.stdout, re.MULTILINE)
    failed = [test for verdict, tests in results.items() if verdict not in {"pass", "skip"} for test in tests]
    return DcdiagReading(
        said=said[-1] if said else None,
        exit_code=result.exit_code,
        passed=len(results.get("pass", ())),
        failed=tuple(dict.fromkeys(failed)),
        last_words=result.last_words(),
    )


def findings(read: DcdiagReading) -> Iterator[Finding]:
    """A failed test fails; a pass is believed with its exit code and at least one test that passed (pure)."""
    if read.problem is not None:
        yield read.problem
    elif read.said == "fail" or (read.exit_code == 1 and read.failed):
        tests = ", ".join(read.failed[:8]) or "a test that is not named"
        text = f"A CPU computed wrong results in OpenDCDiag: {tests}. Its log tells on which CPU"
        yield error(ReasonCode.CPU_MISCOMPUTE, "cpu", text, read.last_words)
    elif read.exit_code != 0 or read.said != "pass" or not read.passed:
        text = f"OpenDCDiag gave no verdict: exit code {read.exit_code}, {read.said or 'no last word'}"
        code = ReasonCode.TOOL_FAILED if read.exit_code else ReasonCode.OUTPUT_UNREADABLE
        yield error(code, "cpu", f"{text}, {read.passed} tests passed", read.last_words)

"""A short self-test of one disk: started, watched on the disk's own bus, and ended when we are told to stop.

ATA and SCSI disks through smartctl; NVMe disks through smartctl 7.4 or newer, else through nvme-cli, since an
older smartctl does nothing for them and says so with exit code 0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from probes import pysmart_bridge
from probes.json_paths import dig, number, parsed
from probes.smart import Reading
from probes.smart_parse import Unreadable, document_of
from probes.smart_report import BIT_COMMAND_FAILED, BIT_COMMAND_LINE, BIT_OPEN, Protocol, SmartReport
from probes.smart_self_test_log import SelfTestEntry, SelfTests, TestEnd, parse_nvme_cli, parse_self_tests
from probes.tools import ToolError, ToolMissing, ToolResult, ToolRunner

CALL_LIMIT_S = 30.0
ABORT_LIMIT_S = 0.8
"""A stage that is cancelled has less than two seconds in all."""
FIRST_POLL_S = 0.5
LOST_AFTER = 3
"""Polls in a row that may fail."""
NVME_SINCE = (7, 4)
NVME_OACS_SELF_TEST = 1 << 4
# What smartctl 7.4 prints, and with exit code 0, for an NVMe controller that has none.
NO_SELF_TESTS = "self-tests not supported"
NOT_SUPPORTED = ("not supported", "unsupported", "invalid command opcode", "invalid opcode", "invalid_opcode")


class SelfTestEnd(StrEnum):
    """What came of a self-test that was asked for."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    NOT_SUPPORTED = "not_supported"
    NOT_RUN = "not_run"
    """It could not be started, was aborted by somebody, or its result could not be read."""
    TOOL_MISSING = "tool_missing"
    SKIPPED = "skipped"
    """Not asked for on this disk: it takes longer than the profile allows."""


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """How it ended, in words too, and where the disk says that it failed."""

    end: SelfTestEnd
    detail: str = ""
    lba: int | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait: `deadline_s` for the whole test, `poll_s` between two looks at it."""

    deadline_s: float
    poll_s: float


class _Refused(Exception):
    """The disk or the tool did not do what it was told. `supported` is False when the disk has no self-test."""

    def __init__(self, message: str, *, supported: bool = True) -> None:
        super().__init__(message)
        self.supported = supported


class SelfTestRun:
    """The short self-test of one disk."""

    def __init__(self, tools: ToolRunner, reading: Reading, report: SmartReport) -> None:
        self._tools = tools
        self._target = reading.target
        self._before = report.self_tests
        self._by_nvme_cli = report.protocol is Protocol.NVME and report.version < NVME_SINCE
        self._protocol = report.protocol
        self._started = False

    async def run(self, pace: Pace, on_progress: Callable[[float], None]) -> SelfTestResult:
        """Run it to its end. A cancel ends the test on the disk too, if we started it and there is time."""
        try:
            await self._start()
            return await self._watch(pace, on_progress)
        except ToolMissing as problem:
            return SelfTestResult(SelfTestEnd.TOOL_MISSING, str(problem))
        except (ToolError, Unreadable) as problem:
            return SelfTestResult(SelfTestEnd.NOT_RUN, str(problem))
        except _Refused as problem:
            end = SelfTestEnd.NOT_RUN if problem.supported else SelfTestEnd.NOT_SUPPORTED
            return SelfTestResult(end, str(problem))
        except asyncio.CancelledError:
            await self._abort_in_time()
            raise

    async def _start(self) -> None:
        if self._before.supported is False:
            raise _Refused("the disk has no self-test", supported=False)
        if self._by_nvme_cli:
            await self._prepare_nvme_cli()
        if self._before.running:
            return  # somebody else's; its end is as good as ours
        self._started = True  # before the command, so that a cancel in the middle of it is followed by an abort
        result = await self._send_start()
        bad = BIT_COMMAND_LINE | BIT_OPEN | BIT_COMMAND_FAILED
        code = result.exit_code if result.exit_code is not None else bad
        refused = code if self._by_nvme_cli else code & bad or NO_SELF_TESTS in result.stdout.lower()
        if refused:
            self._started = False
            raise self._refusal(result)

    async def _send_start(self) -> ToolResult:
        if self._by_nvme_cli:
            return await self._nvme("device-self-test", "-s", "1")
        kind = self._target.type or "auto"
        device = self._target.device
        return await pysmart_bridge.call(
            self._tools, lambda smartctl: smartctl.test_start(kind, "short", device), timeout_s=CALL_LIMIT_S
        )

    def _refusal(self, result: ToolResult) -> _Refused:
        said = f"{result.stdout}\n{result.stderr}".lower()
        supported = not any(words in said for words in NOT_SUPPORTED)
        return _Refused(
            f"{result.tool} could not start it ({result.how_it_ended()}): {result.last_words()}", supported=supported
        )

    async def _prepare_nvme_cli(self) -> None:
        """Whether the controller has self-tests at all, and the log as it was before."""
        result = await self._nvme("id-ctrl", "-o", "json")
        try:
            oacs = number(dig(parsed(result.stdout), "oacs"))
        except ValueError:
            oacs = None
        if oacs is not None and not oacs & NVME_OACS_SELF_TEST:
            raise _Refused("the controller has no self-test (OACS bit 4 is 0)", supported=False)
        self._before = await self._poll()

    async def _nvme(self, command: str, *arguments: str) -> ToolResult:
        return await self._tools.run(
            "nvme", command, self._target.device, *arguments, timeout_s=CALL_LIMIT_S, accept=None
        )

    async def _watch(self, pace: Pace, on_progress: Callable[[float], None]) -> SelfTestResult:
        clock = asyncio.get_running_loop().time
        started = clock()
        wait_s, failures, seen_running, why = min(FIRST_POLL_S, pace.poll_s), 0, self._before.running, ""
        while (elapsed := clock() - started) < pace.deadline_s:
            await asyncio.sleep(min(wait_s, pace.deadline_s - elapsed))
            wait_s = min(wait_s * 2, pace.poll_s)
            try:
                now = await self._poll()
            except (ToolError, Unreadable) as problem:
                failures, why = failures + 1, str(problem)
                if failures >= LOST_AFTER or isinstance(problem, ToolMissing):
                    raise Unreadable(f"its state could not be read {failures} times in a row: {why}") from problem
                continue
            failures = 0
            seen_running |= now.running
            done = clock() - started
            on_progress(now.fraction_done if now.fraction_done is not None else min(0.99, done / pace.deadline_s))
            if (entry := self._finished(now, seen_running)) is not None:
                return _result_of(entry, done)
        await self._abort_in_time(CALL_LIMIT_S)
        if not seen_running:
            raise _Refused("the disk took the command, but never showed a self-test, running or in its log")
        return SelfTestResult(
            SelfTestEnd.TIMEOUT, f"still running after {pace.deadline_s:.0f} s", None, pace.deadline_s
        )

    def _finished(self, now: SelfTests, seen_running: bool) -> SelfTestEntry | None:
        """The entry of our test: the log's newest if the log changed, else the drive's status byte."""
        if now.running:
            return None
        if now.entries and now.entries != self._before.entries:
            return now.entries[0]
        return now.status if seen_running else None

    async def _poll(self) -> SelfTests:
        if self._by_nvme_cli:
            result = await self._nvme("self-test-log", "-o", "json")
            return _nvme_log(result)
        page = ("-c", "-l", "selftest") if self._protocol is Protocol.ATA else ("-l", "selftest")
        result = await self._tools.run(
            "smartctl", "--json", *page, *self._target.arguments, timeout_s=CALL_LIMIT_S, accept=None
        )
        return parse_self_tests(document_of(result.stdout, result.exit_code))

    async def _abort_in_time(self, limit_s: float = ABORT_LIMIT_S) -> None:
        """End the test on the disk, if it is ours. Best effort: what fails here is ended by the disk itself."""
        if not self._started:
            return
        self._started = False
        # A task of its own: inside a task that is being cancelled a time limit could not be told from the cancel.
        aborting = asyncio.ensure_future(self._abort(limit_s))
        try:
            await asyncio.wait([aborting], timeout=limit_s)
        finally:
            aborting.cancel()
            await asyncio.wait([aborting])
        if not aborting.cancelled():
            aborting.exception()

    async def _abort(self, limit_s: float) -> None:
        if self._by_nvme_cli:
            await self._nvme("device-self-test", "-s", "0xf")
        else:
            await self._tools.run("smartctl", "-X", *self._target.arguments, timeout_s=limit_s, accept=None)


def _nvme_log(result: ToolResult) -> SelfTests:
    try:
        document = json.loads(result.stdout)
    except (ValueError, RecursionError):
        document = None
    if result.exit_code != 0 or not isinstance(document, dict):
        raise Unreadable(f"nvme self-test-log: {result.how_it_ended()} {result.last_words()}")
    return parse_nvme_cli(document)


def _result_of(entry: SelfTestEntry, duration_s: float) -> SelfTestResult:
    if entry.end is TestEnd.GOOD:
        return SelfTestResult(SelfTestEnd.PASSED, entry.text, None, duration_s)
    if entry.end is TestEnd.FAILED:
        return SelfTestResult(SelfTestEnd.FAILED, entry.text, entry.lba, duration_s)
    what = "its result cannot be read" if entry.end is TestEnd.UNREADABLE else "it was aborted"
    return SelfTestResult(SelfTestEnd.NOT_RUN, f"{what}: {entry.text}", None, duration_s)

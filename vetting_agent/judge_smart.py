"""The verdict on a disk from a file that somebody made with `smartctl --json -x` (or -a), on any machine.

A file shows what the disk says of itself; it cannot show that a self-test was run, nor what rises under load. So each
outcome says what was judged and what was not. What a pass needs is in `RULE`; a file without it is unknown.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.json_paths import rows
from probes.smart import Reading, Target
from probes.smart_parse import Unreadable, recorded_document, report_of
from probes.smart_report import NVME_SELF_TESTS_SINCE, Protocol, SmartReport
from stages.outcome import Finding, Outcome, ReasonCode, error, info
from stages.smart import STAGE, Options, Readings
from stages.smart import judge as judge_disks
from stages.smart_counters import media_errors
from stages.smart_judge import Case

RULE = """\
What a file needs for a pass: the disk's overall health, and with it
  ATA   the attribute table
  NVMe  the health log with critical warning, spare, its threshold, use and media errors
  SCSI  the error counters, unless smartctl was asked for them (-x, -a, -l error) and the disk keeps neither them
        nor a list of defects
and nothing in it that speaks against the disk. Without one of these: unknown. Said as info, and not needed: the log
of earlier self-tests (smartctl before 7.4 writes none for NVMe; later ones do, and then it is needed). A failed
self-test in the log fails the disk until a later good one; exit bit 7 without a log is unknown. A file cannot show
that a self-test was run now."""

FILE_LIMIT_BYTES = 16 * 2**20
ERROR_COUNTERS_ASKED = frozenset({"-x", "--xall", "-a", "--all", "--log=error", "-lerror"})
ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""What Windows shells make of a tool's output."""


def judge_file(path: Path, options: Options) -> Outcome:
    """The outcome for one file. Raises nothing: a file that is no good is unknown, and named."""
    component = f"file:{path.name}"
    try:
        document = recorded_document(_text(path))
        report = report_of(document)
        return _judge(path, report, document, options)
    except (OSError, Unreadable) as problem:
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    except Exception as problem:  # a document that nobody thought of must not end the others
        why = f"it makes no sense: {type(problem).__name__}: {problem}"
    text = f"{path}: {why}"
    return Outcome(f"{path.name}: could not be judged", (error(ReasonCode.SMART_UNREADABLE, component, text),))


def _text(path: Path) -> str:
    """Raises OSError and Unreadable."""
    with path.open("rb") as handle:
        content = handle.read(FILE_LIMIT_BYTES + 1)
    if len(content) > FILE_LIMIT_BYTES:
        raise Unreadable(f"it is larger than {FILE_LIMIT_BYTES // 2**20} MiB, as no output of smartctl is")
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding, errors="replace")


def _judge(path: Path, report: SmartReport, document: Mapping[str, Any], options: Options) -> Outcome:
    # Without a transport, so that no disk counts as one that SMART does not apply to.
    reading = Reading(Target(path.name, disks=(path.name,)), report)
    outcome = judge_disks(Readings((Case(reading, expected=True),), (), ()), options)
    component, judged = reading.component, _judged(report)
    findings = [*outcome.findings, *_lacking(report, document, component, path)]
    if not outcome.hardware_present:
        text = f"{path}: it holds no SMART data of the disk that could be judged"
        findings.append(error(ReasonCode.SMART_UNREADABLE, component, text))
    not_judged = "; ".join(_not_judged(report))
    findings.append(info(ReasonCode.SMART_SELF_TEST_NOT_RUN, component, f"Not judged: {not_judged}"))
    headline = f"{report.model or report.protocol} by {path.name}: judged {', '.join(judged) or 'nothing'}"
    return replace(outcome, headline=headline, findings=tuple(findings), hardware_present=True)


def _lacking(report: SmartReport, document: Mapping[str, Any], component: str, path: Path) -> Iterator[Finding]:
    """A SCSI disk without counters is sound where it was asked for them; this file has to show that it was."""
    if report.protocol is not Protocol.SCSI or report.passed is None or report.missing:
        return
    words = [word for word in rows(document, "smartctl", "argv") if isinstance(word, str)]
    asked = not ERROR_COUNTERS_ASKED.isdisjoint({*words, *map("".join, itertools.pairwise(words))})
    if not asked and (report.scsi is None or report.scsi.uncorrected_errors is None):
        text = f"{path}: it lacks: error counters (make it with smartctl --json -x)"
        yield error(ReasonCode.SMART_UNREADABLE, component, text)


def _judged(report: SmartReport) -> Iterator[str]:
    """The checks that the file has data for, in words."""
    if report.passed is not None:
        yield "overall health"
    if report.attributes:
        yield f"{len(report.attributes)} attributes"
    if report.nvme is not None:
        yield "NVMe health log"
    if report.scsi is not None and media_errors(report):
        yield "error counters"
    if report.scsi is not None and report.scsi.grown_defects is not None:
        yield "grown defects"
    if report.self_tests.logged:
        yield f"self-test log ({len(report.self_tests.entries)} entries)"
    if report.temperature_c is not None and report.temperature_limit_c is not None:
        yield "temperature"


def _not_judged(report: SmartReport) -> Iterator[str]:
    yield "a self-test now, and what rises meanwhile (a file shows one moment)"
    if not report.self_tests.logged:
        old = report.protocol is Protocol.NVME and report.version < NVME_SELF_TESTS_SINCE
        why = "smartctl before 7.4 writes no log of NVMe disks" if old else "the file holds no self-test log"
        yield f"earlier self-tests ({why})"
    if report.temperature_c is None or report.temperature_limit_c is None:
        yield "temperature (the disk, or this version of smartctl, tells no limit)"


STAGE_NAME = STAGE.name

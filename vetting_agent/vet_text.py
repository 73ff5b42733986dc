"""The verdict as `vet` prints it at the end. Pure: a report in, lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vetting_agent.printable import clock, printable
from vetting_agent.report import Report, ReportFinding, ReportStage, finding_rank
from vetting_agent.report_findings import listed, untested
from vetting_agent.terminal import Paper
from vetting_agent.verdict import Untested

WORDS = {"not_applicable": "n/a", "not_run": "not run", "not_selected": "not selected", "running": "not finished"}
RANK_MARKS = {"error": ("✗", "red"), "doubt": ("?", "yellow"), "warning": ("!", "yellow"), "info": ("·", "dim")}
NAME_WIDTH = 11
VERDICT_WIDTH = 13
WIDE = 76


def final_text(report: Report, paths: Mapping[str, str], paper: Paper) -> str:
    """Everything `vet` says at the end. `paths` are the files it wrote, by what they are."""
    blocks = [_stage_lines(report, paper), _finding_blocks(report, paper), _untested(report, paper)]
    blocks += [_paths(paths, paper), _verdict(report, paper)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _stage_lines(report: Report, paper: Paper) -> list[str]:
    return [line for stage in report.stages for line in _stage_line(stage, paper)]


def _stage_line(stage: ReportStage, paper: Paper) -> list[str]:
    word = WORDS.get(stage.verdict, printable(stage.verdict)).ljust(VERDICT_WIDTH)
    took = (clock(stage.duration_s) if stage.duration_s is not None else "").rjust(8)
    head = f"{printable(stage.stage).ljust(NAME_WIDTH)} {paper.verdict(stage.verdict, word)}{took}"
    if paper.width < WIDE:
        return [head, *paper.wrapped(stage.headline, "  ", limit=2)]
    lead = " " * (NAME_WIDTH + VERDICT_WIDTH + 12)
    first, *rest = paper.wrapped(stage.headline, lead, limit=2) or [lead]
    return [f"{head}   {first.lstrip()}".rstrip(), *rest]


def _finding_blocks(report: Report, paper: Paper) -> list[str]:
    """Faults, doubts and warnings with advice; notes stay in the report."""
    lines: list[str] = []
    notes = 0
    for stages, finding in listed(report):
        if finding_rank(finding) == "info":
            notes += 1
        else:
            lines += ([""] if lines else []) + _finding(stages, finding, paper)
    if notes:
        lines += ([""] if lines else []) + [paper.paint(f"· {notes} more to know, in the report", "dim")]
    return lines


def _finding(stage: str, finding: ReportFinding, paper: Paper) -> list[str]:
    mark, style = RANK_MARKS[finding_rank(finding)]
    component = paper.paint(printable(finding.component), "bold")
    where = paper.paint(f"{printable(stage)} · {printable(finding.reason_code)}", "dim")
    lines = [f"{paper.paint(mark, style)} {component}  {where}"]
    lines += paper.wrapped(finding.message, "  ")
    if finding.evidence.strip() and finding.evidence.strip() not in finding.message:
        # Of a trace the last line says most; the whole is in the report.
        lines += paper.wrapped(f"seen: {finding.evidence.strip().splitlines()[-1]}", "  ", "        ", limit=2)
    if finding.advice is not None:
        lines += paper.wrapped(f"cause: {finding.advice.cause}", "  ", "         ")
        lines += paper.wrapped(f"next: {finding.advice.action} ({finding.advice.owner})", "  ", "        ")
    return lines


def _untested(report: Report, paper: Paper) -> list[str]:
    if not report.not_tested:
        return []
    lines = [paper.paint("Not tested, or only in part", "bold")]
    for stages, one in untested(report):
        component = f" {one.component}" if _is_part(one) else ""
        lines += paper.wrapped(f"{stages}{component}: {one.text}", "  ", "    ", limit=2)
    return lines


def _is_part(one: Untested) -> bool:
    """Whether a part of the machine is meant, and not a whole stage."""
    return one.component not in {"", one.stage}


def _paths(paths: Mapping[str, str], paper: Paper) -> list[str]:
    width = max((len(name) for name in paths), default=0)
    return [f"{paper.paint(name.ljust(width), 'dim')}  {printable(path)}" for name, path in paths.items()]


def _verdict(report: Report, paper: Paper) -> list[str]:
    lines = [] if report.trouble is None else paper.wrapped(report.trouble)
    word = paper.verdict(report.verdict, paper.paint(report.verdict.upper(), "bold"))
    sentence = paper.wrapped(f"{report.verdict.upper()}  {_with_limits(report)}", "", "  ")
    return [*lines, word + sentence[0][len(report.verdict) :], *sentence[1:]]


def _with_limits(report: Report) -> str:
    """The headline, and in one breath the parts that this machine did not let us test."""
    parts = dict.fromkeys(one.component for one in report.not_tested if _is_part(one))
    return f"{report.headline}. Not tested, or only in part: {_some(list(parts))}." if parts else f"{report.headline}."


def _some(names: Sequence[str], limit: int = 4) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")

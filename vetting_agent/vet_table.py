"""What a person sees while a run walks: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from vetting_agent.printable import clock, figure, printable, shortened
from vetting_agent.report import seconds_between
from vetting_agent.run_view import RunView, StageView
from vetting_agent.terminal import VERDICT_STYLES, Paper, paper_for
from vetting_agent.verdict import RUNNING, stage_verdict
from vetting_agent.wire import WireFinding

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

WIDE_BAR, NARROW_BAR = 16, 10
MARKS = {"error": "✗", "warning": "!", "info": "·"}
WORDS = {"not_run": "waiting", "not_applicable": "n/a"}


class Watching(Protocol):
    """Shows a run as it goes. Used as a context; `show` is called about once a second with the newest view."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, run: RunView, now: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, as text."""

    stage: str
    verdict: str
    progress: float | None
    eta: str
    temperature: str
    elapsed: str


def rows_of(run: RunView, now: str) -> list[Row]:
    """The table of a run at that time."""
    return [_row(run, stage, now) for stage in run.stages]


def _row(run: RunView, stage: StageView, now: str) -> Row:
    verdict = stage_verdict(stage)
    elapsed = clock(seconds_between(stage.started_at, stage.finished_at or now)) if stage.started_at else ""
    name = printable(stage.stage)
    if verdict != RUNNING:
        return Row(name, verdict, 1.0 if stage.state == "done" else None, "", "", elapsed)
    agent, hottest = run.agent, run.hottest
    mine = agent.stage == stage.stage
    eta = clock(agent.eta_s) if mine and agent.eta_s is not None else ""
    temperature = "" if hottest is None else f"{figure(hottest.value)} °C"
    return Row(name, verdict, (agent.progress if mine else None) or 0.0, eta, temperature, elapsed)


def bar(progress: float | None, width: int) -> str:
    """A progress bar of that many characters; blank for a stage that has not begun."""
    if progress is None:
        return " " * width
    full = round(min(1.0, max(0.0, progress)) * width)
    return "━" * full + "╌" * (width - full)


def changes(before: RunView | None, after: RunView) -> list[str]:
    """What happened between two views, as lines for a log: stages that began and ended, and their findings."""
    known = {} if before is None else {stage.stage: stage for stage in before.stages}
    lines: list[str] = []
    for stage in after.stages:
        lines += _stage_changes(known.get(stage.stage), stage)
    if after.stalled and not (before and before.stalled):
        lines.append("the agent has not been heard of for a while")
    return lines


def _stage_changes(before: StageView | None, after: StageView) -> list[str]:
    lines = []
    if after.started_at is not None and (before is None or before.started_at != after.started_at):
        again = f" (attempt {after.attempts})" if after.attempts > 1 else ""
        lines.append(f"{after.stage}: started{again}")
    if after.state == "done" and (before is None or before.result_id != after.result_id or before.state != "done"):
        lines += _result_lines(after)
    return lines


def _result_lines(stage: StageView) -> list[str]:
    summary = stage.summary
    # A headline that repeats a finding is cut: the finding follows in full.
    said = shortened(summary.headline, 100) if summary else (stage.message or "no result")
    took = clock(seconds_between(stage.started_at, stage.finished_at)) if stage.started_at and stage.finished_at else ""
    lines = [f"{stage.stage}: {stage_verdict(stage)}{f' in {took}' if took else ''}: {said}"]
    return lines + [f"{stage.stage}:   {finding_line(finding)}" for finding in (summary.findings if summary else [])]


def finding_line(finding: WireFinding) -> str:
    """A finding on one line."""
    mark = MARKS.get(finding.severity, "✗")
    return f"{mark} {finding.component}: {finding.message} [{finding.reason_code}]"


class PlainLines:
    """One line for each thing that happens, flushed at once: for pipes, files and the journal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: RunView | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, run: RunView, now: str) -> None:
        for line in changes(self._last, run):
            self._stream.write(f"{now[11:19]}  {printable(line)}\n")
        self._stream.flush()
        self._last = run


class LiveTable:
    """A table that is redrawn in place, with the last log line below it. Needs `rich`."""

    def __init__(self, stream: TextIO, paper: Paper) -> None:
        from rich.console import Console
        from rich.live import Live

        self._paper = paper
        console = Console(file=stream, width=paper.width, no_color=not paper.colour, highlight=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, run: RunView, now: str) -> None:
        self._live.update(picture(run, now, self._paper), refresh=True)


def picture(run: RunView, now: str, paper: Paper) -> Group:
    """The live table as rich draws it, with a line about the run above it and the last log line below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    names = columns_for(paper.width)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, justify="right" if name in {"ETA", "Temp", "Elapsed"} else "left", no_wrap=True)
    for row in rows_of(run, now):
        cells = _cells(row, bar_width(paper.width))
        table.add_row(*(cells[name] for name in names))
    last = run.last_log
    said = f"{last.stage or 'agent'}: {last.text}" if last else "waiting for the agent"
    lines = (f"{run.host} · {run.profile} · {clock(seconds_between(run.created_at, now))}", said)
    above, below = (Text(shortened(printable(line), paper.width - 1), style="dim") for line in lines)
    return Group(above, Text(), table, Text(), below)


def bar_width(width: int) -> int:
    """How long the progress bars are in a window of that many characters."""
    return WIDE_BAR if width >= 80 else NARROW_BAR


def columns_for(width: int) -> Sequence[str]:
    """Which columns fit into that many characters."""
    wanted = ["Stage", "Verdict", "Progress", "ETA", "Temp", "Elapsed"]
    needs = {"Stage": 11, "Verdict": 9, "Progress": bar_width(width) + 8, "ETA": 9, "Temp": 9, "Elapsed": 9}
    for name in ("Temp", "ETA", "Progress"):
        if sum(needs[one] for one in wanted) > width:
            wanted.remove(name)
    return wanted


def _cells(row: Row, bar_length: int) -> dict[str, Text]:
    from rich.text import Text

    style = VERDICT_STYLES.get(row.verdict, "dim")
    share = f" {100 * row.progress:3.0f} %" if row.verdict == RUNNING and row.progress is not None else ""
    return {
        "Stage": Text(row.stage, style="bold" if row.verdict == RUNNING else ""),
        "Verdict": Text(WORDS.get(row.verdict, printable(row.verdict)), style=style),
        "Progress": Text(bar(row.progress, bar_length) + share, style=style),
        "ETA": Text(row.eta),
        "Temp": Text(row.temperature),
        "Elapsed": Text(row.elapsed),
    }


def watching(stream: TextIO | None = None) -> Watching:
    """The live table where `stream` is a terminal and rich is there, else plain lines."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        return PlainLines(stream)
    try:
        return LiveTable(stream, paper_for(stream))
    except ImportError:
        return PlainLines(stream)

"""What a person sees while a run walks, and at its end: whole, calm, and never steered by what a disk calls itself."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys

import pytest
from rich.console import Console

from stages.outcome import ReasonCode, error
from tests.support import run_views
from tests.support.run_views import SOUND, agent_view, done, found, log_line, run_view, running, stamp, waiting
from vetting_agent.report import Gathered, Report, build
from vetting_agent.run_view import RunView, SampleView
from vetting_agent.terminal import Paper, paper_for
from vetting_agent.verdict import Ending
from vetting_agent.vet_table import LiveTable, PlainLines, bar, changes, columns_for, picture, rows_of, watching
from vetting_agent.vet_text import final_text

HOSTILE = "disk:\x1b[2J\x1b]0;owned\x07\u202eevil"


def midway() -> RunView:
    """Storage is running; its disk logs hostile words."""
    return run_view(
        [done("SMART", SOUND, 1.0), running("Storage", 21.0), waiting("Network")],
        state="Storage",
        agent=agent_view(stage="Storage", progress=0.43, eta_s=21.0),
        hottest=SampleView(ts=stamp(30), kind="temperature", key="cpu:0", value=71.5, unit="C"),
        last_log=log_line(9, "info", "Storage", f"reading {HOSTILE}"),
    )


def drawn(run: RunView, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(picture(run, stamp(37), Paper(width)))
    return stream.getvalue()


def test_the_table_shows_where_the_run_stands() -> None:
    smart, storage, network = rows_of(midway(), stamp(37))
    assert (smart.verdict, smart.progress, smart.elapsed) == ("pass", 1.0, "0:20")
    assert (storage.verdict, storage.progress, storage.eta) == ("running", 0.43, "0:21")
    assert (storage.temperature, storage.elapsed) == ("71.5 °C", "0:16")
    assert (network.verdict, network.progress, network.elapsed) == ("not_run", None, "")


def test_what_the_agent_says_of_another_stage_is_not_taken_for_this_one() -> None:
    run = run_view([running("Storage")], agent=agent_view(stage="SMART", progress=0.9, eta_s=1.0))
    (row,) = rows_of(run, stamp(5))
    assert (row.progress, row.eta) == (0.0, "")


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_the_table_fits_its_window(width: int) -> None:
    text = drawn(midway(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("43 %" in text) == ("Progress" in columns_for(width))
    assert "Storage" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_bars() -> None:
    assert [bar(part, 4) for part in (None, 0.0, 0.5, 1.0, 7.0)] == ["    ", "╌╌╌╌", "━━╌╌", "━━━━", "━━━━"]


def test_plain_lines_say_each_thing_once() -> None:
    stream = io.StringIO()
    fault = found(error(ReasonCode.DISK_IO_ERROR, HOSTILE, "Reading failed at LBA 7"))
    before = run_view([running("SMART", 1.0), waiting("Storage")], state="SMART")
    after = run_view([done("SMART", fault, 1.0), running("Storage", 21.0)], state="Storage")
    with PlainLines(stream) as lines:
        for run in (before, before, after, after):
            lines.show(run, stamp(30))
    text = stream.getvalue()
    assert [line[10:].split(":")[0] for line in text.splitlines()] == ["SMART", "SMART", "SMART", "Storage"]
    assert text.splitlines()[0] == "09:30:30  SMART: started"
    assert "SMART: fail in 0:20" in text
    assert r"✗ disk:\x1b[2J\x1b]0;owned\x07\u202eevil: Reading failed at LBA 7 [disk_io_error]" in text


def test_a_second_attempt_and_a_silent_agent_are_said() -> None:
    first = run_view([done("SMART", SOUND, 1.0, result_id="a")])
    again = run_view([running("SMART", 50.0)], stalled=True)
    assert changes(first, again)[0] == "SMART: started"
    assert changes(first, again)[-1] == "the agent has not been heard of for a while"
    second = run_view([done("SMART", SOUND, 50.0, result_id="b", attempts=2)])
    assert [line.split(":")[1] for line in changes(first, second)] == [" started (attempt 2)", " pass in 0"]


def report_of(run: RunView | None, ending: Ending | None = None) -> Report:
    return build(Gathered(run, ending or Ending(), "node-17", "quick", stamp(0), stamp(136)))


@pytest.mark.parametrize("width", [40, 72, 100])
def test_the_final_text_names_part_cause_and_next_step(width: int) -> None:
    text = final_text(report_of(run_views.sick_run()), {"Report": "/r/report.html"}, Paper(width))
    words = " ".join(text.split())
    for said in (
        "The disk reports 8 pending sectors",
        "cause: The medium is damaged",
        "next: Replace the disk",
        "seen: 197 Pending_Sector 8",
        "Storage disk:vda: The disk could not be opened",
        "/r/report.html",
        "FAIL SMART failed; Storage could not be judged. Not tested, or only in part: disk:vda",
    ):
        assert said in words, said
    assert words.index("8 pending sectors") < words.index("24 sectors to spares"), "faults come first"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    prose = [line for line in text.splitlines() if "[2J" not in line and "·" not in line]
    assert max(len(line) for line in prose) <= width


def test_colours_say_the_same_words() -> None:
    report = report_of(run_views.sick_run())
    coloured = final_text(report, {}, Paper(100, colour=True))
    assert "\x1b[31m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == final_text(report, {}, Paper(100))


def test_trouble_is_said_before_the_verdict() -> None:
    text = final_text(report_of(None, Ending("the orchestrator ended unexpectedly (exit code 1)")), {}, Paper(100))
    assert text.splitlines()[-2] == "the orchestrator ended unexpectedly (exit code 1)"
    assert text.splitlines()[-1].startswith("INCOMPLETE  No stage ran")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_where_a_person_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paper_for(Terminal()).colour
    assert not paper_for(io.StringIO()).colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not paper_for(Terminal()).colour
    assert isinstance(watching(Terminal()), LiveTable)
    assert isinstance(watching(io.StringIO()), PlainLines)


def everything_at(terminal: int) -> str:
    """What was written to a terminal. It hands it out in pieces, and not all of them at once."""
    pieces = []
    while select.select([terminal], [], [], 1.0)[0]:
        pieces.append(os.read(terminal, 65536))
    return b"".join(pieces).decode(errors="replace")


def test_the_live_table_cleans_up_after_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real terminal: drawn, redrawn, and gone at the end, the cursor shown again."""
    monkeypatch.setenv("TERM", "xterm")  # one that calls itself dumb is drawn nothing on
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding=sys.getdefaultencoding()) as stream:
        with LiveTable(stream, Paper(80, colour=True)) as table:
            table.show(midway(), stamp(37))
            table.show(run_views.all_sound(), stamp(140))
        stream.flush()
        seen = everything_at(reader)
    os.close(reader)
    assert "43 %" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("PSU")
    assert "\x1b[2J\x1b]0;owned" not in seen

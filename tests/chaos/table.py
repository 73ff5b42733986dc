"""docs/chaos.md from the results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tests.chaos.play import Result
from tests.chaos.row import Row

HEAD = """# Chaos: what host and orchestrator survive

Made by `make chaos`. Each row is a real orchestrator and a real agent (`vetting-agent run`), each in a network
namespace of its own, with a router's namespace between them; stages are short ones with real tools. The fault comes
while a stage runs, unless the row says otherwise. A row is right when the message that it names came in the time
allowed, the run went on after the repair without anybody touching the database and ended as it must, every result and
every log line was kept exactly once, nothing was left running, neither side has a traceback or the token in its log,
and the database is whole.

*Clear* is the time from the fault to the message, *again* that from the repair to the first answered call (or to what
the row waits for), in seconds on a busy machine. *Found again* is where the same message stands at the orchestrator
under the instance id of the agent, which is its correlation id; – where the agent is refused and may send nothing more,
or where only a person at a desk sees it. Each result is that of the row's last playing, not all of one go; the times
are as measured, also where `--patience` had multiplied the limits for a machine that was busy with other things.
"""


def kept(folder: Path, row: Row) -> Result | None:
    """The newest result of a row in this folder."""
    path = folder / f"{row.name}.json"
    return Result(**json.loads(path.read_text())) if path.exists() else None


def document(results: Sequence[tuple[Row, Result | None]]) -> str:
    """The page. A row without a good result is told as not right, or as not played."""
    played = [result for _, result in results if result is not None]
    right = sum(not result.trouble for result in played)
    total = sum(result.wall_s for result in played)
    lines = [HEAD, f"{right} of {len(results)} rows are right; {total / 60:.0f} min in all.\n"]
    for group, rows in groupby(results, key=lambda pair: pair[0].group):
        lines += [f"## {group}\n", "| row | fault | hop, signal | message | clear | again | end | found again |  |"]
        lines += ["|---|---|---|---|---|---|---|---|---|", *_rows(rows), ""]
    return "\n".join(lines)


def _rows(rows: Iterator[tuple[Row, Result | None]]) -> Iterator[str]:
    for row, result in rows:
        fault = row.injection + (f" ({row.means})" if row.means else "")
        signal = f"{row.hop}: `{row.signal}`"
        if result is None:
            yield f"| {row.name} | {fault} | {signal} | {_cell(row.words.text)} | | | {row.end} | | not played |"
            continue
        verdict = "**not right**" if result.trouble else "right"
        times = f"{_seconds(result.clear_s)} | {_seconds(result.recovery_s)}"
        message = f"{row.words.source}: {_cell(result.found or 'none')}"
        kept_as = {"history": "history of the run", "finding": "finding of the run"}.get(row.words.source, "–")
        where = result.correlation.split(",")[0] or kept_as
        yield f"| {row.name} | {fault} | {signal} | {message} | {times} | {row.end} | {where} | {verdict} |"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _cell(text: str) -> str:
    """A message on one line, without its time, short enough for a table."""
    words = text.split(maxsplit=2)
    if len(words) == 3 and words[1] in {"info", "warn", "error"}:
        text = words[2]
    text = re.sub(r"/\S*/[a-z0-9-]+-\d{6,}(?=/)", "…", text)  # the row's own folder
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return text if len(text) <= 150 else f"{text[:147]}…"

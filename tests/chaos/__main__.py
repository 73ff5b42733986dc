"""`make chaos`: plays the rows one after the other, and writes what came of them to docs/chaos.md.

Needs root: each row has network namespaces of its own. A row's folder keeps its logs, and is named when it is not
right. Exit code: 0 all rows asked for are right; 1 some are not; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos import table
from tests.chaos.play import Result, play
from tests.chaos.rows import ROWS


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("rows", nargs="*", metavar="ROW", help="names or patterns; default: all")
    top.add_argument("--list", action="store_true", help="print the rows and stop")
    top.add_argument(
        "--patience", type=float, default=1.0, metavar="N", help="a factor for all limits, on a machine that is busy"
    )
    top.add_argument("--folder", type=Path, metavar="DIR", help="for the rows' logs and results (default: a new one)")
    top.add_argument("--write", type=Path, metavar="FILE", help="write the table of the folder's results to FILE")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    rows = [row for row in ROWS if not args.rows or any(fnmatch.fnmatch(row.name, one) for one in args.rows)]
    if not rows:
        say(f"no row is called {', '.join(args.rows)}; --list prints them")
        return 2
    if args.list:
        for row in rows:
            say(f"{row.name:36} {row.injection}")
        return 0
    if os.geteuid() != 0:
        say("chaos needs root: it makes network namespaces")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):  # what was started is ended, also in the background of a shell
        signal.signal(number, lambda *_: sys.exit(130))
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for number, row in enumerate(rows, 1):
        place = folder / f"{row.name}-{time.time_ns() // 10**6 % 10**8}"
        result = play(row, place, args.patience)
        (folder / f"{row.name}.json").write_text(json.dumps(asdict(result)))
        wrong += bool(result.trouble)
        say(f"{number}/{len(rows)} {_line(result)}")
        if result.trouble:
            say(f"    {result.trouble}\n    logs: {place}")
    say(f"{len(rows) - wrong} of {len(rows)} rows are right; logs: {folder}")
    if args.write:
        args.write.write_text(table.document([(row, table.kept(folder, row)) for row in ROWS]))
        say(f"wrote {args.write}")
    return 1 if wrong else 0


def _line(result: Result) -> str:
    word = "WRONG" if result.trouble else "right"
    return f"{word}  {result.row:36} {result.state:14} {result.wall_s:5.0f} s"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""`make lab`: plays the rows, two at a time, and writes what came of them to docs/lab.md.

A row that came out right with this very image is not played again, so that a stopped lab goes on where it was.
Exit code: 0 all rows asked for are right; 1 some are not; 2 wrong usage or something is missing.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from image.lab import record, table
from image.lab.play import Result, known, play
from image.lab.row import Row
from image.lab.rows import ROWS
from image.vm.machine import NoMachine, best_accel

IMAGE = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="image/lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("rows", nargs="*", metavar="ROW", help="names or patterns; default: all")
    top.add_argument("--ci", action="store_true", help="only the few rows that continuous integration plays")
    top.add_argument("--list", action="store_true", help="print the rows and stop")
    top.add_argument("--again", action="store_true", help="play also what came out right before")
    top.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2 + 1), help="rows at a time")
    top.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    top.add_argument("--image", type=Path, default=IMAGE / "out", metavar="DIR", help="what make image has made")
    top.add_argument("--results", type=Path, metavar="DIR", help="default: lab in the image's folder")
    top.add_argument(
        "--write", type=Path, metavar="FILE", help="write the table of all results to FILE, and the record beside it"
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    rows = [row for row in ROWS if _is_wanted(row, args)]
    if not rows:
        say(f"no row is called {', '.join(args.rows)}; --list prints them")
        return 2
    if args.list:
        for row in rows:
            sys.stdout.write(f"{row.name:40} {row.group}: {row.fault}\n")
        return 0
    if not (args.image / "initrd").exists():
        say(f"{args.image / 'initrd'} is not there: run make image first")
        return 2
    results = args.results or args.image / "lab"
    results.mkdir(parents=True, exist_ok=True)
    try:
        accel = best_accel(args.accel, args.image / "vmlinuz", results)
    except NoMachine as problem:
        say(str(problem))
        return 2
    image_sum = sum_of(args.image)
    try:
        recorded = record.read(_record_of(args.write)) if args.write else {}
    except record.BadRecord as problem:
        say(str(problem))
        return 2
    began = time.monotonic()
    wrong = _play_all(rows, args, image_sum, results, accel)
    say(f"{len(rows) - wrong} of {len(rows)} rows are right; {time.monotonic() - began:.0f} s, {accel}")
    if args.write:
        played = [(row, record.last(row, results, recorded)) for row in ROWS]
        args.write.write_text(table.document(played, args.image, image_sum))
        record.write(_record_of(args.write), [result for _, result in played])
        say(f"wrote {args.write} and {_record_of(args.write)}")
    return 1 if wrong else 0


def _record_of(page: Path) -> Path:
    return page.with_suffix(".json")


def _is_wanted(row: Row, args: argparse.Namespace) -> bool:
    named = not args.rows or any(fnmatch.fnmatch(row.name, pattern) for pattern in args.rows)
    return named and (row.in_ci or not args.ci)


def _play_all(rows: Sequence[Row], args: argparse.Namespace, image_sum: str, results: Path, accel: str) -> int:
    """How many are not as they should be."""
    todo = [row for row in rows if args.again or known(row, image_sum, results) is None]
    if len(todo) < len(rows):
        say(f"{len(rows) - len(todo)} rows came out right before with this image")
    wrong = 0
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        played = {pool.submit(play, row, args.image.resolve(), image_sum, results, accel): row for row in todo}
        for number, future in enumerate(as_completed(played), 1):
            result = future.result()
            wrong += result.trouble is not None
            say(f"{number}/{len(todo)} {_line(result)}")
            if result.trouble is not None:
                say(f"    {result.trouble}")
                say(f"    found: {'; '.join(result.found) or 'nothing'}")
                say(f"    logs: {results / result.row}")
    return wrong


def _line(result: Result) -> str:
    word = "right" if result.trouble is None else "WRONG"
    return f"{word}  {result.row:40} {result.state:14} {result.wall_s:6.0f} s, {result.cpu_s:.0f} s of CPU"


def sum_of(image: Path) -> str:
    """The image's own sum: of what is in the initrd, the squashfs included."""
    with (image / "initrd").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def say(text: str) -> None:
    sys.stdout.write(f"lab: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

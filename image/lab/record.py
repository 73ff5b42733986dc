"""The record of the lab, docs/lab.json: what came of each row when last it was played, with whatever image.

It lies beside the table and is kept with it, so that a few rows can be played again without all the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from image.lab.play import Result, newest
from image.lab.row import Row


class BadRecord(Exception):
    """The record cannot be read; `str()` says where and why."""


def read(path: Path) -> Mapping[str, Result]:
    """By row; empty where there is no record yet. Raises BadRecord."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=list[Result])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as problem:
        raise BadRecord(f"{path} is no record of the lab: {problem}") from None
    return {result.row: result for result in results}


def write(path: Path, results: Iterable[Result | None]) -> None:
    """Raises OSError."""
    kept = [msgspec.structs.replace(one, marks={}) for one in results if one is not None]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def last(row: Row, results: Path, recorded: Mapping[str, Result]) -> Result | None:
    """The row's last result, right or wrong: of this folder, else of the record; none of another version counts."""
    result = newest(row, results) or recorded.get(row.name)
    return result if result is not None and result.version == row.version else None

"""Many rows in few statements: what hosts send all the time, and what decides nothing.

A statement gives the interpreter away while SQLite works and has to queue for it again afterwards. One statement a
row would so wait thousands of times a second for the thread that answers the hosts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

CHUNKS = (256, 32, 4, 1)
"""Rows of a statement: the connection keeps each of them prepared."""


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT up to its values, and how many values a row has."""

    head: str
    width: int

    def run(self, connection: sqlite3.Connection, values: Sequence[Any]) -> None:
        """Insert the rows, whose values stand one after the other."""
        at, left = 0, len(values) // self.width
        row = f"({', '.join('?' * self.width)})"
        for size in CHUNKS:
            while left >= size:
                end = at + size * self.width
                connection.execute(f"{self.head} VALUES {', '.join([row] * size)}", values[at:end])
                at, left = end, left - size


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to be committed with those of others. `then`: called with them, on the writer's thread."""

    insert: Insert
    values: Sequence[Any]
    then: Callable[[], None] | None = None


STATUS = Insert("INSERT OR REPLACE INTO statuses", 2)
LOG = Insert("INSERT OR IGNORE INTO logs (run_id, instance_id, seq, ts, level, stage, text)", 7)
SAMPLES = Insert("INSERT INTO samples (run_id, batch)", 2)

"""What retention.py and quota.py ask of the embedded database: marks, deletion below them, and how much a run has."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

NEWEST: Mapping[str, str] = {
    "logs": "SELECT max(id) FROM logs",
    "samples": "SELECT max(id) FROM samples",
}
SIZE: Mapping[str, str] = {
    "logs": "SELECT total(? + length(CAST(ts || level || stage || text AS BLOB))) FROM logs WHERE run_id = ?",
    "samples": "SELECT total(? + length(batch)) FROM samples WHERE run_id = ?",
}
DELETE: Mapping[str, str] = {
    "logs": "DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE id <= ? ORDER BY id LIMIT ?)",
    "samples": "DELETE FROM samples WHERE id IN (SELECT id FROM samples WHERE id <= ? ORDER BY id LIMIT ?)",
}


class SqliteRetention:
    """Runs on the writer's thread, on the writing connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def mark(self, now: str) -> None:
        for table in NEWEST:
            newest = self._newest(table)
            known = self._execute("SELECT max(last_id) FROM marks WHERE kind = ?", (table,)).fetchone()[0]
            if newest is not None and newest != known:
                self._execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (table, now, newest))

    def delete(self, table: str, before: str, limit: int) -> int:
        query = "SELECT max(last_id) FROM marks WHERE kind = ? AND ts <= ?"
        old = self._execute(query, (table, before)).fetchone()[0]
        newest = self._newest(table)
        if old is None or newest is None:
            return 0
        # The newest row stays, or its number would be given again, and a page that follows the table would miss rows.
        deleted = self._execute(DELETE[table], (min(old, newest - 1), limit)).rowcount
        self._execute("DELETE FROM marks WHERE kind = ? AND ts <= ? AND last_id < ?", (table, before, old))
        return deleted

    def _newest(self, table: str) -> int | None:
        newest: int | None = self._execute(NEWEST[table]).fetchone()[0]
        return newest

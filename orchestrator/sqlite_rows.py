"""Queries that are used in more than one place, and rows as what they mean. SQLite's dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.store import HoldKey
from vetting_agent.run_view import LogView

DOCUMENT = "SELECT body FROM documents WHERE kind = ? AND key = ?"
DOCUMENTS = "SELECT body FROM documents WHERE kind = ? ORDER BY key"
HOLD_KEY = "SELECT private_key, authorized_key, expires_at FROM hold_keys WHERE run_id = ?"
LOG_COLUMNS = "id, ts, level, stage, text, instance_id, seq"


def hold_key_of(row: Any) -> HoldKey | None:
    return None if row is None else HoldKey(private_key=row[0], authorized_key=row[1], expires_at=row[2])


def log_view(row: Any) -> LogView:
    names = ("id", "ts", "level", "stage", "text", "instance_id", "seq")
    return LogView(**dict(zip(names, row, strict=True)))


def log_filter(stage: str | None, levels: Sequence[str]) -> tuple[str, list[object]]:
    """More conditions for a query of lines, and their values."""
    where = "" if stage is None else " AND stage = ?"
    if levels:
        where += f" AND level IN ({', '.join('?' * len(levels))})"
    return where, [*([] if stage is None else [stage]), *levels]

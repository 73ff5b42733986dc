"""A report's measurements as CSV (RFC 4180, UTF-8): one line each, for spreadsheets and databases."""

from __future__ import annotations

import csv
import io

from vetting_agent.printable import printable
from vetting_agent.report import Report

COLUMNS = ("run_id", "host", "profile", "finished_at", "stage", "component", "name", "value", "unit", "limit", "ok")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a text for a formula; a disk may be called so."""


def document(report: Report) -> bytes:
    """The whole table with its heading. Numbers are plain; empty where there is none."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    head = [report.run_id, _safe(report.host), report.profile]
    for stage in report.stages:
        for one in stage.measurements:
            facts = [stage.finished_at, stage.stage, _safe(one.component), _safe(one.name), one.value, _safe(one.unit)]
            writer.writerow([*head, *facts, one.limit, "" if one.ok is None else str(one.ok).lower()])
        for component, part in stage.coverage.items():
            writer.writerow([*head, stage.finished_at, stage.stage, _safe(component), "coverage", part, "", None, ""])
    return text.getvalue().encode()


def _safe(text: str) -> str:
    """On one line, without what steers a terminal, and never a formula."""
    shown = printable(text)
    return f"'{shown}" if text.startswith(FORMULA) else shown

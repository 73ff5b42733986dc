"""What people and programs read of the kit: a line a clause, a summary, JSON, and the list of all clauses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.conformance.clause import Clause, Finding, Status

SECTIONS = {
    1: "boot parameters, trust",
    2: "requests, verbs, status codes",
    3: "the walk",
    4: "directives",
    5: "hold",
    6: "outcome",
    7: "inventory",
}
NAME_WIDTH, TEXT_WIDTH = 26, 84


def line_of(finding: Finding) -> str:
    """One line, and a second one that says what was seen when that is not what the protocol wants."""
    line = f"§{finding.section}  {finding.name:{NAME_WIDTH}} {finding.text:{TEXT_WIDTH}} {finding.status.value}"
    note = " (optional)" if finding.optional and finding.status is Status.NOT_TESTED else ""
    return f"{line}{note}\n      {finding.detail}" if finding.detail else line


def summary_of(findings: Sequence[Finding]) -> str:
    counts = Counter(one.status for one in findings)
    words = [f"{counts[status]} {status.value}" for status in Status if counts[status]]
    return f"{len(findings)} clauses: {', '.join(words) or 'none'}"


def json_of(side: str, findings: Sequence[Finding]) -> str:
    clauses = [
        {
            "name": one.name,
            "section": one.section,
            "text": one.text,
            "status": one.status.value,
            "detail": one.detail,
            "optional": one.optional,
        }
        for one in findings
    ]
    good = all(one.is_good for one in findings)
    return json.dumps({"side": side, "conforms": good, "clauses": clauses}, indent=1)


def list_of(clauses: Iterable[Clause[Any]]) -> str:
    """The clauses as a Markdown table."""
    rows = [f"| §{one.section} | `{one.name}` | {one.text} |" for one in clauses]
    return "\n".join(["| § | clause | what is looked for |", "|---|---|---|", *rows])

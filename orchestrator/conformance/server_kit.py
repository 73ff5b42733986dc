"""Tests an orchestrator: every clause on runs of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.conformance import server_calls, server_orders, server_walk
from orchestrator.conformance.clause import Clause, Finding, Status, found, selected, tried
from orchestrator.conformance.operator import OperatorFailed
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.speaker import Unreachable

CLAUSES: tuple[Clause[Bench], ...] = tuple(
    sorted((*server_calls.CLAUSES, *server_walk.CLAUSES, *server_orders.CLAUSES), key=lambda one: one.section)
)


def test_orchestrator(
    bench: Bench, only: Sequence[str], optional: Sequence[str], tell: Callable[[Finding], None]
) -> list[Finding]:
    """The findings of all clauses chosen by `only`; each is told when it is there."""
    findings = []
    for clause in CLAUSES:
        if selected(clause.name, only):
            findings.append(_tried(clause, bench, optional))
            tell(findings[-1])
    return findings


def _tried(clause: Clause[Bench], bench: Bench, optional: Sequence[str]) -> Finding:
    try:
        return tried(clause, bench, optional)
    except Unreachable as problem:
        return found(clause, Status.FAILED, str(problem), optional)
    except OperatorFailed as problem:
        return found(clause, Status.NOT_TESTED, f"the operator's side: {problem}", optional)

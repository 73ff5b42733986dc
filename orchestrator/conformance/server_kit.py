"""Tests an orchestrator: every clause on runs of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.conformance import server_calls, server_codes, server_orders, server_walk
from orchestrator.conformance.clause import Clause, Finding, Status, found, selected, tried
from orchestrator.conformance.operator import OperatorFailed
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.speaker import Unreachable

CLAUSES: tuple[Clause[Bench], ...] = tuple(
    sorted(
        (*server_calls.CLAUSES, *server_codes.CLAUSES, *server_walk.CLAUSES, *server_orders.CLAUSES),
        key=lambda one: one.section,
    )
)


def test_orchestrator(
    bench: Bench, only: Sequence[str], optional: Sequence[str], jobs: int, tell: Callable[[Finding], None]
) -> list[Finding]:
    """The findings of all clauses chosen by `only`, `jobs` at a time; each is told when it and those before are there.

    Every clause has runs of its own, so that none minds the others.
    """
    chosen = [one for one in CLAUSES if selected(one.name, only)]
    findings = []
    with ThreadPoolExecutor(jobs) as pool:
        for finding in pool.map(lambda one: _tried(one, bench, optional), chosen):
            findings.append(finding)
            tell(finding)
    return findings


def _tried(clause: Clause[Bench], bench: Bench, optional: Sequence[str]) -> Finding:
    try:
        return tried(clause, bench, optional)
    except Unreachable as problem:
        return found(clause, Status.FAILED, str(problem), optional)
    except OperatorFailed as problem:
        return found(clause, Status.NOT_TESTED, f"the operator's side: {problem}", optional)

"""`vetting-conformance`: tests anyone's orchestrator or agent against the wire protocol.

Exit codes: 0 every clause is kept; 1 one is broken, or could not be tested and is not optional; 2 wrong usage, or
there is nothing to test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.conformance.clause import Clause, Finding, selected
from orchestrator.conformance.printing import json_of, line_of, list_of, summary_of
from probes.host import Host
from vetting_agent.params import fingerprints

EXIT_GOOD, EXIT_BROKEN, EXIT_USAGE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vetting-conformance", description=(__doc__ or "").split("\n\n")[0])
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--orchestrator", metavar="URL", help="test the orchestrator at this base URL")
    side.add_argument("--agent", metavar="CMD", help="test the agent that this command starts; see docs/conformance.md")
    side.add_argument("--list", choices=("orchestrator", "agent"), help="print the clauses, as Markdown")
    server = parser.add_argument_group("for an orchestrator")
    server.add_argument("--tls-fpr", metavar="HEX", help="SHA-256 of its certificate; several joined by commas")
    server.add_argument("--operator-socket", metavar="PATH", help="operator socket of a vetting-orchestrator")
    server.add_argument("--operator", metavar="CMD", help="adapter command of another orchestrator")
    agent = parser.add_argument_group("for an agent")
    agent.add_argument(
        "--long-stage", metavar="NAME=JSON", default='CPUStress={"duration_s": 600}', help="one that takes a minute"
    )
    agent.add_argument("--folder", metavar="DIR", type=Path, help="where each scene leaves its traces")
    agent.add_argument(
        "--slack", metavar="S", type=float, default=1.0, help="on top of the protocol's limits (default: 1; busy: more)"
    )
    parser.add_argument("--patience", metavar="S", type=float, default=30.0, help="for what must come (default: 30)")
    parser.add_argument("--jobs", metavar="N", type=int, default=4, help="clauses or scenes at a time (default: 4)")
    parser.add_argument("--only", metavar="NAME", action="append", help="only such clauses; * and ? stand for anything")
    parser.add_argument("--skip", metavar="NAME", action="append", default=[], help="no such clauses")
    parser.add_argument(
        "--optional", metavar="NAME", action="append", default=[], help="such clauses need not be testable"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.list:
        print(list_of(_clauses(arguments.list)))
        return EXIT_GOOD
    side = "agent" if arguments.agent else "orchestrator"
    only = arguments.only or ["*"]
    names = [one.name for one in _clauses(side)]
    arguments.only = [one for one in names if selected(one, only) and not selected(one, arguments.skip)]
    if not arguments.only:
        return _usage(f"no clause is called {', '.join(only)}")
    try:
        findings = _test_agent(arguments) if arguments.agent else _test_orchestrator(arguments)
    except ValueError as problem:
        return _usage(str(problem))
    print(json_of(side, findings) if arguments.json else f"\n{summary_of(findings)}")
    return EXIT_GOOD if all(one.is_good for one in findings) else EXIT_BROKEN


def _usage(text: str) -> int:
    print(f"vetting-conformance: {text}", file=sys.stderr)
    return EXIT_USAGE


def _clauses(side: str) -> tuple[Clause[Any], ...]:
    if side == "agent":
        from orchestrator.conformance import agent_kit

        return agent_kit.CLAUSES
    from orchestrator.conformance import server_kit

    return server_kit.CLAUSES


def _test_orchestrator(arguments: argparse.Namespace) -> list[Finding]:
    from orchestrator.conformance.operator import AdapterOperator, Operator, SocketOperator
    from orchestrator.conformance.server_bench import Bench
    from orchestrator.conformance.server_kit import test_orchestrator
    from orchestrator.conformance.speaker import Door, Speaker, Unreachable

    if (arguments.operator is None) == (arguments.operator_socket is None):
        raise ValueError("give --operator-socket PATH or --operator CMD: runs must be made and orders given")
    operator: Operator
    if arguments.operator_socket:
        operator = SocketOperator(arguments.operator_socket)
    else:
        operator = AdapterOperator(arguments.operator, Host().tools)
    door = Door(arguments.orchestrator, fingerprints(arguments.tls_fpr) if arguments.tls_fpr else ())
    try:
        Speaker(door, 1, "nobody").send("hello", {})
    except Unreachable as problem:
        raise ValueError(str(problem)) from None
    bench = Bench(door, operator, arguments.patience)
    return test_orchestrator(bench, arguments.only, arguments.optional, arguments.jobs, _teller(arguments))


def _test_agent(arguments: argparse.Namespace) -> list[Finding]:
    from orchestrator.conformance.agent_kit import test_agent

    return test_agent(arguments, Host(), _teller(arguments))


def _teller(arguments: argparse.Namespace) -> Callable[[Finding], None]:
    def tell(finding: Finding) -> None:
        if not arguments.json:
            print(line_of(finding), flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())

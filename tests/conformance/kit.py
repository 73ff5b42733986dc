"""Runs the conformance kit on the product's own ends, sound or broken, as its command line does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.conformance.__main__ import main
from tests.orchestrator.served import Served

ROOT = Path(__file__).parents[2]
ALL = os.environ.get("VETTING_CONFORMANCE") == "all"
"""Everything (make conformance), or the part that fits into the test suite."""
FLAGS = "run --orchestrator {url} --run-id {run_id} --token-file {token_file} --tls-fpr {fpr} --state-dir {state}"
FLAGS += " --authorized-keys {authorized_keys} --evidence {evidence}"
PRODUCT = f"{sys.executable} -m vetting_agent {FLAGS} --memory-fraction 0.05"
QUICK_LONG_STAGE = ["--long-stage", 'SMART={"seconds": 600}']
BUSY = ["--slack", "20"]
"""For a machine that does other things: what the protocol limits is still limited."""


def broken_agent(how: str) -> str:
    """The command of the agent that is broken so."""
    return f"env PYTHONPATH={ROOT} {sys.executable} -m tests.conformance.broken_agent {how} {FLAGS}"


def server_arguments(served: Served) -> list[str]:
    info = served.info
    where = ["--orchestrator", served.url, "--tls-fpr", info["fingerprint"]]
    return [*where, "--operator-socket", info["operator_socket"]]


def only(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def skip(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--skip", name)]


class Told:
    """What the kit told: its exit code, and each clause's status and detail."""

    def __init__(self, exit_code: int, text: str) -> None:
        self.exit_code = exit_code
        self.report: dict[str, Any] = json.loads(text)

    def named(self, status: str) -> set[str]:
        return {one["name"] for one in self.report["clauses"] if one["status"] == status}

    @property
    def words(self) -> str:
        bad = [one for one in self.report["clauses"] if one["status"] != "ok"]
        return "\n".join(f"{one['name']}: {one['status']}: {one['detail']}" for one in bad)


def told(capsys: Any, *arguments: str) -> Told:
    """Run the kit in this process."""
    capsys.readouterr()
    exit_code = main([*arguments, "--json"])
    return Told(exit_code, capsys.readouterr().out)

"""The operator's side of an orchestrator under test: makes runs, gives orders, looks at runs.

`SocketOperator` speaks the operator API of this orchestrator. For others there is the adapter, a command that is
started once for each request, with one JSON object on standard input, and that prints one (docs/conformance.md).
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from typing import Any, Protocol

from orchestrator.conformance.clause import NotTested
from orchestrator.operator_client import NoServer, OperatorClient, Refused
from probes.tools import ToolError, ToolRunner

ADAPTER_LIMIT_S = 60.0


class OperatorFailed(Exception):
    """The operator's side did not do as it was asked."""


class Operator(Protocol):
    def create_run(self, wanted: dict[str, Any]) -> tuple[int, str]:
        """A new run with `stages`, `heartbeat_interval_s`, `non_destructive`; (run_id, token)."""
        ...

    def direct(self, run_id: int, cmd: str, stage: str | None, override_flags: dict[str, Any] | None) -> None:
        """Order something for the agent's next heartbeat."""
        ...

    def get(self, run_id: int) -> dict[str, Any]:
        """What is known of the run: `state`, `stalled`, `passed` {stage: bool}, `log_lines`, `samples`, `evidence`."""
        ...


class SocketOperator:
    """This orchestrator's operator API."""

    def __init__(self, socket: str) -> None:
        self._client = OperatorClient.at(socket)

    def create_run(self, wanted: dict[str, Any]) -> tuple[int, str]:
        beat_s = wanted["heartbeat_interval_s"]
        body = {
            "host": "conformance",
            "profile": "quick",
            "stages": wanted["stages"],
            "non_destructive": wanted["non_destructive"],
            "intervals": {"heartbeat_s": beat_s, "sensor_s": beat_s, "log_s": beat_s},
        }
        created = self._asked(lambda: self._client.post("/runs", body, dict[str, Any]))
        return int(created["run_id"]), str(created["token"])

    def direct(self, run_id: int, cmd: str, stage: str | None, override_flags: dict[str, Any] | None) -> None:
        body = {"cmd": cmd, "stage": stage, **(override_flags or {})}
        self._asked(lambda: self._client.post(f"/runs/{run_id}/directives", body, dict[str, Any]))

    def get(self, run_id: int) -> dict[str, Any]:
        def read(path: str) -> Any:
            return self._asked(lambda: self._client.get(f"/runs/{run_id}{path}", Any))

        view = read("")
        return {
            "state": view["state"],
            "stalled": view["stalled"],
            "passed": {one["stage"]: one["passed"] for one in view["stages"]},
            "log_lines": read("/logs"),
            "samples": read("/samples")["samples"],
            "evidence": read("/evidence"),
        }

    @staticmethod
    def _asked(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (NoServer, Refused) as problem:
            raise OperatorFailed(str(problem)) from None


class AdapterOperator:
    """Someone else's, through a command."""

    def __init__(self, command: str, tools: ToolRunner) -> None:
        self._argv = shlex.split(command)
        self._tools = tools

    def create_run(self, wanted: dict[str, Any]) -> tuple[int, str]:
        created = self._ask({"act": "create_run", **wanted})
        try:
            return int(created["run_id"]), str(created["token"])
        except (KeyError, TypeError, ValueError):
            raise OperatorFailed(f"the adapter's create_run gave no run_id and token: {created}") from None

    def direct(self, run_id: int, cmd: str, stage: str | None, override_flags: dict[str, Any] | None) -> None:
        self._ask({"act": "direct", "run_id": run_id, "cmd": cmd, "stage": stage, "override_flags": override_flags})

    def get(self, run_id: int) -> dict[str, Any]:
        return self._ask({"act": "get", "run_id": run_id})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            running = self._tools.run(*self._argv, timeout_s=ADAPTER_LIMIT_S, stdin=json.dumps(question).encode())
            answer = json.loads(asyncio.run(running).stdout)
        except (ToolError, ValueError) as problem:
            raise OperatorFailed(f"the adapter failed on {question['act']}: {problem}") from None
        if not isinstance(answer, dict):
            raise OperatorFailed(f"the adapter printed no JSON object for {question['act']}")
        if "not_supported" in answer:
            raise NotTested(f"the adapter cannot {question['act']}: {answer['not_supported']}")
        return answer

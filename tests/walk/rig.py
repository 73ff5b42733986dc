"""A real orchestrator and real agents as processes on loopback, and the operator's side to drive them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

POLL_S = 0.05


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 40.0) -> Any:
    """The first true value of `condition`; fails with `what` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {limit_s} s in vain for: {what}"
        time.sleep(POLL_S)
    return value


class Orchestrator:
    """`vetting-orchestrator serve` as a process. `kill` and `start` again model a crash."""

    program: tuple[str, ...] = ("orchestrator",)

    def __init__(
        self, data: Path, *arguments: str, address: str = "127.0.0.1", within: Sequence[str] = (), **environment: str
    ) -> None:
        """`within`: what it is started behind, `ip netns exec NAME` for instance. `environment`: beside ours."""
        self.data = data
        self._arguments = arguments
        self._listen = f"{address}:0"
        self._within = within
        self._environment = environment
        self.process: subprocess.Popen[str] | None = None
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        argv = [sys.executable, "-m", *self.program, "serve", "--data", str(self.data), "--json"]
        with (self.data.parent / "orchestrator.err").open("a") as errors:
            self.process = subprocess.Popen(
                [*self._within, *argv, "--listen", self._listen, *self._arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self._environment},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.data.parent / "orchestrator.err").read_text()
        self.facts = json.loads(line)
        self._listen = self.url.removeprefix("https://")  # started again, it must be found where it was

    @property
    def errors(self) -> str:
        return (self.data.parent / "orchestrator.err").read_text()

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def fingerprint(self) -> str:
        return str(self.facts["fingerprint"])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def operator(self, method: str, path: str, body: object = None) -> Any:
        """One call of the operator's API."""
        transport = httpx.HTTPTransport(uds=self.facts["operator_socket"])
        with httpx.Client(transport=transport, base_url="http://operator", timeout=20) as client:
            answer = client.request(method, f"/operator/v1{path}", json=body)
            assert answer.status_code < 400, answer.text
            return answer.json()

    def create_run(self, stages: list[str], **more: Any) -> dict[str, Any]:
        body = {
            "host": "subject",
            "mac": None,
            "profile": "quick",
            "stages": stages,
            "parameters": {},
            "non_destructive": True,
            "expected_disks": None,
            "spec": None,
            "on_failure": "hold",
            "intervals": {"heartbeat_s": 0.3, "sensor_s": 1.0, "log_s": 0.3},
        } | more
        created: dict[str, Any] = self.operator("POST", "/runs", body)
        return created

    def run(self, run_id: int) -> dict[str, Any]:
        view: dict[str, Any] = self.operator("GET", f"/runs/{run_id}")
        return view

    def direct(self, run_id: int, cmd: str, **more: Any) -> dict[str, Any]:
        body = {"cmd": cmd, "stage": None, "wipe": False, "serials": None} | more
        view: dict[str, Any] = self.operator("POST", f"/runs/{run_id}/directives", body)
        return view

    def logs(self, run_id: int) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        while more := self.operator("GET", f"/runs/{run_id}/logs?after={lines[-1]['id'] if lines else 0}&limit=500"):
            lines += more
        return lines


@dataclass
class Agent:
    """`vetting-agent run` as a process, with stand-ins first on its PATH and a key file of its own."""

    folder: Path
    url: str
    fingerprint: str
    run: dict[str, Any]
    arguments: list[str] = field(default_factory=list)
    shown: dict[str, Path] = field(default_factory=dict)
    """Files of this machine that the agent sees others in the place of, in a mount namespace of its own."""
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("vetting_agent", "run")
    """Python's module, and its first arguments."""
    within: Sequence[str] = ()
    """What it is started behind, `ip netns exec NAME` for instance."""

    @property
    def keys(self) -> Path:
        return self.folder / "ssh" / "authorized_keys"

    @property
    def stand_ins(self) -> Path:
        return self.folder / "bin"

    @property
    def errors(self) -> str:
        return (self.folder / "agent.err").read_text()

    def start(self) -> Agent:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stand_ins.mkdir(exist_ok=True)
        for name in ("systemctl", "shutdown", "poweroff", "reboot", "halt"):
            script = self.stand_ins / name
            if not script.exists():
                script.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/power.log\n')
                script.chmod(0o755)
        token = self.folder / "token"
        token.write_text(self.run["token"])
        token.chmod(0o600)
        argv = [sys.executable, "-m", *self.program, "--orchestrator", self.url]
        argv += ["--run-id", str(self.run["run_id"]), "--token-file", str(token), "--tls-fpr", self.fingerprint]
        argv += ["--authorized-keys", str(self.keys), "--evidence", str(self.folder / "evidence")]
        with (self.folder / "agent.err").open("a") as errors:
            self.process = subprocess.Popen(
                [*self.within, *_seeing(self.shown), *argv, "--memory-fraction", "0.05", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PATH": f"{self.stand_ins}:{os.environ['PATH']}", **self.environment},
            )
        return self

    def wait(self, limit_s: float = 40.0) -> int:
        assert self.process is not None
        try:
            return self.process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent did not end:\n{self.errors[-3000:]}") from None

    def descendants(self) -> list[psutil.Process]:
        """All processes below the agent."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def load(self) -> list[psutil.Process]:
        """Its stress processes."""
        return [one for one in self.descendants() if _name(one).startswith(("stress-ng", "stressapptest"))]

    @property
    def power_log(self) -> list[str]:
        log = self.folder / "power.log"
        return log.read_text().splitlines() if log.exists() else []


def _seeing(shown: dict[str, Path]) -> list[str]:
    """What a command is put behind so that it sees other files."""
    if not shown:
        return []
    mounts = " && ".join(f"mount --bind {file} {path}" for path, file in shown.items())
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run; zombies do not."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

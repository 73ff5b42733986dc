"""A real orchestrator in a process of its own, its operator, and calls as an agent makes them, over real TLS."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.orchestrator.making import MAC, result

FAST = {"heartbeat_s": 0.1, "sensor_s": 0.1, "log_s": 0.1}


class Served:
    """`python -m orchestrator serve`, or `module`, over a data folder. `seen` gets every reply to agents."""

    def __init__(
        self,
        data: Path,
        listen: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
        arguments: Sequence[str] = (),
        module: Sequence[str] = ("orchestrator",),
    ) -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self._errors = (data.parent / f"{data.name}.stderr").open("ab")
        argv = [
            sys.executable,
            "-m",
            *module,
            "serve",
            "--data",
            str(data),
            "--listen",
            listen,
            "--json",
            *arguments,
        ]
        env = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self._errors, env=env)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stderr()
        self.info: dict[str, Any] = json.loads(line)
        self.url = str(self.info["url"])
        transport = httpx.HTTPTransport(uds=self.info["operator_socket"])
        self.operator = httpx.Client(transport=transport, base_url="http://operator/operator/v1")
        self.seen: list[httpx.Response] = []
        self.agents: list[Agent] = []

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stderr(self) -> str:
        return (self.data.parent / f"{self.data.name}.stderr").read_text()

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self._hang_up()
        self.process.terminate()
        return self._gone()

    def kill(self) -> None:
        """SIGKILL."""
        self._hang_up()
        self.process.kill()
        self._gone()

    def _hang_up(self) -> None:
        for client in (self.operator, *self.agents):
            client.close()

    def _gone(self) -> int:
        code = self.process.wait(timeout=20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        return code

    def create(self, **wanted: Any) -> Agent:
        """A new run, and an agent for it that has said nothing yet."""
        response = self.operator.post("/runs", json={"host": "h", **wanted})
        assert response.status_code == 201, response.text
        created = response.json()
        return Agent(self, created["run_id"], created["token"])

    def run(self, run_id: int) -> dict[str, Any]:
        return dict(self.operator.get(f"/runs/{run_id}").json())

    def order(self, run_id: int, cmd: str, **how: Any) -> httpx.Response:
        return self.operator.post(f"/runs/{run_id}/directives", json={"cmd": cmd, **how})

    def wait_for(self, run_id: int, what: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The run, once `what` holds of it."""
        deadline = time.monotonic() + 20
        while not what(view := self.run(run_id)):
            assert time.monotonic() < deadline, view
            time.sleep(0.05)
        return view


@contextlib.contextmanager
def serving(data: Path, **how: Any) -> Iterator[Served]:
    """A server for a block; killed when the block leaves it running."""
    served = Served(data, **how)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.end()


class Agent:
    """Calls as an agent makes them."""

    def __init__(self, served: Served, run_id: int, token: str) -> None:
        self.served = served
        self.run_id = run_id
        self.instance = str(uuid.uuid4())
        self.boot = str(uuid.uuid4())
        self.started_s: float | None = None
        served.agents.append(self)
        self.headers = {"Authorization": f"Bearer {token}", "X-Correlation-ID": self.instance}
        # Each test checks what it is about; the pin itself is the business of test_tls.py.
        self._http = httpx.Client(base_url=served.url, verify=_unverified(), trust_env=False)

    def close(self) -> None:
        self._http.close()

    def newer(self, served: Served | None = None) -> Agent:
        """The same host's next agent process."""
        token = self.headers["Authorization"].removeprefix("Bearer ")
        other = Agent(served or self.served, self.run_id, token)
        other.boot = self.boot
        return other

    def send(self, verb: str, body: Any = None, *, content: bytes | None = None, **how: Any) -> httpx.Response:
        """One call, whatever it is answered."""
        encoded = msgspec.json.encode(body if body is not None else {}) if content is None else content
        headers = {**self.headers, **how.pop("headers", {})}
        path = f"/api/v1/runs/{self.run_id}/{verb}"
        response = self._http.request(how.pop("method", "POST"), path, content=encoded, headers=headers, **how)
        self.served.seen.append(response)
        return response

    def call(self, verb: str, body: Any = None) -> dict[str, Any]:
        """One call that is to succeed; its answer."""
        response = self.send(verb, body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def refused(self, verb: str, body: Any = None, **how: Any) -> tuple[int, str]:
        """One call that is to be refused: status and code."""
        response = self.send(verb, body, **how)
        error = response.json()["error"]
        assert error["message"]
        assert error["correlation_id"] == self.headers["X-Correlation-ID"]
        return response.status_code, error["code"]

    def hello(self, mac: str = MAC) -> dict[str, str]:
        return {"agent_version": "0.1.0", "mac": mac, "ip": "127.0.0.1", "instance_id": self.instance}

    def claim_body(self, mac: str = MAC) -> dict[str, Any]:
        return {**self.hello(mac), "kernel_boot_id": self.boot, "arch": "x86_64", "agent_started_s": self.started_s}

    def claim(self, mac: str = MAC) -> dict[str, Any]:
        return self.call("claim", self.claim_body(mac))

    def post(self, stage: str, verdict: str = "pass", result_id: str | None = None, **how: Any) -> str:
        """Post a result; the next state."""
        request = msgspec.structs.replace(result(stage, verdict, **how), result_id=result_id or str(uuid.uuid4()))
        return str(self.call("result", request)["next_state"])


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

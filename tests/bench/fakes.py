"""One small HTTP server that is an orchestrator to our agent and an Ironic to ironic-python-agent."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NODE = "11111111-2222-3333-4444-555555555555"


@dataclass
class Fake:
    """What the server answers, and when it was first asked what."""

    stage: str | None = None
    """The stage that a claim names; None: the run is completed, and the agent idles."""
    parameters: dict[str, Any] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    """Monotonic time of the first call of each kind: `claim`, `result`, `heartbeat`."""
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Fake:
        self.server = _Quiet(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    def wait_for(self, call: str, limit_s: float) -> float:
        """When `call` came first. Raises TimeoutError."""
        deadline = time.monotonic() + limit_s
        while call not in self.first:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {call} within {limit_s} s")
            time.sleep(0.002)
        return self.first[call]

    def answer(self, path: str) -> dict[str, Any]:
        call = path.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        if "/heartbeat" in path:
            call = "heartbeat"
        if call == "lookup":
            call = "claim"  # Ironic's lookup is its claim: the first moment at which the machine is known
        self.first.setdefault(call, time.monotonic())
        if "/api/v1/runs/" in path:
            return self._ours(call)
        return _ironic(path)

    def _ours(self, call: str) -> dict[str, Any]:
        if call == "claim":
            stages = [self.stage] if self.stage else []
            state = self.stage or "Completed"
            return {"stages": stages, "current_state": state, "iperf_port": None, "expected_disks": [],
                    "non_destructive": True, "parameters": self.parameters}  # fmt: skip
        if call == "result":
            return {"next_state": "Completed"}
        return {"cmd": "", "stage": None, "override_flags": None} if call == "heartbeat" else {}


class _Quiet(ThreadingHTTPServer):
    """A client that is killed in the middle of a call is no error here."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def _ironic(path: str) -> dict[str, Any]:
    if "/lookup" in path:
        config = {"heartbeat_timeout": 300, "metrics": {}, "metrics_statsd": {}, "agent_token": "x" * 32}
        return {"node": {"uuid": NODE, "properties": {}, "instance_info": {}, "driver_internal_info": {}},
                "config": {**config, "agent_token_required": True}}  # fmt: skip
    version = {"id": "v1", "version": "1.95", "min_version": "1.1", "status": "CURRENT", "links": []}
    return {"default_version": version, "versions": [version], **version}


def _handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps(fake.answer(self.path)).encode()
            self.send_response(202 if "/v1/heartbeat/" in self.path else 200)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            for name in ("Version", "Minimum-Version", "Maximum-Version"):
                self.send_header(f"X-OpenStack-Ironic-API-{name}", "1.1" if name == "Minimum-Version" else "1.95")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
            pass

    return Handler

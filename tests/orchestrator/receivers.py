"""A receiver of webhooks: a real HTTP server that takes, refuses, hangs or hangs up as the test says.

It checks signatures by itself, from the text of Standard Webhooks, with nothing of the product.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.orchestrator.served import Agent, Served

HANG, HANG_UP = -1, -2


@dataclass(frozen=True)
class Got:
    """One call, as it came."""

    id: str
    timestamp: str
    signature: str
    body: bytes
    path: str
    answered: int

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def is_signed_with(self, secret: str) -> bool:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        wanted = hmac.new(key, f"{self.id}.{self.timestamp}.".encode() + self.body, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(wanted).decode()}" in self.signature.split(" ")


@dataclass
class Receiver:
    """`answers`: statuses of the next calls; when they are used up, `always`."""

    always: int = 200
    answers: list[int] = field(default_factory=list)
    calls: list[Got] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Receiver:
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self, self._closing))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=who-knows-this-may-post"

    def next_answer(self) -> int:
        return self.answers.pop(0) if self.answers else self.always

    def taken(self, type_: str | None = None) -> list[dict[str, Any]]:
        """The events that were answered well, oldest first; one that came twice with its id is one."""
        taken = {one.id: one.event for one in self.calls if 200 <= one.answered < 300}
        return [one for one in taken.values() if type_ in {None, one["type"]}]

    def wait(self, what: Callable[[Receiver], object], limit_s: float = 20.0) -> None:
        deadline = time.monotonic() + limit_s
        while not what(self):
            assert time.monotonic() < deadline, [(one.answered, one.event["type"]) for one in self.calls]
            time.sleep(0.02)


def _handler(receiver: Receiver, closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):
                self.close_connection = True  # its sender was killed amid the call
                return
            named = [self.headers[f"Webhook-{name}"] for name in ("Id", "Timestamp", "Signature")]
            answer = receiver.next_answer()
            receiver.calls.append(Got(*named, body=body, path=self.path, answered=answer))
            if answer == HANG:
                closing.wait(60)
            if answer in {HANG, HANG_UP}:
                self.close_connection = True
                return
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            if 300 <= answer < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def secret_of(data: Path) -> str:
    return (data / "webhook-secret").read_text().strip()


QUICK = ("--webhook-pause", "0.1")


def hooked_to(*receivers: Receiver) -> dict[str, Any]:
    hooks = [word for one in receivers for word in ("--webhook", one.url)]
    return {"arguments": (*hooks, *QUICK), "environment": {"NO_PROXY": "127.0.0.1"}}


def held(served: Served, host: str = "rack7-node3") -> Agent:
    """A run whose SMART failed."""
    agent = served.create(host=host, stages=["SMART"])
    agent.claim()
    agent.post("Inventory")
    assert agent.post("SMART", "fail") == "FailedHolding"
    return agent


def outbox_of(served: Served) -> dict[str, Any]:
    return dict(served.operator.get("/webhooks").json())


def until_empty(served: Served) -> None:
    deadline = time.monotonic() + 20
    while outbox_of(served)["deliveries"]:
        assert time.monotonic() < deadline, outbox_of(served)
        time.sleep(0.05)

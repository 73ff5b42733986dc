"""A Redfish service over real TLS that serves a recorded tree, and can answer wrongly, slowly or without end."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from probes.redfish import Service
from tests.support.certificates import Certificate, make

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "redfish"
PASSWORD = "hunter2-Zq8"
USER = "vetting"
POWER = "/redfish/v1/Chassis/1U/Power"
SUBSYSTEM = "/redfish/v1/Chassis/1U/PowerSubsystem"
BAY1 = f"{SUBSYSTEM}/PowerSupplies/Bay1"
BAY2 = f"{SUBSYSTEM}/PowerSupplies/Bay2"

Answer = Callable[[BaseHTTPRequestHandler], None]


def recorded(machine: str) -> dict[str, Any]:
    """{path: resource} of a recorded service."""
    root = RECORDINGS / machine
    return {
        ("/redfish/v1/" + str(file.parent.relative_to(root))).removesuffix("."): json.loads(file.read_text())
        for file in root.rglob("index.json")
    }


def two_sound_supplies() -> dict[str, Any]:
    """The recorded rack server as it would be with both supplies in and well."""
    tree = copy.deepcopy(recorded("dmtf-rackmount1"))
    tree[BAY1]["Status"] = {"State": "Enabled", "Health": "OK"}
    tree[BAY2] = {**copy.deepcopy(tree[BAY1]), "Id": "Bay2", "Name": "Power Supply Bay 2", "SerialNumber": "3488248"}
    tree[BAY2]["Metrics"] = {"@odata.id": f"{BAY2}/Metrics"}
    tree[f"{BAY2}/Metrics"] = copy.deepcopy(tree[f"{BAY1}/Metrics"])
    tree[SUBSYSTEM]["PowerSupplyRedundancy"][0]["Status"] = {"State": "Enabled", "Health": "OK"}
    return tree


@dataclass
class RedfishService:
    """`answers` goes before `tree`. `seen` lists each request as (path, Authorization)."""

    tree: dict[str, Any]
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    certificate: Certificate = field(default_factory=make)
    port: int = 0

    def asked(self, **changes: Any) -> Service:
        """How a client would ask it."""
        plain = {"user": USER, "password": PASSWORD, "fingerprint": self.certificate.fingerprint}
        return Service(f"https://127.0.0.1:{self.port}", **{**plain, **changes})

    @contextlib.contextmanager
    def served(self, folder: Path, context: ssl.SSLContext | None = None) -> Iterator[RedfishService]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                service.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = _Quiet(("127.0.0.1", 0), Handler)
        context = context or self.certificate.server_context(folder)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        authorization = request.headers.get("Authorization")
        self.seen.append((request.path, authorization))
        if request.path in self.answers:
            return self.answers[request.path](request)
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization != wanted:
            return says(b"{}", status=401)(request)
        if request.path not in self.tree:
            return says(b"{}", status=404)(request)
        return says(json.dumps(self.tree[request.path]).encode())(request)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news here."""


def says(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """One answer; `length` is what the header claims."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)
        if length is not None:
            request.close_connection = True

    return answer


def drips(pause_s: float) -> Answer:
    """Headers that never end, a byte at a time."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with contextlib.suppress(OSError):
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                request.wfile.write(b"a")
                time.sleep(pause_s)

    return answer


def floods(request: BaseHTTPRequestHandler) -> None:
    """A body without end."""
    request.close_connection = True
    request.send_response(200)
    request.end_headers()
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(b" " * 65536)

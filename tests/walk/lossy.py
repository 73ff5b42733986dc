"""A bad network between agent and orchestrator: a third of all calls fail, in every way a call can fail.

It ends TLS with the orchestrator's own certificate, so that the agent's pin holds, and passes each request on,
or not. Every decision is drawn from a seeded generator and counted.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

FAULTS = ("not passed on", "answer lost", "status 500", "garbage", "half an answer")


class _Server(ThreadingHTTPServer):
    """Peers that hang up in the middle are what this is about: no word of them on standard error."""

    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        return


class Lossy:
    """Listens on a free port of loopback while its block lasts."""

    def __init__(self, upstream: str, certificate: Path, key: Path, *, share: float = 1 / 3, seed: int = 1) -> None:
        self.counts: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._client = httpx.Client(base_url=upstream, verify=False, timeout=20, trust_env=False)
        self._server = _Server(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # Each handshake is its own thread's: one that a client gives up must not keep the others waiting.
        listening = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.socket = listening
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Lossy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def fault(self, verb: str) -> str | None:
        with self._lock:
            fault = self._draw.choice(FAULTS) if self._draw.random() < self._share else None
            self.counts[f"{verb}: {fault or 'passed'}"] += 1
            return fault

    def pass_on(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        kept = {name: value for name, value in headers.items() if name.lower() not in {"host", "connection"}}
        return self._client.post(path, content=body, headers=kept)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        lossy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                fault = lossy.fault(self.path.split("?")[0].split("/")[5])
                if fault == "not passed on":
                    return self._hang_up()
                if fault == "status 500":
                    return self._answer(500, b"<html>bad gateway</html>")
                answer = lossy.pass_on(self.path, dict(self.headers), body)
                if fault == "answer lost":
                    return self._hang_up()
                if fault == "garbage":
                    return self._answer(200, b"\x00\xff garbage")
                if fault == "half an answer":
                    return self._answer(200, answer.content[: len(answer.content) // 2])
                return self._answer(answer.status_code, answer.content)

            def _hang_up(self) -> None:
                self.close_connection = True

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        return Handler

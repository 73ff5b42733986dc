"""A server that answers each request with bytes of the test's choice, with TLS or without; it keeps what came."""

from __future__ import annotations

import contextlib
import email.utils
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable

HEAD_BYTES = 65536
HOLD_S = 30.0
TLS_HANDSHAKE = b"\x16\x03"

Answer = Callable[[str], bytes]
"""Path of a request -> all bytes of the answer; none: silence."""


def response(status: int, body: bytes, *, skew_s: float = 0.0, **headers: str) -> bytes:
    """An HTTP answer. `skew_s`: how far the server's clock is ahead."""
    lines = {
        "Date": email.utils.formatdate(time.time() + skew_s, usegmt=True),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Canned\r\n{head}\r\n".encode() + body


def refusal(status: int, code: str, **headers: str) -> bytes:
    """An answer in the orchestrator's own words."""
    error = {"code": code, "message": "said the test", "correlation_id": "c"}
    return response(status, json.dumps({"error": error}).encode(), **headers)


class CannedServer:
    """Listens on a free port of loopback while its block lasts. `heads`: each request's head."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.heads: list[str] = []
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[str]:
        """The paths, in their order."""
        return [head.split()[1] for head in self.heads]

    def __enter__(self) -> CannedServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        near.settimeout(HOLD_S)
        with contextlib.suppress(OSError, ValueError):
            if self._context is not None:
                near = self._context.wrap_socket(near, server_side=True)
                self._open.append(near)
            head = b""
            # A web server that is spoken to in TLS answers the first bytes, which are no request, at once.
            while not (b"\r\n\r\n" in head or head.startswith(TLS_HANDSHAKE)) and len(head) < HEAD_BYTES:
                if not (data := near.recv(HEAD_BYTES)):
                    return
                head += data
            self.heads.append(head.decode("latin-1"))
            if content := self._answer("" if head.startswith(TLS_HANDSHAKE) else self.asked[-1]):
                near.sendall(content)
                near.shutdown(socket.SHUT_RDWR)
                near.close()

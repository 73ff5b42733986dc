"""A proxy that ends TLS before the server and decides by the head of each request what becomes of it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

HEAD_BYTES = 65536
BAD = b"HTTP/1.1 %d Refused\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy"

Decide = Callable[[str, bool], int | None]
"""(path, whether it asks for an upgrade) -> None to pass it on, 0 to keep it waiting for ever, or an HTTP status."""


class TlsProxy:
    """Listens on a free port of loopback while its block lasts."""

    def __init__(self, upstream: str, data: Path, decide: Decide) -> None:
        host, _, port = upstream.removeprefix("https://").rstrip("/").rpartition(":")
        self._upstream = (host, int(port))
        self._decide = decide
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(data / "tls-certificate.pem", data / "tls-key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.seen: list[str] = []
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> TlsProxy:
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

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            near = self._context.wrap_socket(raw, server_side=True)
            self._open.append(near)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
                if not (data := near.recv(HEAD_BYTES)):
                    return
                head += data
            head, _, rest = head.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            path = lines[0].split()[1].decode()
            upgrade = any(line.lower().startswith(b"upgrade:") for line in lines)
            self.seen.append(path)
            verdict = self._decide(path, upgrade)
            if verdict == 0:
                return
            if verdict is not None:
                near.sendall(BAD % verdict)
                near.close()
                return
            if not upgrade:  # each call a connection of its own, so that each head is seen
                lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
            self._splice(near, b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _splice(self, near: ssl.SSLSocket, first: bytes) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        far = context.wrap_socket(socket.create_connection(self._upstream))
        self._open.append(far)
        far.sendall(first)
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

"""Asks a BMC's Redfish service over HTTPS, bounded in time, bytes and requests, and trusting nothing it answers.

A thread of its own does the talking; when the time is up, or the caller is cancelled, its socket is shut under it. The
password goes to the one host that was named and nowhere else: links to other hosts and redirects are not followed,
and with a pinned fingerprint nothing is sent before the certificate was compared. Errors: `RedfishError`.
DMTF DSP0266 (protocol), DSP0268 (schemas).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from probes.apart import apart
from probes.printable import printable

ROOT = "/redfish/v1/"
ANSWER_LIMIT = 4 * 2**20
REQUESTS_MAX = 120
SOCKET_LIMIT_S = 15.0
_PATH = re.compile(r"/redfish/v1(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]*)*")

ResultT = TypeVar("ResultT")


class RedfishError(Exception):
    """The service could not be asked. `str()` says what was tried and what came back; never the password."""


@dataclass(frozen=True, slots=True)
class Service:
    """Where the service is and how it is known. `url` is https://HOST[:PORT] (http only when `insecure`)."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    fingerprint: str = ""
    """SHA-256 of its certificate (DER), in hexadecimal with or without colons. Empty: a CA of the system's."""
    insecure: bool = False
    """Take any certificate."""

    def address(self) -> tuple[str, str, int]:
        """(scheme, host, port). Raises RedfishError."""
        try:
            parts = urlsplit(self.url)
            port = parts.port or (80 if parts.scheme == "http" else 443)
        except ValueError as problem:
            raise RedfishError(f"the Redfish address cannot be read: {problem}") from None
        if parts.username is not None or parts.password is not None:
            raise RedfishError("the Redfish address must not hold a user or password")
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path not in {"", "/", ROOT, ROOT[:-1]}:
            raise RedfishError("the Redfish address must read https://HOST or https://HOST:PORT")
        if parts.scheme == "http" and not self.insecure:
            raise RedfishError("http sends the password in the clear: use https, or say that it may be insecure")
        return parts.scheme, parts.hostname, port


@dataclass(slots=True)
class Client:
    """One conversation, for use in a thread. `answers` keeps every answer's text by its path, without secrets."""

    service: Service
    deadline: float
    answers: dict[str, str] = field(default_factory=dict)
    _connection: http.client.HTTPConnection | None = None
    _socket: socket.socket | None = None
    """That of the connection, which drops its own when an answer says that it is the last."""
    _requests: int = 0
    _ended: bool = False

    def get(self, path: str) -> dict[str, Any]:
        """The resource at a path of this service. Raises RedfishError."""
        if not _PATH.fullmatch(path) or ".." in path:
            raise RedfishError(f"{printable(path)!r} is no resource of this service")
        self._requests += 1
        if self._requests > REQUESTS_MAX:
            raise RedfishError(f"more than {REQUESTS_MAX} resources to read")
        try:
            status, body = self._exchange(path)
        except RedfishError:
            self.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as problem:
            self.close()
            why = "it took too long" if self._left() <= 0 else str(problem) or type(problem).__name__
            raise RedfishError(f"{path}: {self._clean(why)}") from None
        self.answers[path] = self._clean(body.decode("utf-8", errors="replace"), limit=ANSWER_LIMIT)
        if status != 200:
            raise RedfishError(f"{path}: the service answered with status {status}")
        return _resource(path, body)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
        if self._socket is not None:
            self._socket.close()
        self._connection = self._socket = None

    def abort(self) -> None:
        """End it from another thread: what it waits for then fails at once."""
        self._ended = True
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _left(self) -> float:
        return 0.0 if self._ended else self.deadline - time.monotonic()

    def _exchange(self, path: str) -> tuple[int, bytes]:
        connection = self._connected()
        headers = {"Accept": "application/json", "Authorization": f"Basic {self._token()}"}
        connection.request("GET", path, headers=headers if self.service.user else {"Accept": "application/json"})
        response = connection.getresponse()
        try:
            body = self._body(path, response)
        finally:
            response.close()  # the connection takes no other request before
        if response.will_close:
            self.close()
        return response.status, body

    def _body(self, path: str, response: http.client.HTTPResponse) -> bytes:
        body = b""
        while True:
            left = self._left()
            if left <= 0:
                raise TimeoutError
            if self._socket is not None:
                self._socket.settimeout(min(SOCKET_LIMIT_S, left))
            part = response.read1(65536)
            if not part:
                break
            body += part
            if len(body) > ANSWER_LIMIT:
                raise RedfishError(f"{path}: the answer is larger than {ANSWER_LIMIT} bytes")
        if response.length:
            raise RedfishError(f"{path}: the answer breaks off")
        return body

    def _connected(self) -> http.client.HTTPConnection:
        left = self._left()
        if left <= 0:
            raise TimeoutError
        if self._connection is None:
            self._connect(min(SOCKET_LIMIT_S, left))
        assert self._connection is not None
        assert self._socket is not None
        self._socket.settimeout(min(SOCKET_LIMIT_S, left))
        return self._connection

    def _connect(self, limit_s: float) -> None:
        """Each socket is there to be shut by `abort` before anything can wait on it."""
        scheme, host, port = self.service.address()
        connection = http.client.HTTPConnection(host, port)
        connection.auto_open = 0  # a new connection is compared anew
        plain = self._socket = connection.sock = socket.create_connection((host, port), limit_s)
        self._connection = connection
        if scheme == "https":
            tls = _tls(self.service).wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            self._socket = connection.sock = tls
            tls.do_handshake()
            if self.service.fingerprint:
                _compare(tls, self.service.fingerprint)

    def _token(self) -> str:
        return base64.b64encode(f"{self.service.user}:{self.service.password}".encode()).decode()

    def _clean(self, text: str, limit: int = 300) -> str:
        """Without the password, should the service send it back."""
        secrets = (self.service.password, self._token()) if self.service.password else ()
        for secret in secrets:
            text = text.replace(secret, "[secret]")
        return text[:limit]


async def talk(service: Service, work: Callable[[Client], ResultT], *, limit_s: float) -> ResultT:
    """The result of `work(client)` in a thread. Raises RedfishError, also when it takes longer than `limit_s`."""
    client = Client(service, time.monotonic() + limit_s)

    def body() -> ResultT:
        try:
            return work(client)
        finally:
            client.close()

    try:
        async with asyncio.timeout(limit_s + 0.5):
            return await apart(body, "redfish")
    except TimeoutError:
        raise RedfishError(f"the service did not answer within {limit_s:g} s") from None
    finally:
        client.abort()


def _tls(service: Service) -> ssl.SSLContext:
    if not service.fingerprint and not service.insecure:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _compare(sock: ssl.SSLSocket, fingerprint: str) -> None:
    """Raises RedfishError unless the peer's certificate is the pinned one."""
    wanted = re.sub(r"[^0-9a-f]", "", fingerprint.lower().removeprefix("sha256"))
    shown = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if not hmac.compare_digest(wanted, shown):
        raise RedfishError(f"the service shows another certificate than the pinned one (SHA-256 {shown})")


def _resource(path: str, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise RedfishError(f"{path}: the answer is no JSON") from None
    if not isinstance(value, dict):
        raise RedfishError(f"{path}: the answer is no JSON object")
    return value


def _refuse(word: str) -> None:
    raise ValueError(word)

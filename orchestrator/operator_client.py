"""Talks to the operator API of a running server: finds its socket through DATA/server.json.

On http.client: httpx imports its own command line where click and rich are installed, half a second for each command.
"""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from vetting_agent.wire import CORRELATION_HEADER, ErrorEnvelope

T = TypeVar("T")
TIMEOUT_S = 30.0


class NoServer(Exception):
    """No server answers for this data folder."""


class Refused(Exception):
    """The server said no; `code` is the envelope's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def default_data_folder() -> Path:
    """$VETTING_DATA, else /var/lib/vetting-orchestrator for root and ~/.local/share/vetting-orchestrator for others."""
    if given := os.environ.get("VETTING_DATA"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/vetting-orchestrator")
    return Path.home() / ".local" / "share" / "vetting-orchestrator"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("operator", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class OperatorClient:
    """The operator API, blocking; one connection a call."""

    @classmethod
    def at(cls, socket_path: str, timeout_s: float = TIMEOUT_S) -> Self:
        """The client of a socket that is known already."""
        client = cls.__new__(cls)
        client._socket, client._timeout_s = socket_path, timeout_s
        return client

    def __init__(self, data: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        try:
            info = msgspec.json.decode((data / "server.json").read_bytes())
            self._socket = str(info["operator_socket"])
        except FileNotFoundError:
            raise NoServer(f"no vetting-orchestrator serves {data} (no server.json there): start `serve`") from None
        except (OSError, msgspec.MsgspecError, KeyError, TypeError) as problem:
            raise NoServer(f"{data / 'server.json'} cannot be read: {problem}") from None

    def get(self, path: str, kind: type[T], **query: int | str) -> T:
        """The answer to a GET, as `kind`."""
        return msgspec.json.decode(self.get_bytes(path, "", **query), type=kind)

    def get_bytes(self, path: str, correlation: str = "", **query: int | str) -> bytes:
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None, correlation=correlation)

    def post(self, path: str, body: Any, kind: type[T], *, correlation: str = "") -> T:
        """The answer to a POST, as `kind`."""
        content = self._call("POST", path, msgspec.json.encode(body), correlation=correlation)
        return msgspec.json.decode(content, type=kind)

    def send(self, method: str, path: str, body: Any, kind: type[T]) -> T:
        """The answer to a call with another method, as `kind`."""
        return msgspec.json.decode(self._call(method, path, msgspec.json.encode(body)), type=kind)

    def send_bytes(self, method: str, path: str, content: bytes, kind: type[T], also: tuple[int, ...] = ()) -> T:
        """The answer to a call whose body is no JSON. `also`: statuses that are answered as `kind` too."""
        return msgspec.json.decode(self._call(method, path, content, also), type=kind)

    @property
    def socket_path(self) -> str:
        return self._socket

    def _call(
        self, method: str, path: str, body: bytes | None, also: tuple[int, ...] = (), correlation: str = ""
    ) -> bytes:
        connection = _UnixConnection(self._socket, self._timeout_s)
        try:
            headers = {CORRELATION_HEADER: correlation} if correlation else {}
            connection.request(method, f"/operator/v1{path}", body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as problem:
            raise NoServer(f"the vetting-orchestrator at {self._socket} does not answer: {problem}") from None
        finally:
            connection.close()
        if response.status < 300 or (response.status in also and not _is_refusal(content)):
            return content
        raise _refusal(response.status, content)


def _is_refusal(content: bytes) -> bool:
    try:
        msgspec.json.decode(content, type=ErrorEnvelope)
    except msgspec.MsgspecError:
        return False
    return True


def _refusal(status: int, content: bytes) -> Refused:
    try:
        error = msgspec.json.decode(content, type=ErrorEnvelope).error
    except msgspec.MsgspecError:
        return Refused("unreadable", f"HTTP {status} without an explanation")
    return Refused(error.code, error.message)

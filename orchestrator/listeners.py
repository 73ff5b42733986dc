"""The sockets that the server listens on, and how others reach them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

LONGEST_SOCKET_PATH = 100


class CannotServe(Exception):
    """The server cannot start; the text says why."""


@contextlib.contextmanager
def tcp_socket(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only then: 2 ms a call instead of 44.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            raise CannotServe(f"cannot listen on {host}:{port}: {problem.strerror}") from None
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def unix_socket(data: Path) -> Iterator[socket.socket]:
    """DATA/operator.sock with mode 0600; in a folder of its own under /tmp when that path is too long for a socket."""
    with contextlib.ExitStack() as stack:
        path = data.absolute() / "operator.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vetting-", dir="/tmp"))
            path = Path(folder) / "operator.sock"
        path.unlink(missing_ok=True)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        path.chmod(0o600)
        stack.callback(path.unlink, missing_ok=True)
        listener.setblocking(False)
        yield listener


def reachable(listener: socket.socket) -> str:
    """host:port as hosts of the network reach it: the address with the default route where all are listened on."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not listened on
        host = _own_address(listener.family)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_address(family: int) -> str:
    nowhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((nowhere, 9))  # sends nothing: it only asks the routing table
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def allow_many_files() -> None:
    """As many open files as the system lets this process have: each host keeps a connection open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

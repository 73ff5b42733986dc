"""Shows the agent's outlook to who asks on this host: a unix socket, a loopback /healthz, and `vetting-agent status`.

The socket gives one JSON object and closes. /healthz answers 200 with the same while the agent goes on, which is what
the answer itself proves: it comes from the event loop that walks the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from probes.host import Host
from vetting_agent import outlook
from vetting_agent.errors import EXIT_CRASHED, EXIT_DONE
from vetting_agent.lock import default_state_dir
from vetting_agent.outlook import Outlook

SOCKET_NAME = "status.sock"
CALL_LIMIT_S = 5.0
REQUEST_LINE_BYTES = 4096
BYTES_PER_READ = 65536


class StatusServer:
    """Both ways to ask."""

    def __init__(self, look: Callable[[], Outlook], socket_path: Path | None, healthz_port: int | None) -> None:
        self._look = look
        self._socket_path = socket_path
        self._healthz_port = healthz_port

    async def run(self) -> None:
        """For ever. Raises OSError when a socket cannot be had."""
        async with contextlib.AsyncExitStack() as stack:
            if self._socket_path is not None:
                self._socket_path.unlink(missing_ok=True)
                # The folder is 0700: root alone gets to the socket.
                server = await asyncio.start_unix_server(self._give, self._socket_path)
                self._socket_path.chmod(0o600)
                await stack.enter_async_context(server)
            if self._healthz_port is not None:
                await stack.enter_async_context(
                    await asyncio.start_server(self._answer, "127.0.0.1", self._healthz_port, limit=REQUEST_LINE_BYTES)
                )
            await asyncio.Event().wait()

    async def _give(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, msgspec.json.encode(self._look()) + b"\n")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = b""
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(CALL_LIMIT_S):
                words = (await reader.readline()).split()
                path = words[1] if len(words) > 1 and words[0] == b"GET" else b""
                while (await reader.readline()).strip():
                    pass
        if path == b"/healthz":
            status, body = b"200 OK", msgspec.json.encode(self._look()) + b"\n"
        else:
            status, body = b"404 Not Found", b'{"error": "GET /healthz is all there is"}\n'
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        await _send(writer, head % (status, len(body)) + body)


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    """To a reader who may be gone, or may never read."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CALL_LIMIT_S):
            writer.write(content)
            await writer.drain()
    writer.close()


# --- the command ------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent status`."""
    parser.add_argument("--json", action="store_true", help="the record instead of its text")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, default=None, help="as given to run")


def main(args: argparse.Namespace) -> int:
    """Ask the agent of this host. 0: it answered; 1: there is none, or it is stuck."""
    path = (args.state_dir or default_state_dir(Host())) / SOCKET_NAME
    try:
        content = _ask(path)
        shown = content.decode().strip() if args.json else outlook.text(msgspec.json.decode(content, type=Outlook))
    except (OSError, msgspec.MsgspecError) as problem:
        print(f"vetting-agent: no agent answers at {path}: {problem}", file=sys.stderr)  # noqa: T201
        return EXIT_CRASHED
    print(shown)  # noqa: T201 a command line speaks
    return EXIT_DONE


def _ask(path: Path) -> bytes:
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(CALL_LIMIT_S)
        asking.connect(str(path))
        while part := asking.recv(BYTES_PER_READ):
            parts.append(part)
    return b"".join(parts)

"""The iperf3 servers that hosts measure their network against: started on free ports, and again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time

from probes.tools import Process, ToolError, Tools

log = logging.getLogger(__name__)
RESTART_S = 1.0
STARTS_TO_LISTEN_S = 0.3
"""Shorter-lived than this, it has not listened."""
PORT_TRIES = 3
"""Claims have named the port: another one is taken only when this one is really lost."""


def free_port(wanted: int = 0) -> int:
    """`wanted` if it can be listened on, else any port that can."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("::", port))
                return int(probe.getsockname()[1])
    with socket.socket() as probe:  # a kernel without IPv6
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class IperfServer:
    """Keeps `iperf3 -s` running while `run` runs. `port` is None on a machine without iperf3."""

    def __init__(self, tools: Tools, wanted_port: int = 0) -> None:
        self._tools = tools
        self._process: Process | None = None
        self.port = free_port(wanted_port) if tools.find("iperf3") else None

    async def run(self) -> None:
        """Until cancelled."""
        if self.port is None:
            return
        early_ends = 0
        while True:
            started = time.monotonic()
            try:
                await self._serve_once(self.port)
            except ToolError as problem:
                log.warning("iperf3: %s", problem)
            early_ends = early_ends + 1 if time.monotonic() - started < STARTS_TO_LISTEN_S else 0
            if early_ends == PORT_TRIES:  # somebody else took the port meanwhile
                self.port, early_ends = free_port(), 0
            await asyncio.sleep(RESTART_S)

    def restart(self) -> None:
        """End what it is doing: the one it served has gone away without a word."""
        if self._process is not None:
            self._process.kill()

    async def _serve_once(self, port: int) -> None:
        # -1 is not used: starting anew for each test would leave a moment in which nobody listens.
        async with self._tools.start("iperf3", "-s", "-p", str(port)) as process:
            self._process = process
            try:
                await asyncio.gather(_drop(process.stdout), _drop(process.stderr), process.wait())
            finally:
                self._process = None
        log.warning("iperf3 ended and is started again")


class IperfServers:
    """Several of them, lent together to one host: before version 3.16 one iperf3 is one thread, and a fast port needs
    more than that. The first is the one that claims name."""

    def __init__(self, tools: Tools, count: int = 1, wanted_port: int = 0) -> None:
        self._servers = [IperfServer(tools, wanted_port if number == 0 else 0) for number in range(max(1, count))]

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports; none on a machine without iperf3."""
        return tuple(server.port for server in self._servers if server.port is not None)

    @property
    def port(self) -> int | None:
        """The first port."""
        return self._servers[0].port

    async def run(self) -> None:
        """Until cancelled."""
        if self.port is None:
            log.warning("iperf3 is not installed: hosts will not be able to measure their network's throughput")
            return
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.run())

    def restart(self) -> None:
        """End what they are doing: the host they served has gone away without a word."""
        for server in self._servers:
            server.restart()


async def _drop(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass

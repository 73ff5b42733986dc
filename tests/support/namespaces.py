"""A cable between two network namespaces: a machine's port in one, an iperf3 server's in the other.

The stage runs in the test process; its tools run inside the first namespace, and its /sys is that namespace's,
seen through the root of a process that sleeps there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

from probes.host import Host
from probes.tools import RunOptions, ToolResult, ToolRunner

HOST_ADDRESS = "10.199.0.1"
SERVER_ADDRESS = "10.199.0.2"
PORT = 5201
SHOWN = ("address", "carrier", "carrier_changes", "speed", "duplex", "type", "flags", "statistics", "mtu")


def sh(*argv: str) -> str:
    """Run a program that must succeed; its output."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass
class InNamespace:
    """A tool runner that runs everything inside a network namespace."""

    inner: ToolRunner
    namespace: str
    python: Path | None = None
    """A program that is run where the stage runs this interpreter."""

    def find(self, name: str) -> str | None:
        return self.inner.find(name)

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        if self.python is not None and argv[0] == sys.executable:
            argv = (str(self.python), *argv[1:])
        return await self.inner.run("ip", "netns", "exec", self.namespace, *argv, **how)

    def recording(self, folder: Path) -> InNamespace:
        return replace(self, inner=self.inner.recording(folder))

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return await self.inner.take_unkillable(wait_s)


@dataclass
class Wire:
    """Two namespaces and the cable. Use as a context manager."""

    name: str = field(default_factory=lambda: f"vt{os.getpid()}")
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _namespaces: list[str] = field(default_factory=list)
    """Of further hosts."""

    @property
    def near(self) -> str:
        return f"{self.name}a"

    @property
    def far(self) -> str:
        return f"{self.name}b"

    def __enter__(self) -> Wire:
        for namespace in (self.near, self.far):
            sh("ip", "netns", "add", namespace)
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        self.cable("p0", HOST_ADDRESS, SERVER_ADDRESS)
        self._see_sys()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for namespace in (self.near, self.far, *self._namespaces):
            subprocess.run(["ip", "netns", "del", namespace], check=False)

    def _see_sys(self) -> None:
        """A process that sleeps in the near namespace keeps its /sys open to us."""
        self.start(self.near, "sleep", "600")
        deadline = time.monotonic() + 10
        while not (self._sys() / "p0").exists():
            assert time.monotonic() < deadline, "the namespace's /sys is not to be seen"
            time.sleep(0.02)

    def _sys(self) -> Path:
        return Path(f"/proc/{self._processes[0].pid}/root/sys/class/net")

    def cable(self, port: str, near: str, far: str) -> None:
        """One more port on each side, with a cable between them."""
        peer = ["peer", "name", port, "netns", self.far]
        sh("ip", "-n", self.near, "link", "add", port, "type", "veth", *peer)
        for namespace, address in ((self.near, near), (self.far, far)):
            sh("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", port)
            sh("ip", "-n", namespace, "link", "set", port, "up")

    def mac(self, port: str = "p0") -> str:
        return sh("ip", "netns", "exec", self.near, "cat", f"/sys/class/net/{port}/address").strip()

    def start(self, namespace: str, *argv: str) -> subprocess.Popen[bytes]:
        """A process inside a namespace, ended with the wire."""
        null = subprocess.DEVNULL
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *argv], stdin=null, stdout=null, stderr=null)
        self._processes.append(process)
        return process

    def serve(self, port: int = PORT) -> subprocess.Popen[bytes]:
        """A real iperf3 server on the far side."""
        server = self.start(self.far, "iperf3", "-s", "-p", str(port))
        deadline = time.monotonic() + 10
        while f":{port}" not in sh("ip", "netns", "exec", self.far, "ss", "-Hltn"):
            assert time.monotonic() < deadline, "the iperf3 server did not start"
            time.sleep(0.05)
        return server

    @contextlib.contextmanager
    def peers(self) -> Iterator[None]:
        """What is started inside is ended with the block."""
        before = len(self._processes)
        try:
            yield
        finally:
            for process in self._processes[before:]:
                process.kill()
                process.wait()

    def speak(self, frame: bytes) -> None:
        """The far side sends this frame over and over."""
        code = "import socket, sys, time\nwire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        code += "wire.bind(('p0', 0))\nwhile True:\n    wire.send(bytes.fromhex(sys.argv[1]))\n    time.sleep(0.1)\n"
        self.start(self.far, "python3", "-c", code, frame.hex())

    def play(self, code: str) -> subprocess.Popen[bytes]:
        """A Python program on the far side that listens on the iperf3 port; `connection` is what was accepted."""
        head = f"import socket, time\nserver = socket.create_server(('', {PORT}))\nwhile True:\n"
        head += "    connection = server.accept()[0]\n"
        body = "".join(f"    {line}\n" for line in code.splitlines())
        peer = self.start(self.far, "python3", "-c", head + body)
        deadline = time.monotonic() + 10
        while f":{PORT}" not in sh("ip", "netns", "exec", self.far, "ss", "-Hltn"):
            assert time.monotonic() < deadline, "the peer did not start"
            time.sleep(0.05)
        return peer

    def limit(self, mbit: float, burst_kb: int = 64) -> None:
        """The cable carries no more than this, both ways; what a machine that stops for a moment leaves unsent it may
        send after that, as far as the burst goes."""
        for namespace in (self.near, self.far):
            rate = ["rate", f"{mbit * 1000:.0f}kbit", "burst", f"{burst_kb}kb", "latency", "100ms"]
            sh("tc", "-n", namespace, "qdisc", "replace", "dev", "p0", "root", "tbf", *rate)

    def second_host(self, address: str) -> str:
        """Another host on the far side's network, with this address; its MAC address."""
        third = f"{self.name}c"
        sh("ip", "netns", "add", third)
        self._namespaces.append(third)
        sh("ip", "-n", self.far, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", self.far, "link", "add", "q0", "type", "veth", "peer", "name", "p0", "netns", third)
        for port in ("p0", "q0"):
            sh("ip", "-n", self.far, "link", "set", port, "master", "br0", "up")
        sh("ip", "-n", self.far, "addr", "del", f"{SERVER_ADDRESS}/24", "dev", "p0")
        sh("ip", "-n", self.far, "addr", "add", f"{SERVER_ADDRESS}/24", "dev", "br0")
        sh("ip", "-n", self.far, "link", "set", "br0", "up")
        # Whom the server talks to must not depend on who answers it first.
        sh("ip", "-n", self.far, "neigh", "replace", HOST_ADDRESS, "lladdr", self.mac(), "dev", "br0")
        sh("ip", "-n", third, "addr", "add", f"{address}/24", "dev", "p0")
        sh("ip", "-n", third, "link", "set", "p0", "up")
        return sh("ip", "netns", "exec", third, "cat", "/sys/class/net/p0/address").strip()

    def lose(self, share: float) -> None:
        """The far side drops this share of what it receives."""
        rule = f"iifname p0 meta length > 500 numgen random mod 10000 < {round(share * 10000)} drop"
        text = f"table ip t {{\n chain c {{\n type filter hook input priority 0\n {rule}\n }}\n}}\n"
        subprocess.run(["ip", "netns", "exec", self.far, "nft", "-f", "-"], input=text, text=True, check=True)

    def host(self, root: Path, tools: ToolRunner, driver: str | None = None, python: Path | None = None) -> Host:
        """The machine as seen from the near namespace. `driver` names the port's driver in /sys."""
        seen = self._sys()
        ports = [entry.name for entry in seen.iterdir() if entry.name != "lo"]
        for port in ports:
            folder = root / "sys" / "class" / "net" / port
            (folder / "device").mkdir(parents=True)
            if driver is not None:
                home = root / "sys" / "bus" / "pci" / "drivers" / driver
                home.mkdir(parents=True, exist_ok=True)
                (folder / "device" / "driver").symlink_to(home)
            for name in SHOWN:
                (folder / name).symlink_to(seen / port / name)
        return Host(root=root, tools=InNamespace(tools, self.near, python))


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

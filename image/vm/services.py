"""What a machine needs of the network: the orchestrator, the image over HTTP, boot.ipxe, and on a tap also DHCP."""

# ruff: noqa: S603, S607 - programs by name, with arguments of our own: what this file is for
from __future__ import annotations

import contextlib
import functools
import http.server
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_LIMIT_S = 60.0
QEMU_GATEWAY = "10.0.2.2"
"""How a guest on QEMU's own network reaches this host's loopback."""


class NoService(Exception):
    """One of them could not be started; `str()` says why."""


@dataclass(slots=True)
class Files:
    """The image over HTTP. `fetched` says when each file had been sent whole, on the monotonic clock."""

    port: int
    fetched: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def files(folder: Path, address: str, done: Callable[[str], None]) -> Iterator[int]:
    """Serve a folder while the block lasts; the port. `done` hears the name of each file that was sent."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            super().copyfile(source, outputfile)
            done(self.path.lstrip("/"))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class names it
            return

    server = http.server.ThreadingHTTPServer((address, 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """A running orchestrator, asked through its own command line."""

    data: Path
    url: str
    fingerprint: str
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def ask(self, *words: str) -> Any:
        """A `vetting-orchestrator` command with --json. Raises NoService."""
        argv = [sys.executable, "-m", "orchestrator", *words, "--data", str(self.data), "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise NoService(done.stderr.strip() or f"{' '.join(words)}: exit code {done.returncode}")
        return json.loads(done.stdout)

    def watch(self, run: int) -> subprocess.Popen[bytes]:
        """`run watch`, on this terminal."""
        argv = [sys.executable, "-m", "orchestrator", "run", "watch", str(run), "--data", str(self.data)]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def orchestrator(folder: Path, listen: str, seen_as: str, port: int | None = None) -> Iterator[Orchestrator]:
    """An orchestrator while the block lasts, with its data in the folder. `seen_as`: where the guest reaches it."""
    port = port or _free_port(listen)
    data = folder / "orchestrator"
    argv = [sys.executable, "-m", "orchestrator", "serve", "--data", str(data), "--listen", f"{listen}:{port}"]
    argv += ["--url", f"https://{seen_as}:{port}", "--json"]
    with (folder / "orchestrator.err").open("ab") as errors:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise NoService((folder / "orchestrator.err").read_text(errors="replace").strip())
        info = json.loads(line)
        yield Orchestrator(data, info["url"], info["fingerprint"], server)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        if server.poll() is None:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as one:
        return int(one.getsockname()[1])


def boot_script(template: str, base: str, parameters: str, extra: str) -> str:
    """boot.ipxe with its gaps filled. Raises ValueError when one is left or cannot be found."""
    filled = template
    for gap, value in {"@BASE@": base, "@PARAMETERS@": parameters, "@EXTRA@": extra}.items():
        if gap not in filled:
            raise ValueError(f"boot.ipxe has no {gap}")
        filled = filled.replace(gap, value)
    return filled


def address_of(interface: str) -> ipaddress.IPv4Interface:
    """The IPv4 address of an interface of this host. Raises NoService."""
    done = subprocess.run(["ip", "-j", "-4", "address", "show", "dev", interface], capture_output=True, check=False)
    known = json.loads(done.stdout or b"[]")
    for one in known[0].get("addr_info", []) if known else []:
        return ipaddress.IPv4Interface(f"{one['local']}/{one['prefixlen']}")
    raise NoService(f"{interface} has no IPv4 address")


@contextlib.contextmanager
def dnsmasq(folder: Path, interface: str, tftp: Path) -> Iterator[None]:
    """DHCP and TFTP on a tap while the block lasts, as a site's boot server would give them."""
    at = address_of(interface)
    hosts = list(at.network.hosts())
    first, last = hosts[len(hosts) // 2], hosts[-1]
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"]
    argv += [f"--interface={interface}", f"--dhcp-range={first},{last},{at.network.netmask},1h", "--log-facility=-"]
    argv += ["--enable-tftp", f"--tftp-root={tftp}", "--dhcp-boot=boot.ipxe", f"--pid-file={folder / 'dnsmasq.pid'}"]
    argv += [f"--dhcp-leasefile={folder / 'leases'}", f"--user={'root' if os.geteuid() == 0 else ''}"]
    with (folder / "dnsmasq.log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        time.sleep(0.5)
        if server.poll() is not None:
            raise NoService(f"dnsmasq: {(folder / 'dnsmasq.log').read_text(errors='replace').strip()}")
        yield
    finally:
        server.terminate()
        server.wait()

"""A bad cable: what goes over it is lost, damaged, late or slow, as the story says, from one moment to the next.

The machine's port sends each frame as a datagram to this process, which hands it on to a gateway: a second QEMU
without a machine, whose own network (10.0.2.0/24, as every lab machine has) is the other end of the cable.
"""

# ruff: noqa: S311 - chances of a cable, no secrets
from __future__ import annotations

import contextlib
import heapq
import json
import random
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image.vm.machine import QEMU
from image.vm.services import NoService

HERE = "127.0.0.1"
HEADERS = 54
"""Ethernet, IPv4 and TCP: what is damaged behind them, TCP's checksum finds."""
QUEUE_S = 2.0
"""What a slow cable would send later than that, it drops."""
BUFFER_BYTES = 4 << 20
TICK_S = 0.05


@dataclass(slots=True)
class Faults:
    """How the cable is now. Chances from 0 to 1, each for one frame of either direction."""

    loss: float = 0.0
    damage: float = 0.0
    delay_s: float = 0.0
    bits_per_s: float = 0.0
    """0: as fast as it goes."""
    dead: bool = False


@dataclass(slots=True)
class Wire:
    """The cable. The story sets `faults`; the counts show that they took hold."""

    guest: Mapping[str, Any]
    """For Machine.wire."""
    faults: Faults = field(default_factory=Faults)
    passed: int = 0
    lost: int = 0
    damaged: int = 0


@contextlib.contextmanager
def wire(folder: Path) -> Iterator[Wire]:
    """A cable, sound at first, and the gateway at its end, while the block lasts. Raises NoService."""
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(_end()) for _ in range(2)]
        guest_port, gateway = _free_port(), stack.enter_context(_end())
        gateway.connect(sides[1].getsockname())
        stack.enter_context(_gateway(folder, gateway))
        cable = Wire(_netdev(guest_port, sides[0]))
        routes = {sides[0]: (sides[1], _port(gateway)), sides[1]: (sides[0], guest_port)}
        ended = threading.Event()
        carrier = threading.Thread(target=_carry, args=(cable, routes, ended), daemon=True)
        carrier.start()
        try:
            yield cable
        finally:
            ended.set()
            carrier.join()


def _end() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    one.bind((HERE, 0))
    one.setblocking(False)
    return one


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HERE, 0))
        return _port(one)


def _port(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def _netdev(port: int, side: socket.socket) -> dict[str, Any]:
    """A port of QEMU that sends its frames to `side` and hears on `port`."""
    local = {"type": "inet", "host": HERE, "port": str(port)}
    return {"type": "dgram", "local": local, "remote": {**local, "port": str(_port(side))}}


@contextlib.contextmanager
def _gateway(folder: Path, port: socket.socket) -> Iterator[None]:
    """The other end. Its `port` is bound before it starts: what comes until QEMU reads waits there and is not lost."""
    cable = {"type": "dgram", "id": "cable", "local": {"type": "fd", "str": str(port.fileno())}}
    argv = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-netdev", "user,id=net"]
    argv += ["-netdev", json.dumps(cable)]
    argv += ["-netdev", "hubport,id=inner,hubid=0,netdev=net", "-netdev", "hubport,id=outer,hubid=0,netdev=cable"]
    with (folder / "gateway.err").open("wb") as errors:
        child = subprocess.Popen(  # noqa: S603
            argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=[port.fileno()]
        )
    try:
        time.sleep(0.5)  # a wrong option ends it at once
        if child.poll() is not None:
            raise NoService(f"the gateway: {(folder / 'gateway.err').read_text(errors='replace').strip()}")
        yield
    finally:
        child.terminate()
        child.wait()


Routes = Mapping[socket.socket, tuple[socket.socket, int]]


def _carry(cable: Wire, routes: Routes, ended: threading.Event) -> None:
    """Frames from each side to the other, until the end."""
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    busy_until = dict.fromkeys(routes, 0.0)
    number = 0
    with selectors.DefaultSelector() as selector:
        for side in routes:
            selector.register(side, selectors.EVENT_READ)
        while not ended.is_set():
            due_s = waiting[0][0] - time.monotonic() if waiting else TICK_S
            for key, _ in selector.select(min(TICK_S, max(0.0, due_s))):
                assert isinstance(key.fileobj, socket.socket)
                for frame in _heard(key.fileobj):
                    number += 1
                    if (arrival := _arrival(cable, frame, busy_until, key.fileobj)) is not None:
                        at, arriving = arrival
                        heapq.heappush(waiting, (at, number, key.fileobj, arriving))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, came_from, frame = heapq.heappop(waiting)
                cable.passed += 1
                _send(*routes[came_from], frame)


def _heard(side: socket.socket) -> Iterator[bytes]:
    """What has come, but not more than a few at a time: the other side is to be heard as well."""
    for _ in range(64):
        try:
            yield side.recv(65536)
        except (BlockingIOError, ConnectionRefusedError):
            return


def _arrival(
    cable: Wire, frame: bytes, busy_until: dict[socket.socket, float], side: socket.socket
) -> tuple[float, bytes] | None:
    """When the frame arrives at the other end and how it looks then; None: never."""
    faults, now = cable.faults, time.monotonic()
    if faults.dead or random.random() < faults.loss:
        cable.lost += 1
        return None
    at = now + faults.delay_s
    if faults.bits_per_s:
        begins = max(now, busy_until[side])
        if begins - now > QUEUE_S:
            cable.lost += 1
            return None
        busy_until[side] = begins + len(frame) * 8 / faults.bits_per_s
        at += busy_until[side] - now
    if len(frame) > HEADERS and random.random() < faults.damage:
        cable.damaged += 1
        place = random.randrange(HEADERS, len(frame))
        frame = frame[:place] + bytes([frame[place] ^ 0xFF]) + frame[place + 1 :]
    return at, frame


def _send(side: socket.socket, port: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a full buffer or a machine that is not there: frames get lost
        side.sendto(frame, (HERE, port))

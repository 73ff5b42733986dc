"""The lab's bad cable, with a real gateway at its end: an ARP request is answered, or not, as the cable is."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.lab.wire import Faults, Wire, wire
from image.vm.machine import QEMU

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which(QEMU) is None, reason="make setup-image installs QEMU")]

GUEST = bytes.fromhex("525400123456")
REQUEST = (
    b"\xff" * 6 + GUEST + bytes.fromhex("08060001080006040001")
    + GUEST + bytes((10, 0, 2, 15)) + bytes(6) + bytes((10, 0, 2, 2)) + bytes(18)
)  # fmt: skip


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Wire]:
    with wire(tmp_path) as cable:
        yield cable


def answer_within(cable: Wire, limit_s: float) -> bytes | None:
    """What the gateway says to "who has 10.0.2.2?"."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        guest.bind(("127.0.0.1", int(cable.guest["local"]["port"])))
        guest.settimeout(limit_s)
        guest.sendto(REQUEST, ("127.0.0.1", int(cable.guest["remote"]["port"])))
        try:
            return guest.recv(2048)
        except TimeoutError:
            return None


def test_a_sound_cable_carries_a_frame_there_and_back(cable: Wire) -> None:
    answer = answer_within(cable, 20.0)
    assert answer is not None
    assert (answer[:6], answer[20:22], answer[28:32]) == (GUEST, b"\x00\x02", bytes((10, 0, 2, 2)))
    assert (cable.passed, cable.lost, cable.damaged) == (2, 0, 0)


def test_a_gateway_that_starts_late_has_lost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / QEMU
    late.write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which(QEMU)} "$@"\n')
    late.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with wire(tmp_path) as cable:
        assert answer_within(cable, 20.0) is not None


@pytest.mark.parametrize("faults", [Faults(dead=True), Faults(loss=1.0)])
def test_a_dead_cable_carries_nothing(cable: Wire, faults: Faults) -> None:
    cable.faults = faults
    assert answer_within(cable, 1.0) is None
    assert (cable.passed, cable.lost) == (0, 1)


@pytest.mark.parametrize("faults", [Faults(delay_s=0.5), Faults(bits_per_s=len(REQUEST) * 8 / 0.5)])
def test_a_slow_cable_takes_its_time(cable: Wire, faults: Faults) -> None:
    cable.faults = faults
    started = time.monotonic()
    assert answer_within(cable, 20.0) is not None
    assert time.monotonic() - started >= 1.0


def test_damage_changes_one_byte_behind_the_headers(cable: Wire) -> None:
    cable.faults = Faults(damage=1.0)
    answer = answer_within(cable, 20.0)
    assert answer is not None
    assert sum(byte != 0 for byte in answer[42:]) == 1
    assert cable.damaged == 2

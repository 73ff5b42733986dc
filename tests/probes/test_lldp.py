"""Neighbours from LLDP frames: sound, hostile and broken ones, and real ones over a cable between namespaces."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes import lldp
from probes.host import Host
from probes.lldp import Neighbor, parse
from tests.support.namespaces import Wire
from tests.support.stand_ins import StandIns

HEADER = bytes.fromhex("0180c200000e02000000000188cc")


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


def frame(chassis: bytes = b"\x04\x02\x00\x5e\x10\x00\x01", port: bytes = b"\x05Ethernet1/7", *more: bytes) -> bytes:
    return HEADER + tlv(1, chassis) + tlv(2, port) + tlv(3, b"\x00\x78") + b"".join(more) + tlv(0, b"")


def test_a_switch_names_itself() -> None:
    assert parse(frame()) == Neighbor("02:00:5e:10:00:01", "Ethernet1/7")
    named = parse(
        frame(b"\x04\x02\x00\x5e\x10\x00\x01", b"\x05Ethernet1/7", tlv(5, b"leaf3.example"), tlv(4, b"to r7"))
    )
    assert named == Neighbor("leaf3.example", "Ethernet1/7", "to r7")
    assert str(named) == "leaf3.example Ethernet1/7"


def test_a_port_named_by_its_address() -> None:
    read = parse(frame(b"\x07sw1", b"\x03\x02\x00\x5e\x10\x00\x07"))
    assert read == Neighbor("sw1", "02:00:5e:10:00:07")


def test_hostile_words_are_made_printable() -> None:
    evil = b"\x1b]0;owned\x07<script>\r\n\xff\xe2\x80\xae" + b"a" * 400
    read = parse(frame(b"\x07sw1", b"\x05p", tlv(5, evil)))
    assert read is not None
    assert read.system.isprintable()
    assert len(read.system) <= 100
    assert "\x1b" not in str(read)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        HEADER,
        HEADER[:12],
        frame().replace(b"\x88\xcc", b"\x08\x00", 1),
        HEADER + b"\x02\xff",
        HEADER + tlv(1, b"\x07sw1"),
        HEADER + tlv(0, b"") + tlv(1, b"\x07sw1") + tlv(2, b"\x05p"),
        frame()[: len(HEADER) + 9 + 5],  # cut off within the port
        frame(b"", b""),
        frame(b"\x04", b"\x05"),
    ],
)
def test_what_is_no_neighbour(broken: bytes) -> None:
    assert parse(broken) is None


def test_no_frame_breaks_the_parser() -> None:
    chance = random.Random(3)
    whole = frame(b"\x07sw1", b"\x05p", tlv(5, b"name"))
    for _ in range(5000):
        mutated = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(6)):
            if len(mutated) > 14:
                mutated[chance.randrange(12, len(mutated))] = chance.randrange(256)
        parse(bytes(mutated))


SENDER = """
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
while True:
    wire.send(bytes.fromhex(sys.argv[2]))
    time.sleep(0.1)
"""


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


@pytest.mark.root
async def test_a_real_frame_over_a_cable(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    sender = wire.start(wire.far, "python3", "-c", SENDER, "p0", frame(b"\x07leaf3", b"\x05Ethernet1/7").hex())
    host = wire.host(tmp_path / "host", stand_ins.tools())
    listener = lldp.Listener(host, ["p0"], limit_s=30)
    await listener.wait_for(["p0"], 15)
    await listener.end()
    sender.kill()
    sender.wait()
    assert listener.heard == {"p0": Neighbor("leaf3", "Ethernet1/7")}


@pytest.mark.root
async def test_silence_ends_in_time(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools())
    listener = lldp.Listener(host, ["p0"], limit_s=0.3)
    await listener.wait_for(["p0"], 10)
    assert (listener.heard, listener.problem) == ({}, "")
    await listener.end()


async def test_a_port_that_is_gone_is_said(host: Host) -> None:
    listener = lldp.Listener(host, ["no-such-port"], limit_s=1)
    await listener.wait_for(["no-such-port"], 10)
    await listener.end()
    assert listener.problem


async def test_nothing_to_listen_on(host: Host) -> None:
    listener = lldp.Listener(host, [], limit_s=60)
    await asyncio.wait_for(listener.wait_for(["eth0"], 60), 1)
    await listener.end()

"""DHCP clients of many kinds at once, as far as an answer depends on the kind: run inside a namespace, on one port.

`python dhcp_client.py PORT LIMIT_S` prints {kind: answer} as JSON, `null` for a kind that got none in time.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time

COOKIE = bytes.fromhex("63825363")
DISCOVER, REQUEST, ACK = 1, 3, 5
ASKED_FOR = bytes((1, 3, 6, 12, 15, 17, 43, 54, 60, 66, 67))
"""EDK2 asks for these among others, iPXE too."""


def _kind(vendor_class: str, architecture: int, user_class: str = "") -> dict[int, bytes]:
    own = {60: vendor_class.encode(), 93: struct.pack("!H", architecture), 94: bytes((1, 3, 16)), 55: ASKED_FOR}
    # iPXE's user class has no length before it, other than RFC 3004 has it.
    return {**own, 77: user_class.encode()} if user_class else own


KINDS = {
    "bios": _kind("PXEClient:Arch:00000:UNDI:002001", 0),
    "uefi": _kind("PXEClient:Arch:00007:UNDI:003016", 7),
    "uefi-9": _kind("PXEClient:Arch:00009:UNDI:003016", 9),
    "uefi-http": _kind("HTTPClient:Arch:00016:UNDI:003001", 16),
    "ipxe-bios": _kind("PXEClient:Arch:00000:UNDI:002001", 0, "iPXE"),
    "ipxe-uefi": _kind("PXEClient:Arch:00007:UNDI:003010", 7, "iPXE"),
    "uefi-arm": _kind("PXEClient:Arch:00011:UNDI:003016", 11),
    "uefi-arm-http": _kind("HTTPClient:Arch:00019:UNDI:003001", 19),
    "host": {55: bytes((1, 3, 6))},
}
"""The DHCP options of each kind of client."""


def message(number: int, options: dict[int, bytes]) -> bytes:
    """A client's message; `number` makes its MAC address and its transaction."""
    mac = bytes((0x52, 0x54, 0, 0x7E, 0x71, number))
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, number, 0, 0x8000) + bytes(16) + mac.ljust(16, b"\0") + bytes(192)
    body = b"".join(bytes((code, len(value))) + value for code, value in options.items())
    return head + COOKIE + body + b"\xff"


def options_of(packet: bytes) -> dict[int, bytes]:
    """The options of an answer."""
    found: dict[int, bytes] = {}
    at = 240
    while at < len(packet) and packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        code, length = packet[at], packet[at + 1]
        found[code] = packet[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def described(packet: bytes) -> dict[str, str]:
    """What a boot loader takes from an answer; "" for what it has not."""
    options = options_of(packet)
    name = options.get(67) or packet[108:236]
    return {
        "address": socket.inet_ntoa(packet[16:20]),
        "next_server": socket.inet_ntoa(packet[20:24]),
        "boot_file": name.rstrip(b"\0").decode(),
        "vendor_class": options.get(60, b"").decode(),
    }


def next_message(number: int, own: dict[int, bytes], offer: bytes | None) -> bytes:
    """Ask for an address, or for the one that was offered."""
    if offer is None:
        return message(number, {53: bytes((DISCOVER,)), **own})
    return message(number, {53: bytes((REQUEST,)), 50: offer[16:20], 54: options_of(offer)[54], **own})


def acknowledged(port: str, limit_s: float) -> dict[str, dict[str, str] | None]:
    """All kinds at once, each to its acknowledgement; what is not answered is sent again every second."""
    names = list(KINDS)
    last: dict[int, bytes] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, port.encode())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.bind(("", 68))
        end = time.monotonic() + limit_s
        while time.monotonic() < end and not all(is_ack(last.get(number)) for number in range(len(names))):
            for number, name in enumerate(names):
                if not is_ack(last.get(number)):
                    client.sendto(next_message(number, KINDS[name], last.get(number)), ("255.255.255.255", 67))
            _collect(client, last, time.monotonic() + 1.0, len(names))
    acks = {name: last[number] for number, name in enumerate(names) if is_ack(last.get(number))}
    return {name: described(acks[name]) if name in acks else None for name in names}


def is_ack(packet: bytes | None) -> bool:
    """Whether an answer is the last one of its exchange."""
    return packet is not None and options_of(packet).get(53) == bytes((ACK,))


def _collect(client: socket.socket, last: dict[int, bytes], until: float, wanted: int) -> None:
    """Take in one answer for each client, or what comes until then."""
    heard: set[int] = set()
    with contextlib.suppress(TimeoutError):
        while len(heard) < wanted and (left := until - time.monotonic()) > 0:
            client.settimeout(left)
            packet = client.recv(2048)
            number = int.from_bytes(packet[4:8], "big")
            heard.add(number)
            if not is_ack(last.get(number)):
                last[number] = packet


if __name__ == "__main__":
    sys.stdout.write(json.dumps(acknowledged(sys.argv[1], float(sys.argv[2]))))

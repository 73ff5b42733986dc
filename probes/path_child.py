"""Sends ARP probes and unfragmentable echoes. Run as a script by `probes.path`; never imported.

    python -I path_child.py '{"device", "source", "target"}'

Prints one line of JSON: {"small", "full" (whether that echo came back), "mtu", "claimed_by" (MAC addresses)}.
"""

import fcntl
import json
import os
import select
import socket
import struct
import sys
import time

ETH_P_ARP = 0x0806
SIOCGIFHWADDR, SIOCGIFMTU = 0x8927, 0x8921
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
HEADERS = 28
"""Of IPv4 and ICMP."""
TRIES = 3
WAIT_S = 1.0


def main(argv: list[str]) -> int:
    asked = json.loads(argv[0])
    device, source, target = asked["device"], asked["source"], asked["target"]
    (mtu,) = struct.unpack("16xi12x", _of_device(device, SIOCGIFMTU))
    small = _echo(device, source, target, 64)
    answer = {
        "claimed_by": _claimed_by(device, source),
        "mtu": mtu,
        "small": small,
        "full": small and _echo(device, source, target, min(mtu, 65535)),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _of_device(device: str, question: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        return fcntl.ioctl(door, question, struct.pack("16s16x", device.encode()[:15]))


def _address_of(device: str) -> bytes:
    return _of_device(device, SIOCGIFHWADDR)[18:24]


def _claimed_by(device: str, source: str) -> list[str]:
    """Who else answers for our address: a probe names no sender, so that it spoils nobody's table."""
    own = _address_of(device)
    # Linux answers on every port for all its addresses, so that our own other ports may be heard.
    ours = {_address_of(name) for _, name in socket.if_nameindex()}
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, bytes(4), bytes(6), socket.inet_aton(source))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as wire:
        wire.bind((device, ETH_P_ARP))
        found = set()
        for _ in range(2):
            wire.send(b"\xff" * 6 + own + struct.pack("!H", ETH_P_ARP) + body)
            for frame in _frames(wire, WAIT_S / 2):
                operation, sender, address = frame[20:22], frame[22:28], frame[28:32]
                if operation == b"\x00\x02" and address == socket.inet_aton(source) and sender not in ours:
                    found.add(sender.hex(":"))
    return sorted(found)


def _echo(device: str, source: str, target: str, size: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        wire.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        wire.bind((source, 0))
        for number in range(TRIES):
            mark = struct.pack("!HH", os.getpid() & 0xFFFF, number)
            payload = bytes(max(0, size - HEADERS))
            head = struct.pack("!BBH", 8, 0, 0) + mark
            total = _checksum(head + payload)
            try:
                wire.sendto(struct.pack("!BBH", 8, 0, total) + mark + payload, (target, 0))
            except OSError:  # too large for the path, as the kernel knows already
                return False
            for packet in _frames(wire, WAIT_S):
                icmp = packet[(packet[0] & 15) * 4 :]
                if icmp[:1] == b"\x00" and icmp[4:8] == mark:
                    return True
    return False


def _frames(wire: socket.socket, seconds: float):  # type: ignore[no-untyped-def]
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        if select.select([wire], [], [], left)[0]:
            yield wire.recv(70000)


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\x00"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return int(~total & 0xFFFF)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

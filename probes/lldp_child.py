"""Catches LLDP frames. Run as a script by `probes.lldp`, in a process that can be killed; never imported.

    python -I lldp_child.py '{"ports": [names], "seconds": number}'

Prints a line of JSON for each frame: {"port", "frame" (hexadecimal)}. Needs the right to open packet sockets.
"""

import contextlib
import json
import selectors
import socket
import struct
import sys
import time

ETH_P_LLDP = 0x88CC
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST = 263, 1, 0
GROUPS = (b"\x01\x80\xc2\x00\x00\x0e", b"\x01\x80\xc2\x00\x00\x03", b"\x01\x80\xc2\x00\x00\x00")
FRAMES_MAX = 1000


def main(argv: list[str]) -> int:
    asked = json.loads(argv[0])
    waiting = selectors.DefaultSelector()
    for port in asked["ports"]:
        waiting.register(_listen(port), selectors.EVENT_READ, port)
    ends = time.monotonic() + asked["seconds"]
    for _ in range(FRAMES_MAX):
        ready = waiting.select(max(0.0, ends - time.monotonic()))
        if not ready:
            break
        for key, _ in ready:
            with contextlib.suppress(OSError):  # the port went down; it may come up again
                frame = key.fileobj.recv(2048)  # type: ignore[union-attr]
                sys.stdout.write(json.dumps({"port": key.data, "frame": frame.hex()}) + "\n")
                sys.stdout.flush()
    return 0


def _listen(port: str) -> socket.socket:
    catcher = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_LLDP))
    catcher.bind((port, ETH_P_LLDP))
    for group in GROUPS:
        request = struct.pack("iHH8s", socket.if_nametoindex(port), PACKET_MR_MULTICAST, len(group), group)
        catcher.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
    return catcher


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

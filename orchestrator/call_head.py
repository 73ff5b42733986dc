"""The head of an agent's call, where it is one of the plain ones that agents send: read in one go. Pure.

What is in any way out of the ordinary (another path, a chunked body, a header twice, an upgrade) is not read here, but
by the HTTP server that can do all of HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vetting_agent.wire import API_PREFIX, CORRELATION_HEADER

MOST_HEAD_BYTES = 8192
MOST_BODY_BYTES = 2**20
"""A larger body is taken in pieces, by the other one."""
LINE = re.compile(rb"POST " + re.escape(API_PREFIX.encode()) + rb"/([^/ ?%]{1,40})/([a-z_]{1,20}) HTTP/1\.1")
HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+")
LENGTH, AUTHORIZATION, CORRELATION = b"content-length", b"authorization", CORRELATION_HEADER.lower().encode()
WANTED = frozenset({LENGTH, AUTHORIZATION, CORRELATION})
ODD = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer", b"te"})


@dataclass(frozen=True, slots=True)
class CallHead:
    """`size` and `length`: bytes of the head and of the body. `authorization` and `correlation`: as they came."""

    run: str
    verb: str
    authorization: str
    correlation: str
    size: int
    length: int


def head_of(data: bytes) -> CallHead | None:
    """The head that these bytes begin with, or None when it is not here as a whole or not a plain one."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    line_end = data.find(b"\r\n")
    if end < 0 or line_end == end:
        return None
    line = LINE.fullmatch(data, 0, line_end)
    if line is None or HEADERS.fullmatch(data, line_end + 2, end + 2) is None:
        return None
    found = _wanted(data[line_end + 2 : end].split(b"\r\n"))
    length = found.get(LENGTH, b"") if found is not None else b""
    if found is None or not (length.isdigit() and len(length) < 10 and int(length) <= MOST_BODY_BYTES):
        return None
    return CallHead(
        run=line[1].decode("latin-1"),
        verb=line[2].decode(),
        authorization=found.get(AUTHORIZATION, b"").decode("latin-1"),
        correlation=found.get(CORRELATION, b"").decode("latin-1"),
        size=end + 4,
        length=int(length),
    )


def _wanted(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """The values that a call is made of; None where the head has something that is not plain."""
    found: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in WANTED:
            if name in found:
                return None
            found[name] = value.strip(b" \t")
        elif name in ODD or (name == b"connection" and value.strip(b" \t").lower() != b"keep-alive"):
            return None
    return found

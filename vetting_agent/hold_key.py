"""Decides whether a text is one plain OpenSSH public key, and writes the line that goes into authorized_keys.

Formats: RFC 4253 section 6.6 (ssh-rsa), RFC 5656 section 3.1 (ecdsa), RFC 8709 section 4 (ssh-ed25519), OpenSSH
PROTOCOL.u2f (sk-*). The options of a line: sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from vetting_agent.errors import BadHoldKey

LINE_LIMIT = 16384
MOST_SITE_KEYS = 64
"""Of the keys that a host takes beside the run's."""
RSA_LEAST_BITS = 2048
RSA_MOST_BITS = 16384
ED25519_BYTES = 32
CURVE_COORDINATE_BYTES = {b"nistp256": 32, b"nistp384": 48, b"nistp521": 66}
UNCOMPRESSED_POINT = 4


@dataclass(frozen=True, slots=True)
class HoldKey:
    """One valid public key."""

    kind: str
    blob: str
    """Base64, as it stands in the line."""
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """As sshd logs it: SHA256:..."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def line(self, expires_at: datetime | None) -> str:
        """The line for authorized_keys, without its newline."""
        words = [] if expires_at is None else [f'expiry-time="{expires_at.astimezone(UTC):%Y%m%d%H%M%S}Z"']
        return " ".join([*words, self.kind, self.blob, *([self.comment] if self.comment else [])])


def parse_key(text: str) -> HoldKey:
    """The key in what `hold` gave: exactly one line, one trailing newline allowed, no options. Raises BadHoldKey."""
    line = text.removesuffix("\n")
    if not line.strip():
        raise BadHoldKey("it is empty")
    if len(line) > LINE_LIMIT:
        raise BadHoldKey(f"it is longer than {LINE_LIMIT} characters")
    if "\n" in line or "\r" in line:
        raise BadHoldKey("it is more than one line")
    if not line.isprintable():
        raise BadHoldKey("it holds a control character")
    kind, _, rest = line.partition(" ")
    if kind not in _BODIES:
        raise BadHoldKey("it does not begin with the type of a key: options, certificates and other text are not taken")
    blob, _, comment = rest.strip(" ").partition(" ")
    _check_blob(kind, blob)
    return HoldKey(kind, blob, comment.strip(" "))


def parse_expiry(text: str | None, now: datetime) -> datetime | None:
    """The moment in `expires_at`. Raises BadHoldKey: a key that should expire and would not is not installed."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise BadHoldKey(f"its expires_at names no time zone: {text[:60]!r}")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadHoldKey(f"its expires_at is no RFC 3339 time: {text[:60]!r}") from None
    if moment <= now:
        raise BadHoldKey(f"it has expired at {text[:60]}; the clock of this host says {now:%Y-%m-%dT%H:%M:%SZ}")
    return moment


def _check_blob(kind: str, blob: str) -> None:
    try:
        content = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        raise BadHoldKey("its key is no base64") from None
    reader = _Reader(content)
    named = reader.string()
    if named != kind.encode():
        raise BadHoldKey(f"its type says {kind}, its key {named[:40].decode(errors='replace')!r}")
    _BODIES[kind](reader)
    if reader.rest:
        raise BadHoldKey("its key has bytes too many")


class _Reader:
    """Reads the length-prefixed fields of a key."""

    def __init__(self, content: bytes) -> None:
        self.rest = content

    def string(self) -> bytes:
        length = int.from_bytes(self.rest[:4], "big")
        if len(self.rest) < 4 + length:
            raise BadHoldKey("its key is cut short")
        field, self.rest = self.rest[4 : 4 + length], self.rest[4 + length :]
        return field

    def positive(self) -> int:
        field = self.string()
        value = int.from_bytes(field, "big", signed=True)
        if value <= 0:
            raise BadHoldKey("its key has a number that is not positive")
        return value


def _ed25519(reader: _Reader) -> None:
    if len(reader.string()) != ED25519_BYTES:
        raise BadHoldKey(f"its Ed25519 key is not {ED25519_BYTES} bytes long")


def _rsa(reader: _Reader) -> None:
    exponent, modulus = reader.positive(), reader.positive()
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
        raise BadHoldKey("its RSA numbers cannot be right")
    if not RSA_LEAST_BITS <= modulus.bit_length() <= RSA_MOST_BITS:
        raise BadHoldKey(f"its RSA modulus has {modulus.bit_length()} bits; at least {RSA_LEAST_BITS} are needed")


def _ecdsa(curve: bytes) -> Callable[[_Reader], None]:
    def check(reader: _Reader) -> None:
        if reader.string() != curve:
            raise BadHoldKey("its curve is not that of its type")
        point = reader.string()
        if len(point) != 1 + 2 * CURVE_COORDINATE_BYTES[curve] or point[0] != UNCOMPRESSED_POINT:
            raise BadHoldKey("its point is none of the curve's")

    return check


def _security_key(body: Callable[[_Reader], None]) -> Callable[[_Reader], None]:
    def check(reader: _Reader) -> None:
        body(reader)
        if not reader.string():
            raise BadHoldKey("its application is empty")

    return check


_BODIES: Mapping[str, Callable[[_Reader], None]] = {
    "ssh-ed25519": _ed25519,
    "ssh-rsa": _rsa,
    "ecdsa-sha2-nistp256": _ecdsa(b"nistp256"),
    "ecdsa-sha2-nistp384": _ecdsa(b"nistp384"),
    "ecdsa-sha2-nistp521": _ecdsa(b"nistp521"),
    "sk-ssh-ed25519@openssh.com": _security_key(_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _security_key(_ecdsa(b"nistp256")),
}

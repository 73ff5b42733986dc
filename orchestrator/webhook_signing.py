"""Signatures as Standard Webhooks 1.0 defines them: HMAC-SHA256 over "id.timestamp.body", and where the secret lies.

Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md. A secret is the text
`whsec_` and the base64 of 24 to 64 random bytes. A file with several, one a line, signs with each of them: so a
receiver can change over to a new one while the old one still counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from orchestrator.tls import write_private

FILE_NAME = "webhook-secret"
PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
MOST_SECRETS = 4


class BadSecret(Exception):
    """The secret file is missing, open to others or malformed; the text says which, never what is in it."""


def secrets_in(path: Path, *, make: bool) -> tuple[bytes, ...]:
    """The keys of the file; `make`: one is made there (mode 0600) when there is none. Raises BadSecret."""
    if make and not path.exists():
        write_private(path, f"{PREFIX}{base64.b64encode(secrets.token_bytes(32)).decode()}\n".encode())
    try:
        if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
            raise BadSecret(f"{path} can be read by everybody: chmod 600 it, and change the secret")
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as problem:
        raise BadSecret(f"the webhook secret {path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise BadSecret(f"the webhook secret {path} is no text") from None
    if not 1 <= len(lines) <= MOST_SECRETS:
        raise BadSecret(f"{path} must hold 1 to {MOST_SECRETS} secrets, one a line, not {len(lines)}")
    return tuple(_key(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1))


def _key(text: str, where: str) -> bytes:
    wanted = f"{PREFIX} and the base64 of {LEAST_BYTES} to {MOST_BYTES} bytes"
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadSecret(f"{where} is not {wanted}") from None
    if not (text.startswith(PREFIX) and LEAST_BYTES <= len(key) <= MOST_BYTES):
        raise BadSecret(f"{where} is not {wanted}")
    return key


def signed_headers(keys: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt. `timestamp`: when it is made, in seconds since 1970."""
    content = f"{event_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "Webhook-Id": event_id,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": " ".join(f"v1,{one}" for one in signatures),
    }

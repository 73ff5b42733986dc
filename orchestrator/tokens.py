"""Run tokens: random, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets


def new_token() -> str:
    """256 bits of randomness: printable ASCII without spaces. So long a secret needs no slow hash."""
    return secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def matches(token: str, token_hash: str) -> bool:
    """Whether this is the token, compared in constant time."""
    return hmac.compare_digest(hash_of(token), token_hash)

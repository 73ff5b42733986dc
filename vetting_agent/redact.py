"""Keeps the token out of everything that is written or sent: log lines, results, evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

MASK = "[token]"


class Redactor:
    """Replaces each secret it was told of, in texts and bytes, also where it stands URL- or JSON-quoted."""

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} forms)"

    def add(self, secret: str) -> None:
        """Hide this text from now on."""
        forms = {secret, quote(secret, safe=""), secret.replace("\\", "\\\\").replace('"', '\\"')}
        # Longest first: a form that holds another one must not be left half.
        self._secrets = sorted({*self._secrets, *forms}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """`text` without the secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def raw(self, content: bytes) -> bytes:
        """The same for bytes of any kind."""
        for secret in self._forms():
            content = content.replace(secret, MASK.encode())
        return content

    def found_in(self, content: bytes) -> bool:
        """Whether a secret stands in `content`."""
        return any(secret in content for secret in self._forms())

    def data(self, value: Any) -> Any:
        """The same for every text in a JSON value; keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.data(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(one) for one in value]
        return value

    def _forms(self) -> Iterator[bytes]:
        return (secret.encode() for secret in self._secrets)

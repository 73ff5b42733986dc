"""The SSH keys of the site: read from a file at the start of the server, given to held hosts beside the run's key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vetting_agent.errors import BadHoldKey
from vetting_agent.hold_key import MOST_SITE_KEYS, parse_key

MOST_BYTES = 2**20


class BadSiteKeys(Exception):
    """The file cannot be used; the text names file and line."""


@dataclass(frozen=True, slots=True)
class SiteKey:
    """One public key. `line` is what hosts are given, `fingerprint` as sshd logs it."""

    line: str
    kind: str
    fingerprint: str
    comment: str


def site_keys_in(path: Path) -> tuple[SiteKey, ...]:
    """The keys of an authorized_keys file without options; blank lines and comments are skipped. Raises BadSiteKeys."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise BadSiteKeys(f"{path} cannot be read: {problem}") from None
    if len(content) > MOST_BYTES:
        raise BadSiteKeys(f"{path} is longer than {MOST_BYTES} bytes: it is no file of SSH keys")
    found: dict[str, SiteKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            key = _key_of(path, number, line.strip())
            found.setdefault(key.fingerprint, key)
    if not found:
        raise BadSiteKeys(f"{path} holds no key")
    if len(found) > MOST_SITE_KEYS:
        raise BadSiteKeys(f"{path} holds {len(found)} keys; there may be {MOST_SITE_KEYS}")
    return tuple(found.values())


def _key_of(path: Path, number: int, line: str) -> SiteKey:
    try:
        key = parse_key(line)
    except BadHoldKey as problem:
        raise BadSiteKeys(f"{path}, line {number}: the key cannot be taken: {problem}") from None
    return SiteKey(key.line(None), key.kind, key.fingerprint, key.comment)

"""What the server knows of hosts, hardware profiles, and hosts that it has never seen. Kept as documents of the store.

A host's document lies under its name, and one more under each of its MAC addresses: so no two hosts can share one.
"""

from __future__ import annotations

import re

from orchestrator.run_record import Record, normal_mac
from orchestrator.steps import Refusal

HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]{0,62}")
BARE_MAC = re.compile(r"([0-9A-Fa-f]{4})[.]?([0-9A-Fa-f]{4})[.]?([0-9A-Fa-f]{4})")
ETHERNET_LENGTH = len("52:54:00:12:34:56")
MOST_MACS, MOST_LABELS, LONGEST_NOTE = 32, 32, 2000

REFUSE, QUEUE, ACCEPT = "refuse", "queue", "accept"
POLICIES = (REFUSE, QUEUE, ACCEPT)
THE_POLICY = "unknown_hosts"


class HostRecord(Record, frozen=True, kw_only=True):
    """A host: its name is unique, and so is each of its MAC addresses (lower case with colons)."""

    name: str
    macs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    note: str = ""
    profile: str | None = None
    """The hardware profile that its runs take spec and parameters from."""
    created_at: str = ""


class MacOwner(Record, frozen=True, kw_only=True):
    """Whose MAC address this is; the key is the address."""

    host: str


class ProfileVersion(Record, frozen=True, kw_only=True):
    """One version of a hardware profile, as it was written. None is ever changed; versions count up from 1."""

    name: str
    version: int
    text: str
    """The YAML document."""
    created_at: str
    author: str = ""
    note: str = ""


class Profile(Record, frozen=True, kw_only=True):
    """The newest version of a profile."""

    name: str
    version: int
    first: int = 1
    """The oldest version that is kept: later than 1 where a profile of this name was removed before."""


class RetiredProfile(Record, frozen=True, kw_only=True):
    """A profile that was removed, with its last version: runs name versions, so that none comes a second time."""

    name: str
    version: int


class UnknownHosts(Record, frozen=True, kw_only=True):
    """What becomes of a host whose MAC address nobody has named: `refuse`, `queue` or `accept` (with which profile)."""

    policy: str = REFUSE
    profile: str | None = None


class Waiting(Record, frozen=True, kw_only=True):
    """A MAC address that asked for a boot script and waits for a person's word."""

    mac: str
    first_seen_at: str
    last_seen_at: str
    asking_since: str
    """When it began to ask without a pause."""
    ip: str = ""
    rejected: bool = False


def checked(host: HostRecord) -> HostRecord:
    """The host with its MAC addresses normalised and its lists without repetitions. Raises Refusal 422."""
    if not HOST_NAME.fullmatch(host.name):
        text = f"{host.name[:100]!r} is no host name: letters, digits, dots, dashes and underscores, at most 100"
        raise Refusal(422, "malformed", text)
    macs = tuple(dict.fromkeys(checked_mac(mac) for mac in host.macs))
    labels = tuple(dict.fromkeys(host.labels))
    if strange := next((label for label in labels if not LABEL.fullmatch(label)), None):
        raise Refusal(422, "malformed", f"{strange[:63]!r} is no label: letters, digits and any of ._:/=- , at most 63")
    for what, count, most in (("MAC addresses", len(macs), MOST_MACS), ("labels", len(labels), MOST_LABELS)):
        if count > most:
            raise Refusal(422, "malformed", f"A host has at most {most} {what}, not {count}")
    if len(host.note) > LONGEST_NOTE:
        raise Refusal(422, "malformed", f"A note has at most {LONGEST_NOTE} characters, not {len(host.note)}")
    return HostRecord(
        name=host.name, macs=macs, labels=labels, note=host.note, profile=host.profile, created_at=host.created_at
    )


def checked_mac(text: str) -> str:
    """The MAC address in lower case with colons; written with dashes, dots or nothing too. Raises Refusal 422."""
    plain = text.strip()
    if bare := BARE_MAC.fullmatch(plain):
        plain = ":".join(re.findall("..", "".join(bare.groups())))
    mac = normal_mac(plain)
    if mac is None:
        raise Refusal(422, "malformed", f"{text[:64]!r} is not a MAC address")
    if set(mac) <= set("0:") or (len(mac) == ETHERNET_LENGTH and int(mac[:2], 16) & 1):
        raise Refusal(422, "malformed", f"{mac} is the address of no single host")
    return mac


def version_key(name: str, version: int) -> str:
    """The key of a profile's version: they sort by number."""
    return f"{name}@{version:08d}"

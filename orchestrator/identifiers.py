"""What agents name things with: looked at before it is kept. Raises Refusal 422."""

from __future__ import annotations

import ipaddress
import re

from orchestrator.run_record import normal_mac
from orchestrator.steps import Refusal

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def given_mac(text: str) -> str:
    """In its normal form."""
    mac = normal_mac(text)
    if mac is None:
        raise Refusal(422, "malformed", f"mac must be a MAC address, lower case with colons, not {text[:64]!r}")
    return mac


def check_identifier(name: str, text: str) -> None:
    if not IDENTIFIER.fullmatch(text):
        raise Refusal(422, "malformed", f"{name} must be 1 to 64 letters, digits, dots, colons or dashes")


def check_fingerprint(text: str | None) -> None:
    """Of a held host's SSH key: people compare it with what ssh shows."""
    if text is not None and not FINGERPRINT.fullmatch(text):
        raise Refusal(422, "malformed", f"ssh_host_key must be SHA256: and 43 characters, not {text[:64]!r}")


def check_address(text: str) -> None:
    """Of a held host: people copy it into a shell, `preflight` gives it to ssh. An agent that knows none says ""."""
    if not text:
        return
    address, _, zone = text.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise Refusal(422, "malformed", f"ip must be an IP address, not {text[:64]!r}") from None
    if zone and not IDENTIFIER.fullmatch(zone):
        raise Refusal(422, "malformed", f"the zone of an address is a network interface, not {zone[:64]!r}")

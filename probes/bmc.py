"""The baseboard management controller: its address and firmware."""

from __future__ import annotations

from dataclasses import dataclass

from probes import ipmi
from probes.host import Host
from probes.ipmi import IpmiError
from probes.notes import Notes
from probes.tools import ToolError, ToolUnkillable

LIMIT_S = 25.0
"""A BMC that has just started, or is busy with an inventory, takes long; one that hangs is told after this."""
NO_ADDRESS = "0.0.0.0"  # noqa: S104
"""What a BMC says whose network port has no address."""
NO_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Bmc:
    """A BMC. `address` is the IP address of its own network port; what it does not tell is None."""

    address: str | None
    firmware: str | None
    mac: str | None = None
    manufacturer: str | None = None
    product_id: str | None = None
    ipmi_version: str | None = None


async def inventory(host: Host, notes: Notes) -> Bmc | None:
    """The BMC of this machine; None when it has none. Raises IpmiError or a ToolError when there is one that fails."""
    if not ipmi.present(host):
        if ipmi.announced(host):
            notes.add("bmc", "the firmware names a BMC, but the kernel has no device for it (ipmi_si, ipmi_devintf)")
        return None
    facts = _fields(await ipmi.run(host, "mc", "info", limit_s=LIMIT_S))
    if "Firmware Revision" not in facts:
        raise IpmiError("The BMC's answer to `ipmitool mc info` names no firmware revision")
    network = await _network(host, notes)
    return Bmc(
        address=_set(network.get("IP Address"), NO_ADDRESS),
        firmware=facts["Firmware Revision"],
        mac=_set(network.get("MAC Address"), NO_MAC),
        manufacturer=facts.get("Manufacturer Name"),
        product_id=facts.get("Product ID"),
        ipmi_version=facts.get("IPMI Version"),
    )


async def _network(host: Host, notes: Notes) -> dict[str, str]:
    """`lan print`; a BMC without a network port of its own refuses it, which is no fault."""
    try:
        return _fields(await ipmi.run(host, "lan", "print", limit_s=LIMIT_S))
    except ToolUnkillable:
        raise
    except (IpmiError, ToolError) as problem:
        notes.add("bmc: address", problem)
        return {}


def _set(value: str | None, unset: str) -> str | None:
    return None if value in {unset, "", None} else value


def _fields(text: str) -> dict[str, str]:
    """ "Firmware Revision         : 9.08" → {"Firmware Revision": "9.08"}; the first of a name stands."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() and not line[:1].isspace():
            found.setdefault(name.strip(), value.strip())
    return found

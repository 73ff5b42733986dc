"""Which disks share a way into the machine: whatever hangs off one root port, host controller or expander.

Source: the place of a disk in the tree of devices. Everything behind one port of the PCIe root complex shares that
port's link: the disks of a SAS adapter with all their expanders, NVMe disks behind a switch, all of a USB controller.
"""

from __future__ import annotations

import os
import re

from probes.host import Host

# A domain of its own below another device (Intel VMD): its ports are the ones that count.
_PCI_DOMAIN = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}/")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PLATFORM = re.compile(r"devices/platform/(?:soc[^/]*/)?([^/]+)")


def bus_of(host: Host, disk_name: str) -> str:
    """The name of the shared way: the PCI address of the root port, "platform:NAME"; the disk's own name if unknown."""
    path = os.path.realpath(host.sys("block", disk_name))
    domains = list(_PCI_DOMAIN.finditer(path))
    if domains and (address := _PCI_ADDRESS.search(path, domains[-1].end())):
        return address[0]
    platform = _PLATFORM.search(path)
    return f"platform:{platform[1]}" if platform else disk_name

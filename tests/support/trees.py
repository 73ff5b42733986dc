"""Machines made up in a folder: files and symbolic links, written from a mapping."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.replay import HOSTS


@dataclass(frozen=True)
class Link:
    """A symbolic link to `target`."""

    target: str


def plant(root: Path, files: Mapping[str, str | bytes | Link]) -> Path:
    """Write `files` below `root`, replacing what is there; text gets a line end."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content + "\n")
    return root


def copy_of(machine: str, folder: Path) -> Path:
    """A copy of a recorded machine that a test may change."""
    return Path(shutil.copytree(HOSTS / machine, folder / machine, symlinks=True))


def pci_function(address: str, below: str = "", **attributes: str) -> dict[str, str | bytes | Link]:
    """The files of a PCI function that sits below the ports named in `below` ("0000:00:01.0/0000:01:00.0")."""
    place = "/".join(part for part in ("devices/pci0000:00", below, address) if part)
    event = attributes.pop("uevent", "PCI_CLASS=20000\nPCI_ID=8086:1521")
    return {
        f"sys/bus/pci/devices/{address}": Link(f"../../../{place}"),
        f"sys/{place}/uevent": event,
        **{f"sys/{place}/{name}": value for name, value in attributes.items()},
    }


def link(width: int, max_width: int, speed: str = "8.0 GT/s PCIe", max_speed: str = "8.0 GT/s PCIe") -> dict[str, str]:
    """The link attributes of a PCI function."""
    return {
        "current_link_width": str(width),
        "max_link_width": str(max_width),
        "current_link_speed": speed,
        "max_link_speed": max_speed,
    }

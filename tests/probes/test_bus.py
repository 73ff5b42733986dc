"""Which disks share a way into the machine, by places in the tree of devices as real machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.bus import bus_of
from probes.host import Host

PLACES = {
    "sda": ("pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda", "0000:00:17.0"),
    "sdb": ("pci0000:00/0000:00:17.0/ata2/host1/target1:0:0/1:0:0:0/block/sdb", "0000:00:17.0"),
    "sdc": (
        "pci0000:3a/0000:3a:00.0/0000:3b:00.0/host9/port-9:0/expander-9:0/port-9:0:4/end_device-9:0:4/target9:0:4/"
        "9:0:4:0/block/sdc",
        "0000:3a:00.0",
    ),
    "nvme0n1": ("pci0000:00/0000:00:01.0/0000:02:00.0/0000:03:04.0/0000:05:00.0/nvme/nvme0/nvme0n1", "0000:00:01.0"),
    "nvme1n1": ("pci0000:00/0000:00:01.0/0000:02:00.0/0000:03:05.0/0000:06:00.0/nvme/nvme1/nvme1n1", "0000:00:01.0"),
    "nvme2n1": ("pci0000:00/0000:00:1d.0/0000:07:00.0/nvme/nvme2/nvme2n1", "0000:00:1d.0"),
    "nvme3n1": ("pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:1d.0/10000:e1:00.0/nvme/nvme3/nvme3n1", "10000:e0:1d.0"),
    "nvme4n1": ("pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:1d.4/10000:e2:00.0/nvme/nvme4/nvme4n1", "10000:e0:1d.4"),
    "sdd": ("pci0000:00/0000:00:14.0/usb2/2-1/2-1.3/2-1.3:1.0/host5/target5:0:0/5:0:0:0/block/sdd", "0000:00:14.0"),
    "vda": ("pci0000:00/0000:00:04.0/virtio1/block/vda", "0000:00:04.0"),
    "mmcblk0": ("platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "platform:fe340000.mmc"),
    "nvme5n1": ("virtual/nvme-subsystem/nvme-subsys5/nvme5n1", "nvme5n1"),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_bus_is_the_port_that_is_shared(tmp_path: Path, name: str) -> None:
    place, bus = PLACES[name]
    folder = tmp_path / "sys/devices" / place
    folder.mkdir(parents=True)
    (tmp_path / "sys/block").mkdir()
    (tmp_path / "sys/block" / name).symlink_to(folder)
    assert bus_of(Host(root=tmp_path), name) == bus

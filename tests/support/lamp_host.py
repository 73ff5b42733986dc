"""A machine with a BMC device, a disk in an enclosure's bay and one in none; its tools are stand-ins."""

from __future__ import annotations

from pathlib import Path

from probes.host import Host
from tests.support.stand_ins import StandIns

IN_BAY, BARE = "S45NNE0M500001", "Z1D5KXYZ"
LIT = "Chassis identify interval: 240 seconds\n"
REFUSES = "ledctl: /dev/sda: device not supported\nledctl: IBPI LOCATE: missing block device(s)... pattern ignored.\n"
"""What ledctl 0.95 of Debian 12 prints of a disk behind no controller that it knows, with exit code 33."""


def lamp_host(folder: Path, stand_ins: StandIns, *, bmc: bool = True, enclosure: bool = True) -> Host:
    """`sda` with the serial IN_BAY, `sdb` with BARE."""
    for name, serial in (("sda", IN_BAY), ("sdb", BARE)):
        real = folder / f"sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0-{name}"
        block = real / "block" / name
        block.mkdir(parents=True)
        (block / "size").write_text("1875385008\n")
        (block / "dev").write_text("8:0\n")
        (block / "device").symlink_to(real)
        (real / "vpd_pg80").write_bytes(b"\0\x80\0" + bytes([len(serial)]) + serial.encode())
        (folder / "sys/block").mkdir(parents=True, exist_ok=True)
        (folder / "sys/block" / name).symlink_to(block)
    if enclosure:
        bay = folder / "sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0-sda/enclosure_device:Slot 05"
        bay.mkdir()
        (bay / "locate").write_text("0\n")
    (folder / "dev").mkdir(exist_ok=True)
    if bmc:
        (folder / "dev/ipmi0").touch()
    return Host(root=folder, tools=stand_ins.tools())


def bay_lamp(folder: Path) -> str:
    """What the enclosure's file says of the bay of `sda`."""
    return (folder / "sys/block/sda/device/enclosure_device:Slot 05/locate").read_text().strip()

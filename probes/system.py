"""What machine this is: maker, serial numbers, firmware, operating system; its TPM; how it was booted.

Sources: the DMI attributes of sysfs (or the device tree where there is no SMBIOS), os-release(5), the kernel
command line, EFI variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes
from probes.smbios import meaningful

# DSP0134, "System Enclosure or Chassis Types".
# fmt: off
CHASSIS_TYPES = {
    1: "other", 3: "desktop", 4: "low-profile desktop", 5: "pizza box", 6: "mini tower", 7: "tower", 8: "portable",
    9: "laptop", 10: "notebook", 13: "all in one", 14: "sub-notebook", 15: "space-saving", 17: "main server",
    23: "rack mount", 24: "sealed-case PC", 25: "multi-system", 28: "blade", 29: "blade enclosure", 30: "tablet",
    31: "convertible", 32: "detachable", 33: "IoT gateway", 34: "embedded PC", 35: "mini PC", 36: "stick PC",
}
# fmt: on
# Makers and products of virtual machines; for machines whose CPU does not tell (Arm).
_VIRTUAL = re.compile(r"(?i)qemu|kvm|vmware|virtualbox|xen|bochs|virtual machine|google compute|openstack|firecracker")
_EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_MAC = re.compile(r"^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$")


@dataclass(frozen=True, slots=True)
class System:
    """The machine as a whole. A value is None where the firmware does not give it (see the notes)."""

    vendor: str | None
    product: str | None
    version: str | None
    serial: str | None
    uuid: str | None
    family: str | None
    sku: str | None
    board_vendor: str | None
    board_product: str | None
    board_version: str | None
    board_serial: str | None
    chassis_vendor: str | None
    chassis_type: str | None
    chassis_serial: str | None
    asset_tag: str | None
    bios: str | None
    """Version of the firmware."""
    bios_vendor: str | None
    bios_date: str | None
    bios_release: str | None
    arch: str | None
    kernel: str | None
    kernel_build: str | None
    os: str | None
    image_version: str | None
    hostname: str | None
    virtual: bool | None
    """Whether this is a virtual machine; None where nothing tells."""


@dataclass(frozen=True, slots=True)
class Tpm:
    """The first TPM. `version` is "1.2" or "2.0"."""

    version: str | None
    pcr_banks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Boot:
    """How the machine was booted. `booted_mac` is lower case with colons."""

    firmware: str | None
    """`uefi` or `bios`."""
    efi_bits: int | None
    secure_boot: bool | None
    setup_mode: bool | None
    booted_mac: str | None


async def collect(host: Host, notes: Notes) -> System:
    """The machine as a whole."""
    return await apart(lambda: _system(host, notes), "system")


async def tpm(host: Host, notes: Notes) -> Tpm | None:
    """The first TPM; None where the kernel shows none."""
    return await apart(lambda: _tpm(host, notes), "tpm")


async def boot(host: Host, notes: Notes) -> Boot:
    """How the machine was booted."""
    return await apart(lambda: _boot(host, notes), "boot")


def image_version(host: Host) -> str | None:
    """The version of the live image, from os-release's IMAGE_VERSION; None outside of an image."""
    return _os_release(host).get("IMAGE_VERSION") or None


def _system(host: Host, notes: Notes) -> System:
    def dmi(name: str) -> str | None:
        return meaningful(text_of(host.sys("class", "dmi", "id", name)))

    if not host.sys("class", "dmi", "id").exists():
        notes.add("system", "the firmware of this machine gives no SMBIOS data (maker, serial, BIOS version)")
    release = _os_release(host)
    vendor, product = dmi("sys_vendor"), dmi("product_name") or _device_tree(host, "model")
    system = System(
        vendor=vendor,
        product=product,
        version=dmi("product_version"),
        serial=dmi("product_serial") or _device_tree(host, "serial-number"),
        uuid=dmi("product_uuid"),
        family=dmi("product_family"),
        sku=dmi("product_sku"),
        board_vendor=dmi("board_vendor"),
        board_product=dmi("board_name"),
        board_version=dmi("board_version"),
        board_serial=dmi("board_serial"),
        chassis_vendor=dmi("chassis_vendor"),
        chassis_type=_chassis_type(host),
        chassis_serial=dmi("chassis_serial"),
        asset_tag=dmi("chassis_asset_tag"),
        bios=dmi("bios_version"),
        bios_vendor=dmi("bios_vendor"),
        bios_date=dmi("bios_date"),
        bios_release=dmi("bios_release"),
        arch=_arch(host),
        kernel=text_of(host.proc("sys", "kernel", "osrelease")),
        kernel_build=text_of(host.proc("sys", "kernel", "version")),
        os=release.get("PRETTY_NAME"),
        image_version=release.get("IMAGE_VERSION") or None,
        hostname=text_of(host.proc("sys", "kernel", "hostname")),
        virtual=_is_virtual(host, f"{vendor} {product}"),
    )
    _note_missing(system, notes)
    return system


def _note_missing(system: System, notes: Notes) -> None:
    for name in ("vendor", "product", "serial", "uuid", "bios", "arch", "kernel"):
        if getattr(system, name) is None:
            notes.add(f"system: {name}", "not readable, or not filled in by the maker")


def _chassis_type(host: Host) -> str | None:
    number = int_of(host.sys("class", "dmi", "id", "chassis_type"))
    # Bit 7 says "has a lock".
    return None if number is None else CHASSIS_TYPES.get(number & 0x7F)


def _device_tree(host: Host, name: str) -> str | None:
    return meaningful(text_of(host.proc("device-tree", name)))


def _arch(host: Host) -> str | None:
    """As `uname -m` prints it."""
    arch = text_of(host.proc("sys", "kernel", "arch"))  # since Linux 6.1
    return arch or (os.uname().machine if host.is_real else _arch_by_cpuinfo(text_of(host.proc("cpuinfo")) or ""))


def _arch_by_cpuinfo(text: str) -> str | None:
    """For recordings of older kernels."""
    if re.search(r"^flags\s*:.* lm ", text, re.MULTILINE):
        return "x86_64"
    return "aarch64" if re.search(r"^CPU architecture\s*: 8", text, re.MULTILINE) else None


def _is_virtual(host: Host, names: str) -> bool | None:
    if host.sys("hypervisor", "type").exists() or _VIRTUAL.search(names):
        return True
    flags = re.search(r"^flags\s*:(.*)$", text_of(host.proc("cpuinfo")) or "", re.MULTILINE)
    return None if flags is None else "hypervisor" in flags[1].split()


def _os_release(host: Host) -> Mapping[str, str]:
    values = {}
    for line in (text_of(host.etc("os-release")) or "").splitlines():
        name, _, value = line.partition("=")
        values[name] = value.strip("\"'")
    return values


def _tpm(host: Host, notes: Notes) -> Tpm | None:
    folder = host.sys("class", "tpm", "tpm0")
    if not folder.exists():
        notes.add("tpm", "the kernel shows none")
        return None
    major = int_of(folder / "tpm_version_major")
    version = {1: "1.2", 2: "2.0"}.get(major or 0)
    if version is None:
        notes.add("tpm: version", "not readable")
    banks = (entry.name.removeprefix("pcr-") for entry in entries_of(folder) if entry.name.startswith("pcr-"))
    return Tpm(version, tuple(banks))


def _boot(host: Host, notes: Notes) -> Boot:
    efi = host.sys("firmware", "efi")
    is_efi = efi.exists()
    firmware = "uefi" if is_efi else "bios" if _has_bios(host) else None
    if firmware is None:
        notes.add("boot: firmware", "neither UEFI nor a PC BIOS")
    booted_mac = _booted_mac(text_of(host.proc("cmdline")) or "")
    if booted_mac is None:
        notes.add("boot: booted_mac", "the kernel command line names none")
    return Boot(
        firmware=firmware,
        efi_bits=int_of(efi / "fw_platform_size"),
        secure_boot=_efi_flag(efi, "SecureBoot", notes) if is_efi else False,
        setup_mode=_efi_flag(efi, "SetupMode", notes) if is_efi else None,
        booted_mac=booted_mac,
    )


def _has_bios(host: Host) -> bool:
    arch = _arch(host)
    return arch is not None and re.fullmatch(r"x86_64|i[3-6]86", arch) is not None


def _efi_flag(efi: Path, name: str, notes: Notes) -> bool | None:
    """An EFI variable of one byte, which follows four bytes of attributes."""
    try:
        data = (efi / "efivars" / f"{name}-{_EFI_GLOBAL}").read_bytes()
    except FileNotFoundError:
        notes.add(f"boot: {name}", "the firmware has no such variable, or its variables are not mounted")
        return None
    except OSError as problem:
        notes.add(f"boot: {name}", problem.strerror)
        return None
    return bool(data[4]) if len(data) == 5 else None


def _booted_mac(cmdline: str) -> str | None:
    """From `vetting.mac=`, else from the boot loader's `BOOTIF=01-aa-bb-cc-dd-ee-ff` (01: Ethernet)."""
    words = dict(word.partition("=")[::2] for word in cmdline.split())
    for name, head in (("vetting.mac", 0), ("BOOTIF", 3)):
        mac = words.get(name, "").lower().replace("-", ":")
        for candidate in (mac, mac[head:]):
            if _MAC.match(candidate):
                return candidate
    return None

"""One virtual machine: its command line, whether KVM works here, its life and its serial log."""

# ruff: noqa: S603 - programs by name, with arguments of our own: what this file is for
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image.vm import disks
from image.vm.disks import Disk

QEMU = "qemu-system-x86_64"
KVM_LIMIT_S = 15.0
FIRMWARE_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
FIRMWARE_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
FIRST_MAC = 0x52_54_00_7E_70_01


class NoMachine(Exception):
    """The machine cannot be made, or it ended too early; `str()` says why."""


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that QEMU starts by itself, without firmware and network."""

    vmlinuz: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a virtual machine is made of. Memory in MiB."""

    accel: str = "tcg"
    firmware: str = "bios"
    memory: int = 1024
    cpus: int = 2
    nics: tuple[str, ...] = ("virtio-net-pci",)
    """Models; the machine boots from the one with the number `boot_nic`."""
    boot_nic: int = 0
    disks: tuple[Disk, ...] = ()
    tap: str | None = None
    """An interface of this host that the boot port is plugged into; None: QEMU's own network."""
    tftp: Path | None = None
    """What QEMU's own network serves; boot.ipxe lies in it."""
    ssh_port: int | None = None
    headless: bool = True
    serial: str = "SNVET1"
    cpu_model: str | None = None
    """QEMU's name; None: all that the accelerator can."""
    direct: DirectBoot | None = None
    """Instead of booting over the network."""
    wire: Mapping[str, Any] | None = None
    """What the boot port is plugged into instead, in QEMU's own words (`-netdev`)."""
    door: bool = False
    """A second serial port, as the socket `door` in the machine's folder."""
    qemu: tuple[str, ...] = ()
    """More arguments, as they are."""

    def mac(self, number: int) -> str:
        """The MAC address of a network port."""
        digits = f"{FIRST_MAC + number:012x}"
        return ":".join(digits[at : at + 2] for at in range(0, 12, 2))

    def argv(self, folder: Path) -> list[str]:
        """QEMU's command line; `folder` takes what the machine writes."""
        accel = "kvm" if self.accel == "kvm" else "tcg,thread=multi"
        model = self.cpu_model or ("host" if self.accel == "kvm" else "max")
        argv = [QEMU, "-name", "vetting", "-accel", accel, "-cpu", model]
        graphics = "off" if self.headless else "on"
        argv += ["-machine", f"q35,graphics={graphics}", "-smp", str(self.cpus), "-m", str(self.memory), "-nodefaults"]
        argv += ["-display", "none"] if self.headless else ["-vga", "std"]
        argv += ["-chardev", f"file,id=serial,path={folder / 'serial.log'}", "-serial", "chardev:serial"]
        argv += ["-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]
        if self.door:
            argv += ["-chardev", f"socket,id=door,path={folder / 'door'},server=on,wait=off", "-serial", "chardev:door"]
        argv += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        argv += ["-global", "ICH9-LPC.noreboot=false", "-action", "watchdog=reset"]
        argv += ["-smbios", f"type=1,manufacturer=QEMU,product=vetting-lab,serial={self.serial}"]
        argv += self._firmware_argv(folder) + self._network_argv()
        argv += disks.arguments([(one, one.prepared(folder, at)) for at, one in enumerate(self.disks)])
        return [*argv, *self.qemu]

    def _firmware_argv(self, folder: Path) -> list[str]:
        if self.direct is not None:
            kernel = ["-kernel", str(self.direct.vmlinuz), "-initrd", str(self.direct.initrd)]
            return [*kernel, "-append", self.direct.cmdline]
        if self.firmware == "bios":
            return ["-boot", "n"]
        variables = folder / "efivars.fd"
        if not variables.exists():
            shutil.copyfile(FIRMWARE_VARS, variables)
        return [
            *("-drive", f"if=pflash,unit=0,readonly=on,format=raw,file={FIRMWARE_CODE}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
        ]

    def _network_argv(self) -> list[str]:
        argv: list[str] = []
        for number, model in enumerate(self.nics):
            net = f"net{number}"
            boots = number == self.boot_nic
            order = ",bootindex=0" if boots and self.direct is None else ",romfile="
            argv += ["-netdev", self._netdev(net, boots=boots)]
            argv += ["-device", f"{model},id=nic{number},netdev={net},mac={self.mac(number)}{order}"]
        return argv

    def _netdev(self, net: str, *, boots: bool) -> str:
        if boots and self.wire is not None:
            return json.dumps({**self.wire, "id": net})
        if boots and self.tap is not None:
            return f"tap,id={net},ifname={self.tap},script=no,downscript=no"
        if not boots:
            return f"user,id={net},net=10.0.{3 + int(net.removeprefix('net'))}.0/24,restrict=on"
        forward = "" if self.ssh_port is None else f",hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        boot = "" if self.tftp is None else f",tftp={self.tftp},bootfile=boot.ipxe"
        return f"user,id={net}{boot}{forward}"


def best_accel(wanted: str, vmlinuz: Path, folder: Path) -> str:
    """`kvm` or `tcg`. KVM is taken for working only when a Linux kernel has spoken under it. Raises NoMachine."""
    if wanted == "tcg":
        return "tcg"
    trouble = _kvm_trouble(vmlinuz, folder)
    if trouble is not None and wanted == "kvm":
        raise NoMachine(f"KVM does not work here: {trouble}")
    return "kvm" if trouble is None else "tcg"


def _kvm_trouble(vmlinuz: Path, folder: Path) -> str | None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm cannot be opened"
    log = folder / "kvm-probe.log"
    argv = [QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512", "-machine", "q35", "-nodefaults", "-display", "none"]
    argv += ["-no-reboot", "-serial", f"file:{log}", "-kernel", str(vmlinuz)]
    argv += ["-append", "console=ttyS0 earlyprintk=serial panic=-1"]
    with _process(argv, folder / "kvm-probe.err") as probe:
        deadline = time.monotonic() + KVM_LIMIT_S
        while time.monotonic() < deadline:
            if log.exists() and b"Linux version" in log.read_bytes():
                return None
            if probe.poll() is not None:
                return (folder / "kvm-probe.err").read_text(errors="replace").strip() or "QEMU ended at once"
            time.sleep(0.2)
    return f"no Linux kernel spoke within {KVM_LIMIT_S:.0f} s"


@contextlib.contextmanager
def _process(argv: list[str], stderr: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is gone when the block is left."""
    with stderr.open("wb") as errors:
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        except FileNotFoundError:
            raise NoMachine(f"{argv[0]} is not installed: make boot installs it") from None
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def running(machine: Machine, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The machine while the block lasts. Raises NoMachine."""
    with _process(machine.argv(folder), folder / "qemu.err") as child:
        yield child


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process, here QEMU, has used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

"""`image/boot`: an orchestrator, a run, and a QEMU machine that boots the image over the network and walks it.

Exit code: 0 the run completed; 1 it failed or is held; 2 wrong usage or something is missing; 3 the machine ended, or
never claimed its run: the serial log, which is then named, tells why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from image.vm import services
from image.vm.disks import Disk, disk
from image.vm.machine import Machine, NoMachine, best_accel, cpu_seconds, running
from image.vm.services import NoService, Orchestrator

IMAGE = Path(__file__).resolve().parents[1]
POLL_S = 0.5
END_LIMIT_S = 120.0
HOLD_LIMIT_S = 60.0
TAIL_LINES = 25
DEFAULT_DISKS = "nvme:256M:VETNVME1"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="image/boot", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    machine = top.add_argument_group("the machine")
    machine.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    machine.add_argument("--firmware", choices=("bios", "uefi"), default="bios")
    machine.add_argument("--memory", type=int, metavar="MIB", default=1024)
    machine.add_argument("--cpus", type=int, default=2)
    machine.add_argument("--disk", type=disk, action="append", metavar="KIND:SIZE[:SERIAL]", help="repeatable")
    machine.add_argument("--no-disk", action="store_true")
    machine.add_argument("--nic", action="append", metavar="MODEL", help="repeatable; boots from the first")
    machine.add_argument("--boot-nic", type=int, default=0, metavar="N", help="boot from the Nth port instead, from 0")
    machine.add_argument("--network", choices=("user", "tap"), default="user")
    machine.add_argument("--network-if", metavar="TAP", help="with --network tap: an interface that has an address")
    machine.add_argument("--ssh-forward", type=int, metavar="PORT", help="of this host; a hold then stays, for you")
    machine.add_argument("--headless", action="store_true", help="no window, even where there is a display")
    machine.add_argument("--qemu", action="append", default=[], metavar="ARGS", help="more arguments for QEMU")
    run = top.add_argument_group("the run")
    run.add_argument("--profile", choices=("quick", "standard", "burnin"), default="quick")
    run.add_argument("--stages", metavar="A,B")
    run.add_argument("--set", action="append", default=[], metavar="STAGE.name=value")
    run.add_argument("--on-failure", choices=("hold", "continue"), default="hold")
    run.add_argument("--extra", default="", metavar="TEXT", help="more kernel parameters")
    run.add_argument("--limit", type=float, default=1800.0, metavar="S", help="end the machine after that long")
    top.add_argument("--image", type=Path, default=IMAGE / "out", metavar="DIR", help="what make image has made")
    top.add_argument("--keep", type=Path, metavar="DIR", help="where logs and disks go; default: a new folder in /tmp")
    top.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")
    return top


@dataclass(slots=True)
class Times:
    """When what happened, in seconds since QEMU was started: of the clock, and of QEMU's CPU time."""

    pid: int = 0
    began: float = 0.0
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """The first time counts."""
        if name not in self.marks and self.pid:
            with contextlib.suppress(OSError):
                self.marks[name] = (time.monotonic() - self.began, cpu_seconds(self.pid))

    def since(self, name: str, start: str) -> str:
        """`12.3 s (10.1 s of CPU)`."""
        if name not in self.marks or start not in self.marks:
            return "not reached"
        wall, cpu = (b - a for a, b in zip(self.marks[start], self.marks[name], strict=True))
        return f"{wall:.1f} s ({cpu:.1f} s of QEMU's CPU time)"


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="vetting-boot."))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _boot(args, folder.resolve())
    except (NoService, NoMachine, OSError, ValueError) as problem:
        say(f"{problem}")
        return 2
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    sys.stdout.write(f"boot: {text}\n")
    sys.stdout.flush()


def _boot(args: argparse.Namespace, folder: Path) -> int:
    for name in ("vmlinuz", "initrd", "boot.ipxe"):
        if not (args.image / name).exists():
            raise NoService(f"{args.image / name} is not there: run make image first")
    if args.network == "tap" and not args.network_if:
        raise NoService("--network tap needs --network-if")
    machine = _machine(args, folder)
    if args.dry_run:
        sys.stdout.write(shlex.join(machine.argv(folder)) + "\n")
        return 0
    with contextlib.ExitStack() as stack:
        tap = None if args.network == "user" else services.address_of(args.network_if)
        listen = "127.0.0.1" if tap is None else str(tap.ip)
        seen_as = services.QEMU_GATEWAY if tap is None else str(tap.ip)
        times = Times()
        web = stack.enter_context(services.files(args.image, listen, times.mark))
        server = stack.enter_context(services.orchestrator(folder, listen, seen_as))
        created = server.ask("run", "create", *_run_words(args, machine))
        template = (args.image / "boot.ipxe").read_text()
        script = services.boot_script(template, f"http://{seen_as}:{web}", created["cmdline"], args.extra)
        assert machine.tftp is not None
        (machine.tftp / "boot.ipxe").write_text(script)
        if tap is not None:
            stack.enter_context(services.dnsmasq(folder, args.network_if, machine.tftp))
        return _run(args, folder, machine, server, int(created["run_id"]), times)


def _machine(args: argparse.Namespace, folder: Path) -> Machine:
    tftp = folder / "tftp"
    tftp.mkdir(exist_ok=True)
    found: list[Disk] = [] if args.no_disk else args.disk or [disk(DEFAULT_DISKS)]
    accel = args.accel if args.dry_run else best_accel(args.accel, args.image / "vmlinuz", folder)
    return Machine(
        accel=accel,
        firmware=args.firmware,
        memory=args.memory,
        cpus=args.cpus,
        nics=tuple(args.nic or ["virtio-net-pci"]),
        boot_nic=args.boot_nic,
        disks=tuple(found),
        tap=args.network_if if args.network == "tap" else None,
        tftp=tftp,
        ssh_port=args.ssh_forward,
        headless=args.headless or not _has_display(),
        qemu=tuple(word for text in args.qemu for word in shlex.split(text)),
    )


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _run_words(args: argparse.Namespace, machine: Machine) -> list[str]:
    words = ["--host", "vetting-lab", "--mac", machine.mac(machine.boot_nic), "--profile", args.profile]
    words += ["--on-failure", args.on_failure]
    words += ["--stages", args.stages] if args.stages else []
    return words + [word for setting in args.set for word in ("--set", setting)]


def _run(args: argparse.Namespace, folder: Path, machine: Machine, server: Orchestrator, run: int, times: Times) -> int:
    log = folder / "serial.log"
    say(f"{machine.accel}, {machine.firmware}, {machine.cpus} CPUs, {machine.memory} MiB; serial log: {log}")
    times.began = time.monotonic()
    with running(machine, folder) as qemu:
        times.pid = qemu.pid
        times.mark("start")
        watch = server.watch(run)
        try:
            _until_ended(args, server, run, qemu, watch, times)
        finally:
            if watch.poll() is None:
                watch.terminate()
            watch.wait()
        view = server.ask("run", "show", str(run))
        if view["state"] == "FailedHolding" and qemu.poll() is None:
            _await_key(server, run, qemu)
            _hold(args, folder, server, run, qemu)
        _power_down(server, run, qemu)
    say(f"image fetched after {times.since('initrd', 'start')}")
    say(f"run claimed {times.since('claim', 'initrd')} after that{_by_kernel(log)}")
    say(f"the run is {view['state']}")
    if view["state"] == "Completed":
        return 0
    _tell_tail(log)
    return 3 if view["agent"]["instance_id"] is None or view["state"] not in {"FailedHolding"} else 1


def _by_kernel(log: Path) -> str:
    """The same by the machine's own clock, which begins with its kernel; its log shows it beside the agent's words."""
    found = re.search(r"\[ *(\d+\.\d)\d*\] vetting-agent\[\d+\]: claimed the run", log.read_text(errors="replace"))
    return f"; {found[1]} s after its kernel's start" if found else ""


def _until_ended(
    args: argparse.Namespace,
    server: Orchestrator,
    run: int,
    qemu: subprocess.Popen[bytes],
    watch: subprocess.Popen[bytes],
    times: Times,
) -> None:
    """Until the run has a verdict, the machine has ended, or time is up."""
    while watch.poll() is None:
        if qemu.poll() is not None:
            say("the machine has ended before its run")
            return
        if time.monotonic() - times.began > args.limit:
            say(f"no verdict after {args.limit:.0f} s")
            return
        if "claim" not in times.marks and "initrd" in times.marks and _is_claimed(server, run):
            times.mark("claim")
        time.sleep(POLL_S)


def _is_claimed(server: Orchestrator, run: int) -> bool:
    return server.ask("run", "show", str(run))["agent"]["instance_id"] is not None


def _await_key(server: Orchestrator, run: int, qemu: subprocess.Popen[bytes]) -> None:
    """A hold is complete when the host has its key: a verdict comes seconds before."""
    deadline = time.monotonic() + HOLD_LIMIT_S
    while time.monotonic() < deadline and qemu.poll() is None:
        if server.ask("run", "show", str(run))["hold"] is not None:
            say("the machine got the hold key")
            return
        time.sleep(POLL_S)
    say(f"the machine asked for no hold key within {HOLD_LIMIT_S:.0f} s")


def _hold(
    args: argparse.Namespace, folder: Path, server: Orchestrator, run: int, qemu: subprocess.Popen[bytes]
) -> None:
    """With --ssh-forward the held machine stays for a person, until it is told to end."""
    if args.ssh_forward is None:
        return
    key = folder / "hold-key"
    server.ask("hold-key", str(run), "--out", str(key))
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    say(f"held; come in with: ssh -i {key} {options} -p {args.ssh_forward} root@127.0.0.1")
    say(f"direct it with: vetting-orchestrator run retry|shutdown {run} --data {server.data}; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        qemu.wait()


def _power_down(server: Orchestrator, run: int, qemu: subprocess.Popen[bytes]) -> None:
    """A completed run powers its host off by itself; any other is told to."""
    if qemu.poll() is None and server.ask("run", "show", str(run))["state"] != "Completed":
        with contextlib.suppress(NoService):
            server.ask("run", "shutdown", str(run))
    try:
        qemu.wait(END_LIMIT_S)
        say("the machine has powered off")
    except subprocess.TimeoutExpired:
        say(f"the machine did not power off within {END_LIMIT_S:.0f} s: ending it")


def _tell_tail(log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    say(f"the last lines of {log}:")
    for line in lines[-TAIL_LINES:]:
        sys.stdout.write(f"    {line}\n")


if __name__ == "__main__":
    sys.exit(main())

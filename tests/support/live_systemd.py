"""A real systemd as PID 1 of namespaces of its own, over a copy-on-write view of this machine's root.

Nothing of this machine's own services is started, nothing of its files is changed: what is written goes to a tmpfs that
ends with the namespaces, and so does its control group. Needs root, overlayfs and the unified cgroup hierarchy.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.walk.rig import wait_for

SYSTEMD = Path("/lib/systemd/systemd")
SOURCE = Path("/opt/vetting/source")
"""Where the project is seen inside: ProtectHome= hides a checkout in somebody's home."""
ENTER = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
MACHINE = r"""
folder=$1 source=$2 root=$1/root
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mkdir -p "$root/opt/vetting/source"
mount --bind "$source" "$root/opt/vetting/source"
mount -t proc proc "$root/proc"
mount -o bind,ro "$root/proc/sys" "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for place in run tmp etc/systemd var/lib/vetting-orchestrator; do
    mkdir -p "$root/$place"
    mount -t tmpfs -o mode=755 tmpfs "$root/$place"
done
mkdir "$root/etc/systemd/system"
ip link set lo up
cd "$root"
mkdir .before
pivot_root . .before
umount -l /.before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
"""
"""Its own /etc/systemd is empty, so that of this machine's units only those run that systemd itself needs."""


def own_group() -> Path:
    """The control group of this process, in the unified hierarchy. Raises LookupError where that is not mounted."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    for _, place, kind, *_ in mounts:
        if kind == "cgroup2":
            path = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()[0]
            return Path(place) / path.lstrip("/")
    raise LookupError("no cgroup2 file system is mounted on this machine")


@dataclass
class LiveSystemd:
    """Use as a context manager. `folder`: an empty one."""

    folder: Path
    _outer: subprocess.Popen[bytes] | None = None
    _group: Path = field(default_factory=lambda: own_group() / f"vetting-test-{os.getpid()}")
    pid: int = 0
    """Of the inner PID 1, as it is seen from outside."""

    @property
    def root(self) -> Path:
        """Its root directory, seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def within_network(self) -> list[str]:
        """What a program of this machine is started behind to see the inner network."""
        return ["nsenter", "-t", str(self.pid), "-n", "--"]

    def __enter__(self) -> LiveSystemd:
        spaces = ["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        project = Path(__file__).parents[2]
        argv = ["unshare", *spaces, "--", "sh", "-euc", MACHINE, "machine", str(self.folder), str(project)]
        self._group.mkdir()
        argv = ["sh", "-euc", ENTER, "enter", str(self._group), *argv]
        with (self.folder.parent / "systemd.err").open("wb") as errors:
            self._outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self.pid = wait_for(self._first, "the first process of the namespaces")
        wait_for(lambda: self.run("systemctl", "is-system-running") in {"running", "degraded"}, "systemd to be up")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        assert self._outer is not None
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # the kernel ends what else is in its namespace
        self._outer.wait()
        for group in sorted(self._group.rglob("*/"), reverse=True):  # the inner ones first
            group.rmdir()
        self._group.rmdir()

    def _first(self) -> int:
        assert self._outer is not None
        assert self._outer.poll() is None, (self.folder.parent / "systemd.err").read_text()
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, *argv: str) -> str:
        """A program inside; what it wrote, without the blanks around it. Its exit code is not looked at."""
        words = ["nsenter", "-t", str(self.pid), "-a", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *argv]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False).stdout.strip()

    def of_unit(self, unit: str, what: str) -> str:
        """A property of a unit: MainPID, ActiveState, NRestarts, …"""
        return self.run("systemctl", "show", "--value", "-p", what, unit)

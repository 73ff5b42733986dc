"""What the lab lays over the image for one boot: the door, a script that runs before the agent, and lying tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

DOOR = """#!/bin/bash
# One script a line from the second serial port, in base64; its exit code and what it printed go back.
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo door >&3
while IFS= read -r line <&3; do
    printf %s "$line" | base64 -d >/run/lab.sh
    timeout 300 bash /run/lab.sh >/run/lab.out 2>&1 </dev/null
    printf '%s %s\\n' $? "$(head -c 60000 /run/lab.out | base64 -w0)" >&3
done
"""
UNITS = {
    "lab-door.service": """[Unit]
Description=The lab's way in
DefaultDependencies=no
After=systemd-udev-trigger.service
[Service]
ExecStart=/usr/local/lib/lab/door
Restart=on-failure
""",
    "lab-before.service": """[Unit]
Description=What the lab does before the agent starts
Before=vetting-agent.service
After=systemd-modules-load.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash -ex /usr/local/lib/lab/before
StandardOutput=journal+console
""",
}


def initrd(base: Path, folder: Path, before: str, tools: Mapping[str, str]) -> Path:
    """The image's initrd with a second one behind it, which the image lays over itself; see image/initramfs/init.

    `tools`: {path in the image: its text}. A name without a folder is a program that stands before the real one.
    """
    tree = folder / "overlay-tree"
    for name, text in _files(before, tools).items():
        path = tree / "overlay" / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for unit in UNITS:
        wants = tree / "overlay/etc/systemd/system/vetting-agent.service.wants"
        wants.mkdir(exist_ok=True)
        (wants / unit).symlink_to(f"../{unit}")
    made = folder / "initrd"
    shutil.copyfile(base, made)
    with made.open("ab") as whole:
        whole.write(b"\0" * (-whole.tell() % 512))
        whole.write(_archive(tree))
    shutil.rmtree(tree)
    return made


def _files(before: str, tools: Mapping[str, str]) -> dict[str, str]:
    named = {name if "/" in name else f"/usr/local/sbin/{name}": text for name, text in tools.items()}
    units = {f"/etc/systemd/system/{name}": text for name, text in UNITS.items()}
    return {"/usr/local/lib/lab/door": DOOR, "/usr/local/lib/lab/before": before or "true\n", **units, **named}


def _archive(tree: Path) -> bytes:
    names = "\n".join(["overlay", *sorted(str(path.relative_to(tree)) for path in (tree / "overlay").rglob("*"))])
    argv = ["cpio", "-o", "-H", "newc", "--owner=0:0", "--quiet"]
    return subprocess.run(argv, input=names.encode(), cwd=tree, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603

"""The DHCP recipes of image/config/dhcp: real servers take them, and answer each kind of client as they should."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import dhcp_client
from tests.support.namespaces import Wire

IMAGE = Path(__file__).parents[2] / "image"
RECIPES = IMAGE / "config" / "dhcp"
PORT = "eth1"
"""What the recipes call it."""
PACKAGES = {
    "dnsmasq": "dnsmasq-base",
    "dhcpd": "isc-dhcp-server",
    "kea-dhcp4": "kea-dhcp4-server",
    "grub-script-check": "grub-common",
}
HTTP = "http://192.0.2.1"
BOOT_FILES = {
    "bios": "undionly.kpxe",
    "uefi": "ipxe.efi",
    "uefi-9": "ipxe.efi",
    "uefi-http": f"{HTTP}/shimx64.efi",
    "ipxe-bios": f"{HTTP}/boot.ipxe",
    "ipxe-uefi": f"{HTTP}/boot.ipxe",
    "uefi-arm": "",
    "uefi-arm-http": "",
    "host": "",
}


def tool(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: package {PACKAGES[name]}")
    return path


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server's port, with the recipes' name and address, and a client's."""
    with Wire() as wire:
        wire.cable(PORT, "192.0.2.1", "192.0.2.50")
        yield wire


def server_argv(name: str, folder: Path) -> list[str]:
    """The server with its recipe as it is, but for where it keeps its files."""
    leases = folder / "leases"
    leases.touch()
    if name == "dnsmasq":
        recipe = (RECIPES / "dnsmasq.conf").read_text()
        (folder / "dnsmasq.conf").write_text(recipe.replace("tftp-root=/srv/tftp", f"tftp-root={folder}"))
        files = [f"--conf-file={folder / 'dnsmasq.conf'}", f"--dhcp-leasefile={leases}", f"--pid-file={folder / 'pid'}"]
        return [tool(name), "--keep-in-foreground", "--log-facility=-", "--user=root", "--no-ping", *files]
    if name == "dhcpd":
        files = ["-cf", str(RECIPES / "dhcpd.conf"), "-lf", str(leases), "-pf", str(folder / "pid")]
        return [tool(name), "-4", "-f", "-d", *files, PORT]
    recipe = json.loads((RECIPES / "kea-dhcp4.json").read_text())
    recipe["Dhcp4"]["lease-database"]["persist"] = False
    (folder / "kea.json").write_text(json.dumps(recipe))
    return [tool(name), "-c", str(folder / "kea.json")]


@contextlib.contextmanager
def serving(name: str, wire: Wire, folder: Path) -> Iterator[Path]:
    """The server while the block lasts; its log."""
    kept = {"KEA_LOCKFILE_DIR": str(folder), "KEA_PIDFILE_DIR": str(folder), "KEA_LOGGER_DESTINATION": "stdout"}
    argv = ["ip", "netns", "exec", wire.near, *server_argv(name, folder)]
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **kept})
    try:
        yield log
    finally:
        server.terminate()
        server.wait()


@pytest.mark.root
@pytest.mark.parametrize("name", ["dnsmasq", "dhcpd", "kea-dhcp4"])
def test_each_kind_of_client_is_told_what_it_boots(name: str, wire: Wire, tmp_path: Path) -> None:
    client = ["ip", "netns", "exec", wire.far, sys.executable, dhcp_client.__file__, PORT, "15"]
    with serving(name, wire, tmp_path) as log:
        done = subprocess.run(client, check=True, capture_output=True, text=True)
    answers = json.loads(done.stdout)
    assert None not in answers.values(), log.read_text(errors="replace")[-2000:]
    assert {kind: answer["boot_file"] for kind, answer in answers.items()} == BOOT_FILES
    # UEFI's HTTP boot takes no answer without it; others would take the answer for one that is not for them.
    classes = {kind: answer["vendor_class"] for kind, answer in answers.items() if answer["vendor_class"]}
    assert classes == {"uefi-http": "HTTPClient"}
    assert {answer["next_server"] for answer in answers.values() if answer["boot_file"]} == {"192.0.2.1"}
    assert len({answer["address"] for answer in answers.values()}) == len(answers)


# --- what the servers' own checks say ---------------------------------------------------------------------------------


def test_dnsmasq_takes_its_recipe() -> None:
    done = subprocess.run([tool("dnsmasq"), "--test", "-C", str(RECIPES / "dnsmasq.conf")], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_dhcpd_takes_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "leases").touch()
    files = ["-cf", str(RECIPES / "dhcpd.conf"), "-lf", str(tmp_path / "leases")]
    done = subprocess.run([tool("dhcpd"), "-t", *files], capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_kea_takes_its_recipe(wire: Wire, tmp_path: Path) -> None:
    # It looks for the port, and so in the namespace that has it.
    argv = ["ip", "netns", "exec", wire.near, tool("kea-dhcp4"), "-t", str(RECIPES / "kea-dhcp4.json")]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, "KEA_LOCKFILE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr + done.stdout


# --- GRUB -------------------------------------------------------------------------------------------------------------


def test_grub_takes_its_script() -> None:
    done = subprocess.run([tool("grub-script-check"), str(RECIPES / "grub.cfg")], capture_output=True)
    assert done.returncode == 0, done.stderr


def kernel_parameters(script: Path, command: str) -> list[str]:
    """What a boot loader's script hands to the kernel."""
    line = re.search(rf"^\W*(?:if )?{command} \S*/vmlinuz (.*)$", script.read_text(), re.MULTILINE)
    assert line is not None
    return re.split(r"; then| \|\| ", line[1])[0].split()


def test_grub_hands_on_what_ipxe_does() -> None:
    ipxe = kernel_parameters(IMAGE / "boot.ipxe", "kernel")
    ipxe.remove("initrd=initrd")
    grub = kernel_parameters(RECIPES / "grub.cfg", "linux")
    assert [word.replace("$net_default_mac", "${mac}") for word in grub] == ipxe


def test_the_readme_names_every_recipe() -> None:
    readme = (IMAGE / "README.md").read_text()
    assert [path.name for path in RECIPES.iterdir() if path.name not in readme] == []

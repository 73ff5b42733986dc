"""The recipe of the image, without building it: every tool is named, scripts parse, boot.ipxe and QEMU's arguments."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from image import sbom
from image.vm import machine, services
from image.vm.__main__ import main as boot
from image.vm.__main__ import parser
from image.vm.disks import arguments, disk
from image.vm.machine import Machine, NoMachine
from stages import STAGES

IMAGE = Path(__file__).parents[2] / "image"
# Called by probes and by the agent, which declare no tools.
ALSO_CALLED = {"lspci", "lsblk", "unshare", "setpriv", "systemctl", "shutdown"}


def listed_commands() -> set[str]:
    lines = (IMAGE / "config" / "packages").read_text().splitlines()
    return {word for line in lines if not line.startswith("#") for word in line.partition(":")[2].split()}


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_every_tool_of_every_stage_is_in_the_image() -> None:
    needed = {tool for stage in STAGES for tool in stage.tools} | ALSO_CALLED
    assert needed - listed_commands() == set()


def test_nothing_that_assembles_or_unlocks_storage_is_listed() -> None:
    packages = {line.partition(":")[0] for line in (IMAGE / "config" / "packages").read_text().splitlines()}
    assert not packages & {"mdadm", "lvm2", "cryptsetup", "zfsutils-linux", "multipath-tools", "udisks2"}
    modules = (IMAGE / "config" / "modules").read_text()
    assert "drivers/md" not in modules
    assert "fs/ext4" not in modules


@pytest.mark.parametrize("name", ["build", "build-kernel", "configure"])
def test_the_bash_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(IMAGE / name)], check=True)


@pytest.mark.parametrize(
    "path", ["initramfs/init", "boot", "root/usr/lib/vetting/host-key", "root/usr/lib/vetting/verify"]
)
def test_the_shell_scripts_parse(path: str) -> None:
    subprocess.run(["sh", "-n", str(IMAGE / path)], check=True)


def test_the_unit_restarts_only_where_that_can_help() -> None:
    unit = (IMAGE / "root/etc/systemd/system/vetting-agent.service").read_text()
    assert "Restart=on-failure" in unit
    assert "RestartPreventExitStatus=2 3" in unit
    assert "ExecStopPost=/usr/bin/vetting-agent hold-clean" in unit
    assert "WatchdogSec=" in unit


def test_the_flags_that_the_unit_gives_are_the_agents() -> None:
    unit = (IMAGE / "root/etc/systemd/system/vetting-agent.service").read_text()
    from vetting_agent import hold, run

    for verb, module in (("run", run), ("hold-clean", hold)):
        words = re.search(rf"vetting-agent {verb} (.*)", unit)
        assert words is not None
        flags = argparse.ArgumentParser()
        module.add_arguments(flags)
        assert flags.parse_args(words[1].split()).ssh_unit == "vetting-ssh.service"


def test_the_agent_waits_for_devices_because_it_starts_before_they_are_there() -> None:
    unit = (IMAGE / "root/etc/systemd/system/vetting-agent.service").read_text()
    assert "DefaultDependencies=no" in unit
    assert "--wait-for-devices" in unit
    assert "systemd-udev-trigger.service" in unit  # what was not yet asked for cannot settle


def test_the_initrd_has_sums_that_the_kernel_looks_at() -> None:
    assert "cpio -0 -o -H crc" in (IMAGE / "build-kernel").read_text()


def test_the_ssh_server_of_a_hold_takes_keys_alone() -> None:
    config = (IMAGE / "root/etc/ssh/sshd_config").read_text()
    for line in ("PasswordAuthentication no", "KbdInteractiveAuthentication no", "AuthenticationMethods publickey"):
        assert line in config


def test_requirements_are_the_agents_alone() -> None:
    command = [sys.executable, str(IMAGE / "requirements.py"), str(IMAGE.parent / "pyproject.toml")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert any(line.startswith("httpx") for line in lines)
    assert not any(line.startswith(("rich", "starlette", "pytest")) for line in lines)


# --- the list of parts ------------------------------------------------------------------------------------------------

STATUS = """Package: bash
Status: install ok installed
Version: 5.2-1
Source: bash

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def test_the_sbom_names_what_is_installed(tmp_path: Path) -> None:
    site = tmp_path / "httpx-0.28.1.dist-info"
    site.mkdir()
    (site / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: httpx\nVersion: 0.28.1\nLicense-Expression: BSD-3-Clause\n"
    )
    parts = [*sbom.debian_packages(STATUS), *sbom.python_packages(tmp_path)]
    made = sbom.document("1", 0, parts)
    assert [part["name"] for part in made["packages"]] == ["vetting-live-image", "bash", "httpx"]
    assert made["packages"][2]["licenseDeclared"] == "BSD-3-Clause"
    assert made["creationInfo"]["created"] == "1970-01-01T00:00:00Z"
    assert len({part["SPDXID"] for part in made["packages"]}) == 3
    assert sbom.document("1", 0, parts) == made


# --- boot.ipxe --------------------------------------------------------------------------------------------------------


def test_the_boot_script_has_each_gap_once_and_none_in_a_comment() -> None:
    template = (IMAGE / "boot.ipxe").read_text()
    filled = services.boot_script(template, "http://192.0.2.1", "vetting.token=s3cret", "debug")
    for line in filled.splitlines():
        assert not (line.startswith("#") and "s3cret" in line)
    assert "vetting.mac=${mac} vetting.token=s3cret debug" in filled
    assert filled.startswith("#!ipxe")


def test_corrected_memory_errors_are_left_to_edac_and_the_log() -> None:
    """The kernel's own collector (RAS_CEC) keeps them from both, and so from the stage that they happen in."""
    assert " ras=cec_disable " in (IMAGE / "boot.ipxe").read_text()


def test_a_boot_script_without_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="@BASE@"):
        services.boot_script("#!ipxe\n", "", "", "")


# --- disks and machines -----------------------------------------------------------------------------------------------


def test_a_disk_is_kind_size_and_serial(tmp_path: Path) -> None:
    made = disk("nvme:8M:SN-1")
    assert (made.kind, made.size, made.serial) == ("nvme", 8 * 2**20, "SN-1")
    path = made.prepared(tmp_path, 0)
    assert path is not None
    assert path.stat().st_size == 8 * 2**20
    assert disk("sata:1G").serial == "VETSATA"


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "full.img").write_bytes(b"data")
    assert disk(f"scsi:{tmp_path}/full.img:S").prepared(tmp_path, 0) == tmp_path / "full.img"
    assert (tmp_path / "full.img").read_bytes() == b"data"


@pytest.mark.parametrize("text", ["floppy:1G", "nvme:", "nvme:8", "nvme:8X", "nvme:8G:a b", "sata:1G:" + "x" * 21])
def test_a_disk_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        disk(text)


def test_each_disk_hangs_where_its_kind_hangs(tmp_path: Path) -> None:
    disks = [disk("sata:1M:A"), disk("sata:1M:B"), disk("scsi:1M:C"), disk("scsi:1M:D"), disk("virtio:1M:E")]
    argv = " ".join(arguments([(one, one.prepared(tmp_path, at)) for at, one in enumerate(disks)]))
    assert "drive=block0,bus=ide.0,serial=A" in argv
    assert "drive=block1,bus=ide.1,serial=B" in argv
    assert argv.count("virtio-scsi-pci") == 1


def test_only_the_boot_port_boots(tmp_path: Path) -> None:
    argv = Machine(nics=("e1000", "virtio-net-pci"), boot_nic=1, tftp=tmp_path).argv(tmp_path)
    ports = [argv[at + 1] for at, word in enumerate(argv) if word == "-netdev"]
    assert "bootfile" not in ports[0]
    assert "bootfile=boot.ipxe" in ports[1]
    cards = [word for word in argv if "mac=" in word]
    assert cards[0].endswith("romfile=")
    assert cards[1].endswith("bootindex=0")
    assert "52:54:00:7e:70:02" in cards[1]


@pytest.mark.skipif(not machine.FIRMWARE_VARS.exists(), reason="OVMF is not installed")
def test_uefi_variables_are_the_machines_own(tmp_path: Path) -> None:
    argv = " ".join(Machine(firmware="uefi", tftp=tmp_path).argv(tmp_path))
    assert f"file={tmp_path / 'efivars.fd'}" in argv


def test_kvm_that_is_wished_for_and_absent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert machine.best_accel("auto", tmp_path / "vmlinuz", tmp_path) == "tcg"
    with pytest.raises(NoMachine, match="/dev/kvm"):
        machine.best_accel("kvm", tmp_path / "vmlinuz", tmp_path)


def test_without_an_image_boot_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert boot(["--image", str(tmp_path), "--keep", str(tmp_path / "k"), "--dry-run"]) == 2
    assert "make image" in capsys.readouterr().out


def test_a_dry_run_prints_the_machine_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("vmlinuz", "initrd", "boot.ipxe"):
        (tmp_path / name).touch()
    keep = tmp_path / "k"
    assert (
        boot(["--image", str(tmp_path), "--keep", str(keep), "--dry-run", "--memory", "768", "--disk", "nvme:1G:X"])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.startswith("qemu-system-x86_64")
    assert "-m 768" in printed
    assert "serial=X" in printed


def test_the_help_names_every_flag_of_the_readme() -> None:
    text = parser().format_help()
    for flag in ("--accel", "--firmware", "--network-if", "--disk", "--ssh-forward", "--dry-run", "--profile", "--set"):
        assert flag in text


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_what_was_fetched_is_told(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"x" * 1000)
    told: list[str] = []
    with services.files(tmp_path, "127.0.0.1", told.append) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/initrd", timeout=5) as answer:
            assert len(answer.read()) == 1000
        for _ in range(100):
            if told:
                break
            time.sleep(0.02)
    assert told == ["initrd"]


def test_an_orchestrator_of_its_own_gives_a_run(tmp_path: Path) -> None:
    with services.orchestrator(tmp_path, "127.0.0.1", services.QEMU_GATEWAY) as server:
        assert server.url.startswith("https://10.0.2.2:")
        created = server.ask("run", "create", "--host", "x", "--profile", "quick")
        assert f"vetting.tls_fpr={server.fingerprint}" in created["cmdline"]
        assert "vetting.orchestrator=https://10.0.2.2:" in created["cmdline"]
        assert json.dumps(server.ask("run", "show", str(created["run_id"])))
        with pytest.raises(services.NoService):
            server.ask("run", "show", "99")


@pytest.mark.root
def test_each_boot_has_an_ssh_host_key_of_its_own() -> None:
    """The image brings none (test_image.py); its script makes one where there is none, and leaves one that is there."""
    assert not [path.name for path in (IMAGE / "root/etc/ssh").glob("ssh_host_*")]
    make = IMAGE / "root/usr/lib/vetting/host-key"
    show = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    script = f"mount -t tmpfs none /etc/ssh && sh {make} && {show} && sh {make} && {show}"

    def boot_once() -> list[str]:
        argv = ["unshare", "--mount", "sh", "-ec", script]  # this machine's own keys stay out of sight
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    (first, again), (second, _) = boot_once(), boot_once()
    assert first == again
    assert first.split()[1] != second.split()[1]

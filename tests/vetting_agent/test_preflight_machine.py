"""Preflight on the host itself: full and read-only file systems, and programs that are missing, broken, hung or lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from tests.support.canned_server import CannedServer, response
from tests.support.certificates import make
from tests.support.namespaces import sh
from tests.support.preflights import PATIENT_S, SHORT_S, assert_failed, preflight_here, state_of
from tests.support.stand_ins import StandIns
from vetting_agent.preflight_machine import MachineHops
from vetting_agent.preflight_report import Failed, Seen, Walk
from vetting_agent.redact import Redactor
from vetting_agent.signals import Signal

QUICK = {
    "smartctl": "smartctl 7.3 2022-02-28 r5338 [x86_64-linux-6.1.0] (local build)\n",
    "nvme": "nvme version 2.4 (git 2.4)\n",
}


def hops(host: Host, tmp_path: Path, *stages: str, known: bool = True, hop_s: float = PATIENT_S) -> MachineHops:
    return MachineHops(host, tmp_path / "evidence", tmp_path / "state", lambda: stages if known else None, hop_s)


def machine(tmp_path: Path, programs: StandIns) -> Host:
    """A machine of our own making: nothing in /sys and /dev but what the test puts there."""
    root = tmp_path / "root"
    root.mkdir()
    return Host(root=root, tools=programs.tools())


async def failing(look: Any) -> Failed:
    with pytest.raises(Failed) as caught:
        await look()
    return caught.value


# --- evidence space ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        sh("umount", str(folder))


def filled(folder: Path) -> None:
    """Written to until nothing more goes in."""
    with pytest.raises(OSError, match="No space left"):
        (folder / "filler").write_bytes(bytes(64 * 2**20))


@pytest.mark.root
async def test_a_full_file_system_is_no_dead_network(tmp_path: Path, small: Path) -> None:
    certificate = make()
    with CannedServer(lambda _: response(200, b"{}"), certificate.server_context(tmp_path)) as server:
        filled(small)
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint)
        seen = assert_failed(report, "evidence_space", "disk_full")
        assert "No space left on device" in seen
        assert [state_of(report, hop)[0] for hop in ("tcp", "tls", "hello")] == ["ok"] * 3
        (small / "filler").unlink()
        assert (await preflight_here(tmp_path, server.url, certificate.fingerprint))["ok"]
    assert list(small.iterdir()) == [], "nothing is left there"


@pytest.mark.root
async def test_a_nearly_full_file_system(tmp_path: Path, small: Path, host: Host) -> None:
    (small / "filler").write_bytes(bytes(40 * 2**20))
    failed = await failing(hops(host, tmp_path).evidence_space)
    assert failed.signal is Signal.DISK_FULL
    assert "only" in str(failed)


@pytest.mark.root
async def test_a_file_system_that_became_read_only(tmp_path: Path, small: Path, host: Host) -> None:
    sh("mount", "-o", "remount,ro", str(small))
    failed = await failing(hops(host, tmp_path).evidence_space)
    assert failed.signal is Signal.EVIDENCE_NOT_WRITABLE
    assert "Read-only file system" in str(failed)


async def test_a_file_where_the_folder_should_be(tmp_path: Path, host: Host) -> None:
    (tmp_path / "evidence").write_text("")
    assert (await failing(hops(host, tmp_path).evidence_space)).signal is Signal.EVIDENCE_NOT_WRITABLE


async def test_a_folder_that_is_not_there_yet_is_well(tmp_path: Path, host: Host) -> None:
    given = replace(hops(host, tmp_path), evidence=tmp_path / "a" / "b" / "c")
    assert (await given.evidence_space()).status == "ok"
    assert not (tmp_path / "a").exists()


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_tools_and_their_versions(tmp_path: Path, only_stand_ins: StandIns) -> None:
    for name, text in QUICK.items():
        only_stand_ins.says(name, text)
    seen = await hops(machine(tmp_path, only_stand_ins), tmp_path, "SMART").tools()
    assert seen == Seen("smartctl 7.3, nvme 2.4")


async def test_a_tool_that_is_missing(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("nvme", QUICK["nvme"])
    host = machine(tmp_path, only_stand_ins)
    failed = await failing(hops(host, tmp_path, "SMART").tools)
    assert (failed.signal, str(failed)) == (Signal.TOOL_MISSING, "smartctl is not on the PATH")
    seen = await hops(host, tmp_path, known=False).tools()
    assert seen.status == "warning", "whether it is needed is not known"
    assert "smartctl is not on the PATH" in seen.detail


async def test_a_tool_for_other_machines_may_be_missing(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("smartctl", QUICK["smartctl"])
    host = machine(tmp_path, only_stand_ins)
    assert (await hops(host, tmp_path, "SMART").tools()).status == "warning"
    (host.root / "sys" / "class" / "nvme" / "nvme0").mkdir(parents=True)
    assert "nvme is not" in str(await failing(hops(host, tmp_path, "SMART").tools))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import time; time.sleep(600)", f"did not finish within {SHORT_S:g} s"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("sys.stderr.write('libfoo.so.1: cannot open shared object file'); sys.exit(127)", "libfoo.so.1"),
    ],
)
async def test_a_tool_that_does_not_run(tmp_path: Path, only_stand_ins: StandIns, body: str, words: str) -> None:
    only_stand_ins.says("nvme", QUICK["nvme"])
    only_stand_ins.python("smartctl", body + "\n")
    failed = await failing(hops(machine(tmp_path, only_stand_ins), tmp_path, "SMART", hop_s=SHORT_S).tools)
    assert failed.signal is Signal.TOOL_BROKEN
    assert words in str(failed)


async def test_a_tool_for_another_processor(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("nvme", QUICK["nvme"])
    (only_stand_ins.folder / "smartctl").write_bytes(b"\x7fELF" + bytes(60))
    (only_stand_ins.folder / "smartctl").chmod(0o755)
    failed = await failing(hops(machine(tmp_path, only_stand_ins), tmp_path, "SMART").tools)
    assert failed.signal is Signal.TOOL_BROKEN


async def test_a_tool_that_steers_the_screen(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("nvme", QUICK["nvme"])
    only_stand_ins.says("smartctl", "smartctl 7.3\x1b[2J\x1b]0;owned\x07 r\n")
    given = hops(machine(tmp_path, only_stand_ins), tmp_path, "SMART")
    report = await Walk("agent", 1, "c", Redactor()).over(given.checks()[1:2])
    assert report.ok
    assert "\x1b" not in report.hops[0].detail


async def test_a_run_without_stages_that_need_tools(tmp_path: Path, only_stand_ins: StandIns) -> None:
    assert (await hops(machine(tmp_path, only_stand_ins), tmp_path, "GPU").tools()).status == "not_applicable"


# --- BMC and GPU ------------------------------------------------------------------------------------------------------


async def test_a_machine_without_bmc_and_gpu_is_well(tmp_path: Path, only_stand_ins: StandIns) -> None:
    given = hops(machine(tmp_path, only_stand_ins), tmp_path, "PSU", "GPU")
    assert [(await given.bmc()).status, (await given.gpu()).status] == ["not_applicable"] * 2


async def test_a_bmc_that_answers(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("ipmitool", "Device ID                 : 32\nFirmware Revision         : 9.08\n")
    host = machine(tmp_path, only_stand_ins)
    (host.root / "dev").mkdir()
    (host.root / "dev" / "ipmi0").touch()
    assert await hops(host, tmp_path, "PSU").bmc() == Seen("answers, firmware 9.08")


async def test_a_bmc_that_does_not_answer(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("ipmitool", stderr="Get Device ID command failed: 0xc3 Timeout\n", exit_code=1)
    host = machine(tmp_path, only_stand_ins)
    (host.root / "dev").mkdir()
    (host.root / "dev" / "ipmi0").touch()
    assert (await failing(hops(host, tmp_path, "PSU").bmc)).signal is Signal.BMC_UNREADABLE
    assert (await hops(host, tmp_path, "SMART").bmc()).status == "warning"


async def test_gpus_without_a_driver(tmp_path: Path, only_stand_ins: StandIns) -> None:
    host = machine(tmp_path, only_stand_ins)
    device = host.root / "sys" / "bus" / "pci" / "devices" / "0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "uevent").write_text("PCI_CLASS=30200\nPCI_ID=10DE:2330\n")
    failed = await failing(hops(host, tmp_path, "GPU").gpu)
    assert (failed.signal, str(failed)) == (Signal.GPU_DRIVER_MISSING, "no driver for 0000:3b:00.0")
    assert (await hops(host, tmp_path, "SMART").gpu()).status == "warning"
    assert (await hops(host, tmp_path, known=False).gpu()).status == "warning"

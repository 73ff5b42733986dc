"""Which disks smartctl is asked about: the scan and the kernel's list made one, and pySMART kept on our side."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from probes.pysmart_bridge import call
from probes.smart import Reading, Target, merge, scan, without_twins
from probes.smart_parse import parse_report
from probes.tools import ToolMissing, ToolTimeout
from tests.support.smartctl_player import HANGS, Player, played
from tests.support.stand_ins import StandIns


@dataclass(frozen=True)
class Listed:
    name: str
    transport: str | None = "sata"
    serial: str | None = "S"
    model: str | None = "M"


def test_a_scanned_disk_gets_what_the_kernel_knows() -> None:
    assert merge([("/dev/sda", "sat")], [Listed("sda")]) == [Target("/dev/sda", "sat", ("sda",), "S", "M", "sata")]


def test_the_namespaces_of_an_nvme_controller_are_one_target() -> None:
    listed = [Listed("nvme0n1", "nvme"), Listed("nvme0n2", "nvme"), Listed("nvme10n1", "nvme")]
    scanned, left = merge([("/dev/nvme0", "nvme")], listed)
    assert (scanned.device, scanned.disks) == ("/dev/nvme0", ("nvme0n1", "nvme0n2"))
    assert (left.device, left.type, left.disks) == ("/dev/nvme10", "nvme", ("nvme10n1",))


def test_disks_that_the_scan_leaves_out_are_asked_too() -> None:
    targets = merge([("/dev/sda", "sat")], [Listed("sda"), Listed("sdb", "usb"), Listed("vda", "virtio")])
    assert [target.device for target in targets] == ["/dev/sda", "/dev/sdb", "/dev/vda"]
    assert targets[1].arguments == ("/dev/sdb",)


def test_a_disk_behind_a_raid_controller_is_no_disk_of_the_kernel() -> None:
    [disk, behind] = merge([("/dev/sda", "scsi"), ("/dev/bus/0", "megaraid,3")], [])
    assert (disk.pass_through, behind.pass_through) == (False, True)
    assert behind.arguments == ("-d", "megaraid,3", "/dev/bus/0")


def read(serial: str, *, pass_through: bool) -> Reading:
    frame = played("scsi-megaraid-healthy", serial_number=serial)
    target = Target("/dev/bus/0", "megaraid,0") if pass_through else Target("/dev/sda", "scsi", ("sda",))
    return Reading(target, parse_report(frame["out"], 0))


def test_the_raid_view_of_a_disk_that_the_kernel_shows_is_dropped() -> None:
    kernel, twin, other = read("A", pass_through=False), read("A", pass_through=True), read("B", pass_through=True)
    assert without_twins([twin, kernel, other, other]) == [kernel, other]


def test_two_disks_of_the_kernel_with_one_serial_are_both_kept() -> None:
    disk = read("A", pass_through=False)
    assert len(without_twins([disk, disk])) == 2


def test_disks_without_serial_are_never_dropped() -> None:
    assert len(without_twins([read("", pass_through=True), read("", pass_through=True)])) == 2


async def test_the_scan_runs_through_our_tools(host: Host, stand_ins: StandIns) -> None:
    Player(stand_ins).scanned(("/dev/sda", "sat"), ("/dev/bus/0", "megaraid,1"))
    language, logger_class = os.environ.get("LANG"), logging.getLoggerClass()
    assert await scan(host.tools) == [("/dev/sda", "sat"), ("/dev/bus/0", "megaraid,1")]
    assert stand_ins.calls() == [["smartctl", "--scan-open", "--json"]]
    assert (os.environ.get("LANG"), logging.getLoggerClass()) == (language, logger_class)


async def test_what_goes_wrong_in_the_tool_comes_through_the_bridge(
    host: Host, stand_ins: StandIns, only_stand_ins: StandIns
) -> None:
    with pytest.raises(ToolMissing):
        await call(StandIns(Path(only_stand_ins.folder), real=False).tools(), lambda one: one.scan(), timeout_s=9)
    player = Player(stand_ins)
    player.scan = [HANGS]
    player.device("sat /dev/sda")
    with pytest.raises(ToolTimeout):
        await call(host.tools, lambda one: one.scan(), timeout_s=0.5)


async def test_a_call_that_is_cancelled_twice_leaves_no_complaint_behind(host: Host, stand_ins: StandIns) -> None:
    stand_ins.python("smartctl", "import time; time.sleep(600)\n")
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: complaints.append(what))
    asking = asyncio.create_task(call(host.tools, lambda one: one.scan(), timeout_s=60))
    while not stand_ins.calls("smartctl"):  # noqa: ASYNC110 a program, which tells nobody by itself
        await asyncio.sleep(0.02)
    for _ in range(2):
        asking.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait({asking})
    del asking  # its traceback holds what is looked for
    await asyncio.get_running_loop().shutdown_default_executor()
    await asyncio.sleep(0.05)
    gc.collect()
    assert complaints == []

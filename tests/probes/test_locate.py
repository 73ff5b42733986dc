"""The identify lamps: real ipmitool on a simulated BMC, real ledctl where it is installed, and tools that fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from probes import locate
from probes.locate import CannotIdentify, disk_lamp, host_lamp
from tests.support.ipmi_sim import CHASSIS_LOG, simulated_bmc
from tests.support.lamp_host import BARE, IN_BAY, LIT, REFUSES, bay_lamp, lamp_host
from tests.support.stand_ins import StandIns


@pytest.fixture
def tools(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path / "bin", real=False)


async def why_not(work: object) -> str:
    with pytest.raises(CannotIdentify) as caught:
        await work  # type: ignore[misc]
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.skipif(shutil.which("ipmi_sim") is None, reason="needs ipmi_sim")
async def test_the_real_tool_on_a_simulated_bmc(tmp_path: Path) -> None:
    stand_ins = StandIns(tmp_path / "bin")
    with simulated_bmc(tmp_path / "bmc", stand_ins, []):
        host = lamp_host(tmp_path / "root", stand_ins)
        await host_lamp(host, 240)
        await host_lamp(host, 0)
    told = (tmp_path / "bmc" / CHASSIS_LOG).read_text().splitlines()
    assert told == ["0x20 set identify 240 0", "0x20 set identify 0 0"]


async def test_the_hosts_lamp_is_asked_of_the_bmc(tmp_path: Path, tools: StandIns) -> None:
    tools.says("ipmitool", LIT)
    host = lamp_host(tmp_path / "root", tools)
    await host_lamp(host, 240)
    await host_lamp(host, 0)
    assert tools.calls() == [["ipmitool", "chassis", "identify", "240"], ["ipmitool", "chassis", "identify", "0"]]


async def test_a_host_without_bmc_is_not_asked(tmp_path: Path, tools: StandIns) -> None:
    tools.says("ipmitool", LIT)
    assert await why_not(host_lamp(lamp_host(tmp_path / "root", tools, bmc=False), 60)) == locate.NO_BMC
    assert tools.calls() == []


async def test_an_ipmitool_that_fails_lies_or_hangs_never_counts_as_lit(
    tmp_path: Path, tools: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lamp_host(tmp_path / "root", tools)
    assert await why_not(host_lamp(host, 60)) == locate.TOOL_MISSING
    tools.says("ipmitool", "", stderr="Set Chassis Identify failed: Invalid command\n", exit_code=1)
    assert await why_not(host_lamp(host, 60)) == locate.TOOL_FAILED
    tools.says("ipmitool", "Segmentation\n")
    assert await why_not(host_lamp(host, 60)) == locate.TOOL_FAILED
    tools.python("ipmitool", "import time; time.sleep(600)\n")
    monkeypatch.setattr(locate, "LIMIT_S", 1.0)
    assert await why_not(host_lamp(host, 60)) == locate.TIMED_OUT


async def test_a_disk_is_found_by_its_serial_and_lit_alone(tmp_path: Path, tools: StandIns) -> None:
    tools.says("ledctl")
    host = lamp_host(tmp_path / "root", tools)
    await disk_lamp(host, BARE, on=True)
    await disk_lamp(host, BARE, on=False)
    assert tools.calls() == [
        ["ledctl", "--listed-only", "locate=/dev/sdb"],
        ["ledctl", "--listed-only", "locate_off=/dev/sdb"],
    ]
    assert await why_not(disk_lamp(host, BARE[:-1], on=True)) == locate.NO_DISK


@pytest.mark.parametrize("ledctl", ["missing", "refuses", "refuses with 0"])
async def test_the_kernels_enclosure_does_it_where_ledctl_does_not(
    ledctl: str, tmp_path: Path, tools: StandIns
) -> None:
    if ledctl != "missing":
        tools.says("ledctl", stderr=REFUSES, exit_code=0 if "0" in ledctl else 33)
    host = lamp_host(tmp_path / "root", tools)
    await disk_lamp(host, IN_BAY, on=True)
    assert bay_lamp(tmp_path / "root") == "1"
    await disk_lamp(host, IN_BAY, on=False)
    assert bay_lamp(tmp_path / "root") == "0"
    wanted = locate.TOOL_MISSING if ledctl == "missing" else locate.NO_ENCLOSURE
    assert await why_not(disk_lamp(host, BARE, on=True)) == wanted


async def test_a_ledctl_that_fails_or_hangs_is_named(
    tmp_path: Path, tools: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lamp_host(tmp_path / "root", tools, enclosure=False)
    tools.says("ledctl", stderr="ledctl: could not open the log\n", exit_code=7)
    assert await why_not(disk_lamp(host, IN_BAY, on=True)) == locate.TOOL_FAILED
    tools.python("ledctl", "import os; os.kill(os.getpid(), 11)\n")
    assert await why_not(disk_lamp(host, IN_BAY, on=True)) == locate.TOOL_FAILED
    tools.python("ledctl", "import time; time.sleep(600)\n")
    monkeypatch.setattr(locate, "LIMIT_S", 1.0)
    assert await why_not(disk_lamp(host, IN_BAY, on=True)) == locate.TIMED_OUT


@pytest.mark.skipif(shutil.which("ledctl") is None, reason="needs ledctl")
async def test_the_real_ledctl_knows_no_bay_of_a_disk_that_is_not_there(tmp_path: Path) -> None:
    host = lamp_host(tmp_path / "root", StandIns(tmp_path / "bin"), enclosure=False)
    assert await why_not(disk_lamp(host, IN_BAY, on=True)) in {locate.NO_ENCLOSURE, locate.TOOL_FAILED}

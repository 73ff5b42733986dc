"""The BMC through ipmitool: recordings of a simulated one, and stand-ins that hang, refuse and talk nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import bmc, ipmi
from probes.host import Host
from probes.ipmi import IpmiError, SelEntry
from probes.notes import Notes
from probes.tools import ToolMissing
from tests.support.recordings import text
from tests.support.stand_ins import StandIns

MC_INFO = text("ipmitool", "sim-mc-info.out")
LAN = text("ipmitool", "sim-lan-print.out")


@pytest.fixture
def machine(tmp_path: Path, only_stand_ins: StandIns) -> Host:
    """A machine with an IPMI device."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "ipmi0").touch()
    return Host(root=tmp_path, tools=only_stand_ins.tools())


def answers(stand_ins: StandIns, mc_info: str = MC_INFO, lan: str = LAN, lan_exit: int = 0) -> None:
    stand_ins.python(
        "ipmitool",
        f"if 'mc' in sys.argv: sys.stdout.write({mc_info!r}); sys.exit(0)\n"
        f"sys.stdout.write({lan!r}); sys.exit({lan_exit})\n",
    )


async def test_no_device_means_no_bmc_and_no_call(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("ipmitool", "must not be asked")
    notes = Notes()
    assert await bmc.inventory(Host(root=tmp_path, tools=only_stand_ins.tools()), notes) is None
    assert only_stand_ins.calls("ipmitool") == []
    assert notes.lines == []


async def test_a_bmc_without_a_driver_is_noted(tmp_path: Path, only_stand_ins: StandIns) -> None:
    (tmp_path / "sys/firmware/dmi/entries/38-0").mkdir(parents=True)
    notes = Notes()
    assert await bmc.inventory(Host(root=tmp_path, tools=only_stand_ins.tools()), notes) is None
    assert "no device" in notes.lines[0]


async def test_address_and_firmware(machine: Host, only_stand_ins: StandIns) -> None:
    with_address = LAN.replace(": 0.0.0.0\nSubnet", ": 192.0.2.7\nSubnet")
    answers(only_stand_ins, lan=with_address.replace("00:00:00:00:00:00", "02:00:00:00:00:01"))
    found = await bmc.inventory(machine, Notes())
    assert found is not None
    assert (found.address, found.mac, found.firmware) == ("192.0.2.7", "02:00:00:00:00:01", "9.08")
    assert (found.manufacturer, found.ipmi_version) == ("MontaVista Software, Inc.", "2.0")


async def test_no_address_is_null_and_not_zeroes(machine: Host, only_stand_ins: StandIns) -> None:
    answers(only_stand_ins)
    found = await bmc.inventory(machine, Notes())
    assert found is not None
    assert (found.address, found.mac) == (None, None)


async def test_a_bmc_that_refuses_lan_print_is_still_a_bmc(machine: Host, only_stand_ins: StandIns) -> None:
    answers(only_stand_ins, lan="Invalid channel: 255\n", lan_exit=1)
    notes = Notes()
    found = await bmc.inventory(machine, notes)
    assert found is not None
    assert found.address is None
    assert len(notes.lines) == 1


async def test_a_first_refusal_is_asked_again(machine: Host, only_stand_ins: StandIns) -> None:
    once = only_stand_ins.folder / "asked"
    only_stand_ins.python(
        "ipmitool",
        f"import pathlib; p = pathlib.Path({str(once)!r})\n"
        "if not p.exists(): p.touch(); print('Get Device ID command failed', file=sys.stderr); sys.exit(1)\n"
        f"sys.stdout.write({MC_INFO!r})\n",
    )
    assert "Firmware Revision" in await ipmi.run(machine, "mc", "info")
    assert len(only_stand_ins.calls("ipmitool")) == 2


async def test_two_refusals_are_an_error(machine: Host, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("ipmitool", stderr=text("ipmitool", "no-device.err"), exit_code=1)
    with pytest.raises(IpmiError, match="Could not open device"):
        await bmc.inventory(machine, Notes())


async def test_a_bmc_that_hangs_is_not_waited_for_twice(machine: Host, only_stand_ins: StandIns) -> None:
    only_stand_ins.python("ipmitool", "import time; time.sleep(600)\n")
    with pytest.raises(IpmiError, match="did not answer"):
        await ipmi.run(machine, "mc", "info", limit_s=1.0)
    assert len(only_stand_ins.calls("ipmitool")) <= 1


async def test_an_answer_that_is_none(machine: Host, only_stand_ins: StandIns) -> None:
    answers(only_stand_ins, mc_info="\n")
    with pytest.raises(IpmiError, match="no firmware"):
        await bmc.inventory(machine, Notes())


async def test_a_missing_ipmitool_is_said_to_be_missing(machine: Host) -> None:
    with pytest.raises(ToolMissing):
        await bmc.inventory(machine, Notes())


def test_event_log_rows() -> None:
    entries = ipmi.sel_entries(text("ipmitool", "sim-events-sel.out"))
    assert len(entries) == 11
    assert entries[0] == SelEntry(1, "Power Supply PSU2 Status | Failure detected | Asserted")
    assert entries[-1].record_id == 0xB
    real = ipmi.sel_entries(text("ipmitool", "cable-pulled-sel.out"))
    assert real[1] == SelEntry(8, "Power Supply #0x3b | Power Supply AC lost | Asserted")
    assert ipmi.sel_entries(text("ipmitool", "sim-empty-sel.out")) == []


def test_an_event_log_that_is_none() -> None:
    with pytest.raises(IpmiError):
        ipmi.sel_entries("Segmentation fault\n")


def test_new_entries_are_those_after_the_last_known() -> None:
    one, two, three = (SelEntry(number, "x") for number in (1, 2, 3))
    assert ipmi.new_entries([one, two], [one, two, three]) == [three]
    assert ipmi.new_entries([one, two], [one, two]) == []
    assert ipmi.new_entries([], [one]) == [one]
    assert ipmi.new_entries([three], [one]) == [one]  # the log was cleared meanwhile
    with pytest.raises(IpmiError, match="shows none any more"):
        ipmi.new_entries([three], [])


@pytest.mark.parametrize(
    "text",
    [
        "PSU1 | 11h | ok | 10.1 | Presence detected\nPSU2 | 12h | ok | 10.2",  # cut off
        "PSU1 | 11h | ok | 10.1 | Presence detected\nPSU2 | 12h | ok | 10,2 | Failure detected\n",
    ],
)
def test_a_table_with_an_unreadable_row_is_no_table(text: str) -> None:
    with pytest.raises(IpmiError):
        ipmi.rows(text)


def test_a_sensor_table_that_is_none() -> None:
    with pytest.raises(IpmiError, match="cannot be read"):
        ipmi.rows("Get SDR 0000 command failed\n")
    assert ipmi.rows("") == []


async def test_sensors_none_of_which_reads_are_a_bmc_that_fails(machine: Host, only_stand_ins: StandIns) -> None:
    """As a BMC that was killed under a known repository shows them: no supply has left."""
    table = "PSU1 Status | 11h | {} | 10.1 | {}\nPSU2 Status | 12h | ns | 10.2 | No Reading\n"
    only_stand_ins.says("ipmitool", table.format("ok", "Presence detected"))
    assert [row.status for row in await ipmi.sensors(machine)] == ["ok", "ns"]
    only_stand_ins.says("ipmitool", table.format("ns", "No Reading"))
    with pytest.raises(IpmiError, match="2 sensors, and gives no reading of any"):
        await ipmi.sensors(machine)

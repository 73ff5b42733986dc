"""Driver statistics, FEC and transceivers as real tools printed them, and when ethtool does not help."""

from __future__ import annotations

import pytest

from probes import link_statistics
from probes.host import Host
from probes.link_statistics import LinkStatistics, parse_counts, parse_fec, parse_module
from probes.tools import ToolMissing, ToolTimeout
from tests.support.recordings import text
from tests.support.stand_ins import StandIns


def test_a_sound_transceiver() -> None:
    module = parse_module(text("ethtool", "module-sfp-sound.out"))
    assert module is not None
    assert (module.kind, module.vendor, module.part) == ("0x03 (SFP)", "JDSU", "PLRXPL-VI-S24-22")
    assert (module.temperature_c, module.receive_dbm) == (41.7, -4.96)
    assert (module.alarms, module.warnings) == ((), ()), "its thresholds are nonsense, its flags are what counts"


def test_a_dark_transceiver_raises_alarms() -> None:
    module = parse_module(text("ethtool", "module-sfp28-dark.out"))
    assert module is not None
    assert module.serial == "VN0AP8005718904"
    assert module.receive_dbm is None, "no light is no number"
    assert module.alarms == ("Laser bias current low alarm", "Laser output power low alarm", "Laser rx power low alarm")
    assert len(module.warnings) == 3


def test_lanes_of_a_qsfp() -> None:
    module = parse_module(
        "\tIdentifier                                : 0x11 (QSFP28)\n"
        "\tRcvr signal avg optical power(Channel 1)  : 0.6310 mW / -2.00 dBm\n"
        "\tRcvr signal avg optical power(Channel 2)  : 0.3162 mW / -5.00 dBm\n"
        "\tLaser rx power low alarm   (Channel 2)    : On\n"
    )
    assert module is not None
    assert module.receive_dbm == -5.0
    assert module.alarms == ("Laser rx power low alarm (Channel 2)",)


@pytest.mark.parametrize("out", ["", "garbage", "\x00" * 100, "Offset\t\tValues\n0x0000:\t\t19 52 04 07", " : \n : :"])
def test_what_is_no_transceiver(out: str) -> None:
    assert parse_module(out) is None
    assert parse_counts(out) == {}
    assert parse_fec(out) == (None, {})


def test_a_hostile_module_is_made_printable() -> None:
    module = parse_module(
        "\tIdentifier : 0x03\n\tVendor name : \x1b[31mEVIL\x07\n\tModule temperature : 9e999 degrees C\n"
    )
    assert module is not None
    assert module.vendor == "[31mEVIL"
    assert module.temperature_c is None


def test_counters_by_one_name() -> None:
    assert parse_counts(text("ethtool", "stats-tg3.out")) == {"crc": 0, "pause_received": 0}
    assert parse_counts(text("ethtool", "stats-mlx5-sick-lane.out")) == {"symbol": 386, "fec_corrected": 17750739}
    assert parse_counts("  rx_crc_errors: 3\n  port.rx_crc_errors: 5\n  rx_crc_errors: -1\n") == {"crc": 5}


def test_fec() -> None:
    assert parse_fec(text("ethtool", "fec-ice-rs.out")) == ("RS", {"fec_corrected": 0, "fec_uncorrectable": 0})
    assert parse_fec(text("ethtool", "fec-sick.out")) == ("None", {"fec_corrected": 123, "fec_uncorrectable": 4})


async def test_a_refusal_is_no_error(stand_ins: StandIns) -> None:
    stand_ins.says("ethtool", "no stats available\n", exit_code=94)
    assert await link_statistics.read(Host(tools=stand_ins.tools()), "eth0") == LinkStatistics()


async def test_the_real_tool_on_loopback(host: Host) -> None:
    assert await link_statistics.read(host, "lo") == LinkStatistics()


async def test_a_missing_or_frozen_tool_is_one(only_stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissing):
        await link_statistics.read(Host(tools=only_stand_ins.tools()), "eth0")
    monkeypatch.setattr(link_statistics, "LIMIT_S", 0.3)
    only_stand_ins.python("ethtool", "import time; time.sleep(60)\n")
    with pytest.raises(ToolTimeout):
        await link_statistics.read(Host(tools=only_stand_ins.tools()), "eth0")

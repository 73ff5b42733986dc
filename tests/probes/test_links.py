"""What recorded ethtool outputs say of a link, and which ports are hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import links
from probes.host import Host
from probes.links import LinkOffer, Mode, UnreadableOffer, parse_offer
from tests.support.stand_ins import StandIns

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "tools" / "ethtool"


def offer(name: str) -> LinkOffer:
    return parse_offer((RECORDINGS / f"{name}.out").read_text())


@pytest.mark.parametrize(
    ("name", "speed", "duplex", "common", "own"),
    [
        ("r8169-1g", 1000, "full", 1000, 1000),
        ("r8169-partner-100", 100, "full", 100, 1000),
        ("gigabit-pair-broken", 100, "full", 1000, 2500),
        ("ice-25g", 25000, "full", None, 25000),
        ("ice-no-link", None, None, None, 100000),
        ("e1000-no-partner", 1000, "full", None, 1000),
        ("virtio", None, None, None, None),
        ("half-duplex", 10, "half", None, None),
    ],
)
def test_recorded_links(name: str, speed: int | None, duplex: str | None, common: int | None, own: int | None) -> None:
    read = offer(name)
    assert (read.speed_mbps, read.duplex) == (speed, duplex)
    assert (read.best_common_mbps(), read.best_own_mbps()) == (common, own)


def test_modes_over_several_lines() -> None:
    assert offer("gigabit-pair-broken").supported == {
        *(Mode(mbps, full) for mbps in (10, 100) for full in (True, False)),
        Mode(1000, True),
        Mode(2500, True),
    }


@pytest.mark.parametrize("text", ["", "no such device", "Settings for eth0:\n\tSpeed: 1000Mb/s\n"])
def test_other_output_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableOffer):
        parse_offer(text)


async def test_a_refused_question_of_ethtool_does_not_matter(stand_ins: StandIns) -> None:
    text = (RECORDINGS / "r8169-1g.out").read_text()
    stand_ins.says("ethtool", text, stderr="netlink error: Operation not permitted", exit_code=1)
    read = await links.read_offer(Host(tools=stand_ins.tools()), "enp2s0")
    assert read.speed_mbps == 1000


async def test_what_ethtool_said_is_in_the_error(stand_ins: StandIns) -> None:
    stand_ins.says("ethtool", stderr="netlink error: No such device", exit_code=75)
    with pytest.raises(UnreadableOffer, match="exit code 75: netlink error: No such device"):
        await links.read_offer(Host(tools=stand_ins.tools()), "enp2s0")


def make_port(root: Path, name: str, driver: str, **attributes: str) -> Path:
    folder = root / "sys" / "class" / "net" / name
    (folder / "device").mkdir(parents=True)
    drivers = root / "sys" / "bus" / "pci" / "drivers" / driver
    drivers.mkdir(parents=True, exist_ok=True)
    (folder / "device" / "driver").symlink_to(drivers)
    (folder / "statistics").mkdir()
    plain = {"address": "02:00:00:00:00:01", "type": "1", "carrier": "1", "speed": "1000", "duplex": "full"}
    for attribute, value in {**plain, **attributes}.items():
        (folder / attribute).write_text(value + "\n")
    return folder


async def test_ports_and_what_is_stacked_on_them(tmp_path: Path, only_stand_ins: StandIns) -> None:
    make_port(tmp_path, "eno1", "ixgbe", address="AA:00:00:00:00:01")
    make_port(tmp_path, "eno2", "ixgbe", address="AA:00:00:00:00:02", carrier="0", speed="-1")
    net = tmp_path / "sys" / "class" / "net"
    (net / "bond0").mkdir()
    (net / "bond0" / "upper_vlan7").mkdir()
    (net / "vlan7").mkdir()
    (net / "eno1" / "upper_bond0").mkdir()
    eno1, eno2 = await links.ports(Host(root=tmp_path, tools=only_stand_ins.tools()))
    assert (eno1.name, eno1.component, eno1.carrier, eno1.speed_mbps) == ("eno1", "nic:aa:00:00:00:00:01", True, 1000)
    assert eno1.uppers == ("bond0", "vlan7")
    assert not eno1.virtual
    assert (eno2.carrier, eno2.speed_mbps) == (False, None)


@pytest.mark.parametrize(
    ("driver", "guest", "virtual"),
    [("virtio_net", False, True), ("e1000", True, True), ("e1000", False, False), ("ixgbe", True, False)],
)
async def test_virtual_ports(tmp_path: Path, only_stand_ins: StandIns, driver: str, guest: bool, virtual: bool) -> None:
    make_port(tmp_path, "eth0", driver)
    (tmp_path / "proc").mkdir()
    flags = "fpu hypervisor lahf_lm" if guest else "fpu lahf_lm"
    (tmp_path / "proc" / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    (port,) = await links.ports(Host(root=tmp_path, tools=only_stand_ins.tools()))
    assert port.virtual is virtual


async def test_a_machine_without_a_net_folder_has_no_ports(tmp_path: Path, only_stand_ins: StandIns) -> None:
    assert await links.ports(Host(root=tmp_path, tools=only_stand_ins.tools())) == []


def test_counters_of_a_port_that_is_gone(tmp_path: Path, only_stand_ins: StandIns) -> None:
    assert links.read_counters(Host(root=tmp_path, tools=only_stand_ins.tools()), "eth0") is None

"""Which network interfaces are hardware, and what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import ethtool, nics
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import host_in, recorded_host
from tests.support.trees import Link, copy_of, plant

PORT = "sys/devices/pci0000:00/0000:00:01.1/0000:02:00.0"


async def test_a_recorded_server_has_its_three_ports_and_no_bridge() -> None:
    notes = Notes()
    found = {nic.name: nic for nic in await nics.collect(recorded_host("dell-xeon"), notes)}
    assert found.keys() == {"eth0", "eth1", "ib0"}
    first = found["eth0"]
    assert (first.mac, first.speed_mbps, first.link, first.duplex) == ("84:8f:69:fe:cc:40", 1000, True, "full")
    assert (first.driver, first.pci, first.kind, first.numa_node) == ("igb", "0000:02:00.0", "ethernet", 0)
    assert (found["ib0"].kind, len(found["ib0"].mac or "")) == ("infiniband", 59)
    assert first.component == "nic:84:8f:69:fe:cc:40"


async def test_an_interface_that_is_switched_off_has_an_unknown_link_and_says_so() -> None:
    notes = Notes()
    found = {nic.name: nic for nic in await nics.collect(recorded_host("dell-xeon"), notes)}
    assert (found["eth1"].up, found["eth1"].link, found["eth1"].speed_mbps) == (False, None, None)
    assert "nic eth1: link: the interface is switched off" in notes.lines


async def test_a_virtio_interface_through_the_recorded_ethtool() -> None:
    notes = Notes()
    (nic,) = await nics.collect(recorded_host("virtual-machine"), notes)
    assert (nic.mac, nic.driver, nic.driver_version) == ("02:fc:00:00:00:01", "virtio_net", "1.0.0")
    assert (nic.link, nic.speed_mbps, nic.firmware, nic.vendor_id) == (True, None, None, "0x1af4")
    assert "nic eth0: speed_mbps: the driver does not tell" in notes.lines


async def test_a_member_of_a_bond_is_known_by_its_permanent_address(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    plant(
        root,
        {
            f"{PORT}/net/eth0/address": "84:8f:69:fe:cc:41",
            f"{PORT}/net/eth0/addr_assign_type": "3",
            f"{PORT}/net/eth0/master": Link("../../../../../virtual/net/bond0"),
            "tools/ethtool -i eth0.out": "driver: igb\nversion: 5.6.0\nfirmware-version: 1.61, 0x80000daa",
            "tools/ethtool -P eth0.out": "Permanent address: 84:8f:69:FE:cc:40",
        },
    )
    nic = (await nics.collect(host_in(root), Notes()))[0]
    assert (nic.mac, nic.current_mac, nic.mac_source) == ("84:8f:69:fe:cc:40", "84:8f:69:fe:cc:41", "set")
    assert (nic.firmware, nic.master) == ("1.61, 0x80000daa", "bond0")


async def test_a_tool_that_fails_costs_only_what_it_would_have_told(tmp_path: Path) -> None:
    notes = Notes()
    root = plant(copy_of("virtual-machine", tmp_path), {"tools/ethtool -i eth0.exit": "71"})
    (nic,) = await nics.collect(host_in(root), notes)
    assert (nic.mac, nic.driver, nic.firmware) == ("02:fc:00:00:00:01", "virtio_net", None)
    assert any(line.startswith("nic eth0: ethtool: ethtool ended with exit code 71") for line in notes.lines)


@pytest.mark.parametrize("address", ["00:00:00:00:00:00", "garbage", "", "12:34"])
async def test_no_address_is_none(tmp_path: Path, address: str) -> None:
    files = {f"{PORT}/net/eth0/address": address}
    nic = (await nics.collect(host_in(plant(copy_of("dell-xeon", tmp_path), dict(files))), Notes()))[0]
    assert (nic.mac, nic.component) == (None, "nic:eth0")


async def test_a_virtual_function_is_marked(tmp_path: Path) -> None:
    root = plant(copy_of("dell-xeon", tmp_path), {f"{PORT}/physfn": Link("../0000:02:00.3")})
    found = await nics.collect(host_in(root), Notes())
    assert [nic.virtual_function for nic in found] == [True, False, False]


async def test_no_list_of_interfaces_is_an_error_and_never_no_interfaces(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await nics.collect(Host(tmp_path), Notes())


async def test_the_kernel_call_tells_what_the_tool_prints() -> None:
    host = Host()
    for nic in await nics.collect(host, Notes()):
        assert ethtool.from_kernel(nic.name) == await ethtool.from_tool(host, nic.name)
        assert nic.driver


def test_a_kernel_call_for_no_interface_is_an_error() -> None:
    with pytest.raises(OSError, match="No such device"):
        ethtool.from_kernel("no-such-nic")

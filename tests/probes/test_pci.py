"""PCI functions and the judgement of their links."""

from __future__ import annotations

from pathlib import Path

from probes import pci
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import recorded_host
from tests.support.trees import Link, link, pci_function, plant

ROOT = "0000:00:01.0"
SWITCH = f"{ROOT}/0000:01:00.0"
DOWN = f"{SWITCH}/0000:02:04.0"
BRIDGE = "PCI_CLASS=60400\nPCI_ID=8086:3C02"
GPU = "PCI_CLASS=30200\nPCI_ID=10DE:2330\nDRIVER=nvidia"


def links_of(root: Path) -> tuple[pci.LinkShortfall, ...]:
    return pci.degraded_links(pci.read(Host(root), Notes()))


def test_a_recorded_server_shows_its_functions_and_what_they_hang_below() -> None:
    devices = {one.address: one for one in pci.read(recorded_host("dell-xeon"), Notes())}
    nic = devices["0000:02:00.0"]
    assert (nic.class_id, nic.kind, nic.vendor_id, nic.device_id) == ("0x020000", "network", "0x8086", "0x1521")
    assert (nic.driver, nic.numa_node, nic.upstream) == ("igb", 0, "0000:00:01.1")
    assert devices["0000:00:01.1"].upstream is None
    assert devices["0000:82:00.0"].numa_node == 1
    assert pci.degraded_links(tuple(devices.values())) == ()


def test_a_link_is_compared_with_its_own_maximum(tmp_path: Path) -> None:
    port = pci_function(ROOT, uevent=BRIDGE, **link(4, 16))
    plant(tmp_path, {**port, **pci_function("0000:01:00.0", ROOT, **link(4, 8))})
    (found,) = links_of(tmp_path)
    assert (found.address, found.upstream, found.width, found.expected_width) == ("0000:01:00.0", ROOT, 4, 8)
    assert found.narrow
    assert not found.slow


def test_a_slot_wired_narrower_than_the_card_is_no_fault(tmp_path: Path) -> None:
    port = pci_function(ROOT, uevent=BRIDGE, **link(8, 8))
    plant(tmp_path, {**port, **pci_function("0000:01:00.0", ROOT, **link(8, 16))})
    assert links_of(tmp_path) == ()


def test_each_hop_is_looked_at_up_to_the_root_port(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **pci_function(ROOT, uevent=BRIDGE, **link(8, 16)),
            **pci_function("0000:01:00.0", ROOT, uevent=BRIDGE, **link(8, 16)),
            **pci_function("0000:02:04.0", SWITCH, uevent=BRIDGE, **link(16, 16)),
            **pci_function("0000:03:00.0", DOWN, uevent=GPU, **link(16, 16)),
        },
    )
    (found,) = links_of(tmp_path)
    assert (found.address, found.upstream) == ("0000:01:00.0", ROOT)


def test_a_slow_link_is_told_apart_from_a_narrow_one(tmp_path: Path) -> None:
    slow = link(16, 16, "2.5 GT/s PCIe", "32.0 GT/s PCIe")
    port = pci_function(ROOT, uevent=BRIDGE, **link(16, 16, "2.5 GT/s PCIe", "16.0 GT/s PCIe"))
    plant(tmp_path, {**port, **pci_function("0000:01:00.0", ROOT, uevent=GPU, **slow)})
    (found,) = links_of(tmp_path)
    assert (found.slow, found.narrow, found.kind) == (True, False, "display")
    assert (found.speed_gts, found.expected_speed_gts) == (2.5, 16.0)


def test_functions_of_one_device_and_virtual_functions_count_once(tmp_path: Path) -> None:
    functions = {
        **pci_function(ROOT, uevent=BRIDGE, **link(8, 8)),
        **pci_function("0000:01:00.0", ROOT, **link(4, 8)),
        **pci_function("0000:01:00.1", ROOT, **link(4, 8)),
        **pci_function("0000:01:02.0", ROOT, **link(4, 8)),
        f"sys/devices/pci0000:00/{ROOT}/0000:01:02.0/physfn": Link("../0000:01:00.0"),
    }
    assert [one.address for one in links_of(plant(tmp_path, functions))] == ["0000:01:00.0"]


def test_what_has_no_link_is_not_judged(tmp_path: Path) -> None:
    """Integrated devices, ports with nothing below, devices that do not answer, and old or odd spellings."""
    odd = {
        **pci_function("0000:00:02.0", **link(0, 0, "Unknown", "Unknown")),
        **pci_function(ROOT, uevent=BRIDGE, **link(1, 16, "2.5 GT/s", "8 GT/s")),
        **pci_function("0000:01:00.0", ROOT, **link(255, 255, "Unknown speed", "Unknown speed")),
        **pci_function("0000:01:01.0", ROOT, **link(0, 16)),
        **pci_function("0000:01:02.0", ROOT),
    }
    assert links_of(plant(tmp_path, odd)) == ()


def test_slots_have_names(tmp_path: Path) -> None:
    slot = {"sys/bus/pci/slots/7-1/address": "0000:01:00"}
    plant(tmp_path, {**pci_function("0000:01:00.0", ROOT), **slot})
    assert pci.read(Host(tmp_path), Notes())[0].slot == "7-1"


async def test_a_machine_without_pci_has_no_functions_and_a_note(tmp_path: Path) -> None:
    notes = Notes()
    assert await pci.collect(Host(tmp_path), notes) == ()
    assert notes.lines == ["pci: this machine has no PCI bus that the kernel shows"]


async def test_the_functions_of_this_machine_are_those_that_lspci_lists() -> None:
    host = Host()
    listed = await host.tools.run("lspci", "-D", "-n", timeout_s=10)
    expected = sorted(line.split()[0] for line in listed.stdout.splitlines())
    found = await pci.collect(host, Notes())
    assert [one.address for one in found] == expected
    ids = {line.split()[0]: line.split()[2] for line in listed.stdout.splitlines()}
    for one in found:
        assert one.vendor_id is not None
        assert one.device_id is not None
        assert ids[one.address] == f"{one.vendor_id[2:]}:{one.device_id[2:]}"

"""The links on the way to a GPU: which ports have one, and how fast it was at its best."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from probes import pci
from probes.host import Host
from probes.notes import Notes
from probes.pci import PciDevice, PciLink
from stages import gpu_hops
from tests.support import nvml
from tests.support.gpu_stage import H100
from tests.support.stand_ins import StandIns

ROOT_PORT, UPSTREAM, DOWNSTREAM, GPU = (f"0000:{bus:02x}:00.0" for bus in (0x10, 0x11, 0x12, 0x13))
SECOND, ITS_PORT = "0000:15:00.0", "0000:14:00.0"


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Host:
    """Two GPUs below one switch."""
    above = f"{ROOT_PORT}/{UPSTREAM}"
    nvml.pci_device(tmp_path, ROOT_PORT, "60400", "8086:347A", "pcieport")
    nvml.pci_device(tmp_path, UPSTREAM, "60400", "1000:C030", "pcieport", port=ROOT_PORT)
    for port, gpu in ((DOWNSTREAM, GPU), (ITS_PORT, SECOND)):
        nvml.pci_device(tmp_path, port, "60400", "1000:C030", "pcieport", port=above)
        nvml.pci_device(tmp_path, gpu, *H100, "nvidia", port=f"{above}/{port}")
    return Host(root=tmp_path, tools=stand_ins.tools())


def speed_of(machine: Host, address: str, speed: str) -> None:
    (machine.sys("bus", "pci", "devices", address) / "current_link_speed").write_text(f"{speed} GT/s PCIe\n")


def gpus_and_ports(machine: Host) -> tuple[list[PciDevice], tuple[PciDevice, ...]]:
    everything = pci.read(machine, Notes())
    devices = [device for device in everything if device.address in {GPU, SECOND}]
    return devices, gpu_hops.on_the_way(devices, everything)


def test_which_ports_have_a_link_below_them(machine: Host) -> None:
    devices, ports = gpus_and_ports(machine)
    assert {port.address for port in ports} == {ROOT_PORT, UPSTREAM, DOWNSTREAM, ITS_PORT, GPU, SECOND}
    loaded = frozenset({SECOND})
    above = gpu_hops.lower_ends(devices, ports, loaded, own=False)
    assert above == {UPSTREAM: gpu_hops.Below((GPU, SECOND), loaded=True)}
    own = gpu_hops.lower_ends(devices, ports, loaded, own=True)
    assert {address: below.loaded for address, below in own.items()} == {GPU: False, SECOND: True, UPSTREAM: True}


def test_between_the_ports_of_one_switch_there_is_no_link(machine: Host) -> None:
    """An idle GPU slows the port above it down too; that port is not slow against the switch that it belongs to."""
    speed_of(machine, GPU, "2.5")
    speed_of(machine, DOWNSTREAM, "2.5")
    devices, ports = gpus_and_ports(machine)
    below = gpu_hops.lower_ends(devices, ports, frozenset({GPU}), own=False)
    assert list(gpu_hops.judge(ports, below)) == []


async def test_a_link_that_wakes_up_under_load_is_seen_at_its_best(machine: Host) -> None:
    speed_of(machine, UPSTREAM, "2.5")
    devices, ports = gpus_and_ports(machine)
    below = gpu_hops.lower_ends(devices, ports, frozenset({GPU}), own=False)
    async with asyncio.timeout(60), gpu_hops.watching(machine, ports, every_s=0.05) as at_best:
        assert [one.component for one in gpu_hops.judge(at_best(), below)] == [f"pci:{UPSTREAM}"]
        speed_of(machine, UPSTREAM, "32.0")
        while list(gpu_hops.judge(at_best(), below)):  # noqa: ASYNC110  # the kernel sends no event for it
            await asyncio.sleep(0.05)
        speed_of(machine, UPSTREAM, "2.5")
        await asyncio.sleep(0.2)
        assert list(gpu_hops.judge(at_best(), below)) == []


async def test_a_link_that_leaves_is_no_fault_of_its_own(machine: Host) -> None:
    devices, ports = gpus_and_ports(machine)
    below = gpu_hops.lower_ends(devices, ports, frozenset({GPU}), own=True)
    async with gpu_hops.watching(machine, ports, every_s=0.05) as at_best:
        (machine.sys("bus", "pci", "devices", GPU) / "current_link_width").write_text("255\n")
        await asyncio.sleep(0.2)
        assert list(gpu_hops.judge(at_best(), below)) == []


def test_the_better_of_two_readings() -> None:
    idle, busy = PciLink(2.5, 16, 32.0, 16), PciLink(32.0, 8, 32.0, None)
    assert gpu_hops.better(idle, busy) == PciLink(32.0, 16, 32.0, 16)
    assert gpu_hops.better(PciLink(None, None, None, None), idle) == idle

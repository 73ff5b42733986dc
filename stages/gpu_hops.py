"""The PCIe links on the way to the GPUs, hop by hop, at the best that each was seen to be while the stage ran.

A link that saves power is slow only while it idles; one that is slow at its best, under load, is sick.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from probes import pci
from probes.apart import apart
from probes.host import Host
from probes.pci import PciDevice, PciLink, degraded_links
from stages.outcome import Finding, ReasonCode, error

DEEPEST = 16
LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Below:
    """The GPUs below a link, by PCI address, and whether one of them was under load."""

    gpus: tuple[str, ...]
    loaded: bool


def chain(device: PciDevice, everything: Sequence[PciDevice]) -> list[PciDevice]:
    """The device and the ports above it, up to the root port."""
    by_address = {one.address: one for one in everything}
    found = [device]
    while (port := by_address.get(found[-1].upstream or "")) is not None and len(found) < DEEPEST:
        found.append(port)
    return found


def on_the_way(devices: Iterable[PciDevice], everything: Sequence[PciDevice]) -> tuple[PciDevice, ...]:
    """All devices that the links of the GPUs lie between, each once."""
    found = {one.address: one for device in devices for one in chain(device, everything)}
    return tuple(found.values())


@contextlib.asynccontextmanager
async def watching(
    host: Host, ports: Sequence[PciDevice], every_s: float = LOOK_S
) -> AsyncIterator[Callable[[], tuple[PciDevice, ...]]]:
    """Look at the links every so often while the block lasts. What it lends gives them back, each at its best."""
    best = {port.address: port.link for port in ports if port.link is not None}
    looking = asyncio.create_task(_look(host, best, every_s))
    try:
        yield lambda: tuple(replace(port, link=best.get(port.address)) for port in ports)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look(host: Host, best: dict[str, PciLink], every_s: float) -> None:
    addresses = list(best)
    while addresses:
        await asyncio.sleep(every_s)
        for address, link in (await apart(lambda: pci.links_of(host, addresses), "pci links")).items():
            best[address] = better(best[address], link)


def better(one: PciLink, other: PciLink) -> PciLink:
    """The higher of both, in speed and in width."""
    return PciLink(
        speed_gts=max(one.speed_gts or 0.0, other.speed_gts or 0.0) or None,
        width=max(one.width or 0, other.width or 0) or None,
        max_speed_gts=max(one.max_speed_gts or 0.0, other.max_speed_gts or 0.0) or None,
        max_width=max(one.max_width or 0, other.max_width or 0) or None,
    )


def lower_ends(
    devices: Iterable[PciDevice], ports: Sequence[PciDevice], loaded: frozenset[str], *, own: bool
) -> Mapping[str, Below]:
    """By the address of each link's lower end, what is below it; with the GPU's `own` link or without.

    Up from a GPU every second step is a link; between the two ports of one switch there is none.
    """
    below: dict[str, Below] = {}
    for device in devices:
        for end in chain(device, ports)[0 if own else 2 :: 2]:
            known = below.get(end.address, Below((), False))
            is_loaded = known.loaded or device.address in loaded
            below[end.address] = Below((*known.gpus, device.address), is_loaded)
    return below


def judge(ports: Sequence[PciDevice], below: Mapping[str, Below]) -> Iterator[Finding]:
    """Links that are narrower than both their ends can be or, with a load below them, slower."""
    for hop in degraded_links(ports):
        known = below.get(hop.address)
        if known is None or not (hop.narrow or (known.loaded and hop.slow)):
            continue
        now, able = _speed(hop.width, hop.speed_gts), _speed(hop.expected_width, hop.expected_speed_gts)
        text = f"The PCIe link from {hop.upstream} to {hop.address} ran at {now}, both ends can do {able}"
        yield error(
            ReasonCode.GPU_PCIE_DEGRADED, f"pci:{hop.address}", text, f"on the way to GPU {', '.join(known.gpus)}"
        )


def _speed(width: int | None, gts: float | None) -> str:
    return f"x{width}" + (f" at {gts:g} GT/s" if gts else "")

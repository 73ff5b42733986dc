"""Storage: its options, and the pure arithmetic from a disk's size and speed to what is read and written of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from stages.fio import Job, Segment

MIB = 2**20
MOST_ZONES, FEWEST_ZONES = 32, 4
ZONE_S = 2.0
# fio looks for the end of a job a few times a second only.
JOB_OVERHEAD_S = 0.2
PROBE_BLOCKS = 256
ROTATING_BLOCK = 4 * MIB
SOLID_BLOCK = MIB
SMALLEST_BLOCK = 4096
# Of each disk at least so many places are read, which is what makes `UNSEEN` hold at any speed and in any time.
LEAST_BLOCKS = 256
UNSEEN = 0.01
"""No part of a disk that is larger than this fraction of it is stepped over by a plan."""
BLOCKS_OF_SMALL = 1024
# What is planned fills this part of the time: probes are optimistic, and a disk that ends early wastes little.
FILL = 0.85
# A zone may take this much longer than planned before it is cut short: the innermost tracks of a sound rotating disk
# give less than half of what the probe measures on its outermost. (A stage is stopped at twice its planned time.)
ZONE_PATIENCE = 1.9
FALLBACK_BYTES_PER_S = 50e6
FIRST, LAST, SEQUENTIAL, SPARSE, ALONE = "first", "last", "sequential", "sparse", "alone"
# A second look at a disk, with its bus to itself.
ALONE_S = 3.0
ZONE_AGAIN_S = 10.0


def _at_least(low: float, default: float | None, high: float | None = None) -> Any:
    return field(default=default, metadata={"minimum": low, "maximum": high})


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage. Rates are in MB/s (10^6 bytes)."""

    duration_s: float = _at_least(1.0, 300.0)
    """Time for all disks together: they are tested at once. Destructive runs read for half of it and write for half."""
    until_covered: bool = False
    """Take longer than `duration_s` where `coverage_floor` needs it."""
    coverage_floor: float = _at_least(0.0, 0.20, 1.0)
    """The part of each disk that must have been read for a pass."""
    unread_ceiling: float = _at_least(0.0, 0.05, 1.0)
    """The longest run of a disk that may go unread, as a part of it: no other zone can stand in for it."""
    floor_hdd_mb_s: float = _at_least(0.0, 60.0)
    floor_ssd_mb_s: float = _at_least(0.0, 200.0)
    floor_nvme_mb_s: float = _at_least(0.0, 800.0)
    floor_virtual_mb_s: float | None = _at_least(0.0, None)
    """For virtio, USB, MMC and emulated disks; None: their rate is measured only."""
    block_kib: int | None = field(default=None, metadata={"minimum": 4, "maximum": 16384})
    """Size of one request; None: 4096 for rotating disks, 1024 for others."""
    write_fraction: float | None = _at_least(0.0, None, 1.0)
    """The part of a disk that a destructive run writes, 1 for all; None: as much as the time allows."""
    retention_s: float = _at_least(0.0, 5.0)
    """What a destructive run wrote and read back is left alone for so long, and then read once more."""
    leave_blank: bool = True
    """Write the blank pattern again over what a destructive run wrote."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a probe measured of a disk."""

    sequential_bytes_per_s: float
    stepped_block_s: float
    """Seconds for one block when blocks are read far apart."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What is read of one disk."""

    size_bytes: int
    block: int
    edges: tuple[Segment, ...]
    zones: tuple[Segment, ...]
    whole: bool
    """Every block is read."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (*self.edges, *self.zones)


def block_size(size_bytes: int, *, rotational: bool, options: Options) -> int:
    """Bytes of one request: a power of two, smaller on disks too small for 1,024 of it."""
    block = ROTATING_BLOCK if rotational else SOLID_BLOCK
    if options.block_kib is not None:
        block = 1 << (options.block_kib * 1024).bit_length() - 1
    while block > SMALLEST_BLOCK and block * BLOCKS_OF_SMALL > size_bytes:
        block //= 2
    return block


def probe_segments(size_bytes: int, block: int, duration_s: float) -> tuple[Segment, ...]:
    """A short run from the start, then single blocks all over the disk: how fast it is either way."""
    limit_s = min(2.0, max(0.2, duration_s * 0.05))
    blocks = size_bytes // block
    [sparse] = spread(size_bytes, block, min(PROBE_BLOCKS, blocks), limit_s=limit_s)
    return (Segment(SEQUENTIAL, 0, blocks * block, block, blocks, 0, limit_s), replace(sparse, name=SPARSE))


def speed_of(sequential: Job | None, sparse: Job | None, block: int) -> Speed:
    """The speed from the probe's two jobs; a cautious guess for one that gave nothing."""
    rate = sequential.bytes_per_s if sequential and sequential.read_bytes else FALLBACK_BYTES_PER_S
    if sparse is None or not sparse.read_bytes:
        return Speed(rate, block / rate)
    return Speed(rate, max(block / sparse.bytes_per_s, block / rate))


def budget_s(size_bytes: int, block: int, speed: Speed, time_s: float, options: Options) -> float:
    """Seconds for the main read: what is left, or more where the coverage floor needs more and may have it."""
    if not options.until_covered:
        return time_s
    stepped = options.coverage_floor * size_bytes / block * speed.stepped_block_s
    whole = size_bytes / speed.sequential_bytes_per_s
    reading_s = min(stepped, whole) / FILL * 1.05
    return max(time_s, reading_s + JOB_OVERHEAD_S * zone_count(1.2 * reading_s))


def zone_count(time_s: float) -> int:
    """Into how many zones a disk is parted that is read for so long."""
    return max(FEWEST_ZONES, min(MOST_ZONES, int(time_s / ZONE_S)))


def plan_read(size_bytes: int, block: int, speed: Speed, time_s: float) -> ReadPlan:
    """The whole surface if `time_s` allows, else as many blocks as it allows, spread evenly over up to 32 zones."""
    zones = zone_count(time_s)
    reading_s = max(time_s / 2, time_s - JOB_OVERHEAD_S * zones) * FILL
    blocks = size_bytes // block
    whole = size_bytes <= speed.sequential_bytes_per_s * reading_s
    wanted = blocks if whole else max(LEAST_BLOCKS, int(reading_s / speed.stepped_block_s))
    limit_s = max(1.0, time_s / zones * ZONE_PATIENCE)
    segments = spread(size_bytes, block, min(wanted, blocks), zones, limit_s)
    read = sum(zone.count for zone in segments)
    return ReadPlan(size_bytes, block, edges(size_bytes, block), segments, whole=read == blocks)


def edges(size_bytes: int, block: int) -> tuple[Segment, ...]:
    """At least the first and the last MiB. The last ends at the very last byte, whatever the block size."""
    count = min(-(-MIB // block), size_bytes // block)
    length = count * block
    return (
        Segment(FIRST, 0, length, block, count, 0, 30.0),
        Segment(LAST, size_bytes - length, length, block, count, 0, 30.0),
    )


def spread(
    size_bytes: int, block: int, wanted: int, zones: int = 1, limit_s: float | None = None
) -> tuple[Segment, ...]:
    """`wanted` blocks or a few more, in zones that together are the disk; in each evenly stepped, none twice."""
    blocks = size_bytes // block
    zones = min(zones, blocks)
    found = []
    for index in range(zones):
        start, end = blocks * index // zones, blocks * (index + 1) // zones
        room = end - start
        count, skip = _stepped(room, block, max(1, -(-wanted // zones)))
        found.append(Segment(f"zone{index:02}", start * block, room * block, block, count, skip, limit_s))
    return tuple(found)


def _stepped(room: int, block: int, wanted: int) -> tuple[int, int]:
    """How many blocks, and how many bytes between two, so that the steps reach to the end of `room` blocks."""
    count = min(room, wanted)
    # Whole sectors of any disk. Rounding down leaves room at the end, which further blocks fill.
    skip = (room - count) * block // count // SMALLEST_BLOCK * SMALLEST_BLOCK
    return (room * block - block) // (block + skip) + 1, skip


def thinned(zone: Segment, bytes_per_s: float, time_s: float) -> Segment:
    """The same zone, of which so few blocks are read that they take `time_s` at that rate."""
    count = min(zone.count, max(1, int(bytes_per_s * time_s / zone.block)))
    count, skip = _stepped(zone.length // zone.block, zone.block, count)
    return replace(zone, count=count, skip=skip, limit_s=2 * time_s)


def rest_of(zone: Segment, read_bytes: int) -> Segment | None:
    """What was left of a zone when its time was over; None when all of it had been read."""
    done = read_bytes // zone.block
    if done >= zone.count:
        return None
    passed = done * (zone.block + zone.skip)
    return replace(zone, offset=zone.offset + passed, length=zone.length - passed, count=zone.count - done)


def alone_segment(size_bytes: int, block: int) -> Segment:
    """A run of a few seconds near the start, but not where the probe read: the disk may have kept that in its cache."""
    blocks = size_bytes // block
    start = blocks // MOST_ZONES
    return Segment(ALONE, start * block, (blocks - start) * block, block, blocks - start, 0, ALONE_S)


def longest_unread(size_bytes: int, read: Iterable[tuple[Segment, int]]) -> int:
    """Bytes of the longest run that no segment touched, of each of which the first so many bytes were read.

    Pure geometry: it does not believe that segments keep to their zones.
    """
    longest = end = 0
    for segment, read_bytes in sorted(read, key=lambda one: one[0].offset):
        done = min(segment.count, read_bytes // segment.block)
        if not done:
            continue
        longest = max(longest, segment.offset - end, segment.skip if done > 1 else 0)
        end = max(end, segment.offset + done * segment.block + (done - 1) * segment.skip)
    return max(longest, size_bytes - end)

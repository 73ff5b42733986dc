"""The arithmetic of what is read and written, for any size of disk."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stages import fio
from stages.stamp_child import pieces
from stages.stamps import span_of, stamped_bytes
from stages.storage_plan import (
    FILL,
    LEAST_BLOCKS,
    MIB,
    Options,
    Speed,
    block_size,
    budget_s,
    edges,
    plan_read,
    probe_segments,
    speed_of,
    spread,
)

sizes = st.integers(4 * MIB // 512, 30 * 10**12 // 512).map(lambda sectors: sectors * 512)


def starts(segment: fio.Segment) -> range:
    """The offsets that fio will read, as its manual says `rw=read:SKIP` works."""
    step = segment.block + segment.skip
    return range(segment.offset, segment.offset + segment.count * step, step)


@settings(deadline=None)
@given(sizes, st.booleans(), st.integers(1, 10**6), st.sampled_from([1, 4, 32]))
def test_spread_blocks_stay_in_their_zones_and_never_overlap(
    size: int, rotational: bool, wanted: int, zones: int
) -> None:
    block = block_size(size, rotational=rotational, options=Options())
    wanted = min(wanted, size // block)
    found = spread(size, block, wanted, zones)
    end = 0
    for zone in found:
        assert zone.offset >= end
        end = zone.offset + zone.length
        assert starts(zone)[-1] + zone.block <= end <= size
        assert zone.skip % 4096 == 0
    # What rounding to whole sectors leaves at the end of a zone is read as well.
    most = wanted * (1 + 4096 / block) + zones
    assert wanted <= sum(zone.count for zone in found) <= most or wanted < zones


@settings(deadline=None)
@given(sizes)
def test_all_blocks_means_every_byte_but_the_last_partial_block(size: int) -> None:
    block = block_size(size, rotational=False, options=Options())
    zones = spread(size, block, size // block, 32)
    assert all(zone.skip == 0 for zone in zones)
    assert sum(zone.io_bytes for zone in zones) == size // block * block
    last = edges(size, block)[1]
    assert last.offset <= size // block * block
    assert last.offset + last.length == size


@settings(deadline=None)
@given(sizes, st.floats(1, 1e4), st.floats(1e6, 1e10))
def test_the_plan_fits_the_time_and_spreads_over_the_whole_disk(size: int, time_s: float, rate: float) -> None:
    block = block_size(size, rotational=True, options=Options())
    speed = Speed(rate, block / rate * 2)
    plan = plan_read(size, block, speed, time_s)
    count = sum(zone.count for zone in plan.zones)
    if plan.whole:
        assert size / rate <= time_s or count <= 2 * len(plan.zones) + len(plan.zones)
    else:
        longest = max(time_s, LEAST_BLOCKS * speed.stepped_block_s) * (1 + 4096 / block)
        assert (count - 3 * len(plan.zones)) * speed.stepped_block_s <= longest
    assert plan.zones[0].offset == 0
    assert plan.zones[-1].offset + plan.zones[-1].length == size // block * block
    assert plan.edges[0].offset == 0
    assert plan.edges[1].offset + plan.edges[1].length == size


@settings(deadline=None)
@given(sizes)
def test_the_probe_reaches_over_the_whole_disk(size: int) -> None:
    block = block_size(size, rotational=False, options=Options())
    sparse = probe_segments(size, block, 60)[1]
    assert starts(sparse)[-1] + block <= size
    assert starts(sparse)[-1] >= 0.9 * size - 2 * block or sparse.count == 1


def test_the_time_grows_with_the_coverage_wanted_only_when_asked() -> None:
    size, speed = 16 * 10**12, Speed(200e6, 0.035)
    assert budget_s(size, 4 * MIB, speed, 30, Options()) == 30
    wanted = budget_s(size, 4 * MIB, speed, 30, Options(until_covered=True, coverage_floor=0.2))
    plan = plan_read(size, 4 * MIB, speed, wanted)
    assert sum(zone.io_bytes for zone in plan.zones) >= 0.2 * size
    assert wanted * FILL < 0.25 * size / 100e6


def test_a_probe_that_gave_nothing_leads_to_a_cautious_guess() -> None:
    assert speed_of(None, None, MIB).sequential_bytes_per_s == 50e6


@settings(deadline=None)
@given(sizes)
def test_the_stamps_leave_no_gap_longer_than_their_gapless_part(size: int) -> None:
    """What makes the proof hold for every true size: see `stamp_child`."""
    span = span_of(size) if size < 2**40 else 2**33
    found = pieces(size, span)
    dense = min(span, size // 4096 * 4096)
    covered = 0
    for offset, length in found:
        assert offset == covered or (offset >= dense and offset - covered < span)
        covered = offset + length
    assert covered == size // 4096 * 4096
    assert sum(length for _, length in found) == stamped_bytes(size, span)

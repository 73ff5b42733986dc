"""The arithmetic of what is read and written, for any size of disk."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages import fio
from stages.profiles import PROFILES
from stages.stamp_child import pieces
from stages.stamps import span_of, stamped_bytes
from stages.storage_judge_read import coverage_of, longest_unread_of
from stages.storage_plan import (
    FILL,
    LEAST_BLOCKS,
    MIB,
    UNSEEN,
    Options,
    ReadPlan,
    Speed,
    block_size,
    budget_s,
    edges,
    longest_unread,
    plan_read,
    probe_segments,
    speed_of,
    spread,
    thinned,
)
from stages.storage_readings import ReadRun
from tests.stages.test_storage_judge import SUBJECT

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


@settings(deadline=None)
@given(sizes, st.booleans(), st.floats(1e6, 1e10), st.floats(1.0, 20.0), st.floats(0.01, 1.0), st.floats(1.0, 600.0))
@example(64 * MIB, False, 8.32e6, 1.06, 1.0, 9.9)
def test_a_plan_until_covered_reaches_its_floor(
    size: int, rotational: bool, rate: float, seek: float, floor: float, time_s: float
) -> None:
    """A disk that is as fast as the probe said must not end as unknown."""
    options = Options(until_covered=True, coverage_floor=floor)
    block = block_size(size, rotational=rotational, options=options)
    speed = Speed(rate, block / rate * seek)
    plan = plan_read(size, block, speed, budget_s(size, block, speed, time_s, options))
    assert plan.whole or sum(zone.io_bytes for zone in plan.zones) >= floor * size


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


# --- what a plan cannot miss -----------------------------------------------------------------------------------------

profiles = st.sampled_from([Options(**PROFILES[name]["Storage"]) for name in ("quick", "standard", "burnin")])
rates = st.floats(1e6, 1e10)
seeks = st.floats(1.0, 20.0)


def planned(size: int, rotational: bool, options: Options, rate: float, seek: float) -> ReadPlan:
    """What the stage reads of a disk of that size that has that speed, under that profile."""
    block = block_size(size, rotational=rotational, options=options)
    speed = Speed(rate, block / rate * seek)
    return plan_read(size, block, speed, budget_s(size, block, speed, options.duration_s, options))


def touched(plan: ReadPlan, start: int, length: int) -> bool:
    """Whether any block of the plan overlaps that region, block by block; shares no code with `longest_unread`."""
    for segment in plan.segments:
        step = segment.block + segment.skip
        first = max(0, -(-(start - segment.offset - segment.block + 1) // step))
        if first < segment.count and segment.offset + first * step < start + length:
            return True
    return False


@settings(deadline=None, max_examples=300)
@given(sizes, st.booleans(), profiles, rates, seeks, st.floats(0, 1))
def test_any_fault_zone_of_one_per_cent_of_a_disk_is_hit(
    size: int, rotational: bool, options: Options, rate: float, seek: float, where: float
) -> None:
    """For any size, speed and profile: a weak region of 1 % of the disk, wherever it lies, is read from."""
    plan = planned(size, rotational, options, rate, seek)
    length = int(size * UNSEEN)
    assert touched(plan, int(where * (size - length)), length)


@settings(deadline=None, max_examples=300)
@given(sizes, st.booleans(), profiles, rates, seeks)
def test_no_plan_leaves_a_longer_run_unread_than_it_says(
    size: int, rotational: bool, options: Options, rate: float, seek: float
) -> None:
    plan = planned(size, rotational, options, rate, seek)
    longest = longest_unread(size, [(segment, segment.io_bytes) for segment in plan.segments])
    assert longest <= UNSEEN * size
    assert (longest == 0) == plan.whole


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 400).map(lambda blocks: blocks * 4096 + 512 + 4 * MIB),
    st.integers(1, 1200),
    st.sampled_from([1, 4, 32]),
    st.data(),
)
def test_the_figures_are_those_of_the_union_of_what_was_read(
    size: int, wanted: int, zones: int, data: st.DataObject
) -> None:
    """Coverage and longest gap, against a map of each 512 bytes of the disk, for zones that were cut short as well."""
    segments = (*edges(size, 4096), *spread(size, 4096, min(wanted, size // 4096), zones))
    read = [(one, data.draw(st.integers(0, one.count), label=one.name) * one.block) for one in segments]
    seen = bytearray(size // 512)
    for segment, read_bytes in read:
        for offset in starts(segment)[: read_bytes // segment.block]:
            seen[offset // 512 : (offset + segment.block) // 512] = b"x" * (segment.block // 512)
    gaps = bytes(seen).split(b"x")
    assert longest_unread(size, read) == 512 * max(len(gap) for gap in gaps)
    jobs = {one.name: fio.Job(one.name, 0, 0, read_bytes, 0, 100) for one, read_bytes in read}
    plan = ReadPlan(size, 4096, segments[:2], segments[2:], whole=all(one.skip == 0 for one in segments))
    run = ReadRun(SUBJECT, plan=plan, jobs=jobs)
    assert coverage_of(run) <= seen.count(b"x") * 512 / size
    if coverage_of(run) == 1.0:
        assert seen.count(b"x") == len(seen)
    assert longest_unread_of(run) == longest_unread(size, read) / size


@settings(deadline=None)
@given(sizes, st.floats(0.001, 200.0), st.floats(1, 20))
def test_a_second_look_at_a_zone_takes_seconds_and_reaches_over_all_of_it(
    size: int, mb_s: float, seconds: float
) -> None:
    block = block_size(size, rotational=True, options=Options())
    for zone in spread(size, block, size // block, 32):
        thin = thinned(zone, mb_s * 1e6, seconds)
        assert thin.io_bytes <= max(block, 2 * mb_s * 1e6 * seconds * (1 + 4096 / block))
        assert starts(thin)[-1] + block <= zone.offset + zone.length
        assert starts(thin)[-1] + 2 * (block + thin.skip) >= zone.offset + zone.length


def test_the_slow_inner_tracks_of_a_sound_rotating_disk_are_not_cut_short() -> None:
    """A burn-in reads all of it: from 270 MB/s outside down to 45 % of that inside, as such disks are."""
    size, outer = 20 * 10**12, 270e6
    plan = planned(size, True, Options(**PROFILES["burnin"]["Storage"]), outer, 2.0)
    assert plan.whole
    for number, zone in enumerate(plan.zones):
        rate = outer * (1 - 0.55 * (number + 1) / len(plan.zones))
        assert zone.limit_s is not None
        assert zone.io_bytes / rate < zone.limit_s

"""The guard against generated hosts: nothing outside the rules is ever allowed, whatever is true of the rest.

The oracle below is written from the rules, rule by rule, and shares no code with the implementation.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.block_use import BlockUse, Transport
from probes.block_use import read as read_use
from probes.host import REAL_ROOT, Host
from stages.outcome import ReasonCode
from stages.stage import ExpectedDisk, RunFacts, WipeOverride
from stages.wipe_guard import Allowed, DiskFacts, HostDisks, Refused, decide

GOOD_USE = BlockUse(
    device="8:0",
    name="sda",
    size_bytes=1_000_000_000_000,
    serial="S1",
    transport=Transport.SATA,
    removable=False,
    read_only=False,
    virtual_media=False,
    partitions=(),
    mounted_at=(),
    swaps=(),
    holders=(),
    boot_medium=(),
)
GOOD = DiskFacts(GOOD_USE, "S1", "0x5000c500a1b2c3d4", reserved=False, signatures=(), blank=True)
HOST = HostDisks(("S1", "S2"), ("0x5000c500a1b2c3d4", "0x5000c500a1b2c3d5"))
RUN = RunFacts(expected_disks=(ExpectedDisk("S1", 1000.0),), non_destructive=False, allow_destructive=True)


def code_of(disk: DiskFacts = GOOD, host: HostDisks = HOST, run: RunFacts = RUN) -> ReasonCode | None:
    """The code of a refusal; None when allowed."""
    decision = decide(disk, host, run)
    return decision.code if isinstance(decision, Refused) else None


def test_a_disk_that_meets_every_rule_is_allowed() -> None:
    assert decide(GOOD, HOST, RUN) == Allowed("S1", by_override=False)


NOT_EXPECTED = ReasonCode.WIPE_REFUSED_NOT_EXPECTED
IN_USE = ReasonCode.WIPE_REFUSED_IN_USE
DATA = ReasonCode.WIPE_REFUSED_DATA_PRESENT


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"size_bytes": None}, NOT_EXPECTED),
        ({"size_bytes": 0}, NOT_EXPECTED),
        ({"size_bytes": 1_010_000_000_001}, NOT_EXPECTED),
        ({"size_bytes": 989_999_999_999}, NOT_EXPECTED),
        ({"size_bytes": 1_009_999_999_999}, None),
        ({"serial": None}, NOT_EXPECTED),
        ({"serial": ""}, NOT_EXPECTED),
        ({"serial": "S9"}, NOT_EXPECTED),
        ({"serial": "S1   "}, None),
        ({"transport": None}, NOT_EXPECTED),
        ({"transport": Transport.ISCSI}, NOT_EXPECTED),
        ({"transport": Transport.FIBRE_CHANNEL}, NOT_EXPECTED),
        ({"transport": Transport.NVME_OVER_FABRICS}, NOT_EXPECTED),
        ({"transport": Transport.MULTIPATH}, NOT_EXPECTED),
        ({"transport": Transport.USB}, NOT_EXPECTED),
        ({"transport": Transport.VIRTUAL}, NOT_EXPECTED),
        ({"removable": True}, NOT_EXPECTED),
        ({"removable": None}, NOT_EXPECTED),
        ({"virtual_media": True}, NOT_EXPECTED),
        ({"virtual_media": None}, NOT_EXPECTED),
        ({"read_only": True}, IN_USE),
        ({"read_only": None}, IN_USE),
        ({"mounted_at": ("/",)}, IN_USE),
        ({"mounted_at": None}, IN_USE),
        ({"swaps": ("/dev/sda2",)}, IN_USE),
        ({"swaps": None}, IN_USE),
        ({"holders": ("dm-0",)}, IN_USE),
        ({"holders": None}, IN_USE),
        ({"boot_medium": ("root=UUID=1",)}, IN_USE),
        ({"boot_medium": None}, IN_USE),
        ({"partitions": None}, IN_USE),
        ({"partitions": ("sda1",)}, DATA),
    ],
)
def test_each_fact_of_the_disk_decides(change: dict[str, object], code: ReasonCode | None) -> None:
    assert code_of(replace(GOOD, use=replace(GOOD_USE, **change))) is code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reserved": True}, IN_USE),
        ({"reserved": None}, IN_USE),
        ({"signatures": ("ext4 at 0x438",)}, DATA),
        ({"signatures": None}, DATA),
        ({"blank": False}, DATA),
        ({"blank": None}, DATA),
        ({"listed_serial": None}, NOT_EXPECTED),
        ({"listed_serial": "  "}, NOT_EXPECTED),
        ({"wwn": None}, None),
    ],
)
def test_each_further_fact_decides(change: dict[str, object], code: ReasonCode | None) -> None:
    assert code_of(replace(GOOD, **change)) is code


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (replace(RUN, allow_destructive=False), NOT_EXPECTED),
        (replace(RUN, non_destructive=True), NOT_EXPECTED),
        (replace(RUN, expected_disks=None), NOT_EXPECTED),
        (replace(RUN, expected_disks=()), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S2", 1000.0),)), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("s1", 1000.0),)), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S1", None),)), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S1", float("nan")),)), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S1", float("inf")),)), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S1", 1000.0), ExpectedDisk("S1", 500.0))), NOT_EXPECTED),
        (replace(RUN, expected_disks=(ExpectedDisk("S2", 1.0), ExpectedDisk(" S1 ", 1000.0))), None),
    ],
)
def test_each_fact_of_the_run_decides(run: RunFacts, code: ReasonCode | None) -> None:
    assert code_of(run=run) is code


@pytest.mark.parametrize("serials", [(), ("S2",), ("S1", "S1"), ("S1", "s1 "), ("S1", "S 1")])
def test_a_serial_that_is_not_unique_on_the_host_refuses(serials: tuple[str, ...]) -> None:
    assert code_of(host=HostDisks(serials, HOST.wwns)) is NOT_EXPECTED


@pytest.mark.parametrize("serial", ["", "  "])
def test_a_disk_without_serial_is_refused_even_if_the_claim_expects_such_a_one(serial: str) -> None:
    disk = replace(GOOD, listed_serial=serial, use=replace(GOOD_USE, serial=serial))
    run = replace(RUN, expected_disks=(ExpectedDisk(serial, 1000.0),))
    assert code_of(disk, HostDisks((serial,), HOST.wwns), run) is NOT_EXPECTED


def test_two_paths_to_one_disk_are_refused_by_their_common_wwn() -> None:
    assert code_of(host=HostDisks(("S1", "S2"), (GOOD.wwn or "", GOOD.wwn or ""))) is NOT_EXPECTED


OVERRIDDEN = replace(GOOD, signatures=("gpt at 0x200",), blank=False)


@pytest.mark.parametrize(
    ("override", "refused", "allowed"),
    [
        (None, ("S1",), False),
        (WipeOverride(("S1",)), (), True),
        (WipeOverride(("S2",)), ("S1",), False),
        (WipeOverride(()), ("S1",), False),
        (WipeOverride(None), ("S1",), True),
        (WipeOverride(None), ("S2",), False),
        (WipeOverride(None), (), False),
    ],
)
def test_the_override_covers_exactly_the_disks_that_it_names(
    override: WipeOverride | None, refused: tuple[str, ...], allowed: bool
) -> None:
    decision = decide(OVERRIDDEN, HOST, replace(RUN, override=override, refused_serials=refused))
    assert decision == Allowed("S1", by_override=True) if allowed else isinstance(decision, Refused)


@pytest.mark.parametrize(
    "change", [{"mounted_at": ("/",)}, {"serial": "S2"}, {"transport": Transport.USB}, {"holders": ("md0",)}]
)
def test_the_override_covers_data_and_nothing_else(change: dict[str, object]) -> None:
    disk = replace(OVERRIDDEN, use=replace(GOOD_USE, **change))
    assert code_of(disk, run=replace(RUN, override=WipeOverride(("S1",)))) in {IN_USE, NOT_EXPECTED}


def test_a_refusal_says_why_a_fact_is_missing() -> None:
    disk = replace(GOOD, use=replace(GOOD_USE, swaps=None), unread=("swaps: Permission denied",))
    decision = decide(disk, HOST, RUN)
    assert isinstance(decision, Refused)
    assert "swaps: Permission denied" in decision.sentence


CASES = int(os.environ.get("VETTING_FUZZ_CASES", "2000"))
"""Generated hosts for each of the three main properties; `make fuzz` asks for many more."""


# --- generated hosts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    disk: DiskFacts
    host: HostDisks
    run: RunFacts


def mostly(good: object, *others: object) -> st.SearchStrategy[object]:
    """`good` nine times of ten, so that hosts near the border are common, with each other value still met often."""
    return st.integers(0, 9 + len(others)).map(lambda n: good if n < 10 else others[n - 10])


SERIALS = ("S1", "S2", "S1 ", "", "   ", "s1")
uses = st.builds(
    BlockUse,
    device=st.just("8:0"),
    name=mostly("sda", None),
    size_bytes=mostly(10**12, None, 0, -1, 512, 10**12 * 101 // 100 + 1, 10**12 * 99 // 100 - 1, 2 * 10**12),
    serial=mostly("S1", None, *SERIALS),
    transport=st.one_of(st.sampled_from([*Transport, None]), st.just(Transport.NVME), st.just(Transport.SATA)),
    removable=mostly(False, True, None),
    read_only=mostly(False, True, None),
    virtual_media=mostly(False, True, None),
    partitions=mostly((), ("sda1",), None),
    mounted_at=mostly((), ("/mnt",), None),
    swaps=mostly((), ("/dev/sda2",), None),
    holders=mostly((), ("dm-0", "md0"), None),
    boot_medium=mostly((), ("root=/dev/sda1",), None),
)
disks = st.builds(
    DiskFacts,
    use=uses,
    listed_serial=mostly("S1", None, *SERIALS),
    wwn=mostly("0xA", None, "0xB", ""),
    reserved=mostly(False, True, None),
    signatures=mostly((), ("ext4",), None),
    blank=mostly(True, False, None),
)
expected = st.builds(
    ExpectedDisk,
    serial=mostly("S1", *SERIALS),
    size_gb=mostly(1000.0, None, 0.0, -1000.0, float("nan"), float("inf"), 1011.0, 500.0),
)
named = st.lists(st.sampled_from(["S1", "S2", "s1", ""]), max_size=2).map(tuple)
runs = st.builds(
    RunFacts,
    expected_disks=st.one_of(
        st.lists(expected, min_size=1, max_size=2).map(tuple), mostly((ExpectedDisk("S1", 1e3),), None, ())
    ),
    non_destructive=mostly(False, True),
    allow_destructive=mostly(True, False),
    override=st.one_of(st.none(), st.builds(WipeOverride, st.one_of(st.none(), named))),
    refused_serials=named,
)
hosts = st.builds(
    HostDisks,
    serials=mostly(("S1", "S2"), ("S1",), ("S1", "S1"), ("s1", "S1"), ("S2",), ("",), ()),
    wwns=mostly(("0xA", "0xB"), ("0xA", "0xa"), (), ("0xB",)),
)
cases = st.builds(Case, disks, hosts, runs)


def may_be_written(case: Case) -> bool:
    """The rules, one after the other, as they stand in the table of checks."""
    disk, use, run = case.disk, case.disk.use, case.run
    serial = None if disk.listed_serial is None else disk.listed_serial.strip()
    if not (run.non_destructive is False and run.allow_destructive is True):
        return False
    if serial in (None, "") or use.serial is None or use.serial.strip() != serial:
        return False
    alike = [one for one in case.host.serials if one.replace(" ", "").lower() == serial.lower()]
    if len(alike) != 1:
        return False
    if disk.wwn and sum(1 for one in case.host.wwns if one.lower() == disk.wwn.lower()) != 1:
        return False
    if run.expected_disks is None or use.size_bytes is None or use.size_bytes <= 0:
        return False
    matching = [one for one in run.expected_disks if one.serial.strip() == serial]
    if not matching:
        return False
    for one in matching:
        if one.size_gb is None or not 0 < one.size_gb < 10**9:
            return False
        if not 0.99 * one.size_gb * 1e9 <= use.size_bytes <= 1.01 * one.size_gb * 1e9:
            return False
    if use.transport not in ("sata", "sas", "scsi", "nvme", "virtio", "mmc"):
        return False
    if any(flag is not False for flag in (use.removable, use.virtual_media, use.read_only, disk.reserved)):
        return False
    if any(users != () for users in (use.mounted_at, use.swaps, use.holders, use.boot_medium)):
        return False
    if use.partitions is None:
        return False
    empty = use.partitions == () and disk.signatures == () and disk.blank is True
    if run.override is None:
        return empty
    covered = run.override.serials if run.override.serials is not None else run.refused_serials
    return empty or serial in covered


@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases)
def test_no_generated_host_is_written_outside_the_rules(case: Case) -> None:
    decision = decide(case.disk, case.host, case.run)
    assert isinstance(decision, Allowed) == may_be_written(case), (decision, case)


@settings(max_examples=max(CASES // 3, 1), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases)
def test_only_a_disk_refused_for_data_can_be_freed_by_an_override(case: Case) -> None:
    """What the refusal for data says is what `wipe` without serials will cover: it must fail for nothing else."""
    plain = replace(case.run, override=None)
    freed = replace(case.run, override=WipeOverride(("S1",)))
    decision = decide(case.disk, case.host, plain)
    if isinstance(decision, Refused):
        opened = isinstance(decide(case.disk, case.host, freed), Allowed)
        assert opened == (decision.code is DATA)


# --- whole hosts: several disks, of which the guard is asked about each ----------------------------------------------


@dataclass(frozen=True)
class Machine:
    disks: tuple[DiskFacts, ...]
    run: RunFacts

    @property
    def identities(self) -> HostDisks:
        """As `wipe_door.host_disks` makes them of what the inventory lists."""
        return HostDisks(
            tuple(disk.listed_serial or "" for disk in self.disks), tuple(disk.wwn for disk in self.disks if disk.wwn)
        )

    def decisions(self) -> list[Allowed | Refused]:
        return [decide(disk, self.identities, self.run) for disk in self.disks]


USE_FAULTS: list[tuple[str, object]] = [
    *[("size_bytes", value) for value in (None, 0, 512, 2 * 10**12, 10**12 * 101 // 100 + 1)],
    *[("serial", value) for value in (None, "", "S0", "s0", "S1 ")],
    *[("transport", value) for value in (*Transport, None)],
    *[(flag, value) for flag in ("removable", "read_only", "virtual_media") for value in (True, None)],
    *[(used, value) for used in ("mounted_at", "swaps", "holders", "boot_medium") for value in (("x",), None)],
    *[("partitions", value) for value in (("sda1",), None)],
]
DATA_FAULTS: list[tuple[str, object]] = [
    *[("signatures", value) for value in (("LVM2_member at 0x218",), None)],
    *[("blank", value) for value in (False, None)],
]
DISK_FAULTS: list[tuple[str, object]] = [
    *[("listed_serial", value) for value in ("S0", "s0", "S0 ", "", None)],
    *[("wwn", value) for value in ("0x0", "0X0", "", None)],
    *[("reserved", value) for value in (True, None)],
    *(DATA_FAULTS * 3),
]
RUN_FAULTS: list[tuple[str, object]] = [
    ("non_destructive", True),
    ("allow_destructive", False),
    *[("expected_disks", value) for value in (None, (), (ExpectedDisk("S0", 1e3),), (ExpectedDisk("S0", None),))],
]
OVERRIDES = (None, None, (), ("S0",), ("S0", "S1"), ("S0", "S1", "S2", "S3"), ("S3", ""))
changes = st.tuples(st.integers(0, 3), st.sampled_from([*USE_FAULTS, *DISK_FAULTS]))


def sound(number: int) -> DiskFacts:
    serial = f"S{number}"
    return replace(GOOD, use=replace(GOOD_USE, serial=serial), listed_serial=serial, wwn=f"0x{number}")


def changed(disk: DiskFacts, name: str, value: object) -> DiskFacts:
    if name in BlockUse.__dataclass_fields__:
        return replace(disk, use=replace(disk.use, **{name: value}))  # type: ignore[arg-type]
    return replace(disk, **{name: value})  # type: ignore[arg-type]


def machine_of(
    count: int, faults: list[tuple[int, tuple[str, object]]], override: object, run_fault: tuple[str, object] | None
) -> Machine:
    found = [sound(number) for number in range(count)]
    for index, (name, value) in faults:
        found[index % count] = changed(found[index % count], name, value)
    run = replace(RUN, expected_disks=tuple(ExpectedDisk(f"S{number}", 1000.0) for number in range(4)))
    run = replace(run, override=None if override is None else WipeOverride(override))  # type: ignore[arg-type]
    return Machine(tuple(found), replace(run, **dict([run_fault])) if run_fault else run)  # type: ignore[arg-type]


machines = st.builds(
    machine_of,
    st.integers(1, 4),
    st.lists(changes, max_size=4),
    st.sampled_from(OVERRIDES),
    st.one_of(st.none(), st.none(), st.none(), st.sampled_from(RUN_FAULTS)),
)
"""One to four sound, distinct and expected disks, with up to four faults: near the border on either side."""


LOSABLE = [
    *[field.name for field in fields(BlockUse) if field.name not in {"device", "unread", "name"}],
    *("listed_serial", "reserved", "signatures", "blank"),
]
SLICE = settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SLICE
@given(machines)
def test_on_no_generated_machine_a_disk_is_written_outside_the_rules(machine: Machine) -> None:
    """Each disk by the rules; and what must hold of the machine as a whole, whatever the rules are."""
    decisions = machine.decisions()
    for disk, decision in zip(machine.disks, decisions, strict=True):
        case = Case(disk, machine.identities, machine.run)
        assert isinstance(decision, Allowed) == may_be_written(case), (decision, case)
    allowed = [decision for decision in decisions if isinstance(decision, Allowed)]
    serials = Counter(decision.serial.casefold() for decision in allowed)
    assert all(count == 1 for count in serials.values()), "two disks of one serial are written"
    claimed = {one.serial.strip() for one in machine.run.expected_disks or ()}
    named = set(machine.run.override.serials or ()) if machine.run.override else set()
    for decision in allowed:
        assert decision.serial in claimed
        assert not decision.by_override or decision.serial in named
    if machine.run.non_destructive or not machine.run.allow_destructive:
        assert not allowed


@SLICE
@given(machines, st.integers(0, 3), st.sampled_from(LOSABLE))
def test_less_knowledge_never_frees_a_disk(machine: Machine, index: int, name: str) -> None:
    """Whichever fact of a disk is lost, it is refused; but for its content, where an override covers that anyway."""
    disk = machine.disks[index % len(machine.disks)]
    lost = changed(disk, name, None)
    decision = decide(lost, machine.identities, machine.run)
    if isinstance(decision, Allowed):
        assert name in {"signatures", "blank"}
        assert decision.by_override
        assert isinstance(decide(disk, machine.identities, machine.run), Allowed)


@SLICE
@given(machines, machines)
def test_a_further_disk_never_frees_another(machine: Machine, other: Machine) -> None:
    """Hot-plug, a second path, a clone: more disks can only add doubt about the ones that are there."""
    crowded = replace(machine, disks=(*machine.disks, *other.disks))
    for before, after in zip(machine.decisions(), crowded.decisions(), strict=False):
        assert not (isinstance(after, Allowed) and isinstance(before, Refused))


def test_enough_of_the_generated_machines_are_written_at_all() -> None:
    """A generator of which every disk is refused would prove nothing."""
    met: Counter[str] = Counter()

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(machines)
    def look(machine: Machine) -> None:
        for one in machine.decisions():
            freed = "override" if isinstance(one, Allowed) and one.by_override else "blank"
            met[freed if isinstance(one, Allowed) else one.code] += 1

    look()
    assert min(met["blank"], met["override"], met[NOT_EXPECTED], met[IN_USE], met[DATA]) >= 20, met


# --- a real device ---------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_real_loop_device_is_never_allowed(tmp_path: Path) -> None:
    """It has no serial. Even a claim that expects a disk of its size, and an override, do not open it."""
    backing = tmp_path / "disk.img"
    with backing.open("wb") as file:
        file.truncate(64 * 2**20)
    made = subprocess.run(["losetup", "--show", "-f", backing], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        fd = os.open(device, os.O_RDONLY)
        try:
            use = read_use(Host(root=REAL_ROOT), fd)
        finally:
            os.close(fd)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert use.serial == ""
    assert use.transport is Transport.VIRTUAL
    for serial in ("", None, "loop0"):
        disk = DiskFacts(use, serial, None, reserved=False, signatures=(), blank=True)
        run = RunFacts(
            expected_disks=(ExpectedDisk("", 64 * 2**20 / 1e9), ExpectedDisk("loop0", 64 * 2**20 / 1e9)),
            non_destructive=False,
            allow_destructive=True,
            override=WipeOverride(("", "loop0")),
        )
        assert code_of(disk, HostDisks((serial or "",)), run) is NOT_EXPECTED
        # Not by its missing serial alone: were it to have one, its transport would refuse it.
        named = replace(disk, use=replace(use, serial="loop0"), listed_serial="loop0")
        assert code_of(named, HostDisks(("loop0",)), run) is NOT_EXPECTED

"""smartctl's JSON and exit bits, from recordings of real disks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.smart_parse import Unreadable, parse_report
from probes.smart_report import Protocol, SmartReport
from probes.smart_self_test_log import TestEnd, parse_nvme_cli
from tests.support.smartctl_player import RECORDINGS, exit_of, recording

DISKS = [
    "ata-failed-self-test",
    "ata-failing-hdd",
    "ata-healthy-hdd",
    "ata-healthy-ssd-exit-4",
    "ata-prefail",
    "nvme-critical-warning",
    "nvme-failed-self-test",
    "nvme-healthy",
    "nvme-media-errors",
    "raid-volume",
    "scsi-failed-self-test",
    "scsi-grown-defects",
    "scsi-megaraid-healthy",
]


def parsed(case: str) -> SmartReport:
    return parse_report((RECORDINGS / f"{case}.out").read_text(), exit_of(case))


def changed(case: str, **fields: Any) -> SmartReport:
    document = {**recording(case), **fields}
    return parse_report(json.dumps(document), exit_of(case))


def test_every_recording_says_where_it_comes_from() -> None:
    for path in RECORDINGS.glob("*.out"):
        assert path.with_suffix(".origin").read_text().strip()
        if path.read_text().startswith("{"):  # an answer to a command that starts something may be a plain line
            assert recording(path.stem)["smartctl"]["exit_status"] == exit_of(path.stem)


def test_a_healthy_ata_disk() -> None:
    report = parsed("ata-healthy-hdd")
    assert (report.protocol, report.serial, report.passed) == (Protocol.ATA, "HDD-HEALTHY-1", True)
    assert (report.temperature_c, report.power_on_hours, report.size_bytes) == (49, 8244, 18000207937536)
    assert report.missing == ()
    assert report.attribute(194).raw == 49  # type: ignore[union-attr]  # the packed value is 240519741489
    assert (report.self_tests.supported, report.self_tests.short_s, report.self_tests.entries) == (True, 120, ())


def test_a_sound_disk_without_a_log_is_complete_though_bit_2_is_set() -> None:
    report = parsed("ata-healthy-ssd-exit-4")
    assert report.exit_status == 4
    assert report.missing == ()


def test_a_failing_ata_disk() -> None:
    report = parsed("ata-failing-hdd")
    assert report.passed is False
    assert report.attribute(5).failing_now  # type: ignore[union-attr]
    assert report.attribute(197).raw == 8  # type: ignore[union-attr]
    failed = report.self_tests.unresolved_failure
    assert failed is not None
    assert (failed.extended, failed.lba, failed.hours) == (True, 104870168, 4)


def test_nvme_facts() -> None:
    report = parsed("nvme-critical-warning")
    assert report.nvme is not None
    assert (report.nvme.critical_warning, report.nvme.available_spare, report.nvme.media_errors) == (16, 100, 0)
    assert report.written_bytes == 147556750 * 512_000
    assert report.version == (7, 3)


def test_scsi_facts() -> None:
    report = parsed("scsi-grown-defects")
    assert report.scsi is not None
    assert (report.scsi.grown_defects, report.scsi.uncorrected_errors) == (260, 536)
    assert (report.temperature_c, report.temperature_limit_c) == (33, 68)
    assert report.written_bytes == 11_151_772_000_000


@pytest.mark.parametrize(
    ("case", "lba"),
    [("ata-failed-self-test", 70012345), ("nvme-failed-self-test", 4242), ("scsi-failed-self-test", 777216)],
)
def test_a_failed_self_test_is_found_on_each_bus(case: str, lba: int) -> None:
    failed = parsed(case).self_tests.unresolved_failure
    assert failed is not None
    assert failed.lba == lba


def rows(*results: tuple[int, int]) -> dict[str, Any]:
    """An ATA log of (kind, status), newest first."""
    table = [
        {"type": {"value": kind}, "status": {"value": status, "string": ""}, "lifetime_hours": 1}
        for kind, status in results
    ]
    return {"standard": {"table": table}}


@pytest.mark.parametrize(
    ("log", "fails"),
    [
        (rows(), False),
        (rows((1, 0)), False),
        (rows((1, 121)), True),
        (rows((1, 0), (1, 121)), False),  # superseded
        (rows((1, 0), (2, 121)), True),  # a short test says nothing of the rest of the surface
        (rows((2, 0), (2, 121)), False),
        (rows((2, 0), (1, 121)), False),
        (rows((1, 25), (1, 121)), True),  # aborted by the host: no result
        (rows((1, 249), (1, 121)), True),  # running
        (rows((1, 25), (1, 33), (2, 0)), False),
        (rows((2, 121), (2, 0)), True),
    ],
)
def test_what_supersedes_a_failed_self_test(log: dict[str, Any], fails: bool) -> None:
    report = changed("ata-healthy-hdd", ata_smart_self_test_log=log)
    assert (report.self_tests.unresolved_failure is not None) is fails


def test_a_running_ata_self_test() -> None:
    data = {"self_test": {"status": {"value": 0xF3}, "polling_minutes": {"short": 1}}}
    tests = changed("ata-healthy-hdd", ata_smart_data=data).self_tests
    assert (tests.running, tests.fraction_done, tests.short_s) == (True, pytest.approx(0.7), 60)


def test_a_running_scsi_self_test_is_no_entry() -> None:
    row = {"code": {"string": "Background short"}, "result": {"string": "Self test in progress ..."}}
    tests = changed("scsi-megaraid-healthy", scsi_self_test_0={**row, "self_test_in_progress": True}).self_tests
    assert (tests.running, tests.entries, tests.supported) == (True, (), True)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("Completed", TestEnd.GOOD),
        ("Completed, segment failed", TestEnd.FAILED),
        ("Failed in segment", TestEnd.FAILED),
        ("Aborted (by user command)", TestEnd.ABORTED),
        ("Interrupted (bus reset ?)", TestEnd.ABORTED),
        ("something new", TestEnd.FAILED),
    ],
)
def test_scsi_results_told_in_words_alone(words: str, end: TestEnd) -> None:
    row = {"code": {"string": "Background short"}, "result": {"string": words}}
    assert changed("scsi-megaraid-healthy", scsi_self_test_0=row).self_tests.entries[0].end is end


def test_the_log_that_nvme_cli_prints() -> None:
    # In the form of nvme-cli 2.3 (json_self_test_log).
    tests = parse_nvme_cli(
        {
            "Current Device Self-Test Operation": 1,
            "Current Device Self-Test Completion": 40,
            "List of Valid Reports": [
                {"Self test result": 7, "Self test code": 1, "Power on hours": 12, "Failing LBA": 99},
                {"Self test result": 0, "Self test code": 2, "Power on hours": 11},
                {"Self test result": 15},
            ],
        }
    )
    assert (tests.running, tests.fraction_done, len(tests.entries)) == (True, 0.4, 2)
    assert (tests.entries[0].end, tests.entries[0].lba, tests.entries[1].extended) == (TestEnd.FAILED, 99, True)


@pytest.mark.parametrize(
    ("case", "words"), [("open-failed", "Open failed, Error=5"), ("virtio", "Unable to detect device type")]
)
def test_a_device_that_was_not_reached(case: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        parsed(case)


@pytest.mark.parametrize("bits", [1, 2, 1 + 8, 2 + 4])
def test_whatever_else_is_printed_bits_0_and_1_mean_unread(bits: int) -> None:
    document = recording("ata-healthy-hdd")
    document["smartctl"]["exit_status"] = bits
    with pytest.raises(Unreadable, match="could not open it"):
        parse_report(json.dumps(document), bits)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("smartctl: command not understood", 1),
        ("[]", 0),
        ("{}", 0),
        ('{"smartctl": {"exit_status": true}}', 1),
        ('{"smartctl": {"exit_status": 0}}', 0),
        ("[" * 100_000, 0),
    ],
)
def test_what_is_no_report_is_unreadable(text: str, code: int) -> None:
    with pytest.raises(Unreadable):
        parse_report(text, code)


@pytest.mark.parametrize("case", DISKS)
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75, 0.99])
def test_a_truncated_report_is_unreadable(case: str, part: float) -> None:
    text = (RECORDINGS / f"{case}.out").read_text()
    with pytest.raises(Unreadable):
        parse_report(text[: int(len(text) * part)], exit_of(case))


def test_an_exit_code_that_differs_from_the_json_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="ended with 4 but its JSON says 0"):
        parse_report((RECORDINGS / "nvme-healthy.out").read_text(), 4)


@pytest.mark.parametrize(
    ("case", "field", "missing"),
    [
        ("ata-healthy-hdd", "smart_status", "overall health"),
        ("ata-healthy-hdd", "ata_smart_attributes", "attribute table"),
        ("nvme-healthy", "nvme_smart_health_information_log", "health log"),
        ("scsi-megaraid-healthy", "smart_status", "overall health"),
    ],
)
def test_what_a_verdict_needs_is_missed(case: str, field: str, missing: str) -> None:
    assert changed(case, **{field: None}).missing == (missing,)


def test_scsi_counters_are_missed_where_a_command_failed_and_on_what_lists_its_defects() -> None:
    document = recording("scsi-megaraid-healthy")
    del document["scsi_error_counter_log"]
    assert parse_report(json.dumps(document), 0).missing == ("error counters",)
    del document["scsi_grown_defect_list"]  # bridges and virtual disks count nothing
    assert parse_report(json.dumps(document), 0).missing == ()
    document["smartctl"]["exit_status"] = 4
    assert parse_report(json.dumps(document), 4).missing == ("error counters",)


@pytest.mark.parametrize(
    ("temperature", "limits"),
    [
        ({"op_limit_max": 60, "limit_max": 85}, (60, 85)),
        ({"op_limit_max": 70}, (None, 70)),
        ({"drive_trip": 65}, (None, 65)),
        ({"drive_trip": 0, "op_limit_max": 0}, (None, None)),
        ({"limit_max": "hot"}, (None, None)),
    ],
)
def test_temperature_limits(temperature: dict[str, Any], limits: tuple[int | None, int | None]) -> None:
    report = changed("ata-healthy-hdd", temperature={"current": 40, **temperature})
    assert (report.temperature_recommended_c, report.temperature_limit_c) == limits


JUNK = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just([]), st.just({}), st.just([{}]))


def spoil(node: Any, path: list[int], junk: Any) -> Any:
    """The document with the value at some path replaced."""
    if not path or not isinstance(node, dict | list) or not node:
        return junk
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[path[0] % len(keys)]
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[key] = spoil(node[key], path[1:], junk)
    return copy


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(DISKS), path=st.lists(st.integers(0, 40), min_size=1, max_size=5), junk=JUNK)
def test_no_spoilt_value_crashes_the_parser(case: str, path: list[int], junk: Any) -> None:
    document = spoil(recording(case), path, junk)
    try:
        parse_report(json.dumps(document), exit_of(case))
    except Unreadable:
        return

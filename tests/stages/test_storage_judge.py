"""fio's answers, real and broken ones, and what is made of them. No process is run here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.disks import Disk
from probes.tools import ToolResult
from stages import fio, stamps, storage_judge_read, storage_judge_write
from stages.outcome import INCONCLUSIVE, Finding, ReasonCode, Severity
from stages.stage import ExpectedDisk
from stages.storage_disk import Subject, floor_of, is_foreign, subjects_of
from stages.storage_plan import MIB, SEQUENTIAL, SPARSE, Options, ReadPlan, Speed, edges, spread
from stages.storage_read import weak_zones
from stages.storage_readings import ReadRun, WriteRun

FIXTURES = Path(__file__).parents[1] / "fixtures/tools/fio"


def recorded(case: str) -> ToolResult:
    """One recording of a real fio."""
    error = FIXTURES / f"{case}.err"
    return ToolResult(
        argv=("fio",),
        stdout=(FIXTURES / f"{case}.out").read_text(),
        stderr=error.read_text() if error.exists() else "",
        exit_code=int((FIXTURES / f"{case}.exit").read_text()),
        signal=None,
        duration_s=1.0,
    )


def disk(**changes: Any) -> Disk:
    fields: dict[str, Any] = dict.fromkeys(Disk.__dataclass_fields__)
    fields |= {"name": "sda", "serial": "S1", "model": "Disk", "transport": "sata", "rotational": True, "partitions": 0}
    return Disk(**(fields | {"logical_block_size": 512, "removable": False} | changes))


SIZE = 64 * MIB
PLAN = ReadPlan(SIZE, MIB, edges(SIZE, MIB), spread(SIZE, MIB, 64, 4, 5.0), whole=True)
SUBJECT = Subject(disk(), "disk:S1")


def job(segment: fio.Segment, ms: int = 1000, **changes: Any) -> fio.Job:
    return replace(fio.Job(segment.name, 0, 0, segment.io_bytes, 0, ms, {2_000_000: segment.count}), **changes)


JOBS = {segment.name: job(segment) for segment in PLAN.segments}
RUN = ReadRun(SUBJECT, plan=PLAN, speed=Speed(150e6, 0.02), jobs=JOBS, kernel_read_bytes=SIZE + 2 * MIB)


def judged(run: ReadRun, options: Options | None = None) -> list[tuple[ReasonCode, Severity]]:
    return [(one.reason_code, one.severity) for one in storage_judge_read.judge(run, options or Options())[0]]


ERROR, WARNING = Severity.ERROR, Severity.WARNING


# --- fio's answer ----------------------------------------------------------------------------------------------------


def test_a_real_clean_read_is_understood() -> None:
    report = fio.parse(recorded("read-pass"))
    assert report.version == "fio-3.33"
    assert set(report.jobs) == {"first", "last", "zone00", "zone01", "zone02", "zone03"}
    assert [one.read_bytes for one in report.jobs.values()] == [MIB, MIB, *[8 * MIB] * 4]
    assert not report.io_errors
    assert 0 < (fio.percentile_ms(report.jobs.values(), 0.999) or 0) < 10_000


def test_real_io_errors_are_found_with_their_place() -> None:
    report = fio.parse(recorded("read-eio"))
    assert min(one.offset for one in report.io_errors) == 24 * MIB
    assert {one.reason for one in report.io_errors} == {"Input/output error"}
    assert report.jobs["zone02"].error == 5
    assert report.jobs["zone00"].error == 0


def test_a_real_mismatch_is_found_with_its_place() -> None:
    report = fio.parse(recorded("verify-mismatch"))
    assert report.mismatches == (8 * MIB,)
    assert report.jobs["zone00"].error == fio.EILSEQ


def test_a_real_device_that_shrank_to_nothing_is_no_clean_answer() -> None:
    """All its jobs say error 0; only the exit code and an empty count tell."""
    report = fio.parse(recorded("read-lost"))
    assert "zero sized block device" in report.failed
    assert all(one.read_bytes == 0 for one in report.jobs.values())


GOOD_TEXT = (FIXTURES / "read-pass.out").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "{}",
        '{"jobs": []}',
        '{"jobs": 5, "fio version": "x"}',
        "[1]",
        GOOD_TEXT[:5000],
        GOOD_TEXT[:-3],
        "\x00",
        GOOD_TEXT.replace('"read"', '"reed"'),
        GOOD_TEXT.replace('"io_bytes" : 8388608', '"io_bytes" : "many"'),
    ],
)
def test_garbage_is_unreadable_and_never_an_empty_success(text: str) -> None:
    result = replace(recorded("read-pass"), stdout=text)
    with pytest.raises(fio.Unreadable):
        fio.parse(result)


def test_messages_of_a_fio_that_was_killed_still_count() -> None:
    result = replace(recorded("read-eio"), stdout="", exit_code=None, signal=9)
    with pytest.raises(fio.Unreadable) as caught:
        fio.parse(result)
    assert caught.value.report.io_errors


def test_reads_cannot_write_and_use_the_descriptor_only() -> None:
    argv = fio.argv(7, PLAN.segments, depth=4)
    assert "--readonly" in argv
    assert "--filename=/proc/self/fd/7" in argv
    assert not [word for word in argv if word.startswith("--rw=") and "read" not in word]


# --- the judgement ---------------------------------------------------------------------------------------------------


def test_a_sound_disk_passes_with_its_coverage() -> None:
    assert judged(RUN) == []
    assert storage_judge_read.coverage_of(RUN) == 1.0


@pytest.mark.parametrize("missing", ["first", "last", "zone00", "zone03"])
def test_whatever_was_not_read_keeps_the_disk_from_passing(missing: str) -> None:
    run = replace(RUN, jobs={name: one for name, one in JOBS.items() if name != missing})
    assert storage_judge_read.coverage_of(run) < 1
    assert (ReasonCode.COVERAGE_LOW, ERROR) in judged(run, Options(coverage_floor=1.0))


def test_an_edge_that_was_not_read_is_low_coverage_whatever_the_floor() -> None:
    run = replace(RUN, jobs={**JOBS, "last": job(PLAN.edges[1], read_bytes=0)})
    assert judged(run, Options(coverage_floor=0.0)) == [(ReasonCode.COVERAGE_LOW, ERROR)]


def test_a_fio_that_read_nothing_and_says_that_all_is_well_does_not_pass() -> None:
    run = replace(RUN, jobs={name: replace(one, read_bytes=0) for name, one in JOBS.items()}, kernel_read_bytes=None)
    assert (ReasonCode.COVERAGE_LOW, ERROR) in judged(run, Options(coverage_floor=0.0))


def test_a_fio_that_claims_what_the_kernel_did_not_see_is_not_believed() -> None:
    assert judged(replace(RUN, kernel_read_bytes=0)) == [(ReasonCode.OUTPUT_UNREADABLE, ERROR)]


def test_an_io_error_names_the_lba() -> None:
    run = replace(RUN, io_errors=(fio.IoError("read", "Input/output error", 25 * MIB, MIB),))
    [finding] = storage_judge_read.judge(run, Options())[0]
    assert finding.reason_code is ReasonCode.DISK_IO_ERROR
    assert "LBA 51200" in finding.message
    assert finding.component == "disk:S1"


@pytest.mark.parametrize(
    ("errno", "code"),
    [
        (5, ReasonCode.DISK_IO_ERROR),
        (121, ReasonCode.DISK_IO_ERROR),
        (22, ReasonCode.TOOL_FAILED),
        (19, ReasonCode.DISK_LOST),
        (6, ReasonCode.DISK_LOST),
        (28, ReasonCode.DISK_LOST),
    ],
)
def test_an_error_without_a_message_is_judged_by_its_number(errno: int, code: ReasonCode) -> None:
    run = replace(RUN, jobs={**JOBS, "zone01": replace(JOBS["zone01"], error=errno)})
    assert (code, ERROR) in judged(run)


def test_a_disk_that_left_is_lost() -> None:
    assert judged(replace(RUN, gone="it left the bus")) == [(ReasonCode.DISK_LOST, ERROR)]


@pytest.mark.parametrize(
    ("mb_s", "wanted"),
    [
        (60.0, []),
        (59.0, [(ReasonCode.DISK_SLOW, WARNING)]),
        (15.0, [(ReasonCode.DISK_SLOW, WARNING)]),
        (14.9, [(ReasonCode.DISK_SLOW, ERROR)]),
    ],
)
def test_the_floor_warns_and_a_quarter_of_it_fails(mb_s: float, wanted: list[Any]) -> None:
    assert judged(replace(RUN, speed=Speed(mb_s * 1e6, 0.02))) == wanted


def test_a_speed_that_was_not_measured_is_no_sound_one() -> None:
    unmeasured = replace(RUN, speed=None)
    assert judged(unmeasured) == [(ReasonCode.OUTPUT_UNREADABLE, ERROR)]
    assert judged(replace(unmeasured, gone="it left")) == [(ReasonCode.DISK_LOST, ERROR)], "that says it better"
    virtual = replace(unmeasured, subject=Subject(disk(transport="virtio"), "disk:S1"))
    assert judged(virtual) == [], "there is no floor to hold it against"


def test_a_disk_without_floor_is_measured_only() -> None:
    run = replace(RUN, subject=Subject(disk(transport="virtio"), "disk:S1"), speed=Speed(1e6, 1.0))
    findings, measurements = storage_judge_read.judge(run, Options())
    assert not findings
    assert [one.ok for one in measurements if one.name == "throughput"] == [None]


@pytest.mark.parametrize(
    ("disk_", "floor"),
    [
        (disk(), 60.0),
        (disk(rotational=False), 200.0),
        (disk(rotational=None), 60.0),
        (disk(transport="nvme", rotational=False), 800.0),
        (disk(transport="virtio"), None),
        (disk(transport="usb"), None),
        (disk(model="QEMU HARDDISK"), None),
        (disk(transport="nvme", model="QEMU NVMe Ctrl"), None),
        (disk(vendor="VMware", model="Virtual disk", transport="scsi"), None),
    ],
)
def test_the_floor_is_that_of_the_transport(disk_: Disk, floor: float | None) -> None:
    assert floor_of(disk_, Options()) == floor


def weak_run(ms: int, again_ms: int | None) -> ReadRun:
    jobs = {**JOBS, "zone02": job(PLAN.zones[2], ms)}
    rechecked = {} if again_ms is None else {"zone02": job(PLAN.zones[2], again_ms)}
    return replace(RUN, jobs=jobs, rechecked=rechecked)


def test_a_zone_that_is_slow_twice_is_weak() -> None:
    [finding] = storage_judge_read.judge(weak_run(4100, 4200), Options())[0]
    assert (finding.reason_code, finding.severity) == (ReasonCode.DISK_SLOW, ERROR)
    assert finding.evidence == "zone02"


def test_a_zone_that_was_slow_once_is_noise() -> None:
    assert weak_zones(weak_run(4100, None).jobs, PLAN)
    assert judged(weak_run(4100, 1000)) == []
    assert judged(weak_run(4100, None)) == []


def test_a_weak_zone_that_is_fast_all_the_same_warns_only() -> None:
    assert judged(weak_run(4100, 4100), Options(floor_hdd_mb_s=5.0)) == [(ReasonCode.DISK_SLOW, WARNING)]


def test_a_disk_that_could_not_be_opened_is_unknown_in_words() -> None:
    [finding] = storage_judge_read.judge(ReadRun(SUBJECT, refused_open="Operation not permitted"), Options())[0]
    assert finding.reason_code is ReasonCode.DISK_NOT_TESTED
    assert finding.reason_code in INCONCLUSIVE
    assert "sda" in finding.message
    assert "live image" in finding.message


def test_two_disks_with_one_serial_have_two_names() -> None:
    names = [one.component for one in subjects_of([disk(), disk(name="sdb"), disk(name="sdc", serial="S2")])]
    assert names == ["disk:S1/sda", "disk:S1/sdb", "disk:S2"]


def test_only_unexpected_removable_disks_are_left_out() -> None:
    stick = disk(removable=True)
    assert is_foreign(stick, None)
    assert is_foreign(disk(vendor="AMI", model="Virtual HDisk0"), ())
    assert not is_foreign(stick, (ExpectedDisk("S1", 1.0),))
    assert not is_foreign(disk(), None)


def test_the_evidence_has_a_row_for_each_zone() -> None:
    rows = json.loads(json.dumps(storage_judge_read.zones_evidence(weak_run(4100, 4200))))
    assert [row["zone"] for row in rows] == ["zone00", "zone01", "zone02", "zone03"]
    assert rows[2]["mb_s"] < rows[1]["mb_s"] / 4
    assert rows[2]["mb_s_again"] is not None


def test_the_probe_jobs_do_not_count_as_coverage() -> None:
    jobs = {SEQUENTIAL: fio.Job(SEQUENTIAL, 0, 0, SIZE, 0, 100), SPARSE: fio.Job(SPARSE, 0, 0, SIZE, 0, 100)}
    assert storage_judge_read.coverage_of(replace(RUN, jobs=jobs)) == 0


# --- writing ---------------------------------------------------------------------------------------------------------


PROOF = stamps.Proof(SIZE, SIZE, SIZE, SIZE, 0, 0, (), None, stamps.Reread(SIZE, 0, (), None))


def write_findings(run: WriteRun) -> list[Finding]:
    return storage_judge_write.judge(run)[0]


def test_a_write_test_that_did_not_come_to_its_end_is_no_pass() -> None:
    [finding] = write_findings(WriteRun(SUBJECT, size_bytes=SIZE))
    assert finding.reason_code is ReasonCode.DISK_NOT_TESTED
    done = {"planned_bytes": SIZE, "written_bytes": SIZE, "verified_bytes": SIZE, "kept_bytes": SIZE}
    for lacking in done:
        half = WriteRun(SUBJECT, size_bytes=SIZE, proof=PROOF, **(done | {lacking: SIZE - 1}))
        assert [one.reason_code for one in write_findings(half)] == [ReasonCode.DISK_NOT_TESTED]
    assert write_findings(WriteRun(SUBJECT, size_bytes=SIZE, proof=PROOF, **done)) == []


def test_a_mismatch_fails_and_names_the_lba() -> None:
    [finding] = write_findings(WriteRun(SUBJECT, size_bytes=SIZE, mismatches=(8 * MIB,)))
    assert finding.reason_code is ReasonCode.DISK_VERIFY_MISMATCH
    assert "LBA 16384" in finding.message

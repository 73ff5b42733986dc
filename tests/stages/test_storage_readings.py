"""What Storage brings back survives JSON, and is judged the same from the evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from stages import conclusion, fio, stamps, storage
from stages.outcome import Outcome, ReasonCode, error
from stages.stage import ExpectedDisk
from stages.storage_disk import Subject
from stages.storage_plan import Options, Speed
from stages.storage_readings import ReadRun, StorageReadings, WriteRun
from stages.wipe_guard import Refused
from tests.stages.test_storage_judge import JOBS, MIB, PLAN, SIZE, SUBJECT, disk

OTHER = Subject(disk(name="nvme0n1", serial="N1", transport="nvme", rotational=False), "disk:N1")
SOUND = ReadRun(SUBJECT, plan=PLAN, speed=Speed(150e6, 0.02), jobs=JOBS, kernel_read_bytes=SIZE + 2 * MIB)
SICK = ReadRun(
    OTHER,
    plan=PLAN,
    speed=Speed(20e6, 0.5),
    jobs={**JOBS, "zone01": replace(JOBS["zone01"], error=5, slowest_ns=9_000_000_000)},
    rechecked={"zone02": JOBS["zone02"]},
    alone=fio.Job("alone", 0, 0, SIZE, 0, 1000),
    io_errors=(fio.IoError("read", "Input/output error", 25 * MIB, MIB),),
    problems=(error(ReasonCode.TOOL_FAILED, "disk:N1", "fio crashed"),),
    gone="it left the bus",
    kernel_read_bytes=1,
    fio_version="fio-3.33",
)
WRONG = stamps.Wrong(5 * MIB, 6 * MIB, stamps.Kind.MISDIRECTED, 17)
WRITTEN = WriteRun(
    SUBJECT,
    size_bytes=SIZE,
    planned_bytes=SIZE,
    written_bytes=SIZE,
    verified_bytes=SIZE - 1,
    write_ms=100,
    mismatches=(5 * MIB,),
    changed=(MIB,),
    examined=(WRONG, replace(WRONG, said=None, bits=None)),
    proof=stamps.Proof(SIZE, SIZE, SIZE, SIZE, 1, 1, (WRONG,), None, None),
    left_blank=False,
)
REREAD = stamps.Reread(MIB, 2, (WRONG,), stamps.Failed(5, MIB, "read"))
READINGS = StorageReadings(
    found=(SUBJECT.disk, OTHER.disk, disk(name="sdz", serial="STICK", removable=True)),
    expected_disks=(ExpectedDisk("S1", 1.0), ExpectedDisk("GONE", None)),
    reads=(SOUND, SICK),
    destructive=True,
    writes=(WRITTEN, WriteRun(OTHER, refused=Refused(ReasonCode.WIPE_REFUSED_IN_USE, "it is mounted at /"))),
    kernel_lines={"disk:N1": ("nvme nvme0: I/O 5 QID 1 timeout, reset controller",)},
)


def through_json(readings: StorageReadings, folder: Path) -> StorageReadings:
    """Written as the runner writes it, read as the judge of evidence reads it."""
    conclusion.write(folder, conclusion.READINGS, readings)
    raw = (folder / conclusion.READINGS).read_bytes()
    return msgspec.json.decode(raw, type=StorageReadings, strict=False)


def judged(readings: StorageReadings, options: Options | None = None) -> Outcome:
    return storage.STAGE.judge(readings, options or Options())


def test_the_same_outcome_comes_of_the_evidence(tmp_path: Path) -> None:
    again = through_json(READINGS, tmp_path)
    assert again == READINGS
    assert judged(again) == judged(READINGS)
    found = {finding.reason_code for finding in judged(again).errors}
    assert found >= {
        ReasonCode.DISK_LOST,
        ReasonCode.DISK_IO_ERROR,
        ReasonCode.DISK_NOT_TESTED,
        ReasonCode.DISK_VERIFY_MISMATCH,
        ReasonCode.WIPE_REFUSED_IN_USE,
        ReasonCode.OUTPUT_UNREADABLE,
    }


def test_every_part_of_the_readings_survives(tmp_path: Path) -> None:
    later = replace(WRITTEN, proof=stamps.Proof(SIZE, SIZE, SIZE, SIZE, 0, 0, (), None, REREAD))
    for readings in (
        StorageReadings(unlisted="Permission denied"),
        StorageReadings(kernel_log_unreadable="no such file"),
        replace(READINGS, writes=(later,)),
        StorageReadings(found=(SUBJECT.disk,), reads=(ReadRun(SUBJECT, refused_open="Operation not permitted"),)),
    ):
        assert through_json(readings, tmp_path) == readings


def test_the_evidence_can_be_judged_by_other_floors() -> None:
    slow = StorageReadings(found=(SUBJECT.disk,), reads=(replace(SOUND, speed=Speed(50e6, 0.1)),))
    assert [one.reason_code for one in judged(slow).findings] == [ReasonCode.DISK_SLOW]
    assert judged(slow, Options(floor_hdd_mb_s=40.0)).findings == ()


def test_a_disk_that_was_found_and_has_no_reading_is_unknown() -> None:
    """A pass must rest on a reading of each disk, whatever broke between finding and reading it."""
    for readings in (
        StorageReadings(found=(SUBJECT.disk,)),
        StorageReadings(found=(SUBJECT.disk, OTHER.disk), reads=(SOUND,)),
        StorageReadings(found=(SUBJECT.disk,), reads=(SOUND,), destructive=True),
    ):
        outcome = judged(readings)
        assert not outcome.passed
        assert {one.reason_code for one in outcome.errors} == {ReasonCode.DISK_NOT_TESTED}

"""What an earlier boot left: pstore records where the kernel shows them and where systemd moves them, and the BERT."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from probes import crash_records
from probes.host import Host

PANIC = b"Panic#1 Part1\n<0>[   61.2] Kernel panic - not syncing: sysrq triggered crash\n"


def written(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def bert(status: int, severity: int) -> bytes:
    return struct.pack("<5I", status, 0, 0, 64, severity) + b"\0" * 64


def test_a_machine_without_records_has_none(tmp_path: Path) -> None:
    assert crash_records.read(Host(root=tmp_path)) == ()


def test_the_last_words_of_the_kernel_are_found_in_both_places(tmp_path: Path) -> None:
    written(tmp_path / "sys/fs/pstore/dmesg-erst-1", PANIC)
    written(tmp_path / "var/lib/systemd/pstore/1795262355/dmesg.txt", PANIC)
    records = crash_records.read(Host(root=tmp_path))
    assert [one.name for one in records] == ["pstore/dmesg-erst-1", "pstore/1795262355/dmesg.txt"]
    assert records[0].content == PANIC
    assert records[0].summary.endswith("Kernel panic - not syncing: sysrq triggered crash")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bert(1, 1), "a fatal hardware error"),
        (bert(2, 2), "a corrected hardware error"),
        (bert(1, 77), "severity 77"),
        (b"\1\0", "cut short"),
    ],
)
def test_a_boot_error_record_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    written(tmp_path / "sys/firmware/acpi/tables/data/BERT", content)
    (record,) = crash_records.read(Host(root=tmp_path))
    assert said in record.summary
    assert record.content == content


def test_an_empty_boot_error_region_is_no_record(tmp_path: Path) -> None:
    written(tmp_path / "sys/firmware/acpi/tables/data/BERT", bert(0, 0))
    assert crash_records.read(Host(root=tmp_path)) == ()


def test_a_region_that_is_no_file_is_told_and_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "sys/firmware/acpi/tables/data/BERT").mkdir(parents=True)
    (record,) = crash_records.read(Host(root=tmp_path))
    assert "cannot be read" in record.summary


def test_thousands_of_huge_records_are_bounded(tmp_path: Path) -> None:
    for number in range(100):
        written(tmp_path / f"sys/fs/pstore/dmesg-{number}", b"")
    written(tmp_path / "sys/fs/pstore/a-huge", b"x" * (crash_records.FILE_BYTES_MOST + 1))
    records = crash_records.read(Host(root=tmp_path))
    assert len(records) == crash_records.FILES_MOST
    assert len(records[0].content) == crash_records.FILE_BYTES_MOST

"""`vetting-agent judge --smart FILE...`: recordings of many makers and versions, whole, broken and made worse."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.outcome import ReasonCode, Verdict
from stages.smart import Options
from tests.support.smartctl_player import RECORDINGS, recording
from vetting_agent.__main__ import main
from vetting_agent.judge_smart import judge_file

PASS, FAIL, USAGE, UNKNOWN = 0, 1, 2, 4
SOUND = (
    "ata-healthy-hdd",
    "ata-healthy-ssd-exit-4",
    "ata-reallocated-hdd",
    "ata-samsung-ssd",
    "ata-seagate-exos",
    "nvme-healthy",
    "nvme-media-errors",
    "nvme-micron",
    "nvme-old-smartctl",
    "scsi-hitachi",
    "scsi-megaraid-healthy",
)
BAD = {
    "ata-failed-self-test": "smart_self_test_failed",
    "ata-failing-hdd": "smart_health_failed",
    "ata-prefail": "smart_prefail",
    "nvme-critical-warning": "nvme_critical_warning",
    "nvme-failed-self-test": "smart_self_test_failed",
    "scsi-failed-self-test": "smart_self_test_failed",
    "scsi-grown-defects": "disk_media_errors",
}
FAILED_ROW = {
    "type": {"value": 1, "string": "Short offline"},
    "status": {"value": 121, "string": "Completed: read failure", "passed": False},
    "lifetime_hours": 8000,
    "lba": 70012345,
}
FAILED_TEST = {"ata_smart_self_test_log": {"standard": {"revision": 1, "table": [FAILED_ROW], "count": 1}}}
NOT_JUDGED = (
    "nvme-left",
    "nvme-no-self-test",
    "open-failed",
    "raid-volume",
    "scan-megaraid",
    "scan-nothing",
    "scsi-smart-off",
    "virtio",
)


def test_every_recording_is_named_above() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.out")} == {*SOUND, *BAD, *NOT_JUDGED}


def file_of(case: str) -> Path:
    return RECORDINGS / f"{case}.out"


def judged(path: Path, capfd: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    code = main(["judge", "--json", "--smart", str(path), *more])
    return code, json.loads(capfd.readouterr().out)


def errors(summary: dict[str, Any]) -> list[str]:
    return [one["reason_code"] for one in summary["findings"] if one["severity"] == "error"]


@pytest.mark.parametrize("case", SOUND)
def test_a_sound_disk_passes(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, summary = judged(file_of(case), capfd)
    assert (code, summary["verdict"], errors(summary)) == (PASS, "pass", [])
    assert "judged overall health" in summary["headline"]
    told = [one for one in summary["findings"] if one["reason_code"] == "smart_self_test_not_run"]
    assert [one["severity"] for one in told] == ["info"]
    assert told[0]["message"].startswith("Not judged: a self-test now")


@pytest.mark.parametrize(("case", "reason"), BAD.items())
def test_a_bad_disk_fails(case: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, summary = judged(file_of(case), capfd)
    assert (code, summary["verdict"]) == (FAIL, "fail")
    assert reason in errors(summary)


@pytest.mark.parametrize("case", NOT_JUDGED)
def test_what_holds_no_health_is_unknown(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, summary = judged(file_of(case), capfd)
    assert (code, summary["verdict"]) == (UNKNOWN, "unknown")
    assert set(errors(summary)) == {"smart_unreadable"}


@pytest.mark.parametrize("status", [8, 16, 8 | 128, 8 | 16 | 64 | 128])
@pytest.mark.parametrize("case", ["ata-healthy-hdd", "scsi-hitachi", "nvme-healthy"])
def test_the_exit_status_in_the_file_counts(
    case: str, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = recording(case)
    document["smartctl"]["exit_status"] = status
    assert judged(made(tmp_path, document), capfd)[0] == FAIL


@pytest.mark.parametrize(
    ("case", "changes", "reason"),
    [
        ("ata-healthy-hdd", {"status": 128, **FAILED_TEST}, "smart_self_test_failed"),
        ("ata-healthy-hdd", {"status": 8, "smart_status": {"passed": False}}, "smart_health_failed"),
        (
            "ata-healthy-hdd",
            {"status": 136, "smart_status": {"passed": False}, **FAILED_TEST},
            "smart_self_test_failed",
        ),
        ("nvme-critical-warning", {}, "nvme_critical_warning"),
        ("nvme-failed-self-test", {}, "smart_self_test_failed"),
        ("scsi-failed-self-test", {}, "smart_self_test_failed"),
        ("ata-prefail", {}, "smart_prefail"),
    ],
    ids=["exit bit 7", "exit bit 3", "both", "NVMe warning", "NVMe self-test", "SCSI self-test", "prefail"],
)
def test_each_kind_of_bad_drive_that_a_file_can_show(
    case: str, changes: dict[str, Any], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The eighth kind vanishes in mid-stage (tests/stages/test_smart_self_tests.py)."""
    document = {**recording(case), **changes}
    document["smartctl"]["exit_status"] = document.pop("status", document["smartctl"]["exit_status"])
    code, summary = judged(made(tmp_path, document), capfd)
    assert (code, reason in errors(summary)) == (FAIL, True)


def test_a_virtual_disk_without_health_is_unknown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a stage it would be left out; a file of it is offered as proof, and proves nothing."""
    document = recording("scsi-hitachi")
    del document["smart_status"]
    document |= {"scsi_model_name": "QEMU QEMU HARDDISK", "smart_support": {"available": False}}
    code, summary = judged(made(tmp_path, document), capfd)
    assert (code, errors(summary)) == (UNKNOWN, ["smart_unreadable"])


def made(folder: Path, document: object) -> Path:
    path = folder / "made.json"
    path.write_text(json.dumps(document))
    return path


NEEDED = {
    "ata-seagate-exos": ["smart_status", "ata_smart_attributes", "smartctl", "device"],
    "nvme-micron": ["smart_status", "nvme_smart_health_information_log", "smartctl", "device"],
    "scsi-hitachi": ["smart_status", "smartctl", "device"],
}


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, names in NEEDED.items() for name in names])
def test_what_a_verdict_needs_and_is_not_there_is_unknown(
    case: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = recording(case)
    del document[name]
    assert judged(made(tmp_path, document), capfd)[0] == UNKNOWN


@pytest.mark.parametrize(
    "name", ["critical_warning", "available_spare", "available_spare_threshold", "percentage_used", "media_errors"]
)
def test_each_fact_of_the_nvme_log_is_needed(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = recording("nvme-micron")
    del document["nvme_smart_health_information_log"][name]
    code, summary = judged(made(tmp_path, document), capfd)
    assert code == UNKNOWN
    assert name.removeprefix("available_").replace("_", " ") in summary["findings"][0]["message"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["smartctl", "-H", "-j", "/dev/sdb"], UNKNOWN),
        (["smartctl", "-l", "selftest", "-j", "/dev/sdb"], UNKNOWN),
        (["smartctl", "-x", "-j", "/dev/sdb"], PASS),
        (["smartctl", "--all", "-j", "/dev/sdb"], PASS),
        (["smartctl", "-H", "-l", "error", "-j", "/dev/sdb"], PASS),
    ],
)
def test_a_scsi_disk_without_error_counters_has_to_have_been_asked(
    argv: list[str], code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = recording("scsi-hitachi")
    del document["scsi_error_counter_log"]
    document["smartctl"]["argv"] = argv
    assert judged(made(tmp_path, document), capfd)[0] == UNKNOWN, "a disk with a list of defects keeps counters"
    del document["scsi_grown_defect_list"]
    assert judged(made(tmp_path, document), capfd)[0] == code


@pytest.mark.parametrize("case", [*SOUND, *BAD])
def test_a_file_that_is_cut_off_is_unknown(case: str, tmp_path: Path) -> None:
    whole = file_of(case).read_text().rstrip()
    path = tmp_path / "cut.json"
    for length in {0, 1, 2, len(whole) - 1, *range(3, len(whole) - 1, len(whole) // 60)}:
        path.write_text(whole[:length])
        assert judge_file(path, Options()).verdict is Verdict.UNKNOWN, length


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b"\xff\xfe\x00",
        b"\x00" * 5000,
        b"[" * 200_000,
        b'{"smartctl": {"exit_status": ' + b"9" * 5000 + b"}}",
        b"smartctl 7.3 2022-02-28 r5338\n\nSMART overall-health self-assessment test result: PASSED\n",
    ],
    ids=["empty", "null", "list", "object", "number", "bytes", "zeros", "deep", "huge", "text"],
)
def test_what_is_no_output_of_smartctl_is_unknown(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    code, summary = judged(path, capfd)
    assert (code, errors(summary)) == (UNKNOWN, ["smart_unreadable"])
    assert str(path) in summary["findings"][0]["message"]


def test_files_that_cannot_be_read_are_unknown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert judged(tmp_path, capfd)[0] == UNKNOWN
    code, summary = judged(tmp_path / "nowhere", capfd)
    assert (code, "No such file" in summary["findings"][0]["message"]) == (UNKNOWN, True)
    assert judged(Path("/dev/zero"), capfd)[0] == UNKNOWN


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        ("version", [6, 7], "written by smartctl 6.7"),
        ("version", None, "no known version"),
        ("exit_status", 300, "no process"),
        ("exit_status", -1, "no process"),
        ("exit_status", "0", "no exit status"),
        ("exit_status", True, "no exit status"),
        ("exit_status", 2, "could not open"),
    ],
)
def test_a_head_that_cannot_be_trusted_is_unknown(
    where: str, value: object, why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = recording("ata-seagate-exos")
    document["smartctl"][where] = value
    code, summary = judged(made(tmp_path, document), capfd)
    assert code == UNKNOWN
    assert why in summary["findings"][0]["message"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_a_windows_shell_wrote_is_read(encoding: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "windows.json"
    mark = "\ufeff" if encoding in {"utf-16-le", "utf-16-be"} else ""
    path.write_text(mark + file_of("nvme-healthy").read_text().replace("\n", "\r\n"), encoding=encoding)
    assert judged(path, capfd)[0] == PASS


def test_half_a_character_in_a_name_stops_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path, {**recording("nvme-micron"), "model_name": "half \ud800", "serial_number": "S\udfff"})
    code, summary = judged(path, capfd)
    assert (code, list(summary["coverage"])) == (PASS, ["disk:S?"])
    assert main(["judge", "--smart", str(path)]) == PASS


def test_a_file_name_that_is_no_text_stops_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd-\xff\x1b[2J.json"))
    path.write_text(file_of("nvme-micron").read_text())
    assert judged(path, capfd)[0] == PASS
    assert main(["judge", "--smart", str(path), str(path) + "-not-there"]) == UNKNOWN
    assert "\x1b" not in capfd.readouterr().out


def test_several_files_have_one_outcome_each_and_the_worst_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    sound, bad, other = (str(file_of(case)) for case in ("nvme-healthy", "ata-prefail", "virtio"))
    for files, code in (([sound, sound], PASS), ([sound, other], UNKNOWN), ([sound, other, bad], FAIL)):
        assert main(["judge", "--json", "--smart", *files]) == code
        assert [one["file"] for one in json.loads(capfd.readouterr().out)] == files
    assert main(["judge", "--smart", sound, bad]) == FAIL
    text = capfd.readouterr().out
    assert "Verdict: PASS" in text
    assert "Verdict: FAIL" in text
    assert "Overall: FAIL" in text


def test_thresholds_of_the_stage_apply(capfd: pytest.CaptureFixture[str]) -> None:
    path = file_of("nvme-old-smartctl")  # 1 % used
    assert (
        judged(path, capfd, "--set", "SMART.wear_failed_percent=0", "--set", "SMART.wear_warning_percent=0")[0] == FAIL
    )
    assert main(["judge", "--smart", str(path), "--set", "GPU.interval_s=1"]) == USAGE


def test_the_help_says_what_a_file_needs(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["judge", "--help"])
    text = " ".join(capfd.readouterr().out.split())
    assert "What a file needs for a pass" in text
    assert "A file cannot show that a self-test was run now." in text


GARBAGE: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "", "x", [], [None], {}, {"value": {}}, float("inf"))


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, the whole left out."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items if isinstance(document, dict | list) else ():
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("case", ["ata-failed-self-test", "nvme-failed-self-test", "scsi-failed-self-test", "virtio"])
def test_garbage_anywhere_never_crashes_it(case: str, tmp_path: Path) -> None:
    """Every place takes some garbage; the dice are the same each time."""
    dice, document = random.Random(case), recording(case)
    crashes = 0
    for place in places(document):
        for value in dice.sample(GARBAGE, 2):
            outcome = judge_file(made(tmp_path, put(document, place, value)), Options())
            assert outcome.verdict in {Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN}
            crashes += any("makes no sense" in one.message for one in outcome.findings)
            codes = {one.reason_code for one in outcome.errors}
            if place[0] not in {"ata_smart_self_test_log", "nvme_self_test_log", "scsi_self_test_0"}:
                assert codes & {ReasonCode.SMART_SELF_TEST_FAILED, ReasonCode.SMART_UNREADABLE}, place
    assert crashes == 0

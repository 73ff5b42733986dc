"""Entries for what disks' tools say: smartctl, nvme-cli, fio, wipefs and our own children."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from probes import blank, reservation, smart, smart_parse, smart_self_test
from probes.disks import Disk
from probes.json_paths import dig
from probes.smart import Reading, Target
from probes.tools import ToolResult
from stages import fio, stamps, storage_judge, storage_write
from stages.outcome import ReasonCode, error
from stages.smart_judge import Case, Limits, judge_disk
from stages.storage_disk import Subject
from stages.storage_plan import MIB, Options, ReadPlan, Segment, Speed
from stages.storage_read import ReadRun
from stages.storage_write import WriteRun
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser, verdict_of
from tests.support import recordings

SICK_DISKS = ("failed", "failing", "prefail", "critical", "media")
TRANSPORTS = {"ata": "sata", "nvme": "nvme", "scsi": "sas"}


def recorded(tool: str, *kinds: str) -> tuple[Recording, ...]:
    """All recordings of a tool whose names hold one of `kinds`, sick ones marked by their names."""
    found = []
    for path in sorted((recordings.FOLDER / tool).glob("*.out")):
        exit_code = int(path.with_suffix(".exit").read_text())
        if not kinds or any(kind in path.stem for kind in kinds):
            sick = any(word in path.stem for word in SICK_DISKS)
            found.append(Recording(path.stem, path.read_bytes(), exit_code, sick=sick))
    return tuple(found)


def result(mutant: Mutant, tool: str, *, err: str = "", duration_s: float = 3.0) -> ToolResult:
    """The mutant as what a tool printed."""
    return ToolResult((tool,), mutant.text, err, mutant.recording.exit_code, None, duration_s)


def document(mutant: Mutant) -> Any:
    """The JSON in it, whatever stands before; None when there is none."""
    try:
        return json.loads(mutant.text[mutant.text.index("{") :])
    except (ValueError, RecursionError):
        return None


# --- smartctl --------------------------------------------------------------------------------------------------------


def _smart(mutant: Mutant) -> str:
    kind = mutant.recording.name.partition("-")[0]
    target = Target("/dev/sdx", None, disks=("sdx",), transport=TRANSPORTS.get(kind, "sata"))
    report = smart_parse.parse_report(mutant.text, mutant.recording.exit_code)
    judgement = judge_disk(Case(Reading(target, report), expected=True), Limits(80, 100), behind_raid=False)
    return verdict_of(judgement.findings, present=judgement.applies)


NVME_NEEDED = ("critical_warning", "available_spare", "available_spare_threshold", "percentage_used", "media_errors")


def _whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _smart_facts(mutant: Mutant) -> bool:
    """Overall health, and the protocol's own table with sound numbers in it."""
    told = document(mutant)
    if dig(told, "smart_status", "passed") is not True:
        return False
    protocol = dig(told, "device", "protocol")
    if protocol == "NVMe":
        return all(_whole(dig(told, "nvme_smart_health_information_log", name)) for name in NVME_NEEDED)
    if protocol == "ATA":
        table = dig(told, "ata_smart_attributes", "table")
        return isinstance(table, list) and bool(table) and all(_sound_row(row) for row in table)
    return protocol == "SCSI"


def _sound_row(row: object) -> bool:
    return _whole(dig(row, "id")) and isinstance(dig(row, "name"), str) and _whole(dig(row, "raw", "value"))


def _smart_excused(mutant: Mutant) -> str | None:
    told, before = document(mutant), json.loads(mutant.recording.data)
    if dig(told, "device", "protocol") == "ATA" and _rows(told) < _rows(before):
        return "a whole row of the attribute table is gone: sound drives of other models have no such row"
    commands = dig(told, "nvme_optional_admin_commands", "self_test")
    if dig(told, "device", "protocol") == "NVMe" and not commands and dig(told, "nvme_self_test_log") is None:
        return "neither a log of self-tests nor the word that there is one: so are disks without self-tests"
    kind = dig(told, "device", "protocol")
    log_is_there = kind == "SCSI" or dig(told, "nvme_self_test_log") is not None
    if log_is_there and _logged(told) < _logged(before):
        return "whole entries of the self-test log are gone: a log with fewer entries looks the same"
    if kind == "SCSI" and not _whole(dig(told, "scsi_grown_defect_list")):
        return "it lists no defects and counts no errors, as bridges and virtual disks do"
    return None


def _logged(told: Any) -> int:
    if dig(told, "device", "protocol") == "SCSI":
        return sum(isinstance(value, dict) for name, value in told.items() if name.startswith("scsi_self_test_"))
    table = dig(told, "nvme_self_test_log", "table")
    return sum(isinstance(row, dict) and bool(row) for row in table) if isinstance(table, list) else 0


def _rows(told: Any) -> set[int]:
    table = dig(told, "ata_smart_attributes", "table")
    return {dig(row, "id") for row in table if _whole(dig(row, "id"))} if isinstance(table, list) else set()


def _scan(mutant: Mutant) -> str:
    listed = smart.parse_scan(result(mutant, "smartctl"))
    targets = smart.merge(listed, [_disk()])
    assert any("sda" in target.disks for target in targets), "a disk that the kernel shows is read, scan or no scan"
    return READ


# --- nvme-cli --------------------------------------------------------------------------------------------------------

NVME_CLI_LOG = {
    "Current Device Self-Test Operation": 0,
    "Current Device Self-Test Completion": 0,
    "List of Valid Reports": [
        {"Self test result": code, "Self test code": 1, "Power on hours": 120 - at, "Failing LBA": 4096}
        for at, code in enumerate((0, 0, 15))
    ],
}


def _nvme_log(*results: int) -> bytes:
    rows = [
        {"Self test result": code, "Self test code": 1, "Power on hours": 120 - at, "Failing LBA": 4096}
        for at, code in enumerate(results)
    ]
    return json.dumps(NVME_CLI_LOG | {"List of Valid Reports": rows}, indent=1).encode()


def _nvme_recordings() -> tuple[Recording, ...]:
    return (
        Recording("good", _nvme_log(0, 0, 15)),
        Recording("failed", _nvme_log(7, 0, 15), sick=True),
        Recording("only-failed", _nvme_log(6), sick=True),
    )


def _nvme(mutant: Mutant) -> str:
    """The newest entry is the test that was asked for; no entry is no pass."""
    log = smart_self_test._nvme_log(result(mutant, "nvme"))
    if log.running or not log.entries:
        return "unknown"
    return str(smart_self_test._result_of(log.entries[0], 1.0).end)


# --- fio -------------------------------------------------------------------------------------------------------------


def _disk() -> Disk:
    fields: dict[str, Any] = dict.fromkeys(Disk.__dataclass_fields__)
    return Disk(**(fields | {"name": "sda", "serial": "S1", "transport": "sata", "partitions": 0, "removable": False}))


SUBJECT = Subject(_disk(), "disk:S1")
EDGES = (Segment("first", 0, MIB, MIB, 1), Segment("last", 31 * MIB, MIB, MIB, 1))
ZONES = tuple(Segment(f"zone0{at}", at * 8 * MIB, 8 * MIB, MIB, 8) for at in range(4))
READ_PLAN = ReadPlan(32 * MIB, MIB, EDGES, ZONES, whole=True)


def _fio_recordings() -> tuple[Recording, ...]:
    found = []
    for one in recorded("fio"):
        err = recordings.FOLDER / "fio" / f"{one.name}.err"
        extra = {"err": err.read_text() if err.exists() else ""}
        found.append(replace(one, sick="pass" not in one.name, extra=extra))
    return tuple(found)


def _fio(mutant: Mutant) -> str:
    said = fio.parse(result(mutant, "fio", err=(mutant.recording.extra or {})["err"]))
    if mutant.recording.name.startswith("read"):
        failed = [error(ReasonCode.TOOL_FAILED, "disk:S1", said.failed)] if said.failed else []
        run = ReadRun(
            SUBJECT,
            plan=READ_PLAN,
            speed=Speed(150e6, 0.02),
            jobs=said.jobs,
            io_errors=said.io_errors,
            problems=tuple(failed),
        )
        return verdict_of(storage_judge.judge(run, Options(coverage_floor=1.0))[0])
    written = WriteRun(SUBJECT, size_bytes=32 * MIB, mismatches=list(said.mismatches), io_errors=list(said.io_errors))
    written.problems += storage_write._unexplained(said, "disk:S1")
    written.planned_bytes = 16 * MIB
    written.written_bytes = sum(job.write_bytes for job in said.jobs.values())
    written.verified_bytes = sum(job.read_bytes for job in said.jobs.values())
    written.proof = stamps.Proof(32 * MIB, MIB, MIB, MIB, 0, 0, (), None)
    return verdict_of(storage_write.judge(written)[0])


def _fio_facts(mutant: Mutant) -> bool:
    """Every job is there, says that it had no error, and that it moved what was asked of it."""
    jobs = dig(document(mutant), "jobs")
    before = {job["jobname"]: job for job in document(replace(mutant, data=mutant.recording.data))["jobs"]}
    if not isinstance(jobs, list):
        return False
    if mutant.recording.name.startswith("verify"):  # judged by the sums: there the names say nothing
        return len(jobs) == len(before) and all(map(_job_facts, jobs, before.values()))
    told = {str(dig(job, "jobname")): job for job in jobs}
    return set(before) <= set(told) and all(_job_facts(told[name], before[name]) for name in before)


def _job_facts(job: Any, before: Any) -> bool:
    moved = [dig(job, way, "io_bytes") for way in ("read", "write")]
    return str(dig(job, "error")) == "0" and all(
        isinstance(count, int | str | float) and float(count) >= before[way]["io_bytes"]
        for count, way in zip(moved, ("read", "write"), strict=True)
    )


# --- our own children, and small tools -------------------------------------------------------------------------------

SIZE = 256 * MIB
SPAN = stamps.span_of(SIZE)
STAMPED = stamps.stamped_bytes(SIZE, SPAN)


def _stamp(**changes: Any) -> bytes:
    sound = {"written": STAMPED, "read": STAMPED, "wrong": 0, "after_first_wrong": 0, "examples": [], "error": None}
    return json.dumps(sound | changes).encode()


def _stamps_recordings() -> tuple[Recording, ...]:
    return (
        Recording("sound", _stamp()),
        Recording("wraps", _stamp(wrong=5, after_first_wrong=5, examples=[[4096, 65536], [8192, None]]), sick=True),
        Recording("failed", _stamp(written=4096, read=0, error=[5, 4096, "write"]), sick=True),
    )


def _stamps(mutant: Mutant) -> str:
    return verdict_of(stamps.judge(stamps.parse(mutant.text, SIZE, SPAN), "disk:S1", "sda"))


def _stamps_facts(mutant: Mutant) -> bool:
    told = document(mutant)
    return all(str(dig(told, name)).startswith(str(STAMPED)) for name in ("written", "read")) and "error" in told


def _blank_recordings() -> tuple[Recording, ...]:
    blank_disk = {"pattern": "00" * 8, "edge_bytes": 2 * blank.EDGE_BYTES, "blocks": blank.SPREAD_BLOCKS}
    return (
        Recording("blank", json.dumps(blank_disk).encode()),
        Recording("data", json.dumps({"differs_at": 1 << 20, "pattern": None}).encode(), sick=True),
    )


def _blank(mutant: Mutant) -> str:
    seen = blank.parse_blankness(mutant.text, 1 << 40)
    return "pass" if seen.pattern is not None and seen.differs_at is None else "fail"


def _blank_facts(mutant: Mutant) -> bool:
    told = document(mutant)
    return dig(told, "edge_bytes") is not None and dig(told, "blocks") is not None and bool(dig(told, "pattern"))


def _signature_recordings() -> tuple[Recording, ...]:
    found = {"signatures": [{"device": "sda", "offset": "0x438", "type": "ext4", "uuid": "x", "label": None}]}
    return (
        Recording("nothing", b'{\n   "signatures": []\n}\n'),
        Recording("ext4", json.dumps(found, indent=3).encode(), sick=True),
    )


def _signatures(mutant: Mutant) -> str:
    return "fail" if blank.parse_signatures(mutant.text) else "pass"


def _signatures_excused(mutant: Mutant) -> str | None:
    found = document(mutant)
    if isinstance(found, dict) and found.get("signatures") == []:
        return "the list is whole and empty: wipefs says so in so many words"
    return None


def _reservation_recordings() -> tuple[Recording, ...]:
    nvme = {"gen": 1, "rtype": 0, "regctl": 1, "ptpls": 0, "regctlext": [{"cntlid": 1, "rcsts": 1, "rkey": 7}]}
    return (
        Recording("nvme-free", json.dumps(nvme | {"regctl": 0, "regctlext": []}).encode()),
        Recording("nvme-held", json.dumps(nvme).encode(), sick=True),
        Recording("scsi-free", b"  PR generation=0x4, there are NO registered reservation keys\n"),
        Recording("scsi-held", b"  PR generation=0x4, 1 registered reservation key follows:\n    0x1\n", sick=True),
    )


def _reservation(mutant: Mutant) -> str:
    judge = reservation.judge_nvme if mutant.recording.name.startswith("nvme") else reservation.judge_scsi
    return "fail" if judge(result(mutant, "nvme")) else "pass"


def _smart_recordings() -> tuple[Recording, ...]:
    return tuple(one for one in recorded("smartctl", "ata-", "nvme-", "scsi-") if b'"smart_status"' in one.data)


ENTRIES = (
    Parser(
        "smartctl",
        ("probes/smart_parse.py", "probes/smart_self_test_log.py", "probes/json_paths.py", "stages/smart_judge.py"),
        _smart_recordings,
        _smart,
        (smart_parse.Unreadable,),
        _smart_facts,
        _smart_excused,
        is_json=True,
        share=6,
    ),
    Parser(
        "smartctl-scan",
        ("probes/smart.py",),
        lambda: recorded("smartctl", "scan"),
        _scan,
        (smart_parse.Unreadable,),
        is_json=True,
    ),
    Parser(
        "nvme-self-test-log",
        ("probes/smart_self_test.py", "probes/smart_self_test_log.py"),
        _nvme_recordings,
        _nvme,
        (smart_parse.Unreadable,),
        is_json=True,
    ),
    Parser(
        "fio",
        ("stages/fio.py", "stages/storage_judge.py", "stages/storage_write.py"),
        _fio_recordings,
        _fio,
        (fio.Unreadable,),
        _fio_facts,
        is_json=True,
        share=2,
    ),
    Parser(
        "stamps",
        ("stages/stamps.py",),
        _stamps_recordings,
        _stamps,
        (ValueError,),
        _stamps_facts,
        is_json=True,
    ),
    Parser("blank-blocks", ("probes/blank.py",), _blank_recordings, _blank, (ValueError,), _blank_facts, is_json=True),
    Parser(
        "wipefs",
        ("probes/blank.py",),
        _signature_recordings,
        _signatures,
        (ValueError,),
        excused=_signatures_excused,
        is_json=True,
    ),
    Parser(
        "reservations",
        ("probes/reservation.py",),
        _reservation_recordings,
        _reservation,
        (reservation.Unreadable,),
        is_json=True,
    ),
)

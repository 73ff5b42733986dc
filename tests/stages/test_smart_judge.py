"""What SMART data says of a disk: each row of the checks, from recordings and small changes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from probes.smart import Reading, Target
from probes.smart_parse import parse_report
from probes.smart_self_test import SelfTestEnd, SelfTestResult
from stages.outcome import ReasonCode, Severity
from stages.smart_judge import Case, Judgement, Limits, judge_disk
from tests.support.detection import spares
from tests.support.smartctl_player import recording

LIMITS = Limits(80, 100)
TRANSPORTS = {"ATA": ("sata", "sda"), "NVMe": ("nvme", "nvme0n1"), "SCSI": ("sas", "sdb")}


def reading(case: str, *, transport: str | None = None, status: int | None = None, **fields: Any) -> Reading:
    document = {**recording(case), **fields}
    if status is not None:
        document["smartctl"] = {**document["smartctl"], "exit_status": status}
    report = parse_report(json.dumps(document), document["smartctl"]["exit_status"])
    bus, name = TRANSPORTS[report.protocol]
    target = Target(f"/dev/{name}", None, (name,), "KERNEL-SERIAL", "", bus if transport is None else transport)
    return Reading(target, report)


def judged(before: Reading, after: Reading | None = None, **more: Any) -> Judgement:
    return judge_disk(Case(before, after, **more), LIMITS, behind_raid=False)


def told(judgement: Judgement) -> set[tuple[Severity, ReasonCode]]:
    return {(finding.severity, finding.reason_code) for finding in judgement.findings}


def attribute(number: int, raw: int, name: str, *, shown: str = "", **more: Any) -> dict[str, Any]:
    """The attributes of a healthy disk with one more, or one in place of its own."""
    old = recording("ata-healthy-hdd")["ata_smart_attributes"]["table"]
    row = {
        "id": number,
        "name": name,
        "value": 100,
        "thresh": 0,
        "flags": {"prefailure": False},
        "when_failed": "",
        "raw": {"value": raw, "string": shown or str(raw)},
    }
    return {"ata_smart_attributes": {"table": [one for one in old if one["id"] != number] + [{**row, **more}]}}


def endurance(percent: int) -> dict[str, Any]:
    page = {"number": 7, "table": [{"name": "Percentage Used Endurance Indicator", "value": percent}]}
    return {"ata_device_statistics": {"pages": [page]}}


def nvme(**facts: Any) -> dict[str, Any]:
    log = recording("nvme-healthy")["nvme_smart_health_information_log"]
    return {"nvme_smart_health_information_log": {**log, **facts}}


ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@spares(ReasonCode.EARLIER_EVENTS, "four recordings of healthy drives without entries in their error logs")
@pytest.mark.parametrize("case", ["ata-healthy-hdd", "ata-healthy-ssd-exit-4", "nvme-healthy", "scsi-megaraid-healthy"])
def test_a_healthy_disk_has_no_findings(case: str) -> None:
    judgement = judged(reading(case))
    assert told(judgement) == set()
    assert judgement.judged
    names = {item.name for item in judgement.measurements}
    assert {"temperature", "power_on_hours"} <= names


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            "ata-failing-hdd",
            {
                (ERROR, ReasonCode.SMART_HEALTH_FAILED),
                (ERROR, ReasonCode.SMART_PREFAIL),
                (ERROR, ReasonCode.DISK_MEDIA_ERRORS),
                (ERROR, ReasonCode.SMART_SELF_TEST_FAILED),
                (WARNING, ReasonCode.DISK_REALLOCATED),
                (INFO, ReasonCode.EARLIER_EVENTS),
            },
        ),
        ("ata-failed-self-test", {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}),
        ("ata-prefail", {(ERROR, ReasonCode.SMART_PREFAIL), (WARNING, ReasonCode.DISK_REALLOCATED)}),
        ("nvme-critical-warning", {(ERROR, ReasonCode.NVME_CRITICAL_WARNING)}),
        ("nvme-media-errors", {(WARNING, ReasonCode.DISK_MEDIA_ERRORS)}),
        ("nvme-failed-self-test", {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}),
        (
            "scsi-grown-defects",
            {(ERROR, ReasonCode.DISK_MEDIA_ERRORS), (WARNING, ReasonCode.DISK_REALLOCATED)},
        ),
        ("scsi-failed-self-test", {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}),
    ],
)
def test_a_bad_disk_is_found(case: str, expected: set[tuple[Severity, ReasonCode]]) -> None:
    judgement = judged(reading(case))
    assert told(judgement) == expected
    assert {finding.component for finding in judgement.findings} == {f"disk:{recording(case)['serial_number']}"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (4, set()),
        (8, {(ERROR, ReasonCode.SMART_HEALTH_FAILED)}),
        (16, {(ERROR, ReasonCode.SMART_PREFAIL)}),
        (32, {(INFO, ReasonCode.EARLIER_EVENTS)}),
        (64, {(INFO, ReasonCode.EARLIER_EVENTS)}),
        (128, {(ERROR, ReasonCode.SMART_UNREADABLE)}),  # the log that it speaks of is not there
        (8 + 64, {(ERROR, ReasonCode.SMART_HEALTH_FAILED), (INFO, ReasonCode.EARLIER_EVENTS)}),
    ],
)
def test_each_exit_bit(status: int, expected: set[tuple[Severity, ReasonCode]]) -> None:
    assert told(judged(reading("ata-healthy-hdd", status=status))) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (attribute(197, 1, "Current_Pending_Sector"), {(ERROR, ReasonCode.DISK_MEDIA_ERRORS)}),
        (attribute(198, 1, "Offline_Uncorrectable"), {(ERROR, ReasonCode.DISK_MEDIA_ERRORS)}),
        (attribute(5, 8, "Reallocated_Sector_Ct"), {(WARNING, ReasonCode.DISK_REALLOCATED)}),
        (attribute(5, 8, "Reallocate_NAND_Blk_Cnt"), {(WARNING, ReasonCode.DISK_REALLOCATED)}),
        (attribute(198, 5000, "Host_Reads_GiB"), set()),  # a maker's own meaning
        (
            attribute(10, 0, "Spin_Retry_Count", when_failed="now", flags={"prefailure": True}),
            {(ERROR, ReasonCode.SMART_PREFAIL)},
        ),
        (attribute(9, 0, "Power_On_Hours", when_failed="now"), set()),  # old age is no failure
        (attribute(10, 0, "Spin_Retry_Count", when_failed="past", flags={"prefailure": True}), set()),
        # a prefail attribute under its threshold where smartctl does not say "now"
        (
            attribute(10, 0, "Spin_Retry_Count", when_failed=None, value=9, thresh=10, flags={"prefailure": True}),
            {(ERROR, ReasonCode.SMART_PREFAIL)},
        ),
        (attribute(10, 0, "Spin_Retry_Count", when_failed=None, value=9, thresh=0, flags={"prefailure": True}), set()),
        # edited: the two forms of one counter do not agree, and the worse one counts
        (
            attribute(197, 9, "Current_Pending_Sector", shown="0"),
            {(ERROR, ReasonCode.DISK_MEDIA_ERRORS)},
        ),
        (attribute(5, 7 << 16, "Reallocated_Sector_Ct", shown="0 (7 0)"), set()),
        (attribute(187, 3, "Reported_Uncorrect"), {(WARNING, ReasonCode.DISK_MEDIA_ERRORS)}),
        (attribute(199, 500, "UDMA_CRC_Error_Count"), set()),  # from some cable of long ago
        (endurance(80), set()),
        (endurance(81), {(WARNING, ReasonCode.DISK_WORN)}),
        (endurance(120), {(WARNING, ReasonCode.DISK_WORN)}),
        ({"temperature": {"current": 60, "op_limit_max": 60}}, {(ERROR, ReasonCode.DISK_OVERHEATED)}),
        (
            {"temperature": {"current": 61, "op_limit_max": 60, "limit_max": 85}},
            {(WARNING, ReasonCode.DISK_OVERHEATED)},
        ),
        ({"temperature": {"current": 59, "op_limit_max": 60}}, set()),
        ({"temperature": {"current": 45, "drive_trip": 0}}, set()),
    ],
)
def test_ata_rows(fields: dict[str, Any], expected: set[tuple[Severity, ReasonCode]]) -> None:
    assert told(judged(reading("ata-healthy-hdd", **fields))) == expected


@pytest.mark.parametrize(
    ("model", "name", "count", "severity"),
    [
        ("CT1000MX500SSD1", "Current_Pending_Sector", 3, WARNING),
        ("Crucial CT240BX500SSD1", "Current_Pending_ECC_Cnt", 1, WARNING),
        ("Crucial_CT525MX300SSD1", "Current_Pending_ECC_Cnt", 1, WARNING),
        ("Micron_1100_MTFDDAK256TBN", "Current_Pending_ECC_Cnt", 1, WARNING),
        ("ATP SATA III M.2 2280 SSD", "Current_Pending_ECC_Cnt", 1, WARNING),
        ("Crucial_CT250MX200SSD1", "Current_Pending_ECC_Cnt", 1, WARNING),
        ("Crucial_CT250MX200SSD1", "Current_Pending_ECC_Cnt", 2, ERROR),
        ("Samsung SSD 870 EVO 1TB", "Current_Pending_Sector", 1, ERROR),
    ],
)
def test_ssds_that_misuse_the_pending_counter_are_only_warned_of(
    model: str, name: str, count: int, severity: Severity
) -> None:
    fields = attribute(197, count, name)
    assert told(judged(reading("ata-healthy-hdd", model_name=model, **fields))) == {
        (severity, ReasonCode.DISK_MEDIA_ERRORS)
    }


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"available_spare": 9}, {(ERROR, ReasonCode.NVME_SPARE_LOW)}),
        ({"available_spare": 10}, set()),
        ({"percentage_used": 80}, set()),
        ({"percentage_used": 81}, {(WARNING, ReasonCode.NVME_WORN)}),
        ({"percentage_used": 101}, {(ERROR, ReasonCode.NVME_WORN)}),
        ({"media_errors": 1}, {(WARNING, ReasonCode.DISK_MEDIA_ERRORS)}),
        ({"critical_warning": 2}, {(ERROR, ReasonCode.NVME_CRITICAL_WARNING)}),
        ({"critical_warning": "none"}, {(ERROR, ReasonCode.SMART_UNREADABLE)}),
    ],
)
def test_nvme_rows(facts: dict[str, Any], expected: set[tuple[Severity, ReasonCode]]) -> None:
    assert told(judged(reading("nvme-healthy", **nvme(**facts)))) == expected


def test_a_limit_for_failure_below_that_for_a_warning_still_fails() -> None:
    worn = reading("nvme-healthy", **nvme(percentage_used=60))
    judgement = judge_disk(Case(worn), Limits(80.0, 50.0), behind_raid=False)
    assert told(judgement) == {(ERROR, ReasonCode.NVME_WORN)}


def test_the_bits_of_a_critical_warning_are_told_in_words() -> None:
    [finding] = judged(reading("nvme-critical-warning")).findings
    assert "volatile memory backup failed" in finding.message
    assert finding.evidence == "critical_warning 0x10"


@pytest.mark.parametrize(
    ("case", "before", "after", "code"),
    [
        (
            "ata-healthy-hdd",
            attribute(5, 8, "Reallocated_Sector_Ct"),
            attribute(5, 9, "Reallocated_Sector_Ct"),
            ReasonCode.DISK_REALLOCATED,
        ),
        ("nvme-healthy", nvme(media_errors=0), nvme(media_errors=1), ReasonCode.DISK_MEDIA_ERRORS),
        (
            "ata-healthy-hdd",
            attribute(187, 3, "Reported_Uncorrect"),
            attribute(187, 4, "Reported_Uncorrect"),
            ReasonCode.DISK_MEDIA_ERRORS,
        ),
        ("scsi-megaraid-healthy", {}, {"scsi_grown_defect_list": 1}, ReasonCode.DISK_REALLOCATED),
    ],
)
def test_what_rises_during_the_stage_fails(
    case: str, before: dict[str, Any], after: dict[str, Any], code: ReasonCode
) -> None:
    judgement = judged(reading(case, **before), reading(case, **after))
    assert told(judgement) == {(ERROR, code)}
    assert "rose from" in judgement.findings[0].message


@pytest.mark.parametrize("name", ["UDMA_CRC_Error_Count", "CRC_Error_Count"])
def test_link_errors_of_the_stage_are_a_warning(name: str) -> None:
    before, after = (reading("ata-healthy-hdd", **attribute(199, count, name)) for count in (500, 503))
    assert told(judged(before, after)) == {(WARNING, ReasonCode.DISK_LINK_ERRORS)}
    assert told(judged(before, before)) == set()


def test_a_pending_counter_that_flips_during_the_stage_is_only_warned_of() -> None:
    flipped = (attribute(197, count, "Current_Pending_ECC_Cnt") for count in (0, 1))
    before, after = (reading("ata-healthy-hdd", model_name="CT500MX500SSD1", **fields) for fields in flipped)
    assert told(judged(before, after)) == {(WARNING, ReasonCode.DISK_MEDIA_ERRORS)}


@pytest.mark.parametrize("direction", ["read", "write", "verify"])
def test_scsi_errors_of_each_direction_fail(direction: str) -> None:
    log = recording("scsi-megaraid-healthy")["scsi_error_counter_log"]
    one = {**log.get(direction, {}), "total_uncorrected_errors": 1}
    disk = reading("scsi-megaraid-healthy", scsi_error_counter_log={**log, direction: one})
    assert told(judged(disk)) == {(ERROR, ReasonCode.DISK_MEDIA_ERRORS)}


def test_an_informational_exception_is_told_with_its_sense_code() -> None:
    words = "HARDWARE IMPENDING FAILURE GENERAL HARD DRIVE FAILURE"
    said = {"passed": False, "scsi": {"asc": 0x5D, "ascq": 0x10, "ie_string": words}}
    [finding] = judged(reading("scsi-megaraid-healthy", smart_status=said, status=8)).findings
    assert finding.reason_code is ReasonCode.SMART_HEALTH_FAILED
    assert finding.evidence == f"{words} [asc 5Dh, ascq 10h]; smartctl exit status 8"


def test_a_worn_sas_ssd_is_a_warning() -> None:
    disk = reading("scsi-megaraid-healthy", scsi_percentage_used_endurance_indicator=95)
    assert told(judged(disk)) == {(WARNING, ReasonCode.DISK_WORN)}


def test_a_failed_nvme_self_test_is_told_with_its_status() -> None:
    [finding] = judged(reading("nvme-failed-self-test")).findings
    assert "at LBA 4242" in finding.message
    assert "status code type 2h, status code 81h" in finding.message


def test_exit_bit_7_without_the_failure_in_the_log_is_unknown() -> None:
    rows = {"status": {"value": 0, "string": "Completed without error"}, "type": {"value": 1}, "lifetime_hours": 9}
    log = {"standard": {"table": [rows]}}
    disk = reading("ata-healthy-hdd", status=128, ata_smart_self_test_log=log)
    assert told(judged(disk)) == {(ERROR, ReasonCode.SMART_UNREADABLE)}


@pytest.mark.parametrize(
    ("case", "log"),
    [
        (
            "ata-healthy-hdd",
            {"ata_smart_self_test_log": {"standard": {"table": [{"status": {"string": "Completed: read failure"}}]}}},
        ),
        (
            "nvme-healthy",
            {"nvme_self_test_log": {"table": [{"self_test_result": {"string": "Fatal or unknown test error"}}]}},
        ),
        ("scsi-megaraid-healthy", {"scsi_self_test_0": {"result": {"string": "Failed in segment -->"}}}),
    ],
)
def test_a_failed_self_test_in_words_alone_is_found(case: str, log: dict[str, Any]) -> None:
    assert told(judged(reading(case, **log))) == {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}


def test_another_disk_at_the_same_place_is_unknown() -> None:
    judgement = judged(reading("ata-healthy-hdd"), reading("ata-healthy-hdd", serial_number="OTHER"))
    assert (ERROR, ReasonCode.SMART_UNREADABLE) in told(judgement)
    assert {"disk:HDD-HEALTHY-1"} == {finding.component for finding in judgement.findings}


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (SelfTestEnd.PASSED, set()),
        (SelfTestEnd.FAILED, {(ERROR, ReasonCode.SMART_SELF_TEST_FAILED)}),
        (SelfTestEnd.TIMEOUT, {(ERROR, ReasonCode.SMART_SELF_TEST_TIMEOUT)}),
        (SelfTestEnd.NOT_RUN, {(ERROR, ReasonCode.SMART_SELF_TEST_NOT_RUN)}),
        (SelfTestEnd.TOOL_MISSING, {(ERROR, ReasonCode.TOOL_MISSING)}),
        (SelfTestEnd.NOT_SUPPORTED, {(INFO, ReasonCode.SMART_SELF_TEST_NOT_RUN)}),
        (SelfTestEnd.SKIPPED, {(INFO, ReasonCode.SMART_SELF_TEST_NOT_RUN)}),
    ],
)
def test_how_a_self_test_ended(end: SelfTestEnd, expected: set[tuple[Severity, ReasonCode]]) -> None:
    test = SelfTestResult(end, "why", lba=7)
    assert told(judged(reading("ata-healthy-hdd"), test=test)) == expected


def silent(transport: str, *, model: str = "") -> Reading:
    name = {"virtio": "vda", "usb": "sdc", "mmc": "mmcblk0"}.get(transport, "sdd")
    return Reading(Target(f"/dev/{name}", None, (name,), "S1", model, transport), None, "no answer")


@pytest.mark.parametrize(
    ("transport", "expected", "applies"),
    [
        ("virtio", False, False),
        ("virtio", True, False),
        ("iscsi", False, False),
        ("usb", False, False),
        ("usb", True, True),
        ("mmc", False, False),
        ("mmc", True, True),
        ("sata", False, True),
        ("sas", False, True),
        ("nvme", False, True),
        ("raid", False, True),
        ("", False, True),
    ],
)
def test_what_smart_applies_to(transport: str, expected: bool, applies: bool) -> None:
    judgement = judged(silent(transport), expected=expected)
    assert judgement.applies is applies
    assert told(judgement) == {(ERROR if applies else INFO, ReasonCode.SMART_UNREADABLE)}


def test_a_raid_volume_is_left_out_only_where_its_disks_are_reached() -> None:
    volume = reading("raid-volume", transport="raid")
    assert not judge_disk(Case(volume), LIMITS, behind_raid=True).applies
    assert told(judge_disk(Case(volume), LIMITS, behind_raid=False)) == {(ERROR, ReasonCode.SMART_UNREADABLE)}


def test_a_virtual_disk_that_says_it_has_no_smart_is_left_out() -> None:
    fields = {"model_name": "QEMU QEMU HARDDISK", "smart_support": {"available": False}}
    assert not judged(reading("raid-volume", transport="scsi", **fields)).applies
    assert judged(reading("raid-volume", transport="sas", model_name="SEAGATE ST1", smart_support=None)).applies


def test_a_disk_without_serial_goes_by_its_name() -> None:
    plain = reading("ata-healthy-hdd", serial_number="")
    assert plain.component == "disk:KERNEL-SERIAL"
    assert replace(plain, target=replace(plain.target, serial="")).component == "disk:sda"

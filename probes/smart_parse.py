"""smartctl's JSON, turned into a `SmartReport`.

What a field means is the matter of this file; what follows from it, of `stages.smart_judge`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from probes.json_paths import count, dig, flag, number, rows
from probes.smart_report import (
    BIT_COMMAND_LINE,
    BIT_OPEN,
    AtaAttribute,
    NvmeHealth,
    Protocol,
    ScsiHealth,
    SmartReport,
)
from probes.smart_self_test_log import parse_self_tests

NVME_DATA_UNIT_BYTES = 512_000
OLDEST_VERSION = [7, 0]
PACKED_ABOVE = 0xFFFF
BELIEVABLE_LIMIT_C = range(30, 131)


class Unreadable(Exception):
    """smartctl gave nothing that could be judged. `str()` says why, for a person."""


class Unreachable(Unreadable):
    """smartctl could not open the disk, or not as what it was asked for."""


def document_of(text: str, exit_code: int | None) -> dict[str, Any]:
    """smartctl's JSON document, when it is whole and its exit status is the one the process ended with.

    Raises Unreadable, also where the exit bits 0 or 1 say that the disk was not reached at all.
    """
    document, status = _whole_document(text, f"exit code {exit_code}")
    if status != exit_code:
        raise Unreadable(f"smartctl ended with {exit_code} but its JSON says {status}")
    return _reached(document, status)


def recorded_document(text: str) -> dict[str, Any]:
    """A document that somebody kept: its exit status is the one that stands in it. Raises Unreadable."""
    document, status = _whole_document(text, "a recording")
    if status not in range(256):
        raise Unreadable(f"its exit status is {status}, which no process ends with")
    version = [part for part in rows(document, "smartctl", "version") if isinstance(part, int)]
    if version < OLDEST_VERSION:
        shown = ".".join(map(str, version)) or "of no known version"
        raise Unreadable(f"it was written by smartctl {shown}; the form of its JSON is settled from 7.0 on")
    if rows(document, "json_format_version")[:1] not in ([1], []):
        raise Unreadable("its json_format_version is not 1")
    return _reached(document, status)


def _whole_document(text: str, source: str) -> tuple[dict[str, Any], int]:
    try:
        document = json.loads(text)
        if "\\ud" in text.lower():  # half of a character, which no other program would take from us
            document = json.loads(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        raise Unreadable(f"smartctl printed no whole JSON ({len(text)} characters, {source})") from None
    status = dig(document, "smartctl", "exit_status")
    if not isinstance(document, dict) or type(status) is not int:
        raise Unreadable(f"smartctl's JSON has no exit status ({source})")
    return document, status


def _reached(document: dict[str, Any], status: int) -> dict[str, Any]:
    if status & (BIT_COMMAND_LINE | BIT_OPEN):
        raise Unreachable("; ".join(messages_of(document)) or f"smartctl could not open it (exit code {status})")
    return document


def messages_of(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What smartctl said beside its data."""
    texts = [dig(row, "string") for row in rows(document, "smartctl", "messages")]
    return tuple(text for text in texts if isinstance(text, str))


def parse_report(text: str, exit_code: int | None) -> SmartReport:
    """The report in the output of `smartctl --json -x`. Raises Unreadable."""
    return report_of(document_of(text, exit_code))


def report_of(document: Mapping[str, Any]) -> SmartReport:
    """The report in smartctl's document. Raises Unreadable."""
    try:
        protocol = Protocol(dig(document, "device", "protocol"))
    except ValueError:
        raise Unreadable("smartctl does not say what the disk speaks: " + "; ".join(messages_of(document))) from None
    recommended, limit = _temperature_limits(document)
    return SmartReport(
        protocol=protocol,
        serial=_text(document, "serial_number"),
        model=_text(document, "model_name") or _text(document, "scsi_model_name"),
        size_bytes=number(dig(document, "user_capacity", "bytes"), dig(document, "nvme_total_capacity")),
        exit_status=document["smartctl"]["exit_status"],
        version=tuple(part for part in rows(document, "smartctl", "version") if isinstance(part, int)),
        available=flag(dig(document, "smart_support", "available")),
        enabled=flag(dig(document, "smart_support", "enabled")),
        passed=flag(dig(document, "smart_status", "passed")),
        temperature_c=number(dig(document, "temperature", "current")) or None,
        temperature_limit_c=limit,
        temperature_recommended_c=recommended,
        power_on_hours=number(dig(document, "power_on_time", "hours")),
        written_bytes=_written(document, protocol),
        endurance_used_percent=_endurance_used(document),
        attributes=_attributes(document),
        nvme=_nvme(document),
        scsi=_scsi(document) if protocol is Protocol.SCSI else None,
        self_tests=parse_self_tests(document),
        messages=messages_of(document),
        health_words=_exception(document),
    )


def _exception(document: Mapping[str, Any]) -> str:
    """SPC: additional sense code 5Dh predicts a failure, 0Bh warns (of heat, of degraded power)."""
    said = dig(document, "smart_status", "scsi")
    words, code, qualifier = (dig(said, name) for name in ("ie_string", "asc", "ascq"))
    if number(code) is None:
        return words if isinstance(words, str) else ""
    return f"{words if isinstance(words, str) else 'exception'} [asc {code:02X}h, ascq {number(qualifier) or 0:02X}h]"


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value.strip() if isinstance(value, str) else ""


def _attributes(document: Mapping[str, Any]) -> tuple[AtaAttribute, ...]:
    return tuple(_attribute(row) for row in rows(document, "ata_smart_attributes", "table"))


def _attribute(row: object) -> AtaAttribute:
    number_, value, threshold = (number(dig(row, name)) for name in ("id", "value", "thresh"))
    raw, name = count(dig(row, "raw", "value")), dig(row, "name")
    if number_ is None or raw is None or not isinstance(name, str):
        raise Unreadable(f"a row of the attribute table has no number, no name or no raw value: {row!r:.80}")
    return AtaAttribute(
        id=number_,
        name=name,
        value=value if value is not None else -1,
        threshold=threshold or 0,
        prefail=dig(row, "flags", "prefailure") is True,
        failing_now=_failing_now(dig(row, "when_failed"), value, threshold),
        raw=_shown(dig(row, "raw", "string"), raw),
    )


def _failing_now(when: object, value: int | None, threshold: int | None) -> bool:
    """smartctl's word for it; where it says nothing, the value against its threshold (0: never fails)."""
    if isinstance(when, str):
        return when == "now"
    return value is not None and bool(threshold) and value <= (threshold or 0)


def _shown(text: object, raw: int) -> int:
    """Several counters can be packed into the 48 raw bits; what smartctl shows first is the one that is meant.

    Where nothing is packed the two say the same; if not, the recording was edited, and the worse one counts.
    """
    shown = re.match(r"[0-9]{1,19}(?=\s|$)", text) if isinstance(text, str) else None
    if shown is None:
        return raw
    return int(shown[0]) if raw > PACKED_ABOVE else max(int(shown[0]), raw)


def _nvme(document: Mapping[str, Any]) -> NvmeHealth | None:
    log = document.get("nvme_smart_health_information_log")
    if not isinstance(log, Mapping):
        return None
    get: Callable[[str], int | None] = lambda name: count(log.get(name))  # noqa: E731
    return NvmeHealth(
        critical_warning=get("critical_warning"),
        available_spare=get("available_spare"),
        available_spare_threshold=get("available_spare_threshold"),
        percentage_used=get("percentage_used"),
        media_errors=get("media_errors"),
    )


def _scsi(document: Mapping[str, Any]) -> ScsiHealth:
    log = document.get("scsi_error_counter_log")
    told = [dig(log, direction) for direction in ("read", "write", "verify")]
    counts = [count(dig(row, "total_uncorrected_errors")) for row in told if row is not None]
    known = [value for value in counts if value is not None]
    return ScsiHealth(
        # One direction that is there and cannot be read leaves the sum unknown.
        uncorrected_errors=sum(known) if known and known == counts else None,
        grown_defects=count(document.get("scsi_grown_defect_list")),
        pending_defects=count(dig(document, "scsi_pending_defects", "count")),
    )


def _temperature_limits(document: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(recommended maximum, limit). A drive that gives one figure only has that one as its limit."""
    figures = [
        (dig(document, "temperature", "op_limit_max"), dig(document, "temperature", "limit_max")),
        (None, dig(document, "temperature", "drive_trip")),
        (
            dig(document, "nvme_composite_temperature_threshold", "warning"),
            dig(document, "nvme_composite_temperature_threshold", "critical"),
        ),
    ]
    for pair in figures:
        known = [value for value in pair if number(value) in BELIEVABLE_LIMIT_C]
        if known:
            return (known[0], known[-1]) if len(known) == 2 else (None, known[0])
    return None, None


def _written(document: Mapping[str, Any], protocol: Protocol) -> int | None:
    if protocol is Protocol.NVME:
        units = number(dig(document, "nvme_smart_health_information_log", "data_units_written"))
        return None if units is None else units * NVME_DATA_UNIT_BYTES
    if protocol is Protocol.SCSI:
        gigabytes = dig(document, "scsi_error_counter_log", "write", "gigabytes_processed")
        try:
            return int(float(gigabytes) * 1e9)
        except (TypeError, ValueError, OverflowError):
            return None
    sectors = _device_statistic(document, "Logical Sectors Written")
    return None if sectors is None else sectors * (number(document.get("logical_block_size")) or 512)


def _endurance_used(document: Mapping[str, Any]) -> int | None:
    return number(
        document.get("scsi_percentage_used_endurance_indicator"),
        _device_statistic(document, "Percentage Used Endurance Indicator"),
    )


def _device_statistic(document: Mapping[str, Any], name: str) -> int | None:
    """From ATA's device statistics log; the attributes that say such things count in units of each maker's own."""
    table = [row for page in rows(document, "ata_device_statistics", "pages") for row in rows(page, "table")]
    return next((number(dig(row, "value")) for row in table if dig(row, "name") == name), None)

"""The BMC's event log: what came during a stage is charged to it; notes and good news are not."""

from __future__ import annotations

from dataclasses import asdict, replace

import msgspec
import pytest

from probes.counters import Counters
from probes.ipmi import SelEntry, sel_entries
from stages.deltas import judge
from stages.deltas_sel import findings
from stages.outcome import Finding, Outcome, ReasonCode, Severity, Verdict
from tests.support.recordings import text as recording

OLD = SelEntry(0x39, "Memory #0x88 | Uncorrectable ECC | Asserted")
BEFORE = Counters(sel=(OLD,))


def gained(*texts: str) -> list[Finding]:
    new = tuple(SelEntry(0x3A + place, text) for place, text in enumerate(texts))
    return list(findings(BEFORE, Counters(sel=(OLD, *new))))


@pytest.mark.parametrize(
    ("line", "code", "severity", "component"),
    [
        (  # ipmitool/ipmitool#385, a Quanta server
            "  3a | 12/14/22 | 23:09:44 CET | Memory #0x88 | Correctable ECC (CPU0_G1) | Asserted",
            ReasonCode.ECC_CORRECTED,
            Severity.WARNING,
            "dimm:CPU0_G1",
        ),
        (  # the same issue, another server
            "   e | 06/10/22 | 19:31:43 CEST | Memory #0x87 | Correctable ECC () | Asserted",
            ReasonCode.ECC_CORRECTED,
            Severity.WARNING,
            "memory",
        ),
        (  # openbmc/openbmc#3726: some BMCs log their own troubles so
            "   1 | 11/10/20 | 01:28:37 UTC | System Event #0x01 | Undetermined system hardware failure | Asserted",
            ReasonCode.BMC_EVENT,
            Severity.WARNING,
            "sensor:System Event #0x01",
        ),
        (
            "   8 | 09/08/2021 | 06:34:16 | Power Supply #0x3b | Power Supply AC lost | Asserted",
            ReasonCode.PSU_EVENT,
            Severity.ERROR,
            "psu:#0x3b",
        ),
    ],
)
def test_a_quoted_entry_is_understood(line: str, code: ReasonCode, severity: Severity, component: str) -> None:
    (entry,) = sel_entries(line + "\n")
    (finding,) = gained(entry.text)
    assert (finding.reason_code, finding.severity, finding.component) == (code, severity, component)
    assert finding.evidence == entry.text


@pytest.mark.parametrize(
    ("text", "code", "severity"),
    [
        ("Memory #0x02 | Uncorrectable ECC | Asserted", ReasonCode.ECC_UNCORRECTED, Severity.ERROR),
        ("Memory #0x02 | Correctable ECC logging limit reached | Asserted", ReasonCode.ECC_CORRECTED, Severity.ERROR),
        ("Processor #0x44 | IERR | Asserted", ReasonCode.MCE_UNCORRECTED, Severity.ERROR),
        ("Processor #0x44 | Thermal Trip | Asserted", ReasonCode.THERMAL_CRITICAL, Severity.ERROR),
        ("Critical Interrupt #0x75 | Bus Fatal Error | Asserted", ReasonCode.PCIE_AER_FATAL, Severity.ERROR),
        ("Critical Interrupt #0x75 | Bus Correctable error | Asserted", ReasonCode.PCIE_AER_ERRORS, Severity.WARNING),
        ("Temperature #0x30 | Upper Critical going high | Asserted", ReasonCode.THERMAL_CRITICAL, Severity.ERROR),
        ("Temperature #0x30 | Upper Non-critical going high | Asserted", ReasonCode.THERMAL_CRITICAL, Severity.WARNING),
        ("Voltage #0x11 | Lower Critical going low | Asserted", ReasonCode.BMC_EVENT, Severity.ERROR),
        ("Fan #0x41 | Lower Critical going low | Asserted", ReasonCode.BMC_EVENT, Severity.WARNING),
        ("Drive Slot / Bay #0xa5 | Drive Fault | Asserted", ReasonCode.BMC_EVENT, Severity.ERROR),
        ("Drive Slot / Bay #0xa5 | Drive Present | Deasserted", ReasonCode.BMC_EVENT, Severity.WARNING),
        ("Power Unit #0x3e | Redundancy Lost | Asserted", ReasonCode.PSU_EVENT, Severity.ERROR),
        ("Power Supply #0x3b | Presence detected | Deasserted", ReasonCode.PSU_EVENT, Severity.ERROR),
        ("OEM #0xd2 | whatever 3f12 | Asserted", ReasonCode.BMC_EVENT, Severity.WARNING),
        ("Unknown | ", ReasonCode.BMC_EVENT, Severity.WARNING),
        ("", ReasonCode.BMC_EVENT, Severity.WARNING),
    ],
)
def test_faults_have_their_codes_and_the_unknown_is_a_warning(text: str, code: ReasonCode, severity: Severity) -> None:
    assert [(one.reason_code, one.severity) for one in gained(text)] == [(code, severity)]


@pytest.mark.parametrize(
    "text",
    [
        "Temperature #0x30 | Upper Critical going high | Deasserted",
        "Power Supply #0x3b | Failure detected | Deasserted",
        "Power Supply #0x3b | Presence detected | Asserted",
        "Power Unit #0x3e | Fully Redundant | Asserted",
        "Memory #0x02 | Uncorrectable ECC | Deasserted",
        "System Firmware Progress #0x05 | Memory initialization | Asserted",
        "System Boot Initiated #0x1d | Initiated by warm reset | Asserted",
        "OS Boot #0x1f | C: boot completed | Asserted",
        "Event Logging Disabled #0xf6 | Log area reset/cleared | Asserted",
        "Session Audit #0xff | Invalid Username or Password | Asserted",
        "Drive Slot / Bay #0xa5 | Drive Present | Asserted",
    ],
)
def test_good_news_and_notes_are_left_out(text: str) -> None:
    assert gained(text) == []


def test_old_entries_are_nobodys_and_repeats_are_counted() -> None:
    assert list(findings(BEFORE, BEFORE)) == []
    (finding,) = gained(*["Memory #0x88 | Correctable ECC | Asserted"] * 3)
    assert "(3 times)" in finding.message


def test_a_log_that_was_cleared_in_between_counts_what_is_in_it() -> None:
    after = Counters(sel=(SelEntry(1, "Processor #0x44 | IERR | Asserted"),))
    assert [one.reason_code for one in findings(BEFORE, after)] == [ReasonCode.MCE_UNCORRECTED]
    assert [one.reason_code for one in findings(Counters(sel=()), after)] == [ReasonCode.MCE_UNCORRECTED]


@pytest.mark.parametrize("changes", [{"sel": None}, {"sel": None, "sel_unreadable": "The BMC did not answer"}])
def test_a_silent_bmc_decides_nothing(changes: dict[str, object]) -> None:
    for before, after in ((BEFORE, replace(BEFORE, **changes)), (replace(BEFORE, **changes), BEFORE)):  # type: ignore[arg-type]
        found, _ = judge(before, after, needed=True, stage="SMART")
        assert Outcome("", tuple(found)).verdict is Verdict.PASS
        assert all(one.severity is Severity.INFO for one in found)


@pytest.mark.parametrize("stage", ["CPUStress", "PSU"])
def test_a_log_that_was_not_read_is_told_in_each_stage(stage: str) -> None:
    """The PSU stage reads it by itself, but judges no more of it than the power supplies."""
    found, _ = judge(BEFORE, Counters(sel_unreadable="The BMC did not answer"), stage=stage)
    assert [one.reason_code for one in found] == [ReasonCode.BMC_UNREADABLE]


def test_power_events_are_left_to_the_psu_stage_while_it_runs() -> None:
    new = sel_entries(recording("ipmitool", "cable-pulled-sel.out"))
    after = Counters(sel=(OLD, *(replace(entry, record_id=entry.record_id + 0x100) for entry in new)))
    assert {one.reason_code for one in judge(BEFORE, after, stage="CPUStress")[0]} == {ReasonCode.PSU_EVENT}
    assert judge(BEFORE, after, stage="PSU")[0] == []


def test_the_entries_survive_json() -> None:
    again = msgspec.json.decode(msgspec.json.encode(asdict(BEFORE)), type=Counters, strict=False)
    assert again.sel == BEFORE.sel

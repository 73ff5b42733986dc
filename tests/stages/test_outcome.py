"""A verdict is computed from findings; nothing untested ever passes."""

from __future__ import annotations

import pytest

from stages.outcome import (
    INCONCLUSIVE,
    Outcome,
    ReasonCode,
    Verdict,
    cancelled_outcome,
    error,
    info,
    warning,
)


def test_no_finding_passes_and_no_hardware_is_not_applicable() -> None:
    assert Outcome("ok").verdict is Verdict.PASS
    assert Outcome("none here", hardware_present=False).verdict is Verdict.NOT_APPLICABLE
    assert Outcome("none here", hardware_present=False).passed


def test_warnings_and_infos_never_decide() -> None:
    findings = (
        warning(ReasonCode.DISK_REALLOCATED, "disk:A", "2 sectors"),
        info(ReasonCode.EARLIER_EVENTS, "kernel-log", "old"),
    )
    assert Outcome("ok", findings).passed


@pytest.mark.parametrize("code", sorted(ReasonCode))
def test_no_error_finding_ever_passes(code: ReasonCode) -> None:
    for present in (True, False):
        outcome = Outcome("claims to be fine", (error(code, "x", "wrong"),), hardware_present=present)
        assert not outcome.passed
        expected = Verdict.UNKNOWN if code in INCONCLUSIVE else Verdict.FAIL
        assert outcome.verdict is (Verdict.CANCELLED if code is ReasonCode.CANCELLED else expected)
        assert outcome.message == "wrong"


def test_a_fault_outweighs_what_could_not_be_judged() -> None:
    unknown = error(ReasonCode.TOOL_MISSING, "smartctl", "missing")
    fault = error(ReasonCode.DISK_IO_ERROR, "disk:A", "I/O error")
    assert Outcome("x", (unknown, fault)).verdict is Verdict.FAIL


def test_cancelled_carries_its_code() -> None:
    outcome = cancelled_outcome()
    assert outcome.verdict is Verdict.CANCELLED
    assert [finding.reason_code for finding in outcome.errors] == [ReasonCode.CANCELLED]

"""Every reason code has a broken subject that raises it and a sound one that does not, and the page says so."""

from __future__ import annotations

from stages.outcome import ReasonCode
from tests.support.detection import PAGE, Claim, all_written, page

CLAIMS = all_written()


def test_every_code_has_a_broken_and_a_sound_subject() -> None:
    assert _lacking(CLAIMS) == []


def test_a_code_without_its_subjects_is_noticed() -> None:
    assert "disk_lost: nothing detects it" in _lacking([one for one in CLAIMS if one.code is not ReasonCode.DISK_LOST])


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(CLAIMS), "run: make detection"


def _lacking(claims: list[Claim]) -> list[str]:
    told = {(claim.code, claim.kind) for claim in claims}
    return [
        f"{code.value}: nothing {kind} it"
        for code in ReasonCode
        for kind in ("detects", "spares")
        if (code, kind) not in told
    ]

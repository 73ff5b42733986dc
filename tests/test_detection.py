"""Every reason code has a broken subject that raises it and a sound one that does not, and the page says so."""

from __future__ import annotations

import re

from stages.outcome import ReasonCode
from tests.house import PACKAGES, sources
from tests.support.detection import BAD_DRIVES, PAGE, Claim, all_written, drive_claims, page

CLAIMS = all_written()
ABOUT_CODES = re.compile(r"^stages/(?:outcome|reasons\w*)\.py$")
"""The list of the codes and the sentences on them: naming a code there raises nothing."""


def test_every_code_has_a_broken_and_a_sound_subject() -> None:
    assert _lacking(CLAIMS) == []


def test_a_code_without_its_subjects_is_noticed() -> None:
    assert "disk_lost: nothing detects it" in _lacking([one for one in CLAIMS if one.code is not ReasonCode.DISK_LOST])


def test_each_of_the_eight_bad_drives_is_found() -> None:
    assert [number for number in BAD_DRIVES if not drive_claims(number, CLAIMS)] == []
    without = [one for one in CLAIMS if not one.subject.startswith("bad drive 7: ")]
    assert drive_claims(7, without) == []


def test_every_code_is_raised_by_the_product() -> None:
    assert [code.value for code in ReasonCode if not _raised(code)] == []


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


def _raised(code: ReasonCode) -> list[str]:
    """The product's files that name a code, by its member or by its value."""
    named = re.compile(rf"\b{code.name}\b|[\"']{code.value}[\"']")
    return [
        path
        for package in PACKAGES
        for path, text in sources(package).items()
        if not ABOUT_CODES.match(path) and named.search(text)
    ]

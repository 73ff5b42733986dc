"""Parameters of a claim: taken, or refused with a sentence that names what was wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from stages.options import BadParameter, parse_options, parse_text


class SelfTest(StrEnum):
    SHORT = "short"
    NONE = "none"


@dataclass(frozen=True)
class Options:
    duration_s: float = field(default=10.0, metadata={"minimum": 1, "maximum": 100})
    count: int | None = None
    strict: bool = False
    self_test: SelfTest = SelfTest.SHORT
    serials: tuple[str, ...] = ()


def test_defaults_without_parameters() -> None:
    assert parse_options(Options, "Storage", None) == Options()
    assert parse_options(Options, "Storage", {}) == Options()


def test_values_are_laid_over_the_defaults() -> None:
    raw = {"duration_s": 5, "count": 2.0, "strict": True, "self_test": "none", "serials": ["A", "B"]}
    assert parse_options(Options, "Storage", raw) == Options(5.0, 2, True, SelfTest.NONE, ("A", "B"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"durations": 5}, r"Storage has no parameter 'durations'; it has: count, duration_s"),
        ({"duration_s": "5"}, r"Storage\.duration_s must be a number, not '5' \(str\)"),
        ({"duration_s": True}, r"must be a number, not True"),
        ({"duration_s": None}, r"must be a number, not None"),
        ({"duration_s": float("nan")}, r"must be a number"),
        ({"duration_s": 0}, r"must be at least 1, not 0"),
        ({"duration_s": 1000}, r"must be at most 100"),
        ({"count": 1.5}, r"must be a whole number or null"),
        ({"strict": 1}, r"must be true or false"),
        ({"self_test": "long"}, r"must be one of 'short', 'none'"),
        ({"serials": "A"}, r"must be a list"),
        ({"serials": ["A", 1]}, r"must be a list"),
        ([1], r"must be an object"),
        ("x", r"must be an object"),
    ],
)
def test_bad_parameters_are_named(raw: object, says: str) -> None:
    with pytest.raises(BadParameter, match=says):
        parse_options(Options, "Storage", raw)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("duration_s", "5", 5),
        ("duration_s", "2.5", 2.5),
        ("count", "null", None),
        ("strict", "true", True),
        ("self_test", "none", "none"),
        ("serials", "A,B", ["A", "B"]),
    ],
)
def test_texts_of_a_command_line_become_values(name: str, text: str, value: object) -> None:
    got = parse_text(Options, "Storage", name, text)
    assert got == value
    parse_options(Options, "Storage", {name: got})

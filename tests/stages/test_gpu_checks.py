"""The arithmetic of the checks, run on the CPU from the very source that GPUs run: one wrong bit is always seen."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import cuda_driver

MOST = 2**24 - 1
WORDS = 16
KINDS = {"f32": ("<f", "<I", 32), "f64": ("<d", "<Q", 64), "s32": ("<i", "<I", 32)}


@pytest.fixture(scope="module")
def checks(pytestconfig: pytest.Config) -> ctypes.CDLL:
    library = ctypes.CDLL(str(cuda_driver.built(pytestconfig, cuda_driver.FOLDER / "checks.cpp")))
    for name in ("memory_word_of", "weight_of", "row_f32", "row_f64", "row_s32", "expected_of", "wrong_words"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


def row_sum(checks: ctypes.CDLL, kind: str, bits: list[int]) -> tuple[int, bool]:
    """The sum of a row, and whether a word in it is no whole number."""
    element: Any = ctypes.c_uint64 if kind == "f64" else ctypes.c_uint32
    broken = ctypes.c_uint32()
    total = getattr(checks, f"row_{kind}")((element * len(bits))(*bits), len(bits), ctypes.byref(broken))
    return int(total), bool(broken.value)


def bits_of(kind: str, values: list[int]) -> list[int]:
    value, word, _ = KINDS[kind]
    return [struct.unpack(word, struct.pack(value, one))[0] for one in values]


ROWS = st.lists(st.integers(-MOST, MOST), min_size=1, max_size=64)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data(), values=ROWS)
def test_any_flipped_bit_of_any_result_changes_the_check(
    checks: ctypes.CDLL, kind: str, data: st.DataObject, values: list[int]
) -> None:
    bits = bits_of(kind, values)
    before = row_sum(checks, kind, bits)
    assert not before[1]
    place = data.draw(st.integers(0, len(bits) - 1))
    bits[place] ^= 1 << data.draw(st.integers(0, KINDS[kind][2] - 1))
    after = row_sum(checks, kind, bits)
    assert after[1] or after[0] != before[0]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data(), values=ROWS, other=st.integers(-MOST, MOST))
def test_any_other_word_in_any_place_changes_the_check(
    checks: ctypes.CDLL, kind: str, data: st.DataObject, values: list[int], other: int
) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    changed = [*values[:place], other, *values[place + 1 :]]
    same = changed == values
    assert (row_sum(checks, kind, bits_of(kind, changed)) == row_sum(checks, kind, bits_of(kind, values))) is same


@settings(deadline=None)
@given(values=st.lists(st.integers(-MOST, MOST), min_size=2, max_size=16, unique=True))
def test_two_results_that_change_places_change_the_check(checks: ctypes.CDLL, values: list[int]) -> None:
    swapped = [values[1], values[0], *values[2:]]
    assert row_sum(checks, "f32", bits_of("f32", swapped)) != row_sum(checks, "f32", bits_of("f32", values))


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000, 0x80000000, 0x3F000000, 0x4F000000, 1])
def test_what_is_no_whole_number_is_always_wrong(checks: ctypes.CDLL, bits: int) -> None:
    """Not a number, infinities, negative zero, a half, 2^31, the least number that there is."""
    assert row_sum(checks, "f32", [bits])[1]


@settings(deadline=None, max_examples=25)
@given(row=st.integers(0, 40), n=st.integers(1, 24), k=st.integers(1, 24), most=st.sampled_from([1, 15, 127, 1000]))
def test_what_is_expected_is_what_the_product_gives(checks: ctypes.CDLL, row: int, n: int, k: int, most: int) -> None:
    def value(seed: int, index: int) -> int:
        return int(checks.value_of(seed, ctypes.c_uint64(index), most))

    values = [sum(value(11, row * k + at) * value(12, column * k + at) for at in range(k)) for column in range(n)]
    assert all(-most <= value(11, index) <= most for index in range(64))
    expected = int(checks.expected_of(row, n, k, 11, 12, most))
    assert row_sum(checks, "f64", bits_of("f64", values)) == (expected, False)


def test_weights_are_odd_and_differ_from_column_to_column(checks: ctypes.CDLL) -> None:
    weights = [int(checks.weight_of(ctypes.c_uint64(column))) for column in range(8192)]
    assert all(weight % 2 for weight in weights)
    assert len(set(weights)) == len(weights)


def memory(checks: ctypes.CDLL, pattern: int, salt: int, first: int, count: int = WORDS) -> list[int]:
    return [
        int(checks.memory_word_of(pattern, ctypes.c_uint64(salt), ctypes.c_uint64(first + i))) for i in range(count)
    ]


def wrong(checks: ctypes.CDLL, words: list[int], pattern: int, salt: int, first: int) -> tuple[int, int]:
    place = ctypes.c_uint64()
    array = (ctypes.c_uint64 * len(words))(*words)
    numbers = (ctypes.c_uint64(len(words)), ctypes.c_uint64(first), pattern, ctypes.c_uint64(salt))
    return int(checks.wrong_words(array, *numbers, ctypes.byref(place))), place.value


@settings(deadline=None)
@given(
    pattern=st.integers(0, 5),
    salt=st.integers(0, 1000),
    first=st.integers(0, 2**36),
    place=st.integers(0, WORDS - 1),
    bit=st.integers(0, 63),
)
def test_any_flipped_bit_of_memory_is_counted_once_and_named(
    checks: ctypes.CDLL, pattern: int, salt: int, first: int, place: int, bit: int
) -> None:
    words = memory(checks, pattern, salt, first)
    assert wrong(checks, words, pattern, salt, first)[0] == 0
    words[place] ^= 1 << bit
    assert wrong(checks, words, pattern, salt, first) == (1, first + place)


@settings(deadline=None)
@given(first=st.integers(0, 2**36), other=st.integers(0, 2**36), salt=st.integers(0, 100))
def test_memory_that_answers_from_another_address_is_seen(
    checks: ctypes.CDLL, first: int, other: int, salt: int
) -> None:
    words = memory(checks, 0, salt, other, 2)
    assert (wrong(checks, words, 0, salt, first)[0] == 0) is (first == other)


@pytest.mark.parametrize("pattern", [0, 2, 4])
def test_each_odd_pattern_is_the_inverse_so_that_every_bit_holds_both(checks: ctypes.CDLL, pattern: int) -> None:
    even, odd = (memory(checks, pattern + half, 3, 1000, 128) for half in (0, 1))
    assert all(one ^ other == 2**64 - 1 for one, other in zip(even, odd, strict=True))

"""Which module a physical address lies on, by SMBIOS tables of real servers."""

from __future__ import annotations

import pytest

from probes.smbios import parse, slots_at
from tests.support.recordings import text

TWO_SOCKETS = text("dmidecode", "supermicro-two-socket-mapped.out")
FOUR = ("P1_DIMMA1", "P1_DIMMB1", "P1_DIMMC1", "P1_DIMMD1")


@pytest.mark.parametrize(
    ("address", "slots"),
    [
        (0, ("P1_DIMMA1",)),
        (0x3FFFFFFFF, ("P1_DIMMA1",)),
        (0x400000000, ("P1_DIMMB1",)),
        (0xFFFFFFFFF, ("P1_DIMMD1",)),
        (0x1000000000, ()),
    ],
)
def test_the_module_of_an_address(address: int, slots: tuple[str, ...]) -> None:
    assert slots_at(parse(TWO_SOCKETS), address) == slots


@pytest.mark.parametrize("position", ["1", "Unknown"])
def test_interleaved_modules_are_all_named(position: str) -> None:
    interleaved = TWO_SOCKETS.replace(
        "Partition Row Position: 1", f"Partition Row Position: 1\n\tInterleave Position: {position}"
    )
    assert set(slots_at(parse(interleaved), 0x400000000)) == set(FOUR)


def test_a_module_that_is_not_listed_leaves_it_open() -> None:
    assert slots_at(parse(text("dmidecode", "cisco-interleaved.out")), 0x1800000000) == ()


def test_tables_without_mapped_addresses_tell_nothing() -> None:
    assert slots_at(parse(text("dmidecode", "dell-ddr4.out")), 0) == ()


def test_addresses_in_kib_are_understood() -> None:
    """Modules above 4 TiB: dmidecode prints the extended address with a k."""
    table = TWO_SOCKETS.replace("0x00C00000000", "0x0000000003000000k").replace("0x00FFFFFFFFF", "0x0000000003FFFFFFk")
    assert slots_at(parse(table), 0xFFFFFFFFF) == slots_at(parse(table), 0xC00000000) == ("P1_DIMMD1",)

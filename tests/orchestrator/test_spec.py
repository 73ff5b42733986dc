"""Expected and found: each difference is one readable line, and what was not read is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.spec import Spec, differences

GOLDEN = Path(__file__).parents[1] / "fixtures" / "wire" / "result-request-inventory.json"
INVENTORY: dict[str, Any] = json.loads(GOLDEN.read_text())["inventory"]
RIGHT = {
    "cpu": {"model": "gold 6338", "sockets": 2, "physical_cores": 64, "logical_cores": 128},
    "memory_gib": 512,
    "disks": [{"size_gb": 960}, {"serial": "PHLN0123", "model": "intel"}],
    "nics": [{"mac": "52:54:00:12:34:56", "speed_mbps": 10000}],
    "gpus": [],
    "psus": 2,
    "exact": True,
}


def lines(spec: dict[str, Any], inventory: object = INVENTORY) -> list[str]:
    return differences(msgspec.convert(spec, Spec), inventory)


def test_a_host_that_is_as_it_should_be_differs_in_nothing() -> None:
    assert lines(RIGHT) == []
    assert lines({}) == []


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            {"cpu": {"model": "EPYC"}},
            "cpu model: expected EPYC, found Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
        ),
        ({"cpu": {"physical_cores": 128}}, "cpu physical cores: expected 128, found 64"),
        ({"memory_gib": 1024}, "memory: expected 1024 GiB, found 503.4 GiB"),
        ({"memory_gib": 256}, "memory: expected 256 GiB, found 503.4 GiB"),
        ({"disks": [{"serial": "GONE"}]}, "disks: expected 1 x disk serial GONE, found 0"),
        ({"disks": [{"size_gb": 960, "count": 2}]}, "disks: expected 2 x disk 960 GB, found 1"),
        (
            {"disks": [{"serial": "PHLN0123", "size_gb": 2000}]},
            "disks: expected 1 x disk 2000 GB serial PHLN0123, found 0",
        ),
        ({"disks": [{"count": 1}], "exact": True}, "disks: found one too many: nvme0n1 INTEL SSDPE2KX010T8 PHLN0123"),
        ({"nics": [{"speed_mbps": 25000}]}, "nics: expected 1 x NIC 25000 Mb/s, found 0"),
        ({"nics": [{"mac": "aa:aa:aa:aa:aa:aa"}]}, "nics: expected 1 x NIC aa:aa:aa:aa:aa:aa, found 0"),
        ({"gpus": [{"model": "H100", "count": 8}]}, "gpus: expected 8 x GPU H100, found 0"),
        ({"psus": 3}, "psus: expected 3, found 2"),
        ({"psus": 1, "exact": True}, "psus: expected 1, found 2"),
    ],
)
def test_a_difference_is_told_in_one_line(spec: dict[str, Any], line: str) -> None:
    assert lines(spec) == [line]


def test_the_disk_that_is_named_is_not_taken_for_any_other() -> None:
    spec = {"disks": [{"count": 1}, {"serial": "S4EVNX0R123456"}]}
    assert lines(spec) == []


@pytest.mark.parametrize("section", ["cpu", "memory", "disks", "nics", "gpus", "psus"])
@pytest.mark.parametrize("garbage", [None, 5, "x", [None], [5], {"model": 7}])
def test_what_could_not_be_read_is_a_difference_and_never_a_crash(section: str, garbage: object) -> None:
    spec = {**RIGHT, "gpus": [{"count": 1}]}
    inventory = {**INVENTORY, "gpus": [{"index": 0}], section: garbage}
    fine = section == "gpus" and garbage == {"model": 7}
    assert bool(lines(spec, inventory)) or fine
    assert lines(RIGHT, garbage) != []


def test_a_spec_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="corez"):
        msgspec.convert({"cpu": {"corez": 4}}, Spec)

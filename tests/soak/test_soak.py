"""That growth is found and steadiness left alone, and a short soak of the real ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.simulation.figures import Figures
from tests.soak.__main__ import Soaked, page_of, soak
from tests.soak.trend import LIMITS, MIB, Sample, Watch, trends
from tests.walk.rig import wait_for

WATCHED_S = 6.0


@contextlib.contextmanager
def subject(folder: Path, *leaks: str) -> Iterator[Watch]:
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "tests.soak.leaky", str(folder), *leaks])
    try:
        yield Watch(process.pid, folder, every_s=0.2)
    finally:
        process.kill()
        process.wait()


def test_a_leaking_process_is_found_and_a_steady_one_left_alone(tmp_path: Path) -> None:
    leaks = ("memory", "threads", "descriptors", "disk")
    with subject(tmp_path / "leaky", *leaks) as leaky, subject(tmp_path / "steady") as steady:
        wait_for(lambda: (tmp_path / "leaky" / "grows").exists(), "the first leak", 60)
        time.sleep(1.0)
        with leaky, steady:
            wait_for(lambda: min(len(leaky.samples), len(steady.samples)) >= WATCHED_S / 0.2, "the samples", 120)
    assert {one.limit.name for one in trends(leaky.samples) if one.grows} == set(leaks)
    assert [one.limit.name for one in trends(steady.samples) if one.grows] == []


def samples(rise: float) -> list[Sample]:
    values = [{"memory": 100 * MIB + rise * number, "tasks": 7.0 + (number % 2)} for number in range(100)]
    return [Sample(float(number), one) for number, one in enumerate(values)]


def test_only_the_second_half_counts_and_the_limit_is_where_it_is_said() -> None:
    memory = next(one for one in LIMITS if one.name == "memory")
    settled = [Sample(float(at), {"memory": min(at, 50) * MIB}) for at in range(100)]
    assert [one.grows for one in trends(settled)] == [False]
    below, above = (trends(samples(share * memory.most / 49)) for share in (0.95, 1.05))
    assert [one.grows for one in below] == [False, False]
    assert [one.grows for one in above] == [True, False]
    with pytest.raises(ValueError, match="too few"):
        trends(samples(0.0)[:5])


def test_a_machine_that_was_too_busy_says_nothing() -> None:
    figures = Figures()
    for _ in range(400):
        figures.note("heartbeat", 0.01, None)
    few = Soaked(minutes=10, pace=12, agents=4, figures=figures, of={"server": trends(samples(0.0))}, held=True)
    assert "only 2%" in few.complaints[0]
    for _ in range(20_000):
        figures.note("log", 0.01, None)
    assert few.complaints == []
    assert "Nothing grows" in page_of(few)


@pytest.mark.slow
@pytest.mark.root
def test_a_soak_of_ten_seconds_comes_to_its_end(tmp_path: Path) -> None:
    """Too short to say that nothing grows; the page says what was seen."""
    soaked = soak(tmp_path, 10 / 60, 12.0, 1, every_s=0.25)
    assert soaked.held
    page = page_of(soaked)
    for one in LIMITS:
        assert f"| server | {one.name} |" in page
        assert f"| agent in a hold | {one.name} |" in page

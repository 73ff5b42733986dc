"""The chart of each disk: a weak zone shows, and nothing that a zones.json may hold can harm the page."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import storage_judge_read
from tests.stages.test_storage_judge import JOBS, PLAN, RUN, SIZE, job
from tests.support.run_views import run_view
from tests.vetting_agent.test_report import Page
from vetting_agent import zones
from vetting_agent.report import Gathered, build
from vetting_agent.report_html import page
from vetting_agent.report_zones import zone_charts
from vetting_agent.verdict import Ending
from vetting_agent.zones import DiskZones

SLOW = job(PLAN.zones[2], 9000, slowest_ns=700_000_000)
WEAK_RUN = replace(RUN, jobs={**JOBS, "zone02": SLOW}, rechecked={"zone02": SLOW})


def evidence(run: storage_judge_read.ReadRun = WEAK_RUN) -> dict[str, object]:
    """As the stage writes it."""
    zones_of = storage_judge_read.zones_evidence(run)
    return {"disk:S1": {"name": "sda", "size_bytes": SIZE, "whole": True, "zones": zones_of}}


def disks(content: object) -> list[DiskZones]:
    return zones.parse(json.dumps(content).encode())


def test_a_weak_zone_shows_with_its_place_and_a_sound_disk_shows_none() -> None:
    [disk] = disks(evidence())
    assert zones.weak_zones(disk) == [2]
    [figure] = zone_charts([disk])
    assert figure.count('class="bar weak"') == 1
    assert figure.count('class="bar"') == 3
    assert "weak: " in figure
    assert "the slowest read" in figure
    [sound] = zone_charts(disks(evidence(RUN)))
    assert "weak" not in sound


def test_a_zone_that_was_slow_only_beside_others_is_not_weak() -> None:
    run = replace(WEAK_RUN, rechecked={"zone02": JOBS["zone02"]})
    assert zones.weak_zones(disks(evidence(run))[0]) == []


def test_a_zone_that_failed_or_gave_nothing_is_weak() -> None:
    jobs = {**JOBS, "zone01": replace(JOBS["zone01"], error=5)}
    del jobs["zone03"]
    [disk] = disks(evidence(replace(RUN, jobs=jobs)))
    assert zones.weak_zones(disk) == [1, 3]


def test_the_newest_storage_of_the_run_is_drawn_one_figure_a_disk(tmp_path: Path) -> None:
    old, new = tmp_path / "run-1/03-Storage", tmp_path / "run-1/07-Storage"
    for folder, content in ((old, {}), (new, {**evidence(), "disk:S2": {**evidence(RUN)["disk:S1"], "name": "sdb"}})):  # type: ignore[dict-item]
        folder.mkdir(parents=True)
        (folder / "zones.json").write_text(json.dumps(content))
    os.utime(old / "zones.json", (1, 1))
    found = zones.read(tmp_path)
    assert [disk.component for disk in found] == ["disk:S1", "disk:S2"]
    gathered = Gathered(
        run=run_view([]),
        ending=Ending(),
        host="h",
        profile="quick",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:01:00Z",
        zones=found,
    )
    made = Page(page(build(gathered)))
    assert made.tags.count("rect") == 4 + 4 + 1
    assert "disk:S1 (sda)" in made.text
    assert "disk:S2 (sdb)" in made.text
    assert not [name for name, _ in made.attributes if name.startswith("on")]


def test_without_evidence_there_is_no_chart(tmp_path: Path) -> None:
    assert zones.read(tmp_path) == []
    assert zones.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b"null", b"\xff", b'{"disk:S1": null}', b'{"disk:S1": {"name": "sda", "size_bytes": null}}'),
        b'{"d": {"name": "a", "size_bytes": 1, "zones": [{"offset": "x", "length": 1}]}}',
    ],
)
def test_garbage_costs_the_chart_only(text: bytes) -> None:
    assert zones.parse(text) == []


def test_a_hostile_name_stays_text() -> None:
    [figure] = zone_charts(disks({"disk:<script>x</script>": {**evidence()["disk:S1"], "name": '"><img>'}}))  # type: ignore[dict-item]
    assert "<script>" not in figure
    assert "<img>" not in figure
    Page(figure)


numbers = st.one_of(st.none(), st.floats(0, 1e9), st.integers(0, 10**15))
rows = st.builds(
    lambda offset, length, figures: {"offset": offset, "length": length, **figures},
    st.integers(0, 10**14),
    st.integers(0, 10**13),
    st.fixed_dictionaries(dict.fromkeys(("mb_s", "mb_s_again", "p50_ms", "p999_ms", "max_ms"), numbers)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(rows, min_size=1, max_size=8), st.integers(1, 10**14))
def test_whatever_the_figures_are_the_page_is_whole(zone_rows: list[dict[str, object]], size: int) -> None:
    for row in zone_rows:
        row["read_bytes"] = 1
    for figure in zone_charts(disks({"disk:S": {"name": "sda", "size_bytes": size, "zones": zone_rows}})):
        Page(figure)
        assert "nan" not in figure

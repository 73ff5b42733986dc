"""Siblings compared: the slow one is found, sound ones are spared, and with too few nobody says anything."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.baselines import RULES, Comparison, Figure, compared, kinds_of, rule_of
from orchestrator.steps import PeersReviewed
from stages import stage_named
from stages.outcome import ReasonCode
from tests.orchestrator.fleet import inventory_of, passed, saved_profile, vetted
from tests.orchestrator.making import Walk, found
from tests.orchestrator.served import Served
from tests.support.detection import detects, spares

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
VALUES = st.floats(min_value=1.0, max_value=1e6, allow_nan=False)
MEASURED = st.sampled_from([(stage, name.replace("*", "cpu")) for stage, name, _ in RULES])


STORAGE = ("Storage", "throughput")


def figures(values: Sequence[float], measured: tuple[str, str] = STORAGE, kind: str = "X") -> list[Figure]:
    return [Figure(f"n{number}", number, *measured, "disk:A", kind, one, "u") for number, one in enumerate(values)]


def judged(own: float, siblings: Sequence[float], measured: tuple[str, str] = STORAGE) -> list[Comparison]:
    return compared([Figure("own", 99, *measured, "disk:A", "X", own, "u")], figures(siblings, measured))


@SETTINGS
@given(VALUES, st.lists(VALUES, max_size=4), MEASURED)
def test_with_fewer_than_five_siblings_nobody_is_an_outlier(
    own: float, siblings: list[float], measured: tuple[str, str]
) -> None:
    assert judged(own, siblings, measured) == []


@SETTINGS
@given(st.floats(min_value=0, max_value=1e9), st.integers(5, 40), MEASURED)
def test_equal_figures_are_never_outliers(value: float, count: int, measured: tuple[str, str]) -> None:
    assert [one.is_outlier for one in judged(value, [value] * count, measured)] == [False]


@SETTINGS
@given(st.lists(VALUES, min_size=5, max_size=40), MEASURED)
def test_one_in_the_middle_or_on_the_good_side_is_no_outlier(siblings: list[float], measured: tuple[str, str]) -> None:
    rule = rule_of(*measured)
    assert rule is not None
    best = max(siblings) * 10 if rule.worse == "lower" else min(siblings) / 10
    for own in (best, sorted(siblings)[len(siblings) // 2]):
        assert not any(one.is_outlier for one in judged(own, siblings, measured))


@SETTINGS
@given(st.lists(st.floats(0.99, 1.01), min_size=5, max_size=40), VALUES, st.randoms(use_true_random=False), MEASURED)
def test_the_order_and_the_unit_decide_nothing(
    siblings: list[float], scale: float, chance: random.Random, measured: tuple[str, str]
) -> None:
    mixed = chance.sample(siblings, len(siblings))
    one, two = judged(0.5, siblings, measured), judged(0.5, mixed, measured)
    assert one == two
    if measured[1].startswith("latency"):
        return  # their least distance is in milliseconds
    scaled = judged(0.5 * scale, [value * scale for value in siblings], measured)
    assert [each.is_outlier for each in scaled] == [each.is_outlier for each in one]


@SETTINGS
@given(st.lists(st.floats(98.0, 102.0), min_size=5, max_size=40), st.integers(0, 2), MEASURED)
def test_one_at_a_quarter_is_found_even_beside_other_bad_ones(
    siblings: list[float], broken: int, measured: tuple[str, str]
) -> None:
    rule = rule_of(*measured)
    assert rule is not None
    bad = 25.0 if rule.worse == "lower" else 400.0
    if broken and len(siblings) < 9:
        return  # two of few are a good part of them
    assert [one.is_outlier for one in judged(bad, siblings + [bad] * broken, measured)] == [True]


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05, 0.10])
def test_sound_fleets_raise_no_alarm(noise: float) -> None:
    """5 to 40 hosts whose figures spread by up to 10 %: of a host's figures fewer than one in a thousand stand out."""
    chance = random.Random(7)
    alarms = tried = 0
    for _ in range(1500):
        count = chance.choice([5, 6, 8, 12, 20, 40])
        values = [chance.gauss(100, 100 * noise) for _ in range(count + 1)]
        alarms += sum(one.is_outlier for one in judged(values[0], values[1:]))
        tried += 1
    assert alarms <= tried / 1000, (alarms, tried)


def test_only_what_is_equal_is_compared() -> None:
    siblings = figures([500.0] * 10, kind="NVMe")
    slow = Figure("own", 99, "Storage", "throughput", "disk:A", "HDD", 100.0, "u")
    assert compared([slow], siblings) == []
    assert compared([Figure("own", 99, "Storage", "temperature", "disk:A", "NVMe", 100.0, "u")], siblings) == []
    twelve_disks = [Figure("n1", 1, "Storage", "throughput", f"disk:{n}", "HDD", 200.0, "u") for n in range(12)]
    assert compared([slow], twelve_disks) == [], "twelve disks of one host are one sibling"
    assert compared(siblings[:1], siblings[:5]) == [], "a host is not its own sibling"


def test_each_rule_is_of_a_measurement_that_a_stage_takes() -> None:
    for stage, name, rule in RULES:
        assert stage_named(stage) is not None
        assert rule.floor > 0.1
        assert rule_of(stage, name.replace("*", "matrixprod")) == rule
    assert rule_of("Storage", "coverage") is None


def test_a_part_without_a_model_has_no_kind() -> None:
    kinds = kinds_of(inventory_of(5))
    assert kinds["disk:DISK0005"] == kinds_of(inventory_of(6))["disk:DISK0006"]
    assert kinds_of({"cpu": {}, "disks": [{"serial": "A"}, 5], "nics": None, "memory": {"total_gib": 5}}) == {}
    assert kinds_of(None) == {}


def _findings(served: Served, run_id: int) -> list[tuple[str, str, str]]:
    view = served.run(run_id)
    return [(one["reason_code"], one["severity"], one["component"]) for one in view["run_findings"]]


@detects(ReasonCode.PEER_OUTLIER, "simulated hosts through the real server: one disk at a third of its siblings'")
@spares(ReasonCode.PEER_OUTLIER, "simulated hosts through the real server: seven that differ by one per cent")
def test_the_slow_host_of_a_fleet_is_found_and_sound_ones_are_not(served: Served) -> None:
    saved_profile(served, "fleet")
    sound = [vetted(served, number, hardware="fleet") for number in range(1, 8)]
    slow, state = vetted(served, 8, speed=0.33, hardware="fleet")
    assert state == "Completed", "a warning stops nothing"
    assert _findings(served, slow.run_id) == [("peer_outlier", "warning", "disk:DISK0008")]
    message = served.run(slow.run_id)["run_findings"][0]["message"]
    assert "throughput" in message
    assert "latency_p50" in message
    assert [_findings(served, agent.run_id) for agent, _ in sound] == [[]] * 7
    charts = served.operator.get("/profiles/fleet/baselines").json()
    assert {chart["name"] for chart in charts} == {"bogo_ops_cpu", "throughput", "latency_p50"}
    for chart in charts:
        assert len(chart["points"]) == 8
        far = [point["host"] for point in chart["points"] if point["outlier"]]
        assert far == ([] if chart["name"] == "bogo_ops_cpu" else ["node8"])
        assert chart["limit"] is not None


def test_one_that_passed_before_it_had_siblings_is_found_later(served: Served) -> None:
    saved_profile(served, "early")
    slow, _ = vetted(served, 11, speed=0.3, hardware="early")
    others = [vetted(served, number, hardware="early")[0] for number in range(12, 16)]
    assert _findings(served, slow.run_id) == [], "four siblings are too few"
    others.append(vetted(served, 16, hardware="early")[0])
    view = served.wait_for(slow.run_id, lambda view: view["run_findings"])
    assert (view["state"], view["run_findings"][0]["severity"]) == ("Completed", "warning")
    vetted(served, 17, hardware="early")
    assert [_findings(served, agent.run_id) for agent in others] == [[]] * 5
    assert len(_findings(served, slow.run_id)) == 1, "and is told once"


def test_where_the_profile_says_so_an_outlier_holds_until_it_is_mended(served: Served) -> None:
    saved_profile(served, "strict", "test_profile: quick\npeers: error\n")
    for number in range(21, 26):
        assert vetted(served, number, hardware="strict")[1] == "Completed"
    slow, state = vetted(served, 26, speed=0.3, hardware="strict")
    assert state == "FailedHolding"
    assert _findings(served, slow.run_id) == [("peer_outlier", "error", "disk:DISK0026")]
    assert not next(one for one in served.run(slow.run_id)["stages"] if one["stage"] == "Storage")["valid"]
    served.order(slow.run_id, "retry_stage", stage="Storage")
    slow.call("heartbeat")
    assert slow.call("result", passed("Storage", 26))["next_state"] == "Completed"
    assert _findings(served, slow.run_id) == []


def test_other_options_or_no_comparison_wanted_leave_a_host_alone(served: Served) -> None:
    saved_profile(served, "mixed", "test_profile: quick\n")
    for number in range(31, 37):
        vetted(served, number, hardware="mixed")
    own, _ = vetted(served, 37, speed=0.3, hardware="mixed", parameters={"Storage": {"duration_s": 77}})
    assert _findings(served, own.run_id) == [], "what was measured otherwise is not compared"
    saved_profile(served, "mixed", "test_profile: quick\npeers: off\n")
    silent, _ = vetted(served, 38, speed=0.3, hardware="mixed")
    assert _findings(served, silent.run_id) == []


def test_late_words_add_and_never_take_back() -> None:
    walk = Walk(["SMART"])
    walk.claim()
    late = PeersReviewed((found("warning", "peer_outlier"),))
    assert walk.take(late).repeated, "a run that goes on hears of its siblings with its own results"
    walk.pass_all()
    assert not walk.take(late).repeated
    assert walk.take(late).repeated
    assert walk.take(PeersReviewed(())).repeated
    assert len(walk.run.findings) == 1
    assert walk.run.is_completed

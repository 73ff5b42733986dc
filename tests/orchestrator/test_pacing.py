"""How often hosts are told to call: as usual, longer when there are very many, never other than the operator chose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent_service import AgentService
from orchestrator.evidence import EvidenceFolder
from orchestrator.liveness import QUIET_HEARTBEATS, Heard, liveness_of
from orchestrator.pacing import CALLS_PER_S, LONGEST_FACTOR, Pacer, calls_of, factor_for, paced
from orchestrator.pulse import Failure
from orchestrator.run_creation import RunRequest, WantedIntervals, new_run, request_again
from orchestrator.run_record import RELEASED, Intervals, Run
from orchestrator.runs import SILENT_HEARTBEATS
from orchestrator.sqlite_store import SqliteStore
from tests.orchestrator.served import Served, serving

NOW = "2026-11-21T09:30:00.000Z"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("crowded"), arguments=("--calls-per-second", "1")) as served:
        for _ in range(9):
            served.create(stages=["SMART"])  # none of them is claimed: they are expected all the same
        yield served


def a_run(**facts: object) -> Run:
    return Run(**{"run_id": 1, "host": "h", "token_hash": "", "created_at": NOW, "stages": ("Inventory",), **facts})  # type: ignore[arg-type]


def made(intervals: WantedIntervals | None) -> Run:
    return new_run(RunRequest(host="h", stages=["SMART"], intervals=intervals), 1, "", NOW)


def test_up_to_two_thousand_hosts_call_as_usual() -> None:
    assert factor_for(1, CALLS_PER_S) == factor_for(2000, CALLS_PER_S) == 1
    run = paced(made(None), 1)
    assert run.given_intervals is None
    assert run.pace == Intervals(heartbeat_s=10, sensor_s=5, log_s=2)


@pytest.mark.parametrize("hosts", [2001, 3000, 7777, 10_000, 12_000])
def test_more_hosts_call_less_often_and_keep_within_the_budget(hosts: int) -> None:
    run = paced(made(None), factor_for(hosts, CALLS_PER_S))
    assert hosts * calls_of(run.pace) <= CALLS_PER_S * 1.03, "intervals are rounded to a tenth of a second"


def test_ten_thousand_hosts_and_the_longest() -> None:
    assert paced(made(None), factor_for(10_000, CALLS_PER_S)).pace == Intervals(heartbeat_s=50, sensor_s=25, log_s=10)
    assert factor_for(10**6, CALLS_PER_S) == LONGEST_FACTOR


def test_what_the_operator_chose_stays_even_where_it_is_the_usual() -> None:
    run = paced(made(WantedIntervals(heartbeat_s=10, log_s=0.5)), 4)
    assert run.pace == Intervals(heartbeat_s=10, sensor_s=20, log_s=0.5)
    again = request_again(run).intervals
    assert again == WantedIntervals(heartbeat_s=10, log_s=0.5), (
        "a run like it has the same choice, not what it was told"
    )


def test_a_record_of_before_keeps_what_was_unusual() -> None:
    old = a_run(intervals=Intervals(heartbeat_s=60))
    assert paced(old, 3).pace == Intervals(heartbeat_s=60, sensor_s=15, log_s=6)
    assert request_again(old).intervals == WantedIntervals(heartbeat_s=60)


def test_a_later_claim_with_fewer_hosts_is_told_the_usual_again() -> None:
    crowded = paced(made(None), 5)
    assert crowded.given_intervals is not None
    assert paced(crowded, 5) is crowded
    assert paced(crowded, 1).given_intervals is None


def test_counted_are_the_runs_that_are_not_over_once_a_second() -> None:
    waiting = [a_run(run_id=number) for number in range(10)]
    gone = [a_run(run_id=11, state=RELEASED), a_run(run_id=12, powered_off=True)]
    pacer = Pacer(calls_per_s=4)
    assert pacer.factor([*waiting, *gone], 100.0) == 2
    assert pacer.factor([], 100.5) == 2
    assert pacer.factor([], 101.5) == 1


async def test_silence_is_counted_in_the_heartbeats_that_were_told(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    service = AgentService(store, EvidenceFolder(tmp_path / "evidence"), started_at=-1e9)
    run = a_run(instance_id="one", given_intervals=Intervals(heartbeat_s=10**6))
    service.heard_at[1] = 0.0
    assert not service.is_silent(run)
    service.heard_at[1] = -SILENT_HEARTBEATS * 10.0**7
    assert service.is_silent(run)
    await store.close()


def test_a_host_that_calls_seldom_is_not_taken_for_refused() -> None:
    run = a_run(instance_id="one", given_intervals=Intervals(heartbeat_s=50))
    stranger = Failure(90.0, NOW, "heartbeat", "wrong_token", "no", "")
    silent = Heard(now=100.0, at=100 - QUIET_HEARTBEATS * 50 + 1, auth=stranger)
    assert liveness_of(run, silent).state == "healthy"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, (60, 30, 12)),
        ({"intervals": {"heartbeat_s": 7}}, (7, 30, 12)),
        ({"intervals": {"heartbeat_s": 10, "sensor_s": 5, "log_s": 2}}, (10, 5, 2)),
    ],
)
def test_the_claim_of_a_crowded_server(crowded: Served, asked: dict[str, object], told: tuple[float, ...]) -> None:
    claim = crowded.create(stages=["SMART"], **asked).claim()
    assert tuple(claim[f"{name}_interval_s"] for name in ("heartbeat", "sensor", "log")) == told

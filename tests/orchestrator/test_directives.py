"""Orders: which are allowed when, how they are repeated, acknowledged and refused. Pure."""

from __future__ import annotations

import pytest

from orchestrator.steps import Refusal, WentSilent
from tests.orchestrator.making import Walk


def claimed(**facts: object) -> Walk:
    walk = Walk(**facts)  # type: ignore[arg-type]
    walk.claim()
    return walk


def held(**facts: object) -> Walk:
    walk = claimed(**facts)
    walk.pass_all(until="Storage")
    walk.post("Storage", "fail")
    return walk


def completed() -> Walk:
    walk = claimed(stages=["SMART"])
    walk.pass_all()
    return walk


def why_not(walk: Walk, cmd: str, stage: str | None = None, **how: object) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        walk.order(cmd, stage, **how)
    return caught.value.status, caught.value.code


def test_a_directive_is_repeated_until_it_is_acknowledged() -> None:
    walk = claimed()
    cmd_id = walk.order("cancel_stage")
    assert [walk.beat(), walk.beat()] == ["cancel_stage", "cancel_stage"]
    assert walk.beat("another", "done") == "cancel_stage"
    assert walk.beat(cmd_id, "perhaps") == "cancel_stage"
    assert walk.beat(cmd_id, "refused") == ""
    assert walk.run.directives[0].status == "refused"
    assert walk.beat(cmd_id, "done") == ""
    assert walk.run.directives[0].status == "refused", "the first word stands"


def test_a_refused_directive_can_be_given_again() -> None:
    walk = held()
    walk.beat(walk.order("retry_stage"), "refused")
    assert walk.run.retry_stage is None
    assert walk.order("retry_stage") != walk.run.directives[0].cmd_id


@pytest.mark.parametrize("make", [claimed, completed])
def test_a_stage_is_retried_in_a_hold_only(make: object) -> None:
    assert why_not(make(), "retry_stage", "SMART") == (409, "not_holding")  # type: ignore[operator]


def test_what_a_retry_must_not_be() -> None:
    assert why_not(held(), "retry_stage", "Nonsense") == (422, "unknown_stage")
    assert why_not(held(stages=["Storage"]), "retry_stage", "PSU") == (422, "unknown_stage")
    assert why_not(held(), "retry_stage", "Storage", wipe=True) == (409, "non_destructive")
    assert why_not(held(non_destructive=False), "retry_stage", "SMART", wipe=True) == (422, "wipe_without_disks")
    assert why_not(held(), "retry_stage", "Storage", serials=["A"]) == (422, "serials_without_wipe")
    walk = held()
    walk.order("retry_stage")
    assert why_not(walk, "retry_stage") == (409, "retry_pending")


def test_a_wipe_names_its_disks() -> None:
    walk = held(non_destructive=False)
    walk.order("retry_stage", "Storage", wipe=True, serials=["A", "B"])
    flags = walk.run.directives[0].override_flags
    assert flags is not None
    assert (flags.wipe, flags.serials) == (True, ["A", "B"])
    assert walk.history[-1] == "retry_stage Storage, wiping A, B: waiting for the agent"


def test_a_retry_without_a_stage_means_the_one_that_failed() -> None:
    walk = held()
    walk.order("retry_stage")
    assert walk.run.directives[0].stage == "Storage"


@pytest.mark.parametrize(("make", "code"), [(held, "no_stage_running"), (completed, "no_stage_running")])
def test_only_a_running_stage_is_cancelled(make: object, code: str) -> None:
    assert why_not(make(), "cancel_stage") == (409, code)  # type: ignore[operator]


def test_a_retry_can_be_cancelled() -> None:
    walk = held()
    walk.order("retry_stage")
    walk.beat()
    walk.order("cancel_stage")
    assert walk.beat() == "cancel_stage"
    assert walk.post("Storage", "cancelled") == "Cancelled"


def test_a_run_that_nobody_claimed_is_cancelled_and_aborted_at_once() -> None:
    walk = Walk()
    assert why_not(walk, "shutdown") == (409, "not_claimed")
    walk.order("cancel_stage")
    assert walk.run.state == "Cancelled"
    walk = Walk()
    walk.order("abort")
    assert walk.run.state == "Aborted"


def test_an_abort_ends_the_run_when_the_agent_says_so_or_is_gone() -> None:
    walk = claimed()
    walk.beat(walk.order("abort"), "done")
    assert walk.run.state == "Aborted"
    walk = claimed()
    walk.order("abort")
    walk.beat()
    walk.take(WentSilent())
    assert walk.run.state == "Aborted"
    walk = claimed()
    walk.take(WentSilent())
    walk.order("abort")
    assert walk.run.state == "Aborted"


def test_what_was_completed_stays_completed_when_its_agent_is_ended() -> None:
    walk = completed()
    walk.beat(walk.order("abort"), "done")
    assert walk.run.state == "Completed"
    assert not walk.run.expects_calls


def test_nobody_is_told_anything_after_the_agent_was_ended() -> None:
    walk = completed()
    walk.beat()
    walk.beat(walk.run.directives[0].cmd_id, "done")
    assert why_not(walk, "shutdown") == (409, "agent_gone")
    assert why_not(walk, "abort") == (409, "agent_gone")
    walk = claimed()
    walk.beat(walk.order("shutdown"), "done")
    walk.order("cancel_stage")
    assert walk.run.state == "Cancelled"


def test_a_shutdown_in_a_hold_keeps_the_hold() -> None:
    walk = held()
    walk.beat(walk.order("shutdown"), "done")
    assert walk.run.state == "FailedHolding"
    walk.claim("two", boot="boot-2")
    assert walk.run.state == "FailedHolding"
    assert walk.run.findings == []


def test_an_order_that_ends_the_agent_overtakes_the_others() -> None:
    walk = held()
    walk.order("retry_stage")
    walk.beat()
    walk.order("abort")
    assert walk.beat() == "abort"


def test_a_cancel_that_was_acknowledged_explains_the_missing_result() -> None:
    walk = claimed()
    walk.beat(walk.order("cancel_stage"), "done")
    walk.take(WentSilent())
    assert walk.run.state == "Cancelled"
    walk = claimed()
    walk.beat(walk.order("cancel_stage"), "done")
    walk.claim("two", boot="boot-2")
    assert walk.run.state == "Cancelled"


def test_the_end_of_a_run_closes_what_was_still_waiting() -> None:
    walk = claimed()
    walk.order("cancel_stage")
    walk.order("shutdown")
    walk.post("Inventory", "cancelled")
    assert [one.status for one in walk.run.directives] == ["done", "refused"]
    assert why_not(walk, "abort") == (409, "run_over")


def test_unknown_words_are_refused() -> None:
    assert why_not(claimed(), "explode") == (422, "unknown_command")
    assert why_not(claimed(), "shutdown", wipe=True) == (422, "wipe_without_retry")

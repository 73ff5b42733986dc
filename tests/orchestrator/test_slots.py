"""The queue for the iperf3 server. Pure."""

from __future__ import annotations

from orchestrator.slots import FORGET_S, LEASE_S, SlotQueue

A, B, C = (1, "a"), (2, "b"), (3, "c")


def test_one_at_a_time_in_the_order_of_asking() -> None:
    queue = SlotQueue()
    assert queue.acquire(A, 0).granted
    assert [queue.acquire(B, 1).ahead, queue.acquire(C, 2).ahead] == [1, 2]
    queue.release(A)
    assert queue.acquire(C, 3).ahead == 1
    assert queue.acquire(B, 4).granted


def test_a_lease_lasts_as_long_as_it_is_renewed() -> None:
    queue = SlotQueue()
    queue.acquire(A, 0)
    assert queue.acquire(A, LEASE_S - 1).granted
    late = queue.acquire(B, LEASE_S + 1)
    assert (late.granted, late.expired) == (False, False)
    after = queue.acquire(B, 2 * LEASE_S)
    assert (after.granted, after.expired) == (True, True)
    assert not queue.acquire(A, 2 * LEASE_S).granted


def test_one_who_waits_without_asking_is_forgotten() -> None:
    queue = SlotQueue()
    queue.acquire(A, 0)
    queue.acquire(B, 0)
    queue.acquire(C, FORGET_S)
    queue.release(A)
    assert queue.acquire(C, FORGET_S + 1).granted


def test_a_run_that_ends_holds_nothing_and_waits_for_nothing() -> None:
    queue = SlotQueue()
    queue.acquire(A, 0)
    queue.acquire(B, 0)
    queue.acquire((1, "z"), 0)
    queue.release_run(1)
    assert queue.acquire(B, 1).granted
    assert list(queue.waiting) == []


def test_releasing_what_is_not_held_is_harmless() -> None:
    queue = SlotQueue()
    queue.acquire(A, 0)
    queue.release(B)
    assert queue.acquire(A, 1).granted

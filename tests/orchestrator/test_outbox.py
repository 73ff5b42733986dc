"""The outbox: bounded, kept with the change that it tells of, and given up only after a day."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.clock import later, now_text, seconds_between
from orchestrator.metrics import text_of
from orchestrator.outbox import FAILED, MOST_FAILED, PENDING, Delivery
from orchestrator.run_record import Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.store import Transaction
from orchestrator.webhook_events import WebhookEvent, events_of, host_event
from orchestrator.webhook_receivers import checked, name_of
from orchestrator.webhook_sending import Answer, Sender
from orchestrator.webhooks import Webhooks
from tests.orchestrator.making import START, Walk

A, B = "http://a.example/hook?key=1", "http://a.example/hook?key=2"


def _event(host: str = "h", now: str | None = None) -> WebhookEvent:
    run = Run(run_id=1, host=host, token_hash="x", created_at=START, stages=("Inventory",))
    return host_event("host.stalled", run, "stale", "silent", now or now_text())


async def _all(store: SqliteStore, receiver: str = A) -> list[Delivery]:
    return [delivery for delivery, _ in await store.outbox.due(receiver, later(now_text(), 3600), 100_000)]


async def test_an_event_goes_to_each_receiver_under_one_id(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A, B))
    await store.write(lambda transaction: transaction.outbox.add(_event()))
    (to_a, body_a), (to_b, body_b) = [(await store.outbox.due(one, now_text(), 10))[0] for one in (A, B)]
    assert (to_a.event_id, body_a) == (to_b.event_id, body_b)
    await store.write(lambda transaction: transaction.outbox.delivered(to_a))
    assert ([], [to_b]) == (await _all(store, A), await _all(store, B))
    await store.close()


async def test_totals_by_receiver_and_state_for_the_metrics(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A, B))
    old, new = later(now_text(), -3600), now_text()
    for moment in (old, new):
        await store.write(lambda transaction, moment=moment: transaction.outbox.add(_event(now=moment)))
    (first, _), _ = await store.outbox.due(B, now_text(), 10)
    await store.write(lambda transaction: transaction.outbox.put(replace(first, state=FAILED)))
    assert [(one.receiver, one.state, one.number, one.oldest_at) for one in await store.outbox.totals()] == [
        (A, PENDING, 2, old),
        (B, FAILED, 1, old),
        (B, PENDING, 1, new),
    ]
    page = (await text_of(store)).decode()
    assert f'vetting_webhook_pending{{receiver="{name_of(A)}"}} 2.0' in page
    assert f'vetting_webhook_failed{{receiver="{name_of(B)}"}} 1.0' in page
    (age,) = re.findall(rf'vetting_webhook_oldest_pending_seconds{{receiver="{name_of(A)}"}} (\S+)', page)
    assert 3600 <= float(age) < 7200
    assert "key=1" not in page, "a URL may be a secret"
    await store.close()


async def test_an_event_links_to_the_runs_page(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,))
    for console_url in (None, "https://vetting.example/"):
        store.link_to(console_url)
        await store.write(lambda transaction: transaction.outbox.add(_event()))
    bodies = [json.loads(body) for _, body in await store.outbox.due(A, now_text(), 10)]
    assert [one["data"]["run"]["url"] for one in bodies] == [None, "https://vetting.example/runs/1"]
    await store.close()


async def test_a_change_that_is_not_kept_is_not_told(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,))

    def work(transaction: Transaction) -> None:
        transaction.outbox.add(_event())
        raise ValueError("taken back")

    with pytest.raises(ValueError, match="taken back"):
        await store.write(work)
    assert await _all(store) == []
    await store.close()


async def test_a_full_outbox_drops_the_oldest_and_says_so(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A, B), most_waiting=3)
    for number in range(5):
        await store.write(lambda transaction, host=str(number): transaction.outbox.add(_event(host)))
    assert [one.state for one in await store.outbox.listed(100)].count(FAILED) == 4
    assert len(await _all(store, A)) == 3
    (_, oldest), *_rest = await store.outbox.due(A, now_text(), 10)
    assert b'"host":"2"' in oldest
    assert store.outbox.take_dropped() == 4
    assert store.outbox.take_dropped() == 0
    await store.close()


async def test_what_failed_is_kept_for_people_but_not_without_end(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,), most_waiting=1)

    def many(transaction: Transaction) -> None:
        for _ in range(MOST_FAILED + 50):
            transaction.outbox.add(_event())

    await store.write(many)
    states = [one.state for one in await store.outbox.listed(100_000)]
    assert (states.count(FAILED), len(states)) == (MOST_FAILED, MOST_FAILED + 1)
    await store.close()


async def test_after_a_day_an_event_is_given_up(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,))
    old, young = _event("old", later(now_text(), -90_000)), _event("young")
    for event in (old, young):
        await store.write(lambda transaction, event=event: transaction.outbox.add(event))
    gone = await store.write(lambda transaction: transaction.outbox.expire(later(now_text(), -86_400), "too late"))
    assert gone == 1
    assert [one.problem for one in await store.outbox.listed(10) if one.state == FAILED] == ["too late"]
    assert len(await _all(store)) == 1
    await store.close()


async def test_a_clock_that_was_set_back_holds_nothing_up(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,))
    await store.write(lambda transaction: transaction.outbox.add(_event(now=later(now_text(), 90_000))))
    assert len(await store.outbox.due(A, now_text(), 10)) == 1
    await store.close()


async def test_pauses_grow_from_seconds_to_an_hour_and_heed_the_receiver(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db", (A,))
    sender = Sender.of((b"x" * 32,))
    webhooks = Webhooks(store, sender, (A,))
    pauses = [webhooks.pause_s(attempt) for attempt in range(1, 40)]
    wanted = [5, 15, 45, 135, 405, 1215, 3600, 3600]
    assert pauses[:8] == pytest.approx(wanted, rel=0.11)
    assert max(pauses) < 3600 * 1.11
    await store.write(lambda transaction: transaction.outbox.add(_event()))
    (delivery,) = await _all(store)
    asked = webhooks.after(delivery, Answer("answered HTTP 503", 503, retry_after_s=600))
    assert seconds_between(now_text(), asked.due_at) == pytest.approx(600, abs=20)
    late = replace(delivery, created_at=later(now_text(), -86_000), attempts=20)
    assert webhooks.after(late, Answer("x")).state == FAILED
    await sender.client.aclose()
    await store.close()


def test_a_heartbeat_that_changes_nothing_tells_nothing() -> None:
    walk = Walk(["SMART"])
    walk.claim()
    before = walk.run
    walk.beat()
    assert events_of(before, walk.run, walk.now) == []


def test_a_reason_of_the_run_itself_comes_before_the_stages(tmp_path: Path) -> None:
    walk = Walk(["SMART"])
    walk.claim()
    before = walk.run
    walk.claim(instance="two", boot="boot-2")
    (event,) = events_of(before, walk.run, walk.now)
    assert event.type == "run.held"
    assert "rebooted" in event.data.reason
    assert [one.reason_code for one in event.data.findings] == ["host_rebooted"]


def test_a_receiver_is_named_without_what_lets_one_in() -> None:
    url = checked("https://hooks.example:8443/services/T0/secret?key=1")
    assert name_of(url).startswith("https://hooks.example:8443#")
    assert "secret" not in name_of(url)
    assert name_of(A) != name_of(B)

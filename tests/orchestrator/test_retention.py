"""Retention: old log lines and samples go, in small steps; nothing else does, and no number is given twice."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import retention
from orchestrator.clock import later, now_text
from orchestrator.retention import BATCH, LOGS, SAMPLES, Kept, span_of, sweep, words_for
from orchestrator.run_record import Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.store import Transaction
from tests.orchestrator.making import START
from tests.orchestrator.reports.test_report_commands import archive, send
from tests.orchestrator.served import Agent, Served
from vetting_agent.wire import LogLine, Sample

Start = Callable[..., Served]


def _line(number: int) -> LogLine:
    return LogLine(ts="2001-01-01T00:00:00.000Z", level="info", stage="", text=str(number), seq=number)


async def _store(path: Path, *, lines: int, marked_ago_s: float = 10.0) -> SqliteStore:
    """A run with so many lines and batches of samples, all of them before a mark."""
    store = SqliteStore.open(path)
    await store.write(
        lambda transaction: transaction.create_run(
            lambda run_id: Run(run_id=run_id, host="h", token_hash="x", created_at=START, stages=("Inventory",))
        )
    )

    def fill(transaction: Transaction) -> None:
        transaction.add_log_lines(1, "one", [_line(number) for number in range(1, lines + 1)])
        for number in range(lines):
            transaction.add_samples(1, [Sample(kind="temp", key="cpu", value=number, unit="C")], START)
        transaction.retention.mark(later(now_text(), -marked_ago_s))

    await store.write(fill)
    return store


async def _ids(store: SqliteStore) -> list[int]:
    return [line.id for line in await store.logs(1, 0, 100_000)]


async def test_what_was_taken_in_before_goes_and_the_rest_stays(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=50)
    await store.write(lambda transaction: transaction.add_log_lines(1, "one", [_line(51), _line(52)]))
    assert await sweep(store, LOGS, 20) == 0, "the mark is 10 s old"
    assert await sweep(store, LOGS, 5) == 50
    assert await _ids(store) == [51, 52]
    assert len((await store.samples(1, 0, 1000))[0]) == 50, "samples have a time of their own"
    assert await sweep(store, SAMPLES, 5) == 49
    await store.close()


async def test_without_a_mark_nothing_is_known_to_be_old(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=5, marked_ago_s=0)
    assert await sweep(store, LOGS, 3600) == 0
    assert len(await _ids(store)) == 5
    await store.close()


async def test_marks_outlive_the_server(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=5)
    await store.close()
    again = SqliteStore.open(tmp_path / "db")
    assert await sweep(again, LOGS, 5) == 4
    await again.close()


async def test_a_number_is_never_given_twice_even_when_all_is_old(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=20)
    assert await sweep(store, LOGS, 5) == 19
    await store.write(lambda transaction: transaction.add_log_lines(1, "one", [_line(21)]))
    assert await _ids(store) == [20, 21]
    await store.write(lambda transaction: transaction.retention.mark(later(now_text(), -8)))
    assert await sweep(store, LOGS, 5) == 1
    await store.close()


async def test_others_write_between_the_batches(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=8 * BATCH)
    between: list[int] = []
    sweeping = asyncio.create_task(sweep(store, LOGS, 5))
    while not sweeping.done():
        await store.write(lambda transaction: transaction.add_log_lines(1, "two", [_line(len(between) + 1)]))
        between.append(len(await store.logs(1, 0, 100_000)))
        await asyncio.sleep(0.01)
    assert await sweeping == 8 * BATCH
    steps = {(8 * BATCH - (left - number)) // BATCH for number, left in enumerate(between, start=1)}
    assert len(steps) >= 6, "after most batches somebody else wrote"
    await store.close()


async def test_marks_are_not_kept_for_ever_either(tmp_path: Path) -> None:
    store = await _store(tmp_path / "db", lines=1)
    for number in range(2, 30):
        line = _line(number)
        await store.write(lambda transaction, line=line: transaction.add_log_lines(1, "one", [line]))
        ago = -10 + number / 10
        await store.write(lambda transaction, ago=ago: transaction.retention.mark(later(now_text(), ago)))
    await sweep(store, LOGS, 5)
    await store.close()
    with sqlite3.connect(tmp_path / "db") as database:
        assert database.execute("SELECT count(*) FROM marks WHERE kind = 'logs'").fetchone()[0] == 1
    database.close()


def test_spans_are_read_and_said() -> None:
    assert [span_of(text) for text in ("90d", "12h", "30m", "45s", "2w", "forever")] == [
        90 * 86400,
        12 * 3600,
        1800,
        45,
        14 * 86400,
        None,
    ]
    for text in ("", "90", "0d", "-1d", "d", "1.5d", "1y", "999999999w", "٣d"):
        with pytest.raises(ValueError, match="forever"):
            span_of(text)
    assert [words_for(span) for span in (90 * 86400, 14 * 86400, 1800, 45)] == ["90d", "2w", "30m", "45s"]
    assert Kept().spans == {"logs": 90 * 86400, "samples": 30 * 86400}
    assert Kept(None, None).spans == {}
    assert retention.MARKS_IN_KEPT > 1


def _until_gone(served: Served, agent: Agent, path: str, left: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        rows = served.operator.get(f"/runs/{agent.run_id}/{path}").json()
        if len(rows["samples"] if path == "samples" else rows) <= left:
            return
        assert time.monotonic() < deadline, rows
        time.sleep(0.1)


def test_a_server_forgets_logs_and_samples_and_nothing_else(start: Start) -> None:
    served = start(arguments=("--keep-logs", "2s", "--keep-samples", "forever"))
    agent = served.create(host="old", stages=["Storage"])
    agent.claim()
    agent.post("Inventory")
    send(agent, archive(notes_txt=b"evidence"))
    agent.call(
        "log", {"lines": [{"ts": "t", "level": "info", "stage": "", "text": "x", "seq": n} for n in range(1, 9)]}
    )
    agent.call("sensor", {"samples": [{"kind": "temp", "key": "cpu", "value": 50.0, "unit": "C"}]})
    agent.post("Storage", "fail")
    before = served.run(agent.run_id)
    pieces = served.operator.get(f"/runs/{agent.run_id}/evidence").json()
    _until_gone(served, agent, "logs", 1)
    after = served.run(agent.run_id)
    assert after == before
    assert after["stages"][1]["summary"]["findings"]
    assert served.operator.get(f"/runs/{agent.run_id}/evidence").json() == pieces
    assert served.operator.get(f"/runs/{agent.run_id}/evidence/{pieces[0]['id']}").status_code == 200
    assert len(served.operator.get(f"/runs/{agent.run_id}/samples").json()["samples"]) == 1
    assert served.end() == 0
    assert "INFO retention: 7 log lines older than 2s were deleted" in served.stderr()


def test_a_span_that_is_none_is_refused(tmp_path: Path) -> None:
    from orchestrator.__main__ import main

    assert main(["serve", "--data", str(tmp_path / "data"), "--keep-logs", "ninety days"]) == 2
    assert not (tmp_path / "data").exists()

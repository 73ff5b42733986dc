"""The store: writes that stand together or not at all, and answers only after the commit."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from orchestrator.run_record import Run
from orchestrator.schema import MIGRATIONS, SchemaTooNew
from orchestrator.sqlite_store import SqliteStore
from orchestrator.store import Status, StoreFailed, Transaction
from tests.orchestrator.making import START
from vetting_agent.wire import LogLine


def _run(run_id: int) -> Run:
    return Run(run_id=run_id, host="h", token_hash="x", created_at=START, stages=("Inventory",))


def _create(transaction: Transaction) -> Run:
    return transaction.create_run(_run)


async def test_a_run_is_there_for_others_once_it_is_committed(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    run = await store.write(_create)
    assert store.find_run(run.run_id) == run
    with sqlite3.connect(tmp_path / "db") as other:
        assert other.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    other.close()
    await store.close()


async def test_many_writes_at_once_share_commits_and_see_each_other(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    run_id = (await store.write(_create)).run_id

    def count_up(transaction: Transaction) -> int:
        run = transaction.run(run_id)
        more = Run(**{**{name: getattr(run, name) for name in run.__struct_fields__}, "resumes": run.resumes + 1})
        transaction.put_run(more)
        return more.resumes

    seen = await asyncio.gather(*(store.write(count_up) for _ in range(500)))
    assert sorted(seen) == list(range(1, 501))
    stored = store.find_run(run_id)
    assert stored is not None
    assert stored.resumes == 500
    await store.close()
    again = SqliteStore.open(tmp_path / "db")
    assert again.find_run(run_id) == stored
    await again.close()


async def test_a_write_that_raises_leaves_nothing_and_harms_no_other(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    run_id = (await store.write(_create)).run_id

    def broken(transaction: Transaction) -> None:
        transaction.put_status(run_id, Status(last_seen_at="never"))
        transaction.create_run(_run)
        raise ValueError("no")

    def line(transaction: Transaction) -> None:
        transaction.add_log_lines(run_id, "i", [LogLine(ts="t", level="info", stage="", text="x", seq=1)])

    results = await asyncio.gather(store.write(line), store.write(broken), store.write(line), return_exceptions=True)
    assert [type(one) for one in results] == [type(None), ValueError, type(None)]
    assert store.status(run_id) is None
    assert len(store.runs()) == 1
    assert [one.text for one in await store.logs(run_id, 0, 10)] == ["x"]
    await store.close()
    again = SqliteStore.open(tmp_path / "db")
    assert (len(again.runs()), again.status(run_id)) == (1, None)
    await again.close()


async def test_a_database_that_fails_is_told_to_each_writer_and_forgotten(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    run_id = (await store.write(_create)).run_id

    def impossible(transaction: Transaction) -> None:
        transaction.put_status(run_id, Status(last_seen_at="never"))
        transaction.put_status(10**6, Status(last_seen_at="never"))  # no such run: a broken reference

    with pytest.raises(StoreFailed):
        await store.write(impossible)
    assert store.status(run_id) is None
    await store.write(lambda transaction: transaction.put_status(run_id, Status(last_seen_at="now")))
    assert store.status(run_id) == Status(last_seen_at="now")
    await store.close()
    with pytest.raises(StoreFailed):
        await store.write(_create)


async def test_one_who_stops_waiting_does_not_stop_the_write(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    task = asyncio.create_task(store.write(_create))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.write(_create)
    assert len(store.runs()) == 2
    await store.close()


def test_a_database_of_the_future_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as made:
        made.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    made.close()
    with pytest.raises(SchemaTooNew):
        SqliteStore.open(tmp_path / "db")

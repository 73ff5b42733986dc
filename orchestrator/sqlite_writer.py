"""The one writer: a thread that takes all waiting writes into one transaction and answers them when it is durable.

While one commit waits for the disk, the next writes gather; so the number of disk flushes does not grow with the
number of hosts. Each write has a savepoint: one that raises takes back only itself. Rows that decide nothing come
without one, and those of all hosts go into the same statements.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.sqlite_bulk import Insert, Rows
from orchestrator.store import StoreFailed

BATCH_LIMIT = 2048
BUSY_WRITES = 4
"""A batch of so many says that more will come: the next one waits a little for them, for a commit costs the same."""
GATHER_S = 0.004

Work = Callable[[], Any]


@dataclass(slots=True)
class _Write:
    work: Work | Rows
    answered: asyncio.Future[Any]
    result: Any = None
    problem: BaseException | None = None


class GroupCommitter:
    """Runs `work` functions on the thread that owns the writing connection."""

    def __init__(self, connection: sqlite3.Connection, on_commit: Callable[[], None], on_rollback: Callable[[], None]):
        self._connection = connection
        self._on_commit = on_commit
        self._on_rollback = on_rollback
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="store-writer", daemon=True)
        self._closed = False
        self._busy = False

    def start(self) -> None:
        self._thread.start()

    async def submit(self, work: Work | Rows) -> Any:
        """The answer of `work` (None for rows), once it is committed."""
        if self._closed:
            raise StoreFailed("the store is closed")
        write = _Write(work, asyncio.get_running_loop().create_future())
        self._queue.put(write)
        return await write.answered

    async def close(self) -> None:
        """Commit what waits, and end the thread."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._commit(batch)
            for loop in {write.answered.get_loop() for write in batch}:
                loop.call_soon_threadsafe(_answer, batch)
        self._connection.close()

    def _next_batch(self) -> list[_Write] | None:
        first = self._queue.get()
        if first is None:
            return None
        if self._busy:
            time.sleep(GATHER_S)
        batch = [first]
        while len(batch) < BATCH_LIMIT:
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                break
            if write is None:
                self._queue.put(None)
                break
            batch.append(write)
        self._busy = len(batch) >= BUSY_WRITES
        return batch

    def _commit(self, batch: list[_Write]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                if not isinstance(write.work, Rows):
                    self._attempt(write, write.work)
            self._insert([write.work for write in batch if isinstance(write.work, Rows)])
            self._connection.execute("COMMIT")
        except sqlite3.Error as problem:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._on_rollback()
            for write in batch:
                write.problem = StoreFailed(str(problem))
        else:
            self._on_commit()

    def _insert(self, all_rows: list[Rows]) -> None:
        values: dict[Insert, list[Any]] = {}
        for rows in all_rows:
            values.setdefault(rows.insert, []).extend(rows.values)
            if rows.then is not None:
                rows.then()
        for insert, flat in values.items():
            insert.run(self._connection, flat)

    def _attempt(self, write: _Write, work: Work) -> None:
        self._connection.execute("SAVEPOINT one")
        try:
            write.result = work()
        except sqlite3.Error:
            raise  # the database itself is in trouble: the whole batch fails and is tried again by its senders
        except Exception as problem:
            write.problem = problem
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")


def _answer(batch: list[_Write]) -> None:
    for write in batch:
        if write.answered.done():
            continue  # the one who asked has gone
        if write.problem is not None:
            write.answered.set_exception(write.problem)
        else:
            write.answered.set_result(write.result)

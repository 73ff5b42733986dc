"""The embedded database: SQLite in WAL mode, every commit flushed to the disk before it is answered.

Runs and statuses are kept in memory beside it, as last committed, so that checking a token or reading a state costs
no query. All writes go through one thread (sqlite_writer.py), all queries through another with its own connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from orchestrator.outbox import MOST_WAITING
from orchestrator.run_record import Record, Run
from orchestrator.schema import migrate
from orchestrator.sqlite_bulk import LOG, SAMPLES, STATUS, Rows
from orchestrator.sqlite_outbox import SqliteOutbox, SqliteOutboxWriter
from orchestrator.sqlite_retention import SIZE, SqliteRetention
from orchestrator.sqlite_rows import DOCUMENT, DOCUMENTS, HOLD_KEY, LOG_COLUMNS, hold_key_of, log_filter, log_view
from orchestrator.sqlite_writer import GroupCommitter
from orchestrator.store import ROW_BYTES, AuditEntry, EvidenceRecord, HoldKey, Status, StoreFailed, Transaction
from vetting_agent.run_view import EventView, LogView, SampleView
from vetting_agent.wire import LogLine, ResultRequest, Sample

T = TypeVar("T")
D = TypeVar("D", bound=Record)
_run_of = msgspec.json.Decoder(Run).decode
_status_of = msgspec.json.Decoder(Status).decode
_result_of = msgspec.json.Decoder(ResultRequest).decode
_samples_of = msgspec.json.Decoder(list[SampleView]).decode
_json = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Changed:
    """Runs and statuses that were written and are not committed yet."""

    runs: dict[int, Run] = field(default_factory=dict)
    statuses: dict[int, Status] = field(default_factory=dict)

    def update(self, other: _Changed) -> None:
        self.runs.update(other.runs)
        self.statuses.update(other.statuses)

    def clear(self) -> None:
        self.runs.clear()
        self.statuses.clear()


def _log_values(run_id: int, instance_id: str, lines: Sequence[LogLine]) -> list[Any]:
    values: list[Any] = []
    for one in lines:
        values += (run_id, instance_id, one.seq, one.ts, one.level, one.stage, one.text)
    return values


def _sample_values(run_id: int, samples: Sequence[Sample], received_at: str) -> tuple[Any, ...]:
    batch = [
        SampleView(ts=one.ts or received_at, kind=one.kind, key=one.key, value=one.value, unit=one.unit)
        for one in samples
    ]
    return (run_id, _json(batch)) if batch else ()


class _Transaction:
    """One write: it sees what is committed, what earlier writes of its batch left, and its own changes."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        committed: Mapping[int, Run],
        batch: Mapping[int, Run],
        outbox: SqliteOutboxWriter,
    ) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._committed = committed
        self._batch = batch
        self.changed = _Changed()
        self.outbox = outbox

    @property
    def retention(self) -> SqliteRetention:
        return SqliteRetention(self._connection)

    def run(self, run_id: int) -> Run:
        for known in (self.changed.runs, self._batch):
            if run_id in known:
                return known[run_id]
        return self._committed[run_id]

    def create_run(self, make: Callable[[int], Run]) -> Run:
        run_id = self._execute("INSERT INTO runs (record) VALUES (x'')").lastrowid
        assert run_id is not None
        run = make(run_id)
        self.put_run(run)
        return run

    def put_run(self, run: Run) -> None:
        self._execute("UPDATE runs SET record = ? WHERE run_id = ?", (_json(run), run.run_id))
        self.changed.runs[run.run_id] = run

    def put_status(self, run_id: int, status: Status) -> None:
        STATUS.run(self._connection, (run_id, _json(status)))
        self.changed.statuses[run_id] = status

    def put_result(self, run_id: int, result_id: str, request: ResultRequest, received_at: str) -> None:
        row = (run_id, result_id, request.stage, received_at, _json(request))
        self._execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", row)

    def add_event(self, run_id: int, event: EventView) -> None:
        row = (run_id, event.ts, event.kind, event.text)
        self._execute("INSERT INTO events (run_id, ts, kind, text) VALUES (?, ?, ?, ?)", row)

    def count_events(self, run_id: int, kinds: Collection[str]) -> int:
        marks = ", ".join("?" * len(kinds))
        query = f"SELECT count(*) FROM events WHERE run_id = ? AND kind IN ({marks})"  # noqa: S608  # question marks
        return int(self._execute(query, (run_id, *kinds)).fetchone()[0])

    def add_log_lines(self, run_id: int, instance_id: str, lines: Sequence[LogLine]) -> None:
        LOG.run(self._connection, _log_values(run_id, instance_id, lines))

    def add_samples(self, run_id: int, samples: Sequence[Sample], received_at: str) -> None:
        SAMPLES.run(self._connection, _sample_values(run_id, samples, received_at))

    def hold_key(self, run_id: int) -> HoldKey | None:
        return hold_key_of(self._execute(HOLD_KEY, (run_id,)).fetchone())

    def put_hold_key(self, run_id: int, key: HoldKey) -> None:
        row = (run_id, key.private_key, key.authorized_key, key.expires_at)
        self._execute("INSERT OR REPLACE INTO hold_keys VALUES (?, ?, ?, ?)", row)

    def add_evidence(self, run_id: int, record: EvidenceRecord) -> None:
        row = (run_id, record.stage, record.result_id, record.sha256, record.size, record.received_at)
        self._execute(
            "INSERT OR IGNORE INTO evidence (run_id, stage, result_id, sha256, size, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )

    def document(self, kind: type[D], key: str) -> D | None:
        row = self._execute(DOCUMENT, (kind.__name__, key)).fetchone()
        return msgspec.json.decode(row[0], type=kind) if row else None

    def documents(self, kind: type[D]) -> list[D]:
        return [msgspec.json.decode(body, type=kind) for (body,) in self._execute(DOCUMENTS, (kind.__name__,))]

    def put_document(self, key: str, document: Record) -> None:
        row = (type(document).__name__, key, _json(document))
        self._execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", row)

    def drop_document(self, kind: type[Record], key: str) -> None:
        self._execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind.__name__, key))

    def add_audit(self, entry: AuditEntry) -> None:
        self._execute("INSERT INTO audit (ts, entry) VALUES (?, ?)", (entry.ts, _json(entry)))


class SqliteStore:
    """See `orchestrator.store.Store`. Open it with `SqliteStore.open(path)`."""

    def __init__(self, writing: sqlite3.Connection, path: Path, receivers: Sequence[str], most_waiting: int) -> None:
        self._writing = writing
        self._path = path
        self._committed = _Changed(
            {
                run_id: _run_of(record)
                for run_id, record in writing.execute("SELECT run_id, record FROM runs ORDER BY 1")
            },
            {run_id: _status_of(one) for run_id, one in writing.execute("SELECT run_id, status FROM statuses")},
        )
        self._batch = _Changed()
        self._writer = GroupCommitter(writing, self._publish, self._batch.clear)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-reader")
        self._reading: sqlite3.Connection | None = None
        self._closed = False
        self._outbox = SqliteOutboxWriter(writing, receivers, most_waiting)
        self.outbox = SqliteOutbox(self._query, self._outbox)

    @classmethod
    def open(cls, path: Path, receivers: Sequence[str] = (), most_waiting: int = MOST_WAITING) -> SqliteStore:
        """Open or create the database (mode 0600). Raises sqlite3.Error and SchemaTooNew.

        `receivers`: URLs of webhooks, for each of which at most so many events wait.
        """
        path.touch(mode=0o600)
        writing = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        writing.execute("PRAGMA journal_mode = WAL")
        writing.execute("PRAGMA synchronous = FULL")
        writing.execute("PRAGMA foreign_keys = ON")
        writing.execute("PRAGMA busy_timeout = 5000")
        migrate(writing)
        store = cls(writing, path, receivers, most_waiting)
        store._writer.start()
        return store

    def link_to(self, console_url: str | None) -> None:
        """Where people see runs: events for webhooks name the page from now on."""
        self._outbox.console_url = console_url

    def runs(self) -> list[Run]:
        return list(self._committed.runs.values())

    def find_run(self, run_id: int) -> Run | None:
        return self._committed.runs.get(run_id)

    def status(self, run_id: int) -> Status | None:
        return self._committed.statuses.get(run_id)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return cast(T, await self._writer.submit(lambda: self._transact(work)))

    async def keep_status(self, run_id: int, status: Status) -> None:
        statuses = self._batch.statuses
        rows = Rows(STATUS, (run_id, _json(status)), lambda: statuses.__setitem__(run_id, status))
        await self._writer.submit(rows)

    async def keep_log_lines(self, run_id: int, instance_id: str, lines: Sequence[LogLine]) -> None:
        await self._writer.submit(Rows(LOG, _log_values(run_id, instance_id, lines)))

    async def keep_samples(self, run_id: int, samples: Sequence[Sample], received_at: str) -> None:
        await self._writer.submit(Rows(SAMPLES, _sample_values(run_id, samples, received_at)))

    def _transact(self, work: Callable[[Transaction], T]) -> T:
        """On the writer's thread. A write that raises leaves nothing for the next ones of its batch to see."""
        transaction = _Transaction(self._writing, self._committed.runs, self._batch.runs, self._outbox)
        answer = work(transaction)
        self._batch.update(transaction.changed)
        return answer

    def _publish(self) -> None:
        self._committed.update(self._batch)
        self._batch.clear()

    async def kept_bytes(self, run_id: int, table: str) -> int:
        return int((await self._query(SIZE[table], ROW_BYTES, run_id))[0][0])

    async def result(self, run_id: int, result_id: str) -> ResultRequest | None:
        rows = await self._query("SELECT body FROM results WHERE run_id = ? AND result_id = ?", run_id, result_id)
        return _result_of(rows[0][0]) if rows else None

    async def events(self, run_id: int, limit: int) -> list[EventView]:
        rows = await self._query(
            "SELECT ts, kind, text FROM events WHERE run_id = ? ORDER BY id DESC LIMIT ?", run_id, limit
        )
        return [EventView(ts=ts, kind=kind, text=text) for ts, kind, text in reversed(rows)]

    async def logs(
        self, run_id: int, after: int, limit: int, *, stage: str | None = None, levels: Sequence[str] = ()
    ) -> list[LogView]:
        where, values = log_filter(stage, levels)
        query = f"SELECT {LOG_COLUMNS} FROM logs WHERE run_id = ? AND id > ?{where} ORDER BY id LIMIT ?"  # noqa: S608  # constants
        return [log_view(row) for row in await self._query(query, run_id, after, *values, limit)]

    async def log_tail(
        self, run_id: int, limit: int, *, stage: str | None = None, levels: Sequence[str] = ()
    ) -> list[LogView]:
        where, values = log_filter(stage, levels)
        query = f"SELECT {LOG_COLUMNS} FROM logs WHERE run_id = ?{where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # constants
        return [log_view(row) for row in reversed(await self._query(query, run_id, *values, limit))]

    async def last_log(self, run_id: int) -> LogView | None:
        query = f"SELECT {LOG_COLUMNS} FROM logs WHERE run_id = ? ORDER BY id DESC LIMIT 1"  # noqa: S608  # a constant
        rows = await self._query(query, run_id)
        return log_view(rows[0]) if rows else None

    async def new_logs(self, after: int, limit: int) -> list[tuple[int, LogView]]:
        query = f"SELECT run_id, {LOG_COLUMNS} FROM logs WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  # constants
        return [(row[0], log_view(row[1:])) for row in await self._query(query, after, limit)]

    async def samples(self, run_id: int, after: int, limit: int) -> tuple[list[SampleView], int]:
        query = "SELECT id, batch FROM samples WHERE run_id = ? AND id > ? ORDER BY id LIMIT ?"
        samples: list[SampleView] = []
        last = after
        for batch_id, batch in await self._query(query, run_id, after, limit):
            last = batch_id
            samples += _samples_of(batch)
            if len(samples) >= limit:
                break
        return samples, last

    async def recent_samples(self, run_id: int, batches: int) -> list[SampleView]:
        query = "SELECT batch FROM samples WHERE run_id = ? ORDER BY id DESC LIMIT ?"
        return [sample for (batch,) in await self._query(query, run_id, batches) for sample in _samples_of(batch)]

    async def hold_key(self, run_id: int) -> HoldKey | None:
        rows = await self._query(HOLD_KEY, run_id)
        return hold_key_of(rows[0] if rows else None)

    async def evidence(self, run_id: int) -> list[EvidenceRecord]:
        names = ("id", "stage", "result_id", "sha256", "size", "received_at")
        query = f"SELECT {', '.join(names)} FROM evidence WHERE run_id = ? ORDER BY id"  # noqa: S608  # constants
        return [EvidenceRecord(**dict(zip(names, row, strict=True))) for row in await self._query(query, run_id)]

    async def document(self, kind: type[D], key: str) -> D | None:
        rows = await self._query(DOCUMENT, kind.__name__, key)
        return msgspec.json.decode(rows[0][0], type=kind) if rows else None

    async def documents(self, kind: type[D]) -> list[D]:
        return [msgspec.json.decode(body, type=kind) for (body,) in await self._query(DOCUMENTS, kind.__name__)]

    async def audit(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        query = "SELECT id, entry FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?"
        rows = await self._query(query, 2**62 if before is None else before, limit)
        return [replace(msgspec.json.decode(entry, type=AuditEntry), id=number) for number, entry in rows]

    async def _query(self, query: str, *values: object) -> list[Any]:
        if self._closed:
            raise StoreFailed("the store is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, self._read, query, values)
        except sqlite3.Error as problem:
            raise StoreFailed(str(problem)) from problem

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        if self._reading is None:
            self._reading = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        return self._reading.execute(query, tuple(values)).fetchall()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader, self._close_reader)
        self._reader.shutdown()

    def _close_reader(self) -> None:
        if self._reading is not None:
            self._reading.close()

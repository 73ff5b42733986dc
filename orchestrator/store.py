"""What the orchestrator keeps, and the door to it: the types and protocols that a database must serve.

`sqlite_store.py` is the embedded one. Another database implements `Store` and `Transaction`, nothing else changes.
A write is a function that gets a Transaction: it may read the run, decide, and write; it is run alone, and its
answer is given out only when what it wrote is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from orchestrator.outbox import Outbox, OutboxWriter
from orchestrator.run_record import Record, Run
from vetting_agent.run_view import EventView, LogView, SampleView
from vetting_agent.wire import LogLine, ResultRequest, Sample

T = TypeVar("T")
D = TypeVar("D", bound="Record")


ROW_BYTES = 128
"""What a row takes beside its texts: its number, those of the run and of the agent, and its places in the indexes."""


class StoreFailed(Exception):
    """The database did not take a write or give an answer: disk full, I/O error, closed."""


class Status(Record, frozen=True, kw_only=True):
    """What the agent last said of itself in a heartbeat."""

    last_seen_at: str
    activity: str | None = None
    stage: str | None = None
    elapsed_s: float | None = None
    progress: float | None = None
    eta_s: float | None = None
    dropped_log_lines: int = 0


class HoldKey(Record, frozen=True, kw_only=True):
    """A run's key pair: the private key is OpenSSH text, the other one `authorized_keys` line."""

    private_key: str
    authorized_key: str
    expires_at: str


class EvidenceRecord(Record, frozen=True, kw_only=True):
    """One piece of evidence. Its file is named by its digest."""

    id: int
    stage: str
    result_id: str
    sha256: str
    size: int
    received_at: str


class AuditEntry(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One act of a person or program, or an attempt at one. `id` is given by the store."""

    ts: str
    author: str
    via: str
    """`session`, `token` or `socket`."""
    act: str
    subject: str = ""
    detail: str = ""
    outcome: str = "done"
    """`done`, `asked` (an agent has to acknowledge it) or `refused: CODE`."""
    correlation_id: str = ""
    address: str = ""
    id: int = 0


class RetentionWriter(Protocol):
    """What grows with time, inside a transaction. `table` is `logs` or `samples`."""

    def mark(self, now: str) -> None:
        """Note how far the tables have come."""
        ...

    def delete(self, table: str, before: str, limit: int) -> int:
        """Delete up to `limit` of the oldest rows that were taken in before a mark older than `before`; how many.

        The newest row of all stays: the numbers of rows never start anew.
        """
        ...


class Transaction(Protocol):
    """Reads and writes that happen together or not at all."""

    @property
    def outbox(self) -> OutboxWriter:
        """What others are told, as part of this write."""
        ...

    @property
    def retention(self) -> RetentionWriter: ...

    def run(self, run_id: int) -> Run:
        """The run as it stands in this transaction. KeyError when there is none."""
        ...

    def create_run(self, make: Callable[[int], Run]) -> Run:
        """Store a new run, made for the number it gets."""
        ...

    def put_run(self, run: Run) -> None: ...

    def put_status(self, run_id: int, status: Status) -> None: ...

    def put_result(self, run_id: int, result_id: str, request: ResultRequest, received_at: str) -> None: ...

    def add_event(self, run_id: int, event: EventView) -> None: ...

    def count_events(self, run_id: int, kinds: Collection[str]) -> int:
        """How many of these kinds the run's history has."""
        ...

    def add_log_lines(self, run_id: int, instance_id: str, lines: Sequence[LogLine]) -> None:
        """Keep lines; one whose (instance_id, seq) is there already is dropped."""
        ...

    def add_samples(self, run_id: int, samples: Sequence[Sample], received_at: str) -> None: ...

    def hold_key(self, run_id: int) -> HoldKey | None: ...

    def put_hold_key(self, run_id: int, key: HoldKey) -> None: ...

    def add_evidence(self, run_id: int, record: EvidenceRecord) -> None:
        """Keep a piece of evidence; `record.id` is replaced by the number it gets."""
        ...

    def document(self, kind: type[D], key: str) -> D | None:
        """A small record of its own (a user, a waiver), by its type's name and a key."""
        ...

    def documents(self, kind: type[D]) -> list[D]:
        """All records of this type, by key."""
        ...

    def put_document(self, key: str, document: Record) -> None: ...

    def drop_document(self, kind: type[Record], key: str) -> None: ...

    def add_audit(self, entry: AuditEntry) -> None: ...


class Store(Protocol):
    """The database as the rest of the orchestrator sees it."""

    @property
    def outbox(self) -> Outbox: ...

    def runs(self) -> list[Run]:
        """All runs as they were last committed, oldest first."""
        ...

    def find_run(self, run_id: int) -> Run | None:
        """A run as it was last committed. Does not wait."""
        ...

    def status(self, run_id: int) -> Status | None:
        """What the agent last said, as last committed. Does not wait."""
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Do `work` in a transaction and return its answer once it is on the disk.

        What `work` raises is raised here, and nothing of it is kept. Raises StoreFailed.
        """
        ...

    async def keep_status(self, run_id: int, status: Status) -> None:
        """A write that is nothing but `put_status`; cheaper, because it is done with those of other hosts."""
        ...

    async def keep_log_lines(self, run_id: int, instance_id: str, lines: Sequence[LogLine]) -> None:
        """The same of `add_log_lines`."""
        ...

    async def keep_samples(self, run_id: int, samples: Sequence[Sample], received_at: str) -> None:
        """The same of `add_samples`."""
        ...

    async def kept_bytes(self, run_id: int, table: str) -> int:
        """About how much there is of the run's `logs` or `samples`. Reads all of it."""
        ...

    async def result(self, run_id: int, result_id: str) -> ResultRequest | None: ...

    async def events(self, run_id: int, limit: int) -> list[EventView]:
        """The newest events, oldest first."""
        ...

    async def logs(
        self, run_id: int, after: int, limit: int, *, stage: str | None = None, levels: Sequence[str] = ()
    ) -> list[LogView]:
        """Lines with an id above `after`, oldest first; of one stage ("": outside stages) and some levels if given."""
        ...

    async def log_tail(
        self, run_id: int, limit: int, *, stage: str | None = None, levels: Sequence[str] = ()
    ) -> list[LogView]:
        """The newest lines, oldest first."""
        ...

    async def last_log(self, run_id: int) -> LogView | None: ...

    async def new_logs(self, after: int, limit: int) -> list[tuple[int, LogView]]:
        """Lines of all runs with an id above `after`, oldest first, each with its run. Ids only grow."""
        ...

    async def samples(self, run_id: int, after: int, limit: int) -> tuple[list[SampleView], int]:
        """Samples of batches with an id above `after`, until there are `limit`, and the last batch's id."""
        ...

    async def recent_samples(self, run_id: int, batches: int) -> list[SampleView]:
        """The samples of the newest batches, newest batch first."""
        ...

    async def hold_key(self, run_id: int) -> HoldKey | None: ...

    async def evidence(self, run_id: int) -> list[EvidenceRecord]: ...

    async def document(self, kind: type[D], key: str) -> D | None: ...

    async def documents(self, kind: type[D]) -> list[D]:
        """All records of this type, by key."""
        ...

    async def audit(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The newest entries with an id below `before`, newest first."""
        ...

    async def close(self) -> None:
        """Finish the writes that wait, and let go of the database."""
        ...

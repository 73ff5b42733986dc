"""How much of a run's log lines and samples is kept: a host that never stops talking must not fill the server's disk.

What is over the quota is acknowledged and dropped. Said once in the run's log and history, counted on its page. What
a run has is counted in memory; after a start, and now and then once the quota is reached, in the database.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from orchestrator.clock import now_text
from orchestrator.retention import LOGS, SAMPLES, WORDS
from orchestrator.run_record import Record
from orchestrator.store import ROW_BYTES, Store, Transaction
from vetting_agent.run_view import EventView
from vetting_agent.wire import LogLine, Sample

MIB = 2**20
SAMPLE_BYTES = 96
"""A sample's value, the time it came where it tells none, and the names of its fields."""
MOST_KNOWN = 50_000
"""Runs are counted anew that are older than so many."""
RECOUNT_S = 3600.0
"""Retention makes room again."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """Bytes of a run. A day of a large host's sensors is a few hundred MiB."""

    log_bytes: int = 256 * MIB
    sample_bytes: int = 2048 * MIB


class OverQuota(Record, frozen=True, kw_only=True):
    """How much of a run was dropped, by the run's number."""

    log_lines: int = 0
    samples: int = 0


@dataclass(slots=True)
class _Used:
    size: int
    counted_at: float
    full: bool = False


@dataclass(slots=True)
class RunQuota:
    """Tells what of a call is to be kept, and notes what is not."""

    store: Store
    quotas: Quotas
    _used: dict[tuple[str, int], _Used] = field(default_factory=dict)

    async def of_lines(self, run_id: int, lines: Sequence[LogLine]) -> Sequence[LogLine]:
        """Those that the run still has room for."""
        sizes = [ROW_BYTES + _length(one.ts, one.level, one.stage, one.text) for one in lines]
        fitting = await self._fitting(LOGS, run_id, sizes, self.quotas.log_bytes)
        if fitting < len(lines):
            await self._note(run_id, LOGS, len(lines) - fitting)
        return lines[:fitting]

    async def of_samples(self, run_id: int, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The same of samples; a batch is kept whole or not at all."""
        size = ROW_BYTES + sum(SAMPLE_BYTES + _length(one.ts or "", one.kind, one.key, one.unit) for one in samples)
        if await self._fitting(SAMPLES, run_id, [size], self.quotas.sample_bytes):
            return samples
        await self._note(run_id, SAMPLES, len(samples))
        return ()

    async def _fitting(self, table: str, run_id: int, sizes: Sequence[int], limit: int) -> int:
        """How many of the first of these fit; they are counted as kept."""
        used = self._used.get((table, run_id))
        if used is None or (used.full and time.monotonic() - used.counted_at > RECOUNT_S):
            kept = await self.store.kept_bytes(run_id, table)
            used = self._used[table, run_id] = _Used(kept, time.monotonic())
            if len(self._used) > MOST_KNOWN:
                del self._used[next(iter(self._used))]
        for number, size in enumerate(sizes):
            if used.size + size > limit:
                used.full = True
                return number
            used.size += size
        return len(sizes)

    async def _note(self, run_id: int, table: str, count: int) -> None:
        text = (
            f"this run has reached its quota of {WORDS[table]}: from here on they are acknowledged and dropped,"
            " and its page counts them"
        )

        def work(transaction: Transaction) -> None:
            before = transaction.document(OverQuota, str(run_id)) or OverQuota()
            name = "log_lines" if table == LOGS else "samples"
            after = replace(before, **{name: getattr(before, name) + count})
            transaction.put_document(str(run_id), after)
            if getattr(before, name) == 0:
                now = now_text()
                transaction.add_event(run_id, EventView(ts=now, kind="quota", text=text))
                transaction.add_log_lines(run_id, "", [LogLine(ts=now, level="warn", stage="", text=text)])

        await self.store.write(work)


def _length(*texts: str) -> int:
    """In bytes."""
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)

"""How long log lines and samples are kept. Runs, verdicts, findings and evidence are none of its business.

What counts is when the server took a line in, not what the host's clock said: from time to time a mark notes how far
the table has come, and what lies below a mark that is old enough goes, in small batches with pauses, so that the one
writer is never held for long.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

from orchestrator.clock import later, now_text
from orchestrator.store import Store, Transaction

log = logging.getLogger(__name__)
LOGS, SAMPLES = "logs", "samples"
WORDS = {LOGS: "log lines", SAMPLES: "batches of samples"}
BATCH = 1000
PAUSE_S = 0.05
MARK_EVERY_S = 3600.0
MARKS_IN_KEPT = 20
"""Of a short time there are marks more often, so that what is kept is at most a twentieth longer than was asked."""
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
FOREVER = "forever"
LONGEST_S = 100 * 366 * 86400.0
SPAN = re.compile(r"([1-9][0-9]{0,8})([smhdw])")


@dataclass(frozen=True, slots=True)
class Kept:
    """Seconds; None: for ever."""

    logs_s: float | None = 90 * 86400.0
    samples_s: float | None = 30 * 86400.0

    @property
    def spans(self) -> dict[str, float]:
        """By table, of those that are not kept for ever."""
        both = {LOGS: self.logs_s, SAMPLES: self.samples_s}
        return {table: span for table, span in both.items() if span is not None}


def span_of(text: str) -> float | None:
    """Seconds of `90d`, `12h`, `30m`, `2w`, `45s`; None for `forever`. ValueError says what is wrong."""
    if text == FOREVER:
        return None
    found = SPAN.fullmatch(text)
    if found is None or (seconds := int(found[1]) * UNITS_S[found[2]]) > LONGEST_S:
        raise ValueError(f"must be a number with s, m, h, d or w (90d), or {FOREVER}, not {text!r}")
    return seconds


async def keep_only(store: Store, kept: Kept) -> None:
    """Until cancelled."""
    spans = kept.spans
    pause_s = min([MARK_EVERY_S, *(span / MARKS_IN_KEPT for span in spans.values())])
    while spans:
        try:
            await store.write(_mark)
            for table, span in spans.items():
                if deleted := await sweep(store, table, span):
                    log.info("retention: %d %s older than %s were deleted", deleted, WORDS[table], words_for(span))
        except Exception:
            log.exception("retention failed; it is tried again")
        await asyncio.sleep(pause_s)


async def sweep(store: Store, table: str, span_s: float) -> int:
    """Delete what is older than the span; how many rows."""
    before, deleted = later(now_text(), -span_s), 0

    def work(transaction: Transaction) -> int:
        return transaction.retention.delete(table, before, BATCH)

    while batch := await store.write(work):
        deleted += batch
        await asyncio.sleep(PAUSE_S)
    return deleted


def words_for(span_s: float) -> str:
    """A span as it is given on the command line."""
    unit, length = next((one for one in reversed(UNITS_S.items()) if span_s % one[1] == 0), ("s", 1.0))
    return f"{span_s / length:g}{unit}"


def _mark(transaction: Transaction) -> None:
    transaction.retention.mark(now_text())

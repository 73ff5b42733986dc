"""From what a stage read to its outcome: the one path for a live run and for evidence that is judged again.

EVIDENCE/options.json            the stage's options, defaults included
EVIDENCE/readings.json           what it read (`Stage.readings`); missing when it did not get that far
EVIDENCE/endings.json            findings from around it: a crash, a missing tool, a time limit, an order
EVIDENCE/counters-before.json    the machine's fault counters, before and after
EVIDENCE/counters-after.json
EVIDENCE/outcome.json            what came of it
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from probes.counters import Counters
from stages import deltas, disk_health
from stages.outcome import Finding, Outcome, ReasonCode
from stages.stage import Stage

OPTIONS = "options.json"
READINGS = "readings.json"
ENDINGS = "endings.json"
BEFORE = "counters-before.json"
AFTER = "counters-after.json"
OUTCOME = "outcome.json"


def conclude(
    stage: Stage[Any],
    options: Any,
    readings: Any | None,
    endings: Sequence[Finding],
    before: Counters,
    after: Counters | None,
) -> Outcome:
    """The outcome of one execution (pure). `readings` is None when the stage did not come to its end; `after` is None
    when it was stopped from outside. Raises whatever the stage's judge raises: a fault of ours."""
    if readings is None:
        first = endings[0].message if endings else f"{stage.name} left no readings"
        outcome = Outcome(first, tuple(endings))
    else:
        outcome = stage.judge(readings, options).plus(endings)
    if after is None:
        return outcome
    findings, measurements = deltas.judge(before, after, needed=stage.counters_needed, stage=stage.name)
    findings += [one for one in disk_health.judge(before.disks, after.disks) if not _told(outcome, one)]
    return outcome.plus(findings, measurements)


def _told(outcome: Outcome, finding: Finding) -> bool:
    """Whether the stage found the same itself, or that the disk has left."""
    mine = [one for one in outcome.errors if one.component == finding.component]
    return any(one.reason_code in {finding.reason_code, ReasonCode.DISK_LOST} for one in mine)


def write(folder: Path, file_name: str, content: object) -> None:
    """Keep `content` (text, a dataclass or plain values) in the evidence, whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{file_name}.new"
    try:
        draft.write_text(text_of(content) + "\n")
        draft.replace(folder / file_name)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def text_of(content: object) -> str:
    """`content` (text, a dataclass or plain values) as the evidence has it."""
    return content if isinstance(content, str) else json.dumps(_plain(content), indent=1, default=_plain)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | dict):
        return value
    raise TypeError(f"{type(value).__name__} cannot be kept as evidence")

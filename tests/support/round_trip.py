"""A stage's readings through JSON and back, as a later judgement from evidence gets them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from stages import conclusion
from stages.outcome import Outcome
from stages.stage import Stage


def through_json(stage: Stage[Any], readings: Any) -> Any:
    """What `readings` are after they were written as evidence and read again."""
    with tempfile.TemporaryDirectory() as folder:
        conclusion.write(Path(folder), conclusion.READINGS, readings)
        return msgspec.json.decode((Path(folder) / conclusion.READINGS).read_bytes(), type=stage.readings, strict=False)


def judged(stage: Stage[Any], readings: Any, options: Any) -> Outcome:
    """The outcome of `readings`; that of their JSON must be the same."""
    outcome = stage.judge(readings, options)
    again = through_json(stage, readings)
    assert again == readings
    assert stage.judge(again, options) == outcome
    return outcome

"""From a stage's readings to its outcome, the way the evidence goes: through JSON, with nothing lost on it."""

from __future__ import annotations

from typing import Any

from stages import conclusion
from stages.outcome import Outcome
from stages.stage import Stage
from vetting_agent.judge_evidence import decoded


def outcome_of(stage: Stage[Any], readings: Any, options: Any) -> Outcome:
    """The outcome of `readings`, which have to survive being kept and judged again."""
    assert isinstance(readings, stage.readings)
    kept = decoded(conclusion.text_of(readings).encode(), stage.readings)
    assert kept == readings
    outcome = stage.judge(readings, options)
    assert stage.judge(kept, options) == outcome
    return outcome

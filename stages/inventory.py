"""Placeholder until the stage is written."""

from dataclasses import dataclass

from stages.outcome import Outcome, ReasonCode, error
from stages.stage import Stage, StageContext


@dataclass(frozen=True, slots=True)
class Options:
    duration_s: float = 1.0


async def run(context: StageContext, options: Options) -> Outcome:
    return Outcome("not written", (error(ReasonCode.NOTHING_TO_TEST, "Inventory", "not written"),))


STAGE = Stage(
    name="Inventory",
    state="InventoryCheck",
    title="Inventory",
    options=Options,
    planned_s=lambda o: o.duration_s,
    run=run,
)

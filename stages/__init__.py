"""Loads the machine and judges it: the stages, in the order in which a run walks them.

Dispatch, the map from run states, the required tools and the titles on every page derive from STAGES.
Adding a stage is one file that ends in `STAGE = Stage(...)`, and one line here.
"""

from __future__ import annotations

from typing import Any

from stages import cpu_stress, gpu, inventory, network, psu, smart, storage
from stages.stage import Stage

STAGES: tuple[Stage[Any], ...] = (
    inventory.STAGE,
    smart.STAGE,
    cpu_stress.STAGE,
    storage.STAGE,
    network.STAGE,
    gpu.STAGE,
    psu.STAGE,
)


def stage_named(name: str) -> Stage[Any] | None:
    """The stage of that name, or None."""
    return next((stage for stage in STAGES if stage.name == name), None)


def stage_of_state(state: str) -> Stage[Any] | None:
    """The stage that a run in that state stands at, or None."""
    return next((stage for stage in STAGES if stage.state == state), None)

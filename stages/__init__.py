"""Loads the machine and judges it: the stages, in the order in which a run walks them.

Dispatch, the map from run states, the required tools and the titles on every page derive from this list.
Adding a stage is one file that ends in `STAGE = Stage(...)`, and one line here.

A stage's file is imported when the stage is asked for: an agent that has just claimed its run, or that waits in
a hold, need not carry them all. `STAGES` imports every one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.stage import Stage

    STAGES: tuple[Stage[Any], ...]

LISTED: tuple[tuple[str, str, str], ...] = (
    ("Inventory", "InventoryCheck", "stages.inventory"),
    ("SMART", "SMART", "stages.smart"),
    ("CPUStress", "CPUStress", "stages.cpu_stress"),
    ("Storage", "Storage", "stages.storage"),
    ("Network", "Network", "stages.network"),
    ("GPU", "GPU", "stages.gpu"),
    ("PSU", "PSU", "stages.psu"),
)
"""Name, state of a run that stands at it, and module of each stage."""


def stage_named(name: str) -> Stage[Any] | None:
    """The stage of that name, or None."""
    return next((_stage_in(module) for listed, _, module in LISTED if listed == name), None)


def stage_of_state(state: str) -> Stage[Any] | None:
    """The stage that a run in that state stands at, or None."""
    return next((_stage_in(module) for _, listed, module in LISTED if listed == state), None)


def __getattr__(name: str) -> Any:
    if name != "STAGES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return tuple(_stage_in(module) for _, _, module in LISTED)


def _stage_in(module: str) -> Stage[Any]:
    stage: Stage[Any] = import_module(module).STAGE
    return stage

"""The one place where stage parameters are held against the stages' own options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages import stage_named
from stages.options import BadParameter, parse_options


def parameter_problems(parameters: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Everything that is wrong with `parameters` (stage to name to value): where, as a path of keys, and what."""
    for name, values in parameters.items():
        stage = stage_named(name) if isinstance(name, str) else None
        if stage is None:
            yield (str(name),), f"There is no stage {name!r}"
        elif not isinstance(values, Mapping):
            yield (name,), f"The parameters of {name} must be an object of names and values"
        else:
            yield from _of_stage(stage.options, name, values)


def _of_stage(options: type[Any], stage: str, values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    alone_fine = True
    for name, value in values.items():
        try:
            parse_options(options, stage, {str(name): value})
        except (BadParameter, ValueError) as problem:
            alone_fine = False
            yield (stage, str(name)), str(problem)
    if alone_fine:
        try:
            parse_options(options, stage, values)
        except (BadParameter, ValueError) as problem:
            yield (stage,), str(problem)

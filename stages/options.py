"""Turns a claim's `parameters` for a stage into its options, or says exactly what is wrong with them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

OptionsT = TypeVar("OptionsT")


class BadParameter(ValueError):
    """A parameter that the stage does not know, or whose value it cannot take. `str()` says which and why."""


def parse_options(options: type[OptionsT], stage: str, raw: object) -> OptionsT:
    """The options of `stage` with `raw` laid over the defaults.

    `raw` is what stood in the claim: hopefully a mapping of names to JSON values. Field metadata `minimum` and
    `maximum` bound a number. Raises BadParameter.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise BadParameter(f"The parameters of {stage} must be an object of names and values, not {_kind(raw)}")
    assert dataclasses.is_dataclass(options)
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints = typing.get_type_hints(options)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise BadParameter(f"{stage} has no parameter {name!r}; it has: {known}")
        values[name] = _convert(f"{stage}.{name}", hints[name], value, fields[name].metadata)
    return typing.cast(OptionsT, options(**values))


def parse_text(options: type[Any], stage: str, name: str, text: str) -> Any:
    """The JSON value that `--set STAGE.name=TEXT` means, by the type of the field. Raises BadParameter."""
    hint = typing.get_type_hints(options).get(name)
    wanted = _alternatives(hint)
    if text.lower() in {"null", "none"} and type(None) in wanted:
        return None
    if bool in wanted and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for number in (int, float):
        if number in wanted or (number is int and float in wanted):
            try:
                return number(text)
            except ValueError:
                continue
    if any(typing.get_origin(kind) is tuple for kind in wanted):
        return [part for part in text.split(",") if part]
    parse_options(options, stage, {name: text})
    return text


def _convert(where: str, hint: Any, value: Any, limits: Mapping[str, Any]) -> Any:
    for kind in _alternatives(hint):
        if (converted := _as(kind, value)) is not _NO:
            _check_limits(where, converted, limits)
            return converted
    raise BadParameter(f"{where} must be {_describe(hint)}, not {_kind(value)}")


_NO = object()
MOST = 1e15
"""No figure of ours is as great; JSON's can have any number of digits. NaN is not less than it either."""


def _as(kind: Any, value: Any) -> Any:
    """`value` as `kind`, or _NO. True is no number, and a float that is whole is an integer (JSON has one kind)."""
    if kind is type(None):
        return None if value is None else _NO
    if kind is bool:
        return value if isinstance(value, bool) else _NO
    if isinstance(value, bool):
        return _NO
    if kind is float:
        return float(value) if isinstance(value, int | float) and abs(value) < MOST else _NO
    if kind is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if whole and abs(value) < MOST else _NO
    if kind is str:
        return value if isinstance(value, str) else _NO
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((member for member in kind if member.value == value), _NO)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        items = [_as(typing.get_args(kind)[0], item) for item in value]
        return _NO if _NO in items else tuple(items)
    return _NO


def _check_limits(where: str, value: Any, limits: Mapping[str, Any]) -> None:
    if value is None or not isinstance(value, int | float):
        return
    low, high = limits.get("minimum"), limits.get("maximum")
    if low is not None and value < low:
        raise BadParameter(f"{where} must be at least {low}, not {value}")
    if high is not None and value > high:
        raise BadParameter(f"{where} must be at most {high}, not {value}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return typing.get_args(hint)
    return (hint,)


def _describe(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}
    described = []
    for kind in _alternatives(hint):
        if isinstance(kind, type) and issubclass(kind, Enum):
            described.append("one of " + ", ".join(repr(member.value) for member in kind))
        elif typing.get_origin(kind) is tuple:
            described.append("a list")
        else:
            described.append(words.get(kind, str(kind)))
    return " or ".join(described)


def _kind(value: object) -> str:
    return f"{value!r} ({type(value).__name__})" if len(repr(value)) < 60 else type(value).__name__

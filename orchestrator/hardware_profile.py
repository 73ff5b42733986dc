"""A hardware profile: what hosts of one kind are made of, and how their stages test them. Written in YAML.

    test_profile: standard        # how long: quick, standard, burnin
    stages: [SMART, Storage]      # optional; Inventory always
    parameters:                   # optional: stage to name to value, over those of the test profile
      Storage: {duration_s: 600}
    spec:                         # optional: the fields of orchestrator/spec.py
      cpu: {model: EPYC 9354, sockets: 2}
    peers: warning                # a figure far below the siblings': warning, error, off

`checked_profile` reports all that is wrong at once, each with its line; nothing in the text is ever executed or
expanded (safe scalars only, no anchors).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.parameters import parameter_problems
from orchestrator.run_record import STAGE_NAMES, Record
from orchestrator.spec import Spec
from orchestrator.yaml_lines import BadYaml, Lined, Path, read_yaml
from stages.profiles import PROFILES

PEERS = ("warning", "error", "off")
LONGEST_TEXT = 256 * 2**10


class HardwareProfile(Record, frozen=True, kw_only=True):
    """The document as values. What is not stated is not checked, or left to the test profile."""

    test_profile: str = "standard"
    stages: list[str] | None = None
    parameters: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    spec: Spec | None = None
    peers: str = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: line from 1 (0: the whole), the path of keys, and what."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.line and f"line {self.line}", self.path) if part)
        return f"{place}: {self.message}" if place else self.message


class BadProfile(Exception):
    """A document that is no profile; `problems` has all of it, in the order of the lines."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def checked_profile(text: str) -> HardwareProfile:
    """The profile that a YAML text describes. Raises BadProfile with all its problems."""
    if len(text) > LONGEST_TEXT:
        raise BadProfile([Problem(0, "", f"The text has more than {LONGEST_TEXT} characters")])
    try:
        document = read_yaml(text)
    except BadYaml as problem:
        raise BadProfile([Problem(line, "", message) for line, message in problem.problems]) from None
    refused = (Problem(line, "", message) for line, message in document.problems)
    problems = sorted([*refused, *_problems(document)], key=lambda one: one.line)
    if problems:
        raise BadProfile(problems)
    return msgspec.convert(document.value or {}, HardwareProfile)


def _problems(document: Lined) -> Iterator[Problem]:
    value = document.value
    if value is None:
        return
    if not isinstance(value, dict):
        yield Problem(document.line(()), "", "A profile is an object of names and values")
        return
    for path, message in _faults(value):
        yield Problem(document.line(path), ".".join(map(str, path)), message)


def _faults(value: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for name in value:
        if name not in HardwareProfile.__struct_fields__:
            yield (name,), f"There is no such field; there are: {', '.join(HardwareProfile.__struct_fields__)}"
    yield from _choice(value, "test_profile", tuple(PROFILES))
    yield from _choice(value, "peers", PEERS)
    yield from _stages(value.get("stages"))
    yield from _parameters(value)
    if value.get("spec") is not None:
        yield from struct_faults(Spec, value["spec"], ("spec",))


def _choice(value: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    if name in value and value[name] not in allowed:
        yield (name,), f"must be one of {', '.join(allowed)}, not {value[name]!r}"


def _stages(names: Any) -> Iterator[tuple[Path, str]]:
    if names is None:
        return
    if not isinstance(names, list):
        yield ("stages",), f"must be a list of stages, not {_kind(names)}"
        return
    for number, name in enumerate(names):
        if name not in STAGE_NAMES:
            yield ("stages", number), f"There is no stage {name!r}; there are: {', '.join(STAGE_NAMES)}"


def _parameters(value: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    parameters = value.get("parameters")
    if parameters is None and "parameters" not in value:
        return
    if not isinstance(parameters, dict):
        yield ("parameters",), f"must be an object of stages, not {_kind(parameters)}"
        return
    stages = value.get("stages")
    if isinstance(stages, list):
        for name in parameters:
            if name in STAGE_NAMES and name != "Inventory" and name not in stages:
                yield ("parameters", name), f"{name} is not among the profile's stages"
    for path, message in parameter_problems(parameters):
        yield ("parameters", *path), message


def struct_faults(kind: type[msgspec.Struct], value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Everything in `value` that does not fit a struct of ours: unknown names and wrong types, nested ones too."""
    if not isinstance(value, dict):
        yield path, f"must be an object of names and values, not {_kind(value)}"
        return
    hints = typing.get_type_hints(kind)
    for name, part in value.items():
        if name not in hints:
            yield (*path, name), f"There is no such field; there are: {', '.join(hints)}"
        else:
            yield from _hint_faults(hints[name], part, (*path, name))


def _hint_faults(hint: Any, value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """`value` against a type hint: a struct, a list of structs, or a plain type; each perhaps optional."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
    if value is None and type(None) in kinds:
        return
    kind = next(one for one in kinds if one is not type(None))
    if typing.get_origin(kind) is list and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _hint_faults(typing.get_args(kind)[0], item, (*path, number))
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from struct_faults(kind, value, path)
    else:
        yield from _plain_faults(kind, value, path)


def _plain_faults(kind: Any, value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        yield path, f"must be {_words(kind)}, not {_kind(value)}"
        return
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < 1e12:
        yield path, f"must be a figure from 0 up, not {value}"


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is list:
        return "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, str(kind))


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", type(None): "nothing"}
    return words.get(type(value)) or f"{str(value)[:60]!r} ({type(value).__name__})"

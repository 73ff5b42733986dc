"""YAML as plain values, each with the line it stands on. Safe scalars only; no anchors, no tags, no key twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
DEEPEST = 20
MOST_NODES = 20_000
SCALARS = frozenset({"str", "int", "float", "bool", "null"})
TAG = "tag:yaml.org,2002:"


class BadYaml(Exception):
    """A text that cannot be read; `problems` are (line from 1, message)."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {message}" for line, message in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Lined:
    """A document. `lines` has the line of each path of keys and list positions.

    `problems`: what in it is refused, as (line, message); the rest is read all the same.
    """

    value: Any
    lines: dict[Path, int]
    problems: list[tuple[int, str]]

    def line(self, path: Path) -> int:
        """The line of this path, else of the nearest thing around it; 1 at last."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> Lined:
    """The one document of a text. Raises BadYaml."""
    try:
        _refuse_what_expands(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as problem:
        raise BadYaml([(_line_of(problem), _said(problem))]) from None
    except RecursionError:
        raise BadYaml([(1, "The document is nested too deeply")]) from None
    reader = _Reader()
    value = None if root is None else reader.value(root, ())
    return Lined(value, reader.lines, reader.problems)


def _refuse_what_expands(text: str) -> None:
    """Stops before an alias or an anchor is followed, and before a document grows beyond any sense."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise BadYaml([(line, "Anchors and aliases are not taken here: write the value out")])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or number > MOST_NODES:
            raise BadYaml([(line, "The document is nested too deeply, or has too many values")])


class _Reader:
    """Nodes to values; keeps going after a problem, so that all are told."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append((line, "A name must be a text"))
                continue
            name = str(key.value)
            if name in found:
                self.problems.append((line, f"{name!r} stands here twice"))
            self.lines[(*path, name)] = line
            found[name] = self.value(item, (*path, name))
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(TAG)
        # A date is no type of ours, and 52:54:00:12:34:56 is no number to the base of sixty: meant as text.
        if kind == "timestamp" or (kind in {"int", "float"} and ":" in node.value):
            return node.value
        if kind == "bool" and node.value.lower() not in {"true", "false"}:
            return node.value  # off, no: words, as everybody but YAML 1.1 reads them
        if kind not in SCALARS:
            self.problems.append((node.start_mark.line + 1, f"The tag {node.tag} is not taken here"))
            return None
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as problem:
            self.problems.append((node.start_mark.line + 1, f"{node.value[:60]!r} cannot be read: {problem}"))
            return None


def _line_of(problem: yaml.YAMLError) -> int:
    mark = getattr(problem, "problem_mark", None)
    return mark.line + 1 if mark is not None else 1


def _said(problem: yaml.YAMLError) -> str:
    if isinstance(problem, yaml.MarkedYAMLError):
        return f"This is no YAML: {problem.problem or problem.context}"
    return f"This is no YAML: {str(problem).splitlines()[0]}"

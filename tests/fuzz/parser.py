"""What a parser is to the fuzz, and the one oracle that all of them answer to.

A parser takes what came from outside and ends in a verdict or in an error that it has declared. It never ends in any
other exception, never takes long, and never passes hardware whose facts were destroyed:

- of a recording of sick hardware, whatever is lost of it, no mutant passes;
- a mutant of a sound recording passes only while the facts that a verdict needs are still to be read in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from stages.outcome import Finding, Outcome
from tests.fuzz.mutate import Mutant, Recording

LIMIT_S = 5.0
"""Of CPU time: nothing that a machine says may keep the agent busy for longer. Cases take a millisecond."""
PASS, READ = "pass", "read"
"""`read`: the parser has no verdict of its own, and took it."""


class Broken(AssertionError):
    """The parser did what no parser may do."""


@dataclass(frozen=True, slots=True)
class Parser:
    """One row of the table."""

    name: str
    modules: tuple[str, ...]
    """The source files whose reading of text this exercises."""
    recordings: Callable[[], tuple[Recording, ...]]
    read: Callable[[Mutant], str]
    """Parses and judges; returns the verdict, or `read`."""
    errors: tuple[type[Exception], ...] = ()
    """What it declares to raise."""
    facts: Callable[[Mutant], bool] | None = None
    """Whether the facts that a pass needs can still be read, told by other means than the parser's."""
    excused: Callable[[Mutant], str | None] = lambda mutant: None
    """Why this loss cannot be seen by anybody; None where it can. The reasons stand beside the entry."""
    is_json: bool = False
    share: int = 1
    """How many cases it gets, relative to the others."""


def verdict_of(findings: list[Finding] | tuple[Finding, ...], *, present: bool = True) -> str:
    """The verdict that these findings make."""
    return str(Outcome("", tuple(findings), hardware_present=present).verdict)


def check(parser: Parser, mutant: Mutant) -> str:
    """What came of it: a verdict, `read`, or the name of a declared error. Raises Broken."""
    started = time.process_time()
    try:
        end = parser.read(mutant)
    except parser.errors as problem:
        end = type(problem).__name__
    except Exception as problem:
        raise Broken(f"{parser.name}: {mutant.recording.name}: {type(problem).__name__}: {problem!s:.200}") from problem
    spent = time.process_time() - started
    if spent > LIMIT_S:
        raise Broken(f"{parser.name}: {mutant.recording.name}: took {spent:.1f} s of CPU time")
    if end in {PASS, "not_applicable"}:
        _may_pass(parser, mutant, end)
    return end


def _may_pass(parser: Parser, mutant: Mutant, end: str) -> None:
    if parser.excused(mutant) is not None:
        return
    if mutant.recording.sick and mutant.only_lost:
        raise Broken(f"{parser.name}: {mutant.recording.name}: sick, and {end} once something of it is lost")
    if not mutant.recording.sick and parser.facts is not None and not parser.facts(mutant):
        raise Broken(f"{parser.name}: {mutant.recording.name}: {end} without the facts that it needs")

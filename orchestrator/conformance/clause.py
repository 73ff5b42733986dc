"""A clause of the protocol, and what became of it: kept, broken, or not tested with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Generic, NoReturn, TypeVar

SubjectT = TypeVar("SubjectT")


class BrokenClause(Exception):
    """The other side did not do what the clause says; the text tells what was seen."""


class NotTested(Exception):
    """The clause could not be tested; the text says why."""


@dataclass(frozen=True, slots=True)
class Clause(Generic[SubjectT]):
    """One sentence of the protocol. `check` raises BrokenClause or NotTested; of an agent it judges `scene`'s trace."""

    name: str
    section: int
    text: str
    check: Callable[[SubjectT], None]
    scene: str = ""


class Status(Enum):
    OK = "ok"
    FAILED = "FAILED"
    NOT_TESTED = "not tested"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one clause; `optional`: not having tested it is no failure."""

    name: str
    section: int
    text: str
    status: Status
    detail: str = ""
    optional: bool = False

    @property
    def is_good(self) -> bool:
        return self.status is Status.OK or (self.status is Status.NOT_TESTED and self.optional)


def expect(truth: object, what: str) -> None:
    """Raises BrokenClause unless it is so. `what` tells what was seen."""
    if not truth:
        raise BrokenClause(what)


def broken(what: str) -> NoReturn:
    raise BrokenClause(what)


def tried(clause: Clause[SubjectT], subject: SubjectT, optional: Sequence[str]) -> Finding:
    """The finding of one clause. A check that trips over what it was sent has found a fault of the sender."""
    status, detail = Status.OK, ""
    try:
        clause.check(subject)
    except BrokenClause as problem:
        status, detail = Status.FAILED, str(problem)
    except NotTested as reason:
        status, detail = Status.NOT_TESTED, str(reason)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        status, detail = Status.FAILED, f"a message without what the protocol wants in it: {problem!r}"
    return found(clause, status, detail, optional)


def found(clause: Clause[SubjectT], status: Status, detail: str, optional: Sequence[str]) -> Finding:
    return Finding(clause.name, clause.section, clause.text, status, detail, selected(clause.name, optional))


def selected(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

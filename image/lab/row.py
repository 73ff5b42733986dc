"""A row of the lab: one machine, its fault, and what must come of it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image.lab.scene import Scene


@dataclass(frozen=True, slots=True)
class Expect:
    """What the run must end as."""

    state: str
    """Of the run, as the operator sees it: `Completed`, `FailedHolding` …"""
    stage: str | None = None
    code: str | None = None
    """Of a finding in that stage; with stage None, of a finding of the run itself."""
    component: str | None = None
    severity: str = "error"
    also: tuple[str, ...] = ()
    """Codes of other errors that this fault brings along. Any further error makes the row wrong."""

    def fits(self, finding: Mapping[str, Any]) -> bool:
        """Whether this is the finding that is waited for."""
        named = self.component is None or finding["component"] == self.component
        return bool(named and (finding["reason_code"], finding["severity"]) == (self.code, self.severity))


@dataclass(frozen=True, slots=True)
class Row:
    """`tell` makes the machine and its fault, step by step, and returns when there is nothing more to do to it."""

    name: str
    group: str
    fault: str
    """For people: what is broken, when, and by what means."""
    expect: Expect
    tell: Callable[[Scene], None]
    is_stand_in: bool = False
    """The fault is a program that lies, since no virtual machine can be broken in this way."""
    in_ci: bool = False
    limit_s: float = 900.0
    version: str = field(init=False)
    """Changes with the row's own story and its expectation; a result of another version does not count."""

    def __post_init__(self) -> None:
        # At once: the file that the story is read from may be edited while the lab plays.
        text = f"{inspect.getsource(self.tell)}{self.expect}{self.fault}"
        object.__setattr__(self, "version", hashlib.sha256(text.encode()).hexdigest()[:12])


PASSES = Expect("Completed")


def fails(stage: str, code: str, component: str | None = None, *, also: tuple[str, ...] = ()) -> Expect:
    """The stage finds it, names the part, and the machine is held."""
    return Expect("FailedHolding", stage, code, component, also=also)


def warns(stage: str, code: str, component: str | None = None, *, severity: str = "warning") -> Expect:
    """The stage tells of it, and the machine passes all the same."""
    return Expect("Completed", stage, code, component, severity)


def held(code: str) -> Expect:
    """The orchestrator itself holds the machine."""
    return Expect("FailedHolding", None, code)


@dataclass(frozen=True, slots=True)
class Group:
    """Makes the rows of one part of the table: `@GROUP.row("name", "fault", expect)` over a function of a scene."""

    title: str

    def row(
        self, fault: str, expect: Expect, *, stand_in: bool = False, ci: bool = False, limit_s: float = 900.0
    ) -> Callable[[Callable[[Scene], None]], Row]:
        """The function below becomes a row, named after it."""

        def made(tell: Callable[[Scene], None]) -> Row:
            name = tell.__name__.replace("_", "-")
            return Row(name, self.title, fault, expect, tell, stand_in, ci, limit_s)

        return made

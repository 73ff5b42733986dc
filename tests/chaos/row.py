"""A row of the chaos matrix: what is broken, who must say so and in which words, and how the run ends all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

CLEAR_S = 60.0


@dataclass(frozen=True, slots=True)
class Words:
    """A clear message: who says it, and a regular expression that it must hold."""

    source: str
    """`agent` (its standard error), `history` (of the run), `server` (its standard error), `finding` (code and message
    of one in the run or in a stage), `operator` (what a person is told who asks for a terminal or a login)."""
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


@dataclass(frozen=True, slots=True)
class Row:
    """`tell` brings the fault about and repairs it, step by step, and returns when only the end is left to wait for."""

    name: str
    group: str
    injection: str
    hop: str
    """That fails first, in the words of the preflight."""
    signal: str
    words: Words
    end: str
    """State of the run when all is over."""
    tell: Callable[[Scene], None]
    clear_s: float = CLEAR_S
    """From the injection to the clear message at most."""
    recovery_s: float = 120.0
    """From the repair on at most."""
    stage_runs: int = 1
    """How often the stage in which it happened must have been tried: nothing is doubled."""
    is_quick: bool = False
    """One of those that `make test` plays."""
    means: str = ""
    """Where something else stands in for what this machine cannot do: what."""

    def expecting(self, words: Words, clear_s: float) -> Row:
        """The same row with another expectation."""
        return replace(self, words=words, clear_s=clear_s)


@dataclass(frozen=True, slots=True)
class Group:
    """Makes the rows of one part of the table: a decorator over the story that a row tells."""

    title: str

    def row(
        self,
        injection: str,
        *,
        hop: str,
        signal: str,
        says: tuple[str, str],
        end: str = "Completed",
        clear_s: float = CLEAR_S,
        recovery_s: float = 120.0,
        stage_runs: int = 1,
        quick: bool = False,
        means: str = "",
    ) -> Callable[[Callable[[Scene], None]], Row]:
        """The function below becomes a row, named after it."""

        def made(tell: Callable[[Scene], None]) -> Row:
            name, words = tell.__name__.replace("_", "-"), Words(*says)
            told = (name, self.title, injection, hop, signal, words, end, tell)
            return Row(*told, clear_s, recovery_s, stage_runs, quick, means)

        return made

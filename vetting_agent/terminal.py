"""Calm text for a terminal: colours only where a person sees them, lines no wider than the window."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from vetting_agent.printable import printable

RESET = "\x1b[0m"
STYLES: Mapping[str, str] = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "green": "\x1b[32m",
    "red": "\x1b[31m",
    "yellow": "\x1b[33m",
}
VERDICT_STYLES: Mapping[str, str] = {
    "pass": "green",
    "fail": "red",
    "unknown": "yellow",
    "cancelled": "yellow",
    "incomplete": "yellow",
    "interrupted": "yellow",
    "running": "bold",
}
WIDEST = 110
NARROWEST = 40


@dataclass(frozen=True, slots=True)
class Paper:
    """How wide the output is, and whether it takes colours."""

    width: int = 100
    colour: bool = False

    def paint(self, text: str, *styles: str) -> str:
        """`text` in these styles, where there are colours."""
        codes = "".join(STYLES[style] for style in styles if style in STYLES)
        return f"{codes}{text}{RESET}" if self.colour and codes else text

    def verdict(self, verdict: str, word: str) -> str:
        """The word for a verdict in its colour."""
        return self.paint(word, VERDICT_STYLES.get(verdict, "dim"))

    def wrapped(self, text: str, indent: str = "", hanging: str | None = None, limit: int | None = None) -> list[str]:
        """`text`, made safe, in lines that fit, at most `limit`; `hanging` indents the second line and on."""
        return textwrap.wrap(
            printable(text),
            width=self.width,
            initial_indent=indent,
            subsequent_indent=indent if hanging is None else hanging,
            break_on_hyphens=False,
            max_lines=limit,
            placeholder=" …",
        )


def paper_for(stream: TextIO) -> Paper:
    """What that stream shows: NO_COLOR and TERM=dumb are respected."""
    interactive = stream.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size((100, 24)).columns if interactive else 100
    return Paper(width=max(NARROWEST, min(width, WIDEST)), colour=interactive and not plain)

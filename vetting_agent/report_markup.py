"""The bricks of the report's page: safe text, sections, tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vetting_agent.printable import printable

FOLDED_ROWS = 30


def text(value: object) -> str:
    """Any value as text that is safe in the page."""
    return escape(printable(str(value)))


def section(name: str, content: str) -> str:
    """A section with its heading; nothing at all when there is nothing to say."""
    return f"<section><h2>{name}</h2>{content}</section>\n" if content else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], fold: str = "") -> str:
    """A table of ready markup. On a phone each row becomes a small block with its column names beside the cells.

    With `fold` a table of many rows is folded away under that line.
    """
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(_row(head, row) for row in rows)
    markup = f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    if fold and len(rows) > FOLDED_ROWS:
        return f"<details><summary>{fold}: {len(rows)} rows</summary>{markup}</details>"
    return markup


def _row(head: Sequence[str], row: Sequence[str]) -> str:
    pairs = zip(head, row, strict=True)
    cells = (f'<td data-name="{name}"><div>{cell}</div></td>' if cell else "<td></td>" for name, cell in pairs)
    return f"<tr>{''.join(cells)}</tr>"

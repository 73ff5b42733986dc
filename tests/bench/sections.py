"""Sections of the page that are measured by themselves: a new one takes the old one's place, and nothing else moves."""

from __future__ import annotations

import re


def with_section(page: str, name: str, text: str) -> str:
    """The page with this section: where one of that name was, else at the end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = f"{begin}\n{text.strip()}\n{end}"
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if old.search(page):
        return old.sub(lambda _: whole, page)
    return f"{page.rstrip()}\n\n{whole}\n"

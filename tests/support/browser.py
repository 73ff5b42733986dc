"""Debian's Chromium, driven by Playwright, with whatever the page complained of kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"


@dataclass
class Tab:
    """A page and the complaints of its console: a broken policy shows there."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def tab_of(browser: Browser, **how: object) -> Iterator[Tab]:
    """A browser of its own: its cookies are nobody else's."""
    context = browser.new_context(ignore_https_errors=True, **how)  # type: ignore[arg-type]
    try:
        tab = Tab(context.new_page())
        tab.page.on("console", lambda said: tab.complaints.append(said.text) if said.type == "error" else None)
        tab.page.on("pageerror", lambda problem: tab.complaints.append(str(problem)))
        yield tab
    finally:
        context.close()

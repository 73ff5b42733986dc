"""What the server's own log says, and what is no news to anybody."""

from __future__ import annotations

import logging

import pytest

from orchestrator.serve import _is_news


@pytest.mark.parametrize(("text", "is_news"), [("SSL connection is closed", False), ("SSL handshake failed", True)])
def test_a_page_that_was_left_is_no_news(text: str, is_news: bool) -> None:
    record = logging.LogRecord("asyncio", logging.WARNING, "", 0, text, (), None)
    assert _is_news(record) is is_news

"""One browser a file, and people of each role on the file's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.orchestrator.served import Served
from tests.orchestrator.web.rig import add_user, chromium


@pytest.fixture(scope="module")
def staffed(served: Served) -> Served:
    """The file's server, with ada (admin), olaf (operator) and vera (viewer)."""
    for name, role in {"ada": "admin", "olaf": "operator", "vera": "viewer"}.items():
        add_user(served, name, role)
    return served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one

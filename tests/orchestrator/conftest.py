"""One server for all tests of a file that need no server of their own: each makes runs of its own on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestrator.served import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("orchestrator") / "data") as server:
        yield server
        assert server.process.poll() is None
        assert server.end() == 0
        assert server.stderr() == "", "a server that did its work has nothing to complain about"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers over one folder of this test, and ends those that the test did not."""
    with contextlib.ExitStack() as stack:
        yield lambda **how: stack.enter_context(serving(tmp_path / "data", **how))

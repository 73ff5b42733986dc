"""Every test proves that it left no child process behind; async ones run on a loop of their own, and leave no task."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from probes.host import REAL_ROOT, Host
from tests.support.detection import PAGE, Claim, all_written, claims_of, page
from tests.support.stand_ins import StandIns

CHILD_WAIT_S = 2.0
CLAIMED: pytest.StashKey[list[Claim]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test, then look for what it left."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    before = _children()  # those of the test's own fixtures end with them, later
    with asyncio.Runner() as runner:
        left = runner.run(_tasks_left_by(pyfuncitem.obj, arguments))
    assert not left, f"the test left tasks running: {left}"
    _assert_no_new_children(before)
    return True


async def _tasks_left_by(test: Any, arguments: dict[str, Any]) -> list[str]:
    await test(**arguments)
    for _ in range(3):  # callbacks of the last awaits may still be due
        await asyncio.sleep(0)
    me = asyncio.current_task()
    return [repr(task) for task in asyncio.all_tasks() if task is not me]


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _assert_no_new_children(before: set[int]) -> None:
    deadline = time.monotonic() + CHILD_WAIT_S
    while new := _children() - before:
        if time.monotonic() > deadline:
            names = [" ".join(psutil.Process(pid).cmdline()) for pid in new if psutil.pid_exists(pid)]
            pytest.fail(f"the test left processes running: {names}")
        time.sleep(0.02)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-detection", action="store_true", help="run what is marked so, and write docs/detection.md"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--write-detection"):
        config.stash[CLAIMED] = []
        items[:] = [item for item in items if next(claims_of(item), None) is not None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.passed and CLAIMED in item.config.stash:
        item.config.stash[CLAIMED] += claims_of(item)
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The page is written only when every mark of the suite was shown: a test left out or skipped has shown nothing."""
    if CLAIMED not in session.config.stash or exitstatus != 0:
        return
    shown = session.config.stash[CLAIMED]
    if lacking := sorted({claim.test for claim in set(all_written()) - set(shown)}):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\n{PAGE.name} is not written: these tests did not run to their end: {', '.join(lacking)}")
        return
    PAGE.write_text(page(shown))


@pytest.fixture(autouse=True, scope="module")
def no_children_left() -> Iterator[None]:
    """Set up before a file's other fixtures, and so looked at after they are gone."""
    before = _children()
    yield
    _assert_no_new_children(before)


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    """A folder of stand-in programs, the machine's own found behind them."""
    return StandIns(tmp_path / "stand-ins")


@pytest.fixture
def only_stand_ins(tmp_path: Path) -> StandIns:
    """A folder of stand-in programs and nothing else: every other tool is missing."""
    return StandIns(tmp_path / "stand-ins", real=False)


@pytest.fixture
def host(stand_ins: StandIns) -> Host:
    """The real machine, with the stand-ins first on its PATH."""
    return Host(root=REAL_ROOT, tools=stand_ins.tools())

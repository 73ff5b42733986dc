"""How long a login lasts: rest and age, by a clock that the test moves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.clock import later
from orchestrator.sqlite_store import SqliteStore
from orchestrator.tokens import hash_of
from orchestrator.web.accounts import ABSOLUTE_S, IDLE_S, TOUCH_S, Accounts, Session
from tests.orchestrator.making import START

PASSWORD = "correct horse battery"


class MovedClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.text = START

    def __call__(self) -> str:
        return self.text

    def move(self, seconds: float) -> None:
        self.text = later(self.text, seconds)


@contextlib.asynccontextmanager
async def accounts_in(tmp_path: Path) -> AsyncIterator[Accounts]:
    """With olaf, who may log in."""
    store = SqliteStore.open(tmp_path / "orchestrator.db")
    try:
        made = Accounts(store, now=MovedClock())
        await made.add_user("olaf", "operator", PASSWORD, by="test")
        yield made
    finally:
        await store.close()


def clock_of(accounts: Accounts) -> MovedClock:
    assert isinstance(accounts.now, MovedClock)
    return accounts.now


async def logged_in(accounts: Accounts) -> str:
    secret = await accounts.log_in("olaf", PASSWORD, "127.0.0.1")
    assert secret is not None
    return secret


async def test_a_login_that_rests_too_long_is_over(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as accounts:
        secret = await logged_in(accounts)
        clock_of(accounts).move(IDLE_S - 1)
        assert await accounts.session_of(secret, touch=False) is not None
        clock_of(accounts).move(2)
        assert await accounts.session_of(secret) is None
        clock_of(accounts).move(-IDLE_S)
        assert await accounts.session_of(secret) is not None, "it was the clock"


async def test_a_login_in_use_lasts_to_its_age_and_no_longer(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as accounts:
        secret, used_s = await logged_in(accounts), 0.0
        while used_s + IDLE_S / 2 < ABSOLUTE_S:
            clock_of(accounts).move(IDLE_S / 2)
            used_s += IDLE_S / 2
            assert await accounts.session_of(secret) is not None, used_s
        clock_of(accounts).move(ABSOLUTE_S - used_s + 1)
        assert await accounts.session_of(secret) is None


async def test_what_only_watches_keeps_no_login_awake(tmp_path: Path) -> None:
    """An open page's stream asks with `touch=False`: nobody is at the desk for that."""
    async with accounts_in(tmp_path) as accounts:
        secret = await logged_in(accounts)
        for _ in range(4):
            clock_of(accounts).move(IDLE_S / 4)
            found = await accounts.session_of(secret, touch=False)
        assert found is not None
        clock_of(accounts).move(1)
        assert await accounts.session_of(secret, touch=False) is None


async def test_a_use_is_noted_at_most_once_a_minute(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as accounts:
        secret = await logged_in(accounts)
        noted = []
        for seconds in (TOUCH_S - 1, 2):
            clock_of(accounts).move(seconds)
            await accounts.session_of(secret)
            session = await accounts.store.document(Session, hash_of(secret))
            assert session is not None
            noted.append(session.used_at)
        assert noted == [START, clock_of(accounts).text]


async def test_sessions_that_are_over_are_dropped_at_the_next_login(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as accounts:
        old = await logged_in(accounts)
        clock_of(accounts).move(IDLE_S + 1)
        new = await logged_in(accounts)
        kept = [one.key for one in await accounts.store.documents(Session)]
        assert kept == [hash_of(new)]
        assert await accounts.session_of(old) is None


async def test_a_programs_token_ends_on_its_day(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as accounts:
        _, secret = await accounts.new_token("ci", "viewer", 7, by="test")
        clock_of(accounts).move(7 * 86400 - 1)
        assert await accounts.token_of(secret) is not None
        clock_of(accounts).move(1)
        assert await accounts.token_of(secret) is None

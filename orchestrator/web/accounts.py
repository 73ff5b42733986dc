"""Who may enter the console: users with a password, their sessions, and tokens for programs.

Passwords are kept as argon2id hashes. Sessions and tokens are random; the store holds only their SHA-256.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from orchestrator.clock import later, now_text, seconds_between
from orchestrator.run_record import Record
from orchestrator.steps import Refusal
from orchestrator.store import Store, Transaction
from orchestrator.tokens import hash_of, matches, new_token
from orchestrator.who import ROLES

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 256
IDLE_S = 2 * 3600.0
ABSOLUTE_S = 12 * 3600.0
TOUCH_S = 60.0
HASHES_AT_ONCE = 2
"""One argon2 hash takes 64 MiB for as long as it is computed."""
TOKEN_PREFIX = "vct_"


class User(Record, frozen=True, kw_only=True):
    name: str
    role: str
    password_hash: str
    created_at: str
    created_by: str


class Session(Record, frozen=True, kw_only=True):
    """One login of a browser, by the hash of its cookie."""

    key: str
    user: str
    created_at: str
    used_at: str
    address: str = ""


class ApiToken(Record, frozen=True, kw_only=True):
    """A program's key, by the hash of its secret."""

    key: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str | None = None


@dataclass(slots=True)
class Accounts:
    """Users, sessions and tokens over the store."""

    store: Store
    first_code: str | None = None
    """Opens the page that makes the first admin, while there is no user. Never stored."""
    now: Callable[[], str] = now_text
    """The clock that sessions and tokens end by."""
    _hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HASHES_AT_ONCE))
    _nobody: str | None = None

    async def offer_first_login(self) -> str | None:
        """A one-time code when nobody may log in yet, else None."""
        if await self.store.documents(User):
            return None
        self.first_code = "-".join(secrets.token_hex(2) for _ in range(6))
        return self.first_code

    async def use_first_code(self, code: str, name: str, password: str) -> User:
        """Make the first admin. Refuses a wrong or used code."""
        if self.first_code is None or not secrets.compare_digest(code.strip().encode(), self.first_code.encode()):
            raise Refusal(403, "wrong_code", "This is not the one-time code that the server printed at its start")
        user = await self.add_user(name, "admin", password, by="first start", only_first=True)
        self.first_code = None
        return user

    async def add_user(self, name: str, role: str, password: str, *, by: str, only_first: bool = False) -> User:
        """Refuses a bad name, role or password, and a name that is taken."""
        _check_name(name)
        _check_role(role)
        user = User(
            name=name, role=role, password_hash=await self._hash(password), created_at=now_text(), created_by=by
        )

        def work(transaction: Transaction) -> None:
            if only_first and transaction.documents(User):
                raise Refusal(409, "not_first", "There is a user already: log in")
            if transaction.document(User, name) is not None:
                raise Refusal(409, "name_taken", f"There is a user {name} already")
            transaction.put_document(name, user)

        await self.store.write(work)
        self.first_code = None
        return user

    async def users(self) -> list[User]:
        return await self.store.documents(User)

    async def change_user(self, name: str, *, role: str | None = None, password: str | None = None) -> User:
        """A new role or password. Ends the user's sessions. Refuses to leave the console without an admin."""
        if role is not None:
            _check_role(role)
        hashed = None if password is None else await self._hash(password)

        def work(transaction: Transaction) -> User:
            user = _existing(transaction, name)
            user = replace(user, role=role or user.role, password_hash=hashed or user.password_hash)
            transaction.put_document(name, user)
            _keep_an_admin(transaction)
            _end_sessions(transaction, name)
            return user

        return await self.store.write(work)

    async def remove_user(self, name: str) -> None:
        def work(transaction: Transaction) -> None:
            _existing(transaction, name)
            transaction.drop_document(User, name)
            _keep_an_admin(transaction)
            _end_sessions(transaction, name)

        await self.store.write(work)

    async def log_in(self, name: str, password: str, address: str) -> str | None:
        """The secret of a new session, or None. Takes as long for a name that does not exist."""
        user = await self.store.document(User, name) if NAME.fullmatch(name) else None
        if not await self._verified(user.password_hash if user else None, password) or user is None:
            return None
        secret, now = new_token(), self.now()
        session = Session(key=hash_of(secret), user=name, created_at=now, used_at=now, address=address)

        def work(transaction: Transaction) -> None:
            for old in transaction.documents(Session):
                if not _is_alive(old, now):
                    transaction.drop_document(Session, old.key)
            transaction.put_document(session.key, session)

        await self.store.write(work)
        return secret

    async def session_of(self, secret: str, *, touch: bool = True) -> tuple[Session, User] | None:
        """The session that this cookie opens, and whose it is; None when it is over."""
        session, now = await self.store.document(Session, hash_of(secret)), self.now()
        if session is None or not _is_alive(session, now):
            return None
        user = await self.store.document(User, session.user)
        if user is None:
            return None
        if touch and seconds_between(session.used_at, now) > TOUCH_S:
            await self._touch(session.key, now)
        return session, user

    async def _touch(self, key: str, now: str) -> None:
        def work(transaction: Transaction) -> None:
            session = transaction.document(Session, key)
            if session is not None:  # logged out meanwhile
                transaction.put_document(key, replace(session, used_at=now))

        await self.store.write(work)

    async def log_out(self, key: str) -> None:
        await self.store.write(lambda transaction: transaction.drop_document(Session, key))

    async def new_token(self, name: str, role: str, days: int | None, *, by: str) -> tuple[ApiToken, str]:
        """A token and its secret, which is told only now."""
        _check_role(role)
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise Refusal(422, "bad_name", "A token's name has 1 to 64 printable characters")
        if days is not None and not 1 <= days <= 3650:
            raise Refusal(422, "bad_expiry", "A token is valid for 1 to 3650 days")
        secret, now = TOKEN_PREFIX + new_token(), self.now()
        expires_at = None if days is None else later(now, days * 86400.0)
        token = ApiToken(
            key=hash_of(secret), name=name, role=role, created_at=now, created_by=by, expires_at=expires_at
        )
        await self.store.write(lambda transaction: transaction.put_document(token.key, token))
        return token, secret

    async def tokens(self) -> list[ApiToken]:
        return sorted(await self.store.documents(ApiToken), key=lambda one: one.created_at)

    async def token_of(self, secret: str) -> ApiToken | None:
        """The token with this secret, unless it has expired or was revoked."""
        token = await self.store.document(ApiToken, hash_of(secret))
        if token is None or not matches(secret, token.key):
            return None
        return None if token.expires_at is not None and token.expires_at <= self.now() else token

    async def revoke_token(self, key: str) -> ApiToken:
        """`key`: the token's hash, or its first 12 digits."""

        def work(transaction: Transaction) -> ApiToken:
            found = [one for one in transaction.documents(ApiToken) if len(key) >= 12 and one.key.startswith(key)]
            if len(found) != 1:
                raise Refusal(404, "no_such_token", f"There is no token {key[:12]}")
            transaction.drop_document(ApiToken, found[0].key)
            return found[0]

        return await self.store.write(work)

    async def _hash(self, password: str) -> str:
        from argon2 import PasswordHasher

        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            text = f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
            raise Refusal(422, "bad_password", text)
        async with self._hashing:
            return await asyncio.to_thread(PasswordHasher().hash, password)

    async def _verified(self, password_hash: str | None, password: str) -> bool:
        from argon2 import PasswordHasher
        from argon2.exceptions import VerificationError

        if self._nobody is None:
            self._nobody = await self._hash(new_token())
        async with self._hashing:
            try:
                hashed, given = password_hash or self._nobody, password[:LONGEST_PASSWORD]
                await asyncio.to_thread(PasswordHasher().verify, hashed, given)
            except VerificationError:
                return False
        return password_hash is not None


def _is_alive(session: Session, now: str) -> bool:
    idle, age = seconds_between(session.used_at, now), seconds_between(session.created_at, now)
    return idle <= IDLE_S and age <= ABSOLUTE_S


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        text = "A name has 1 to 32 lower-case letters, digits, dots or dashes, and begins with a letter or digit"
        raise Refusal(422, "bad_name", text)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Refusal(422, "bad_role", f"A role is one of {', '.join(ROLES)}")


def _existing(transaction: Transaction, name: str) -> User:
    user = transaction.document(User, name)
    if user is None:
        raise Refusal(404, "no_such_user", f"There is no user {name}")
    return user


def _keep_an_admin(transaction: Transaction) -> None:
    if not any(one.role == "admin" for one in transaction.documents(User)):
        raise Refusal(409, "last_admin", "This is the last admin: make another one first")


def _end_sessions(transaction: Transaction, name: str) -> None:
    for session in transaction.documents(Session):
        if session.user == name:
            transaction.drop_document(Session, session.key)

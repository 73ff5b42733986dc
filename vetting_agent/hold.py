"""The hold: lets an operator in by SSH while a failed host waits, and sees that nobody can get in afterwards."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from probes.host import Host
from vetting_agent.client import Client
from vetting_agent.errors import EXIT_CRASHED, EXIT_DONE, BadHoldKey, Rejected, Trouble
from vetting_agent.hold_key import MOST_SITE_KEYS, parse_expiry, parse_key
from vetting_agent.key_file import KeyFile
from vetting_agent.lock import default_state_dir
from vetting_agent.logs import LogBook
from vetting_agent.ssh_door import Door, OpenDoor, door_of, host_key_of
from vetting_agent.status import AckStatus
from vetting_agent.terminals import Terminals
from vetting_agent.wire import HoldReply, HoldRequest, TerminalOrder

ASK_AGAIN_S = 30.0
CLOSE_LIMIT_S = 6.0


def default_key_file() -> Path:
    """root's authorized_keys."""
    return Path("/root/.ssh/authorized_keys")


class Holder(Protocol):
    """What control needs of a hold."""

    @property
    def is_open(self) -> bool:
        """True while an operator can come in."""
        ...

    async def keep(self) -> None:
        """Hold until cancelled. Leaving is a step of its own: the key stays through a retry."""
        ...

    def open_terminal(self, order: TerminalOrder, answer: Callable[[AckStatus], None]) -> None:
        """Let an operator in through a stream of our own; `answer` is called once."""
        ...

    async def leave(self) -> None:
        """The run leaves the hold. May be called at any time, and again."""
        ...


class NoHold:
    """A hold that lets nobody in."""

    is_open = False

    async def keep(self) -> None:
        await asyncio.Event().wait()

    def open_terminal(self, _order: TerminalOrder, answer: Callable[[AckStatus], None]) -> None:
        answer(AckStatus.REFUSED)

    async def leave(self) -> None:
        return


class Hold:
    """Asks for a key until a good one is installed."""

    def __init__(
        self,
        client: Client,
        host: Host,
        keys: KeyFile,
        book: LogBook,
        address: Callable[[], Awaitable[str]],
        *,
        ask_again_s: float = ASK_AGAIN_S,
        door: Door | None = None,
    ) -> None:
        self._client = client
        self._host = host
        self._keys = keys
        self._book = book
        self._address = address
        self._ask_again_s = ask_again_s
        self._door = door or OpenDoor()
        self._terminals = Terminals(client, host, book)
        self.is_open = False
        self._to_shut = False

    async def keep(self) -> None:
        """Until cancelled. Raises FinalRefusal."""
        self._book.warn("the run is held: asking for the hold key")
        while not await self._let_in():  # noqa: ASYNC110 it asks a server, which tells nobody by itself
            await asyncio.sleep(self._ask_again_s)
        await asyncio.Event().wait()

    def open_terminal(self, order: TerminalOrder, answer: Callable[[AckStatus], None]) -> None:
        """Beside the key: also where nothing from outside reaches this host."""
        self._terminals.open(order, answer)

    async def leave(self) -> None:
        """End the terminals, remove the keys and close their sessions. Never raises: the agent must come to its end."""
        await self._terminals.end_all("the hold is over")
        try:
            await leave_hold(self._keys, self._host, self._book.info)
        except (BadHoldKey, OSError, TimeoutError) as problem:
            self._book.error(f"the hold key could not be taken back: {problem}")
        self.is_open = False
        if self._to_shut:
            self._to_shut = False
            if (trouble := await self._door.shut()) is not None:
                self._book.error(f"the SSH server goes on: {trouble}")

    async def _let_in(self) -> bool:
        """Ask once; True when somebody can come in now."""
        ip = await self._address()
        try:
            shown = host_key_of(self._host)
            reply = await self._client.hold(HoldRequest(ip=ip, ssh_host_key=shown))
            installed = self._install(reply)
        except BadHoldKey as problem:
            self._book.warn(f"the hold key is refused: {problem}")
        except (Trouble, Rejected) as problem:
            self._book.warn(f"no hold key: {problem}")
        except OSError as problem:
            self._book.error(f"the hold key could not be installed: {problem}")
        else:
            what = "installed" if installed else "already there and is left as it was"
            self._book.info(f"the hold key is {what}: ssh root@{ip}")
            is_open = await self._open_door()
            await self._tell_host_key(ip, shown)
            return is_open
        return False

    async def _tell_host_key(self, ip: str, told: str | None) -> None:
        """The key that the server was opened with, if it was made only then: what people compare when they come."""
        made = host_key_of(self._host)
        if made in {None, told}:
            return
        try:
            await self._client.hold(HoldRequest(ip=ip, ssh_host_key=made))
        except (Trouble, Rejected) as problem:
            self._book.warn(f"the orchestrator does not know this host's SSH key {made}: {problem}")

    async def _open_door(self) -> bool:
        self._to_shut = True
        trouble = await self._door.open()
        self.is_open = trouble is None
        if trouble is not None:
            self._book.error(f"the SSH server does not start: {trouble}")
        return self.is_open

    def _install(self, reply: HoldReply) -> bool:
        key = parse_key(reply.authorized_key)
        expiry = parse_expiry(reply.expires_at, datetime.now(UTC))
        installed = self._keys.install(key, key.line(expiry), time.clock_gettime(time.CLOCK_BOOTTIME))
        for line in reply.site_keys[:MOST_SITE_KEYS]:
            self._install_beside(line, expiry)
        return installed

    def _install_beside(self, line: str, expiry: datetime | None) -> None:
        """One of the site's keys. One that is no key keeps nobody out who has another."""
        try:
            key = parse_key(line)
            if self._keys.for_key(key).install(key, key.line(expiry), time.clock_gettime(time.CLOCK_BOOTTIME)):
                self._book.info(f"the site's key {key.fingerprint} is installed beside the run's")
        except BadHoldKey as problem:
            self._book.warn(f"a key of the site is refused: {problem}")
        except OSError as problem:
            self._book.error(f"a key of the site could not be installed: {problem}")


async def leave_hold(keys: KeyFile, host: Host, say: Callable[[str], None]) -> None:
    """Take the keys that are noted as installed out again and close their sessions. Raises BadHoldKey, OSError."""
    # First the keys: no session can begin while those that are there get closed.
    removed = [(one, one.remove()) for one in keys.all_noted()]
    for place, installed in removed:
        if installed is None:
            continue
        async with asyncio.timeout(CLOSE_LIMIT_S):
            from vetting_agent.hold_sessions import close_sessions

            closed = await close_sessions(host, installed.fingerprint, installed.since_s)
        place.forget()
        which = f"the site's key {installed.fingerprint}" if place.beside else "the hold key"
        say(f"{which} is removed; sessions closed: {closed}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent hold-clean`."""
    parser.add_argument("--authorized-keys", metavar="FILE", type=Path, default=None, help="where the hold put its key")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, default=None, help="as given to run")
    parser.add_argument("--ssh-unit", metavar="UNIT", default=None, help="as given to run")


def main(args: argparse.Namespace) -> int:
    """Clean up after an agent that was killed in a hold: for the stop hook of its unit."""
    host = Host()
    keys = KeyFile(args.authorized_keys or default_key_file(), args.state_dir or default_state_dir(host))

    async def clean() -> str | None:
        try:
            await leave_hold(keys, host, lambda text: print(text, file=sys.stderr))  # noqa: T201
        finally:
            trouble = await door_of(host.tools, args.ssh_unit).shut()
        return trouble

    try:
        if (trouble := asyncio.run(clean())) is not None:
            print(f"the SSH server goes on: {trouble}", file=sys.stderr)  # noqa: T201
            return EXIT_CRASHED
    except (BadHoldKey, OSError) as problem:
        print(f"the hold key could not be taken back: {problem}", file=sys.stderr)  # noqa: T201
        return EXIT_CRASHED
    return EXIT_DONE

"""The identify lamps that operators had lit: each goes out by itself, and all of them with the agent.

What is lit is noted in the state folder, so that the successor of a killed agent puts it out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from probes.host import Host
from vetting_agent.logs import LogBook
from vetting_agent.status import AckStatus
from vetting_agent.wire import IdentifyOrder

HOST = "host"
DISK = "disk:"
LONGEST_S = 3600.0
OFF_LIMIT_S = 5.0
HOST_STEP_S = 240.0
"""A BMC lights its lamp for 255 seconds at most: it is asked again before that, so that a dead agent's goes out."""
RENEW_EARLY_S = 30.0

Answer = Callable[[AckStatus, str | None], None]


class Lamps:
    """Switches them one after the other. `recall`, `switch` and `all_off` never raise."""

    def __init__(self, host: Host, book: LogBook, state_dir: Path) -> None:
        self._host = host
        self._book = book
        self._path = state_dir / "lamps.json"
        self._turn = asyncio.Lock()
        self._until: dict[str, float] = {}
        """Of each lit lamp, in seconds since the epoch."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._orders: set[asyncio.Task[None]] = set()

    def recall(self) -> None:
        """Take over what an agent before this one has lit."""
        with suppress(OSError, msgspec.MsgspecError):
            self._until = msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        for target in self._until:
            self._keepers[target] = asyncio.create_task(self._keep(target, HOST_STEP_S))

    def switch(self, order: IdentifyOrder, answer: Answer) -> None:
        """Begin to. `answer` is called once: done when the lamp was switched, else refused with the reason."""
        task = asyncio.create_task(self._carry_out(order, answer))
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def all_off(self) -> None:
        """Put out what is lit, for at most OFF_LIMIT_S."""
        waiting = {*self._orders, *self._keepers.values()}
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=OFF_LIMIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(OFF_LIMIT_S):
                for target in tuple(self._until):
                    await self._put_out(target)

    async def _carry_out(self, order: IdentifyOrder, answer: Answer) -> None:
        from probes.locate import CannotIdentify

        words = f"identify {order.target} {'on' if order.on else 'off'}"
        async with self._turn:
            try:
                await self._lit(order) if order.on else await self._dark(order.target)
            except CannotIdentify as problem:
                self._book.warn(f"{words}: {problem.reason}: {problem}")
                answer(AckStatus.REFUSED, f"{problem.reason}: {problem}")
            except Exception as problem:  # a fault of our own must not leave the operator without a word
                self._book.error(f"{words}: {problem!r}")
                answer(AckStatus.REFUSED, f"agent_fault: {problem!r}")
            else:
                self._book.info(f"{words}: done")
                answer(AckStatus.DONE, None)

    async def _lit(self, order: IdentifyOrder) -> None:
        span_s = max(1.0, min(LONGEST_S, order.seconds))
        # Noted first: an agent that is killed in between leaves a lamp that is found again.
        self._note(order.target, time.time() + span_s)
        try:
            await self._set(order.target, span_s)
        except BaseException:
            self._note(order.target, None)
            raise
        self._forget_keeper(order.target)
        self._keepers[order.target] = asyncio.create_task(self._keep(order.target, HOST_STEP_S))

    async def _dark(self, target: str) -> None:
        self._forget_keeper(target)
        await self._set(target, 0.0)
        self._note(target, None)

    async def _keep(self, target: str, step_s: float) -> None:
        """Put the lamp out when its time is over; renew a BMC's until then."""
        while (left_s := self._until.get(target, 0.0) - time.time()) > 0:
            await asyncio.sleep(min(left_s, step_s - RENEW_EARLY_S))
            if target == HOST and (left_s := self._until.get(target, 0.0) - time.time()) > 0:
                async with self._turn:
                    await self._tried(target, left_s)
        async with self._turn:
            await self._put_out(target)

    async def _put_out(self, target: str) -> None:
        await self._tried(target, 0.0)
        self._note(target, None)

    async def _tried(self, target: str, span_s: float) -> None:
        from probes.locate import CannotIdentify

        try:
            await self._set(target, span_s)
        except CannotIdentify as problem:
            self._book.warn(f"the lamp of {target} could not be {'kept lit' if span_s else 'put out'}: {problem}")

    async def _set(self, target: str, span_s: float) -> None:
        """Raises CannotIdentify."""
        from probes.locate import NO_DISK, CannotIdentify, disk_lamp, host_lamp

        if target == HOST:
            await host_lamp(self._host, round(min(span_s, HOST_STEP_S)))
        elif target.startswith(DISK) and len(target) > len(DISK):
            await disk_lamp(self._host, target.removeprefix(DISK), on=span_s > 0)
        else:
            raise CannotIdentify(NO_DISK, f"there is no lamp called {target[:80]!r}: host, or disk:SERIAL")

    def _forget_keeper(self, target: str) -> None:
        if (keeper := self._keepers.pop(target, None)) is not None:
            keeper.cancel()

    def _note(self, target: str, until: float | None) -> None:
        if until is None:
            self._until.pop(target, None)
        else:
            self._until[target] = until
        try:
            self._path.write_bytes(msgspec.json.encode(self._until))
        except OSError as problem:
            self._book.warn(f"the lit lamps could not be noted: {problem}")

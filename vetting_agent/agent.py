"""The agent as a whole: claims the run, then control, heartbeat, logs and thermal as one task group, then the end.

However it ends, by a directive, a final refusal, a signal or a fault of its own, the running stage is killed, the hold
is left, and the log is flushed, in this order.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from probes.host import Host
from stages.stage import Level
from vetting_agent import wire
from vetting_agent.claiming import Claimer, Identity
from vetting_agent.client import Backoff, Client
from vetting_agent.errors import (
    EXIT_CRASHED,
    EXIT_DONE,
    EXIT_REFUSED,
    FinalRefusal,
    Rejected,
)
from vetting_agent.hold import Hold, Holder, NoHold
from vetting_agent.key_file import KeyFile
from vetting_agent.lamps import Lamps
from vetting_agent.local import Local, Teller
from vetting_agent.lock import TokenStore
from vetting_agent.logs import Forwarder, LogBook, Stderr, timestamp
from vetting_agent.owed import PowerOffOwed
from vetting_agent.params import BootParams
from vetting_agent.pinning import Way
from vetting_agent.redact import Redactor
from vetting_agent.self_preflight import SelfPreflight
from vetting_agent.signals import Signal
from vetting_agent.ssh_door import door_of
from vetting_agent.status import Directives, StatusBoard
from vetting_agent.wire import LogLine

# What only a claimed run needs is imported after the claim, where it is used: a host in the boot is waited for.
if TYPE_CHECKING:
    from stages.stage import RunFacts, Stage
    from vetting_agent.control import Control, End
    from vetting_agent.evidence import EvidenceStore
    from vetting_agent.heartbeat import Heartbeat
    from vetting_agent.thermal import SampleBuffer

HEARTBEAT_S, SENSOR_S, LOG_S = 10.0, 5.0, 2.0
INTERVAL_BOUNDS_S = (0.05, 3600.0)
POWER_OFF_FLUSH_S = 10.0
EXIT_FLUSH_S = 3.0
RECOLLECT_LIMIT_S = 30.0
OOM_SCORE_ADJ = -900
RESTART_PAUSE_S = 1.0
RESTART_PAUSE_MOST_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that an agent is started with."""

    params: BootParams
    host: Host
    stages: tuple[Stage[Any], ...] | None
    """None: those of this program, each imported when it is its turn."""
    state_dir: Path
    evidence: Path
    authorized_keys: Path
    way: Way
    allow_destructive: bool = False
    may_power_off: bool = True
    may_hold: bool = True
    memory_fraction: float = 1.0
    backoff: Backoff = field(default_factory=Backoff)
    recollect: Callable[[Host], Awaitable[list[str]]] | None = None
    local: Local = field(default_factory=Local)
    echo: Callable[[LogLine], None] | None = None
    """Where log lines go besides the orchestrator; None: standard error."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left to do, and the exit code."""

    exit_code: int
    power_off: bool = False
    flush_s: float = EXIT_FLUSH_S


class Agent:
    """One start of the agent process: one instance_id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._params = settings.params
        self._host = settings.host
        redactor = Redactor()
        redactor.add(self._params.token.reveal())
        self._echo = settings.echo or Stderr.of_environment().write
        self._teller = Teller(settings.local, self._host, self._params)
        self._book = LogBook(redactor=redactor, echo=self._say)
        self._board = StatusBoard()
        self._directives = Directives()
        self._identity = Identity.of(self._host, str(uuid.uuid4()))
        self._tokens = TokenStore(settings.state_dir, self._params)
        self._owed = PowerOffOwed(settings.state_dir, self._params, self._identity.boot_id)
        self._client = Client(
            self._params, self._identity.instance_id, settings.way, backoff=settings.backoff, note=self._note_retry
        )
        self._claimer = Claimer(self._params, self._identity, self._client, self._tokens, self._book)
        self._preflight = SelfPreflight(
            self._host,
            self._params,
            self._client,
            settings.evidence,
            settings.state_dir,
            self._identity.instance_id,
            self._book,
            self._show_preflight,
            settings.local.preflight_after_s,
        )
        # Made before the claim: a hold that a killed agent left is ended even if the run takes no agent any more.
        self._holder = self._make_holder()
        self._lamps = Lamps(self._host, self._book, settings.state_dir)
        self._heartbeat: Heartbeat | None = None
        self._forwarder: Forwarder | None = None
        self._vetting: asyncio.Task[Ending] | None = None

    async def run(self) -> int:
        """To the end; the exit code."""
        self._lamps.recall()
        self._vetting = vetting = asyncio.create_task(self._vet())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number.name)
        telling = asyncio.create_task(self._teller.run(self._board, self._claimer, self._holder, self._book))
        try:
            await asyncio.wait({vetting})
            ending = Ending(EXIT_DONE) if vetting.cancelled() else vetting.result()
            self._teller.ended = True
            await self._end(ending)
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        return ending.exit_code

    def _say(self, line: LogLine) -> None:
        self._teller.note(line)
        self._echo(line)

    def stop(self, why: str) -> None:
        """End cleanly, as on a signal: without a result of what runs."""
        if self._vetting is not None:
            self._book.warn(f"{why}: ending, without a result of what runs")
            self._vetting.cancel()

    async def _end(self, ending: Ending) -> None:
        await asyncio.gather(self._holder.leave(), self._lamps.all_off())
        if self._heartbeat is not None and ending.exit_code == EXIT_DONE:
            with contextlib.suppress(FinalRefusal):
                await self._heartbeat.last()
        if not ending.power_off and ending.exit_code != EXIT_CRASHED:
            self._owed.void()
        if ending.power_off:
            self._book.info("powering off" if self._settings.may_power_off else "told never to power off; exiting")
        if self._forwarder is not None and ending.flush_s > 0:
            await self._forwarder.flush(ending.flush_s)
        if ending.power_off and self._settings.may_power_off:
            from vetting_agent.power import power_off

            await power_off(self._host.tools, self._book)
        await self._client.close()

    async def _vet(self) -> Ending:
        """From hello to the end of the walk."""
        ending = Ending(EXIT_CRASHED)
        try:
            claim = self._teller.claim = await self._claimed()
            ending = _ending_of(await self._walk(claim))
        except* FinalRefusal as refusals:
            ending = self._refused(_first(refusals))
        except* Rejected as rejections:
            self._book.error(f"the claim is not taken: {_first(rejections)}")
            ending = Ending(EXIT_REFUSED)
        except* Exception as problems:
            self._book.error("".join(traceback.format_exception(problems)))
        return ending

    async def _claimed(self) -> wire.Claim:
        """The claim; while it does not come to be, a preflight says now and then why."""
        doubts = asyncio.create_task(self._preflight.run())
        try:
            return await self._claimer.first()
        finally:
            doubts.cancel()
            await asyncio.wait({doubts})

    def _show_preflight(self, table: str, news: bool) -> None:
        self._teller.preflight = table
        for line in table.splitlines() if news else ():
            self._echo(LogLine(ts=timestamp(), level=Level.WARN, stage="", text=line))

    def _refused(self, refusal: BaseException) -> Ending:
        assert isinstance(refusal, FinalRefusal)
        if self._teller.claim is None:
            self._preflight.refused(refusal)
        tell = self._book.info if refusal.exit_code == EXIT_DONE else self._book.error
        tell(str(refusal))
        if refusal.status in {401, 403}:
            self._tokens.forget()
        if refusal.status == 410 and refusal.own and (order := self._owed.order) is not None:
            self._book.warn(f"this host was told to power off ({order}) and has not: it does so now")
            return Ending(EXIT_DONE, power_off=True, flush_s=0.0)
        return Ending(refusal.exit_code, flush_s=0.0)

    async def _walk(self, claim: wire.Claim) -> End:
        from vetting_agent.heartbeat import Heartbeat
        from vetting_agent.thermal import SampleBuffer, Thermal

        buffer = SampleBuffer()
        interval = _Intervals(self._book)
        self._heartbeat = Heartbeat(
            self._client,
            self._board,
            self._directives,
            self._book,
            interval.of("heartbeat_interval_s", claim.heartbeat_interval_s, HEARTBEAT_S),
        )
        self._forwarder = Forwarder(
            self._book, self._client, interval.of("log_interval_s", claim.log_interval_s, LOG_S)
        )
        sensor_s = interval.of("sensor_interval_s", claim.sensor_interval_s, SENSOR_S)
        thermal = Thermal(self._host, self._client, buffer, self._directives, self._book, sensor_s)
        store = self._store()
        control = self._control(claim, buffer, store)
        async with asyncio.TaskGroup() as group:
            last_boot = group.create_task(self._keep_last_boot(claim, store))
            loops = (self._heartbeat.run, self._forwarder.run, thermal.sample, thermal.send)
            sidecars = [group.create_task(self._sidecar(run)) for run in loops]
            if self._settings.local.wait_for_devices:
                await self._devices_settled()
            end = await control.walk()
            for sidecar in (*sidecars, last_boot):
                sidecar.cancel()
        return end

    async def _devices_settled(self) -> None:
        from vetting_agent.devices import settled

        await settled(self._host.tools, self._book)

    async def _sidecar(self, run: Callable[[], Awaitable[None]]) -> None:
        """A fault in a sidecar must not end the vetting: it is told and the sidecar starts again."""
        pause_s = RESTART_PAUSE_S
        while True:
            try:
                await run()
            except FinalRefusal:
                raise
            except OSError as problem:
                self._book.error(f"a part of the agent stands still for a while: {problem}")
            except Exception:
                self._book.error(traceback.format_exc())
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_PAUSE_MOST_S, pause_s * 2)

    async def _keep_last_boot(self, claim: wire.Claim, store: EvidenceStore) -> None:
        from vetting_agent import last_boot

        folder = store.folder / f"before-boot-{self._identity.boot_id or 'unknown'}"
        await last_boot.keep(self._host, folder, self._client, claim, self._book)

    def _control(self, claim: wire.Claim, buffer: SampleBuffer, store: EvidenceStore) -> Control:
        from vetting_agent.control import Control
        from vetting_agent.execution import Executor, LastCount, last_count
        from vetting_agent.iperf_slot import Lender

        host_name = urlsplit(self._params.orchestrator).hostname or ""
        executor = Executor(
            host=self._host,
            stages=self._settings.stages,
            claim=claim,
            facts=self._facts(claim, host_name),
            store=store,
            lender=Lender(self._client, claim, host_name, self._book),
            board=self._board,
            buffer=buffer,
            book=self._book,
            last=LastCount(last_count(store)),
        )
        return Control(
            claim=claim,
            client=self._client,
            book=self._book,
            board=self._board,
            directives=self._directives,
            executor=executor,
            holder=self._holder,
            lamps=self._lamps,
            owed=self._owed,
            claim_again=self._claimer.once,
            recollect=self._recollect,
        )

    def _store(self) -> EvidenceStore:
        from vetting_agent.evidence import EvidenceStore

        store = EvidenceStore(
            self._settings.evidence,
            run_id=self._params.run_id,
            orchestrator=self._params.orchestrator,
            boot_id=self._identity.boot_id,
        )
        try:
            store.open()
        except OSError as problem:
            self._book.warn(f"the evidence folder {store.folder} cannot be used: {problem}")
        return store

    def _facts(self, claim: wire.Claim, host_name: str) -> RunFacts:
        from stages.stage import ExpectedDisk, RunFacts

        disks = claim.expected_disks
        return RunFacts(
            expected_disks=None if disks is None else tuple(ExpectedDisk(one.serial, one.size_gb) for one in disks),
            non_destructive=not claim.is_destructive,
            allow_destructive=self._settings.allow_destructive or self._identity.image_version is not None,
            orchestrator_host=host_name,
            boot_mac=self._claimer.boot_mac,
            memory_fraction=self._settings.memory_fraction,
        )

    def _make_holder(self) -> Holder:
        if not self._settings.may_hold:
            return NoHold()
        keys = KeyFile(self._settings.authorized_keys, self._settings.state_dir)
        door = door_of(self._host.tools, self._settings.local.ssh_unit)
        return Hold(self._client, self._host, keys, self._book, self._claimer.address, door=door)

    async def _recollect(self) -> list[str] | None:
        """The components as they are now; None, with a warning, when they cannot be read: never those of before."""
        if self._settings.recollect is None:
            return None
        try:
            async with asyncio.timeout(RECOLLECT_LIMIT_S):
                return await self._settings.recollect(self._host)
        except Exception as problem:
            self._book.warn(f"the components of this host could not be read again: {problem!r}")
            return None

    def _note_retry(self, verb: str, text: str) -> None:
        signal = f"{Signal.RESULT_POST_FAILED}: " if verb == "result" else ""
        self._book.warn(f"{signal}trouble with {verb}: {text}")


@dataclass(frozen=True, slots=True)
class _Intervals:
    """Takes the claim's intervals, within reason."""

    book: LogBook

    def of(self, name: str, value: float | None, default: float) -> float:
        low, high = INTERVAL_BOUNDS_S
        if value is None or low <= value <= high:
            return default if value is None else value
        self.book.warn(f"{name} of {value} in the claim makes no sense; using {default:g} s")
        return default


def _ending_of(end: End) -> Ending:
    from vetting_agent.control import End

    if end is End.POWER_OFF:
        return Ending(EXIT_DONE, power_off=True, flush_s=POWER_OFF_FLUSH_S)
    return Ending(EXIT_DONE)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """One of the exceptions in a group: which one does not matter where this is used."""
    problem: BaseException = group
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem

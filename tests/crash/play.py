"""One run under kills: real processes, an agent and an orchestrator that are started again at once, an operator."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.crash.plan import AFTER, AGENT, ORCHESTRATOR, START, Kill, Plan
from tests.crash.relay import Relay
from tests.crash.subject import BROKEN, LOAD
from tests.walk.rig import Agent, Orchestrator

LIMIT_S = 600.0
POLL_S = 0.1
MOST_ORDERS = 8
STAGES = ["Inventory", LOAD, "PSU"]
SUBJECT = ("tests.crash.subject",)
GONE_LIMIT_S = 60.0
"""The page says 2 s; a machine that is busy with other things gets more before the run counts as failed."""
NOT_STARTED_AGAIN = (0, 2, 3)
"""Exit codes after which the unit leaves the agent ended (image/root/etc/systemd/system/vetting-agent.service)."""


class PlayFailed(AssertionError):
    """The run did not come to its end."""


@dataclass
class Kept(Agent):
    """The agent, started again whenever it was killed, as its unit does; each process has a HOME of its own."""

    starts: int = 0

    def start(self) -> Agent:
        self.folder.mkdir(parents=True, exist_ok=True)
        said = self.folder / "agent.err"
        if said.exists():
            said.rename(self.folder / f"agent-{self.starts}.err")
        self.starts += 1
        home = self.folder / f"home-{self.starts}"
        home.mkdir()
        self.environment = {"HOME": str(home), BROKEN: str(self.folder / "broken")}
        self.arguments = ["--state-dir", str(self.folder / "state")]
        return super().start()

    @property
    def is_off(self) -> bool:
        """Whether the host was powered off: nothing is started any more."""
        return bool(self.power_log)

    def sayings(self) -> list[list[str]]:
        """What each process wrote to its standard error, oldest first."""
        files = [self.folder / f"agent-{number}.err" for number in range(1, self.starts)]
        return [file.read_text().splitlines() for file in [*files, self.folder / "agent.err"]]


@dataclass
class Play:
    """What is there while the run goes on, and what was noted on the way."""

    plan: Plan
    folder: Path
    orchestrator: Orchestrator
    agent: Kept
    relay: Relay
    run_id: int = 0
    exit_code: int | None = None
    """The agent's last."""
    diary: list[str] = field(default_factory=list)
    done: list[Kill] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)
    """How long after each kill of the agent nothing that it had started was left."""
    left: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    server_lock: threading.Lock = field(default_factory=threading.Lock)
    agent_lock: threading.Lock = field(default_factory=threading.Lock)
    """Taken after the server's, where both are."""
    threads: list[threading.Thread] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.diary.append(f"{time.monotonic() - self.began:7.3f} {text}")

    # --- kills --------------------------------------------------------------------------------------------------------

    def moment(self, verb: str, number: int, phase: str) -> bool:
        """Whether somebody is killed at once. Called from the relay's threads, and for START from the keeper's."""
        killed = False
        for kill in self.plan.kills:
            if (kill.verb, kill.number) == (verb, number) and phase == kill.phase:
                if kill.delay_s:
                    self._later(kill)
                else:
                    self._kill(kill)
                    killed = True
        return killed

    def _later(self, kill: Kill) -> None:
        timer = threading.Timer(kill.delay_s, self._kill, [kill])
        timer.daemon = True
        self.threads.append(timer)
        timer.start()

    def _kill(self, kill: Kill) -> None:
        """An agent's moment does not wait for an orchestrator that is being started: by then its load may be over."""
        if kill.victim == AGENT:
            with self.agent_lock:
                if self._may(kill):
                    self._kill_agent()
            return
        with self.server_lock:
            if not self._may(kill):
                return
            if kill.victim != ORCHESTRATOR:
                with self.agent_lock:
                    self._kill_agent()
            self.orchestrator.kill()
            self.orchestrator.start()
            self.note("orchestrator is back")

    def _may(self, kill: Kill) -> bool:
        if self.over.is_set():
            return False
        self.note(f"kill {kill}")
        self.done.append(kill)
        return True

    def _kill_agent(self) -> None:
        process = self.agent.process
        assert process is not None
        if process.poll() is not None:
            return
        process.kill()
        watcher = threading.Thread(target=self._watch_gone, args=(self.agent.environment["HOME"],), daemon=True)
        self.threads.append(watcher)
        watcher.start()

    def _watch_gone(self, home: str) -> None:
        """What the killed agent had started carries its HOME."""
        began = time.monotonic()
        while left := of_home(home):
            if time.monotonic() - began > GONE_LIMIT_S:
                self.left += left
                return
            time.sleep(0.05)
        self.gone_s.append(time.monotonic() - began)

    # --- the agent's unit ---------------------------------------------------------------------------------------------

    def keep_agent(self) -> None:
        """Start the agent again for as long as its unit would. A fault of this thread is noted."""
        while not self.over.is_set():
            with self.agent_lock:
                self.agent.start()
            self.note(f"agent {self.agent.starts} starts")
            self.moment(START, self.agent.starts, AFTER)
            assert self.agent.process is not None
            code = self.agent.process.wait()
            self.note(f"agent {self.agent.starts} ends: {code}")
            if code in NOT_STARTED_AGAIN or self.agent.is_off:
                self.exit_code = code
                return

    # --- the operator -------------------------------------------------------------------------------------------------

    def operate(self) -> None:
        """What the script says, until the agent has ended for good. Raises PlayFailed when that takes too long."""
        keeper = threading.Thread(target=self.keep_agent, daemon=True)
        self.threads.append(keeper)
        keeper.start()
        deadline = time.monotonic() + LIMIT_S
        ordered = False
        while keeper.is_alive():
            if time.monotonic() > deadline:
                raise PlayFailed(f"not at its end after {LIMIT_S:.0f} s: {self._state()}")
            keeper.join(POLL_S)
            view = self.view()
            if view is None:
                continue
            if self.plan.script.order and not ordered:
                ordered = self._order_in_load(view)
            if view["state"] == "FailedHolding":
                self._retry(view)
            if len(view["directives"]) > MOST_ORDERS:
                raise PlayFailed(f"retried over and over: {view['run_findings']}, {view['stages'][1]['message']}")

    def _state(self) -> str:
        view = self.view()
        return str(view and (view["state"], view["directives"]))

    def view(self) -> dict[str, Any] | None:
        with contextlib.suppress(httpx.HTTPError):  # it was killed, and is being started
            return self.orchestrator.run(self.run_id)
        return None

    def _order_in_load(self, view: dict[str, Any]) -> bool:
        running = any(one.body.get("stage") == LOAD for one in self.relay.heard.answered("heartbeat"))
        if view["state"] != LOAD or not running:
            return False
        return self._direct(self.plan.script.order)

    def _retry(self, view: dict[str, Any]) -> None:
        if not self.relay.heard.answered("hold") or any(one["status"] == "waiting" for one in view["directives"]):
            return
        (self.agent.folder / "broken").unlink(missing_ok=True)
        self._direct("retry_stage", stage=LOAD)

    def _direct(self, cmd: str, **more: Any) -> bool:
        """True once the order is known to have been taken: an answer that was lost is asked for again."""
        try:
            self.orchestrator.direct(self.run_id, cmd, **more)
        except httpx.HTTPError:
            return False
        except AssertionError as refused:
            return any(code in str(refused) for code in ("already_ordered", "run_over", "retry_pending"))
        self.note(f"ordered {cmd}")
        return True


def of_home(home: str) -> list[str]:
    """The processes with this HOME: pid and command line of each."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("HOME") == home:
                found.append(f"{process.pid} {shlex.join(process.cmdline())}")
    return found


@contextlib.contextmanager
def staged(plan: Plan, folder: Path, *, serve: Callable[[Path], Orchestrator] = Orchestrator) -> Iterator[Play]:
    """A play that is ready to begin; all that it started is ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    orchestrator = serve(folder / "data")
    orchestrator.start()
    play: Play | None = None
    try:
        created = orchestrator.create_run(
            STAGES,
            parameters={LOAD: {"duration_s": plan.script.load_s}, "PSU": {"duration_s": 0}},
            intervals={"heartbeat_s": 0.2, "sensor_s": 1.0, "log_s": 0.2},
        )
        certificate, key = (next(orchestrator.data.rglob(pattern)) for pattern in ("*cert*.pem", "*key*.pem"))

        def moment(verb: str, number: int, phase: str) -> bool:
            return play is not None and play.moment(verb, number, phase)

        with Relay(orchestrator.url, certificate, key, moment) as relay:
            agent = Kept(folder / "agent", relay.url, orchestrator.fingerprint, created, program=SUBJECT)
            agent.folder.mkdir()
            if plan.script.breaks:
                (agent.folder / "broken").touch()
            play = Play(plan, folder, orchestrator, agent, relay, created["run_id"])
            yield play
    finally:
        if play is not None:
            _end(play)
        if orchestrator.process is not None and orchestrator.process.poll() is None:
            orchestrator.stop()


def _end(play: Play) -> None:
    play.over.set()
    process = play.agent.process
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
    for thread in play.threads:
        if isinstance(thread, threading.Timer):
            thread.cancel()
        thread.join(timeout=GONE_LIMIT_S + 5)

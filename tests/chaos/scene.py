"""What a row's story is told with: a server and hosts in namespaces of their own, a relay between them, and a watch."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.net import ROUTER, SERVER, Net
from tests.chaos.row import Row
from tests.walk.rig import Agent, Orchestrator, wait_for

STAGES = ("Inventory", "SMART", "PSU")
"""Short ones; SMART can be made to last for as long as a row likes."""
SLOW_STAGE = "SMART"
INTERVALS = {"heartbeat_s": 1.0, "sensor_s": 2.0, "log_s": 0.5}
START_S = 240.0
"""Before anything is broken: the machine may be busy with other things."""


class NotRight(AssertionError):
    """The row did not go as it says."""


class Relay:
    """`tests.chaos.relay` as a process in the router's namespace."""

    def __init__(self, net: Net, orchestrator: Orchestrator, *, tls: bool, folder: Path) -> None:
        argv = [*net.within(net.router), sys.executable, "-m", "tests.chaos.relay", "--listen", ROUTER]
        argv += ["--to", orchestrator.url.removeprefix("https://")]
        argv += ["--certificate", str(orchestrator.data)] if tls else []
        self._log = folder / "relay.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()
        port = wait_for(lambda: next((one["port"] for one in self.said if "port" in one), None), "the relay", START_S)
        self.url = f"https://{ROUTER}:{port}"

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            with self._log.open("a") as log:
                log.write(line)

    def order(self, **order: Any) -> None:
        """What is wrong from now on; nothing: all is well."""
        assert self.process.stdin is not None
        before = sum("orders" in one for one in self.said)
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        wait_for(lambda: sum("orders" in one for one in self.said) > before, "the relay's word", START_S)

    def spoiled(self, fault: str) -> int:
        return sum(one.get("fault") == fault for one in self.said)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Scene:
    """One playing of one row."""

    def __init__(self, row: Row, folder: Path, net: Net, patience: float = 1.0) -> None:
        self.row = row
        self.patience = patience
        self.folder = folder
        self.net = net
        self.server: Orchestrator = Orchestrator(folder / "o", address=SERVER, within=net.within(net.server))
        self.run: dict[str, Any] = {}
        self.agents: list[Agent] = []
        self.witness: Agent | None = None
        """Whose words count; the newest agent unless a row says otherwise."""
        self.last: Agent | None = None
        """Whose exit code is looked at in the end; the newest agent unless a row says otherwise."""
        self.correlation = ""
        self.relays: list[Relay] = []
        self.heard: list[str] = []
        """What else was told to a person: by a terminal, by a command."""
        self.found = ""
        self.clear_s: float | None = None
        self.recovery_s: float | None = None
        self.at_the_end: list[Callable[[], None]] = []
        self._broken_at = self._repaired_at = time.monotonic()
        self._seen_before: dict[str, int] = {}

    # --- actors -------------------------------------------------------------------------------------------------------

    def serve(self, *arguments: str, **environment: str) -> None:
        self.server = Orchestrator(
            self.folder / "o", *arguments, address=SERVER, within=self.net.within(self.net.server), **environment
        )
        self.server.start()

    def relay(self, *, tls: bool = True) -> Relay:
        made = Relay(self.net, self.server, tls=tls, folder=self.folder)
        self.relays.append(made)
        return made

    def create(self, stages: Sequence[str] = STAGES, **more: Any) -> dict[str, Any]:
        self.run = self.server.create_run(list(stages), **({"intervals": INTERVALS} | more))
        return self.run

    def agent(
        self,
        *arguments: str,
        name: str = "agent",
        url: str | None = None,
        fingerprint: str | None = None,
        run: dict[str, Any] | None = None,
        within: Sequence[str] = (),
        shown: dict[str, Path] | None = None,
        environment: dict[str, str] | None = None,
        start: bool = True,
    ) -> Agent:
        """An agent in the host's namespace. The same name again: a restarted one on the same host."""
        folder = self.folder / name
        made = Agent(
            folder,
            url or self.server.url,
            fingerprint or self.server.fingerprint,
            run or self.run,
            arguments=["--state-dir", str(folder / "state"), *arguments],
            shown=shown or {},
            environment=environment or {},
            within=[*within, *self.net.within(self.net.host)],  # inside, /sys shows no cgroups
        )
        self.agents.append(made)
        self.witness = made
        made.stand_ins.mkdir(parents=True, exist_ok=True)
        return made.start() if start else made

    def slow_down(self, agent: Agent) -> None:
        """From now on SMART lasts until `go_on`."""
        self._gate.touch()
        script = agent.stand_ins / "smartctl"
        real = shutil.which("smartctl") or "smartctl"
        wait = f"while [ -e {self._gate} ]; do sleep 0.1; done"
        script.write_text(f'#!/bin/sh\ncase "$*" in *--scan-open*) {wait};; esac\nexec {real} "$@"\n')
        script.chmod(0o755)

    def go_on(self) -> None:
        self._gate.unlink(missing_ok=True)

    @property
    def _gate(self) -> Path:
        return self.folder / "smart-lasts"

    def under_way(self, **how: Any) -> Agent:
        """A host whose SMART stage runs, and lasts until `go_on`; `how`: as for `agent`."""
        if not self.run:
            self.create()
        agent = self.agent(start=False, **how)
        self.slow_down(agent)
        agent.start()
        self.in_stage(SLOW_STAGE)
        return agent

    def in_stage(self, stage: str) -> None:
        wait_for(lambda: self.view["agent"]["stage"] == stage, f"{stage} under way", START_S)

    def held(self) -> None:
        wait_for(lambda: self.view["state"] == "FailedHolding", "the hold", START_S)

    @property
    def run_id(self) -> int:
        return int(self.run["run_id"])

    @property
    def view(self) -> dict[str, Any]:
        return self.server.run(self.run_id)

    # --- the watch ----------------------------------------------------------------------------------------------------

    def broken(self) -> None:
        """The fault is there from about now on: what was said before does not count."""
        self._seen_before = {source: len(self._said(source)) for source in ("agent", "server", "history", "finding")}
        self._broken_at = time.monotonic()

    def seen(self) -> str:
        """Wait for the clear message."""
        limit_s = self.row.clear_s * self.patience
        try:
            self.found = wait_for(self._look, f"{self.row.words}", limit_s)
        except AssertionError as problem:
            said = self._said(self.row.words.source)[self._seen_before.get(self.row.words.source, 0) :]
            raise NotRight(f"no clear message: {problem}; said was: {said[-3:]}") from None
        self.clear_s = time.monotonic() - self._broken_at
        return self.found

    def repaired(self) -> None:
        self._repaired_at = time.monotonic()
        self._heard_before = self._last_seen()

    def recovered(self, condition: Callable[[], Any] | None = None, what: str = "the host heard again") -> None:
        """Wait until it goes on after the repair; by default until a heartbeat is answered."""
        again = condition or (lambda: self._last_seen() != self._heard_before and not self.view["stalled"])
        wait_for(again, what, self.row.recovery_s * self.patience)
        self.recovery_s = time.monotonic() - self._repaired_at

    def left_s(self) -> float:
        """What is left of the time for the recovery."""
        return max(1.0, self._repaired_at + self.row.recovery_s * self.patience - time.monotonic())

    def _last_seen(self) -> object:
        try:
            return self.view["agent"]["last_seen_at"]
        except Exception:
            return None

    def _look(self) -> str:
        words = self.row.words
        new = self._said(words.source)[self._seen_before.get(words.source, 0) :]
        return next((one for one in new if re.search(words.text, one)), "")

    def _said(self, source: str) -> list[str]:
        """All that was said there so far, line by line."""
        if source == "agent":
            log = self.witness.folder / "agent.err" if self.witness is not None else Path()
            return log.read_text().splitlines() if log.is_file() else []
        if source == "server":
            return self.server.errors.splitlines()
        if source == "operator" or not self.run:  # told to a person at a terminal
            return self.heard
        try:
            view = self.view
        except Exception:
            return []
        if source == "history":
            return [one["text"] for one in view["events"]]
        found = list(view["run_findings"])
        for stage in view["stages"]:
            found += (stage["summary"] or {"findings": []})["findings"]
        return [f"{one['reason_code']}: {one['message']}" for one in found]

    def end(self) -> None:
        """Everything that was started is ended, whatever happened."""
        for agent in self.agents:
            if agent.process is not None and agent.process.poll() is None:
                agent.process.kill()
                agent.process.wait()
        for relay in self.relays:
            relay.end()
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.process.kill()
        if self.server.process is not None:
            self.server.process.wait()
            if self.server.process.stdout is not None:
                self.server.process.stdout.close()
        for act in reversed(self.at_the_end):
            act()


@functools.cache
def wrong_clock() -> Path:
    """clock.c as a library, made once."""
    made = Path(tempfile.mkdtemp(prefix="chaos-clock-")) / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made

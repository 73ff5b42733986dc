"""One row being played: the orchestrator, the run, the machine, and what the story does to them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from image.lab import overlay
from image.lab.guest import Door, Monitor, NoAnswer
from image.vm import services
from image.vm.machine import DirectBoot, Machine, cpu_seconds, running
from orchestrator.operator_client import NoServer, OperatorClient
from orchestrator.operator_messages import RunCreated
from orchestrator.run_record import OVER
from vetting_agent.run_view import DirectiveView, LogView, RunView
from vetting_agent.wire import COMPLETED, FAILED_HOLDING

T = TypeVar("T")
POLL_S = 0.5
START_LIMIT_S = 400.0
"""From QEMU's start to the claim: three of these machines share two CPUs at times."""
POWER_OFF_LIMIT_S = 120.0
ENDED = OVER | {COMPLETED, FAILED_HOLDING}
RELAXED: Mapping[str, Mapping[str, Any]] = {
    "SMART": {"self_test": "none"},
    # A stage's time limit grows with its time, and on an emulated CPU starting the tools alone takes a minute.
    "CPUStress": {"duration_s": 45.0, "memory_coverage_floor": 0.0, "alone_coverage_floor": 0.0},
    "Storage": {"duration_s": 5.0, "floor_nvme_mb_s": 0.0, "floor_ssd_mb_s": 0.0, "floor_hdd_mb_s": 0.0},
    "Network": {"duration_s": 2.0},
    "PSU": {"duration_s": 2.0},
}
"""What an emulated machine cannot reach; a row about rates sets its own."""


class WrongTurn(Exception):
    """The story did not go as it must for its row to say anything; `str()` says where."""


@dataclass(slots=True)
class Scene:
    """What a row's `tell` gets. `boot` comes first, or what must stand before it (`enter`)."""

    image: Path
    folder: Path
    accel: str
    stack: ExitStack
    limit_s: float = 900.0
    """For the whole row, from `boot` on."""
    run_id: int = 0
    marks: dict[str, float] = field(default_factory=dict)
    """Seconds since `boot`, by name."""
    _began: float = 0.0
    _server: services.Orchestrator | None = None
    _qemu: subprocess.Popen[bytes] | None = None
    _monitor: Monitor | None = None
    _door: Door | None = None
    _cpu_s: float = 0.0

    # --- before the machine starts ------------------------------------------------------------------------------------

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Something that lasts until the row is over."""
        return self.stack.enter_context(context)

    def orchestrator(self, folder: str = "", port: int | None = None) -> AbstractContextManager[services.Orchestrator]:
        """One that a story can end and start again; `serve` starts the one that nobody ends."""
        (self.folder / folder).mkdir(exist_ok=True)
        return services.orchestrator(self.folder / folder, "127.0.0.1", services.QEMU_GATEWAY, port)

    def serve(self, server: services.Orchestrator | None = None) -> services.Orchestrator:
        """The orchestrator that the run is created at: the given one, else one that lasts until the row is over."""
        if server is not None:
            self._server = server
        if self._server is None:
            self._server = self.enter(self.orchestrator())
        return self._server

    def boot(
        self,
        machine: Machine,
        stages: str | None = None,
        *,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        before: str = "",
        tools: Mapping[str, str] | None = None,
        over_network: bool = False,
        bare: bool = False,
        extra: str = "",
        **run: Any,
    ) -> None:
        """Create a run and start a machine for it.

        stages: "SMART,Storage"; None: all. parameters are laid over RELAXED. before: a shell script in the guest,
        ahead of the agent. tools: see overlay.initrd. bare: the image as it is, without the door. extra: more
        kernel parameters. run: more fields of orchestrator.run_creation.RunRequest.
        """
        created = self._create(machine, stages, parameters or {}, run)
        machine = replace(machine, accel=self.accel)
        if over_network:
            machine = self._netboot(machine, created.cmdline)
        else:
            base = self.image / "initrd"
            initrd = base if bare else overlay.initrd(base, self.folder, before, tools or {})
            machine = replace(machine, door=not bare, direct=self._direct(machine, initrd, created.cmdline, extra))
        self._began = time.monotonic()
        self._qemu = self.enter(running(machine, self.folder))
        self._monitor = self.enter(contextlib.closing(Monitor(self.folder / "qmp")))
        if machine.door:
            self._door = self.enter(contextlib.closing(Door(self.folder / "door")))

    def _create(
        self, machine: Machine, stages: str | None, parameters: Mapping[str, Mapping[str, Any]], run: Mapping[str, Any]
    ) -> RunCreated:
        names = None if stages is None else sorted({"Inventory", *stages.split(",")})
        merged = {name: {**RELAXED.get(name, {}), **parameters.get(name, {})} for name in {*RELAXED, *parameters}}
        wanted = {name: values for name, values in merged.items() if names is None or name in names}
        self.serve()
        body = {"host": "vetting-lab", "mac": machine.mac(machine.boot_nic), "profile": "quick", "stages": names}
        made = self._client().post("/runs", {**body, "parameters": wanted, **run}, RunCreated)
        self.run_id = made.run_id
        return made

    def _direct(self, machine: Machine, initrd: Path, parameters: str, extra: str) -> DirectBoot:
        template = (self.image / "boot.ipxe").read_text()
        script = services.boot_script(template, "", parameters, extra)
        match = re.search(r"^kernel \S+ initrd=\S+ (.*?) \|\|", script, re.MULTILINE)
        if match is None:
            raise WrongTurn("boot.ipxe has no kernel line")
        cmdline = match[1].replace("vetting.mac=${mac}", f"vetting.mac={machine.mac(machine.boot_nic)}")
        return DirectBoot(self.image / "vmlinuz", initrd, cmdline)

    def _netboot(self, machine: Machine, parameters: str) -> Machine:
        web = self.enter(services.files(self.image, "127.0.0.1", lambda _name: None))
        tftp = self.folder / "tftp"
        tftp.mkdir(exist_ok=True)
        base = f"http://{services.QEMU_GATEWAY}:{web}"
        script = services.boot_script((self.image / "boot.ipxe").read_text(), base, parameters, "")
        (tftp / "boot.ipxe").write_text(script)
        return replace(machine, tftp=tftp)

    # --- while it runs ------------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        assert self._monitor is not None, "boot() comes first"
        return self._monitor

    @property
    def qemu(self) -> subprocess.Popen[bytes]:
        assert self._qemu is not None, "boot() comes first"
        return self._qemu

    def sh(self, script: str, *, limit_s: float = 120.0, check: bool = True) -> str:
        """A shell script in the guest, as root."""
        if self._door is None:
            raise WrongTurn("this machine was booted without the door")
        return self._door.sh(script, limit_s=limit_s, check=check)

    def view(self) -> RunView:
        """The run as the operator sees it."""
        return self._client().get(f"/runs/{self.run_id}", RunView)

    def direct(self, cmd: str, **more: Any) -> DirectiveView:
        """An order of the operator: cancel, retry (stage=, wipe=, serials=), shutdown, abort."""
        return self._client().post(f"/runs/{self.run_id}/directives", {"cmd": cmd, **more}, DirectiveView)

    def logs(self) -> list[LogView]:
        """What the agent has logged so far, in the order of its arrival."""
        return self._client().get(f"/runs/{self.run_id}/logs", list[LogView], limit=1000)

    def until(self, what: str, true: Callable[[RunView], bool], limit_s: float = 600.0) -> RunView:
        """Wait for something of the run. Raises WrongTurn when time is up or the machine has ended."""
        deadline = min(time.monotonic() + limit_s, self._began + self.limit_s)
        while True:
            view = self.view()
            self.used_cpu_s()  # of a machine that powers itself off nothing can be asked afterwards
            if true(view):
                self.marks[what] = round(time.monotonic() - self._began, 1)
                return view
            if self.qemu.poll() is not None:
                raise WrongTurn(f"the machine has ended while the lab waited for {what}; the run is {view.state}")
            if time.monotonic() > deadline:
                raise WrongTurn(f"{what}: not after {time.monotonic() - self._began:.0f} s; the run is {view.state}")
            time.sleep(POLL_S)

    def until_claimed(self) -> RunView:
        return self.until("claim", lambda view: view.agent.instance_id is not None, START_LIMIT_S)

    def until_running(self, stage: str) -> RunView:
        """The stage is being executed."""
        return self.until(f"{stage} running", lambda view: _state_of(view, stage) == "running")

    def until_ended(self, limit_s: float = 900.0) -> RunView:
        """The run has a verdict, or is held."""
        return self.until("end", lambda view: view.state in ENDED and not _is_at_work(view), limit_s)

    def until_off(self, limit_s: float = POWER_OFF_LIMIT_S) -> None:
        """The machine has powered itself off. Raises WrongTurn."""
        try:
            self.qemu.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise WrongTurn(f"the machine did not power off within {limit_s:.0f} s") from None
        self.marks["off"] = round(time.monotonic() - self._began, 1)

    def walk(self, limit_s: float = 900.0) -> RunView:
        """What most stories end with: the run's end, and for a completed one the power-off."""
        view = self.until_ended(limit_s)
        if view.state == COMPLETED:
            self.until_off()
        return view

    def finding(self, view: RunView, stage: str, code: str) -> Any:
        """The first finding with that code. Raises WrongTurn."""
        for one in findings(view, stage):
            if one["reason_code"] == code:
                return one
        raise WrongTurn(f"{stage} has no finding {code}: {findings(view, stage)}")

    def used_cpu_s(self) -> float:
        """QEMU's CPU time so far."""
        if self._qemu is not None and self._qemu.poll() is None:
            with contextlib.suppress(OSError):
                self._cpu_s = cpu_seconds(self._qemu.pid)
        return self._cpu_s

    def _client(self) -> OperatorClient:
        try:
            return OperatorClient(self.serve().data)
        except NoServer as problem:
            raise NoAnswer(str(problem)) from None


def _state_of(view: RunView, stage: str) -> str | None:
    return next((one.state for one in view.stages if one.stage == stage), None)


def _is_at_work(view: RunView) -> bool:
    return any(one.state == "running" for one in view.stages)


def findings(view: RunView, stage: str | None) -> Sequence[Mapping[str, Any]]:
    """The findings of a stage's last result; None: those of the orchestrator itself."""
    if stage is None:
        return view.run_findings
    for one in view.stages:
        if one.stage == stage and one.summary is not None:
            return [msgspec.to_builtins(finding) for finding in one.summary.findings]
    return []

"""What the agent shows on its own host: systemd, the status socket, /healthz and the screens, kept up beside the walk.

None of it may harm the walk: a part that fails is told in the log and tried again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from probes.host import Host, text_of
from vetting_agent import __version__, console
from vetting_agent.claiming import Claimer
from vetting_agent.hold import Holder
from vetting_agent.logs import LogBook
from vetting_agent.notify import Notifier
from vetting_agent.outlook import Outlook, StageResult
from vetting_agent.params import BootParams
from vetting_agent.ssh_door import host_key_of
from vetting_agent.status import StatusBoard
from vetting_agent.status_socket import SOCKET_NAME, StatusServer
from vetting_agent.wire import Claim, LogLine

TRY_AGAIN_S = 30.0
PREFLIGHT_AFTER_S = 15.0


@dataclass(frozen=True, slots=True)
class Local:
    """Where to show oneself. The default: nowhere."""

    notifier: Notifier = field(default_factory=Notifier)
    status_socket: Path | None = None
    healthz_port: int | None = None
    screens: tuple[Path, ...] = ()
    ssh_unit: str | None = None
    """The systemd unit that lets an operator in, started by a hold and stopped after it."""
    preflight_after_s: float = PREFLIGHT_AFTER_S
    """So long without a claim, and a preflight is made; 0: never."""
    wait_for_devices: bool = False
    """The first stage waits until udev has settled: this agent was started early in the boot."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent run` that the live image gives."""
    shown = parser.add_argument_group("what is shown on this host")
    shown.add_argument("--status-socket", action="store_true", help="answer `vetting-agent status`")
    shown.add_argument("--healthz", metavar="PORT", type=int, help="answer http://127.0.0.1:PORT/healthz")
    shown.add_argument(
        "--console", metavar="DEVICE", type=Path, action="append", default=[], help="show the run there; repeatable"
    )
    shown.add_argument(
        "--preflight-after",
        metavar="S",
        type=float,
        default=PREFLIGHT_AFTER_S,
        help="seconds without a claim until the agent looks for the reason; 0: never (default: %(default)g)",
    )
    shown.add_argument("--ssh-unit", metavar="UNIT", help="systemd unit that a hold starts, and stops when it is left")
    shown.add_argument("--wait-for-devices", action="store_true", help="let udev settle before the first stage")


def local_of(args: argparse.Namespace, state_dir: Path) -> Local:
    """As the flags say, with what systemd left in the environment."""
    return Local(
        notifier=Notifier.of_environment(os.environ),
        status_socket=state_dir / SOCKET_NAME if args.status_socket else None,
        healthz_port=args.healthz,
        screens=tuple(args.console),
        ssh_unit=args.ssh_unit,
        preflight_after_s=args.preflight_after,
        wait_for_devices=args.wait_for_devices,
    )


class Teller:
    """Knows where to look for what is shown, and shows it."""

    def __init__(self, local: Local, host: Host, params: BootParams) -> None:
        self._local = local
        self._host = host
        self._params = params
        self._product = _product(host)
        self._last_line = ""
        self.claim: Claim | None = None
        self.preflight = ""
        """The table of the last preflight: why there is no claim."""
        self.ended = False

    def note(self, line: LogLine) -> None:
        """A line of the log went by."""
        self._last_line = line.text

    async def run(self, board: StatusBoard, claimer: Claimer, holder: Holder, book: LogBook) -> None:
        """For ever."""

        def look() -> Outlook:
            return self.outlook(board, claimer, holder)

        local = self._local
        server = StatusServer(look, local.status_socket, local.healthz_port)
        screens = [console.screen(path) for path in local.screens]
        parts: tuple[Callable[[], Awaitable[None]], ...] = (
            local.notifier.run,
            server.run,
            lambda: console.run(look, screens),
        )
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(_kept_up(part, book))

    def outlook(self, board: StatusBoard, claimer: Claimer, holder: Holder) -> Outlook:
        """This moment."""
        status, now = board.now, board.clock()
        activity = "ended" if self.ended else status.activity.value if self.claim is not None else "claiming"
        return Outlook(
            host=text_of(self._host.proc("sys", "kernel", "hostname")) or "",
            product=self._product,
            run_id=self._params.run_id,
            orchestrator=self._params.orchestrator,
            agent_version=__version__,
            image_version=claimer.identity.image_version,
            instance_id=claimer.identity.instance_id,
            claimed=self.claim is not None,
            activity=activity,
            stage=status.stage,
            elapsed_s=status.elapsed_s(now),
            progress=status.progress,
            eta_s=status.eta_now_s(now),
            results=tuple(StageResult(stage=one, verdict=v, message=m) for one, (v, m) in board.results.items()),
            stages=() if self.claim is None else tuple(self.claim.stages),
            ip=claimer.ip,
            mac=claimer.mac,
            hold_open=holder.is_open,
            ssh_host_key=host_key_of(self._host),
            last_line=self._last_line,
            preflight="" if self.claim is not None else self.preflight,
        )


async def _kept_up(part: Callable[[], Awaitable[None]], book: LogBook) -> None:
    while True:
        try:
            await part()
        except Exception as problem:
            book.warn(f"what this host shows of the run is not all there: {type(problem).__name__}: {problem}")
            await asyncio.sleep(TRY_AGAIN_S)
        else:
            return


def _product(host: Host) -> str:
    names = ("sys_vendor", "product_name", "product_serial")
    return " ".join(filter(None, (text_of(host.sys("class", "dmi", "id", name)) for name in names)))

"""`vetting-orchestrator identify`: light the lamp of a host or of one of its disks, and wait for the agent's word."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.operator_client import OperatorClient
    from vetting_agent.run_view import DirectiveView

POLL_S = 0.5
DEFAULT_S = 900.0
DEFAULT_WAIT_S = 60.0


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], asks: Callable[..., argparse.ArgumentParser]
) -> None:
    """The command and its flags."""
    text = "light the lamp of a host or a disk, for the person at the rack"
    parser = asks(commands.add_parser("identify", help=text), "identify", "orchestrator.cli_identify")
    parser.add_argument("run", type=int)
    parser.add_argument("--disk", metavar="SERIAL", help="this disk's bay (default: the host's own lamp)")
    parser.add_argument("--off", action="store_true", help="put it out")
    parser.add_argument("--seconds", type=float, default=DEFAULT_S, metavar="S", help="up to 3600 (default: 900)")
    parser.add_argument("--wait", type=float, default=DEFAULT_WAIT_S, metavar="S", help="for the agent (default: 60)")


def identify(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 0 when the agent says that the lamp was switched, 1 when it refused or said nothing in time."""
    from orchestrator.cli_text import complain, directive_text, say, say_json
    from vetting_agent.run_view import DirectiveView

    target = f"disk:{arguments.disk}" if arguments.disk else "host"
    lamp = {"target": target, "on": not arguments.off, "seconds": arguments.seconds}
    asked = client.post(f"/runs/{arguments.run}/directives", {"cmd": "identify", "identify": lamp}, DirectiveView)
    answer = _answered(client, arguments.run, asked, arguments.wait)
    say_json(answer) if arguments.json else say(directive_text(answer))
    if answer.status == "waiting" and not arguments.json:
        complain("The agent has not answered yet: it is told with each heartbeat until it does")
    return 0 if answer.status == "done" else 1


def _answered(client: OperatorClient, run_id: int, asked: DirectiveView, wait_s: float) -> DirectiveView:
    """The order as it stands when the agent has answered it, or when the time is over."""
    from vetting_agent.run_view import RunView

    deadline = time.monotonic() + wait_s
    while True:
        run = client.get(f"/runs/{run_id}", RunView)
        now = next((one for one in run.directives if one.cmd_id == asked.cmd_id), asked)
        if now.status != "waiting" or time.monotonic() >= deadline:
            return now
        time.sleep(POLL_S)

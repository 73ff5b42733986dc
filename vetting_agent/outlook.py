"""What a person at the host may know of the agent: one plain record, and its text.

The status socket, the console and `vetting-agent status` all show this one. No token is in it.
"""

from __future__ import annotations

import msgspec

from vetting_agent.printable import clock, printable, shortened

WIDTH = 78


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one stage ended here, the last time it ran."""

    stage: str
    verdict: str
    message: str


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """The agent at one moment. Durations in seconds."""

    host: str
    product: str
    """Maker, product and serial number, as the firmware says."""
    run_id: int
    orchestrator: str
    agent_version: str
    image_version: str | None
    instance_id: str
    claimed: bool
    activity: str
    """`claiming`, then as in the heartbeat: `running`, `between`, `holding`, `parked`, `completed`; `ended`."""
    stage: str | None
    elapsed_s: float | None
    progress: float | None
    eta_s: float | None
    results: tuple[StageResult, ...]
    """In the order of their end."""
    stages: tuple[str, ...]
    """All stages of the run, in the order of the walk; empty before the claim."""
    ip: str
    mac: str
    hold_open: bool
    """True while an operator can come in by SSH."""
    ssh_host_key: str | None
    """SHA256:... of the SSH host key of this boot, once there is one."""
    last_line: str
    preflight: str = ""
    """Why there is no claim yet, as a table."""


def headline(outlook: Outlook) -> str:
    """The state of the run in a few words."""
    words = {
        "claiming": "waiting for the orchestrator",
        "between": "between two stages",
        "holding": "FAILED - held for an operator",
        "parked": "parked: the orchestrator must say how to go on",
        "completed": "PASSED - the run is complete",
        "ended": "the agent has ended",
    }
    return words.get(outlook.activity, f"running {outlook.stage}" if outlook.stage else outlook.activity)


def text(outlook: Outlook) -> str:
    """For a person: about twenty lines, none longer than 78 characters."""
    rows = [
        ("Host", f"{outlook.host}  {outlook.product}"),
        ("Address", f"{outlook.ip or 'none yet'}  {outlook.mac}"),
        ("Run", f"{outlook.run_id} at {outlook.orchestrator}"),
        ("State", headline(outlook)),
    ]
    if outlook.stage and outlook.activity == "running":
        rows.append(("Stage", _stage_line(outlook)))
    rows += [
        ("Hold", hold_line(outlook)),
        ("Image", f"{outlook.image_version or 'none'}, agent {outlook.agent_version}"),
    ]
    lines = [f"{name:9}{printable(value)}" for name, value in rows]
    lines += ["", *(outlook.preflight.splitlines() or _result_lines(outlook))]
    if outlook.last_line:
        lines += ["", printable(outlook.last_line)]
    return "\n".join(shortened(line.rstrip(), WIDTH) for line in lines)


def hold_line(outlook: Outlook) -> str:
    """Who can come in, and what key the host shows them."""
    if not outlook.hold_open:
        return "closed: nobody can log in"
    key = f"  host key {outlook.ssh_host_key}" if outlook.ssh_host_key else ""
    return f"open: ssh root@{outlook.ip}{key}"


def _stage_line(outlook: Outlook) -> str:
    share = "" if outlook.progress is None else f"{outlook.progress:4.0%}  "
    left = "" if outlook.eta_s is None else f", {clock(outlook.eta_s)} left"
    return f"{outlook.stage}  {share}{clock(outlook.elapsed_s)}{left}"


def _result_lines(outlook: Outlook) -> list[str]:
    ended = {one.stage: one for one in outlook.results}
    names = dict.fromkeys([*outlook.stages, *ended])
    lines = []
    for name in names:
        running = outlook.activity == "running" and name == outlook.stage
        if running or name not in ended:
            lines.append(f"  {name:11}{'running' if running else 'waiting'}")
        else:
            lines.append(f"  {name:11}{ended[name].verdict:15}{printable(ended[name].message)}")
    return lines

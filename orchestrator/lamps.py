"""The identify lamps of a run's host and disks: which orders make sense, and what the agent said is lit. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.clock import later
from orchestrator.run_record import DONE, WAITING, Directive, Run
from orchestrator.steps import Refusal
from vetting_agent.wire import IDENTIFY, IdentifyOrder

HOST = "host"
DISK = "disk:"
LONGEST_S = 3600.0
SERIAL_LENGTH = 128
KEPT = 20
"""So many answered orders are kept: a run is written whole at each change."""
NO_WORD = "the agent does not say why; one from before lamps refuses them all"


@dataclass(frozen=True, slots=True)
class Lamp:
    """One lamp. `state`: `dark`, `asked`, `lit` or `failed`; `text`: until when, or why not."""

    target: str
    state: str = "dark"
    text: str = ""

    @property
    def next_on(self) -> bool:
        """What a click would ask for."""
        return self.state != "lit"


def check_lamp(run: Run, order: IdentifyOrder | None) -> None:
    """Raises Refusal 422 for what is no lamp of this run's host."""
    if order is None:
        raise Refusal(422, "no_lamp", "identify names no lamp: host, or disk:SERIAL")
    serial = order.target.removeprefix(DISK)
    is_disk = order.target.startswith(DISK) and 0 < len(serial) <= SERIAL_LENGTH and serial.isprintable()
    if order.target != HOST and not is_disk:
        raise Refusal(422, "no_lamp", f"There is no lamp {order.target[:80]!r}: host, or disk:SERIAL")
    if not (math.isfinite(order.seconds) and 1 <= order.seconds <= LONGEST_S):
        raise Refusal(422, "bad_seconds", f"A lamp is lit for 1 to {LONGEST_S:.0f} seconds")
    if is_disk and run.components is not None and order.target not in run.components:
        raise Refusal(422, "no_such_disk", f"The inventory of run {run.run_id} has no disk {serial}")


def without_old_lamps(directives: Sequence[Directive]) -> tuple[Directive, ...]:
    """All but the oldest answered orders about lamps."""
    answered = [one.cmd_id for one in directives if one.cmd == IDENTIFY and not one.is_open]
    old = set(answered[: -KEPT + 1])
    return tuple(one for one in directives if one.cmd_id not in old)


def lamp_of(run: Run, target: str, now: str) -> Lamp:
    """What is known of one lamp at this moment."""
    newest = next((one for one in reversed(run.directives) if _about(one) == target), None)
    if newest is None or newest.identify is None or run.is_over or run.powered_off:
        return Lamp(target)
    if newest.status == WAITING:
        return Lamp(target, "asked", "on" if newest.identify.on else "off")
    if newest.status != DONE:
        return Lamp(target, "failed", newest.answer or NO_WORD)
    until = later(newest.acked_at or newest.created_at, newest.identify.seconds)
    return Lamp(target, "lit", until) if newest.identify.on and until > now else Lamp(target)


def _about(directive: Directive) -> str | None:
    return directive.identify.target if directive.identify is not None else None

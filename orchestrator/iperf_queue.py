"""What a host gets that asks for the iperf3 server: the server, or its place in the queue (slots.py)."""

from __future__ import annotations

import time

from orchestrator.iperf import IperfServers
from orchestrator.slots import LEASE_S, RETRY_AFTER_S, SlotQueue
from orchestrator.steps import Refusal
from vetting_agent.wire import IperfSlotReply, IperfSlotRequest


def slot_answer(slots: SlotQueue, iperf: IperfServers, run_id: int, request: IperfSlotRequest) -> IperfSlotReply:
    """The answer to `iperf_slot`. Refuses with 422 an unknown action."""
    slot = (run_id, request.slot_id)
    if request.action == "release":
        slots.release(slot)
        return IperfSlotReply(granted=False, retry_after_s=RETRY_AFTER_S, lease_s=LEASE_S)
    if request.action != "acquire":
        raise Refusal(422, "malformed", f"action must be acquire or release, not {request.action!r}")
    answer = slots.acquire(slot, time.monotonic())
    if answer.expired:
        iperf.restart()
    return IperfSlotReply(
        granted=answer.granted,
        port=iperf.port if answer.granted else None,
        more_ports=list(iperf.ports[1:]) if answer.granted else [],
        retry_after_s=RETRY_AFTER_S,
        lease_s=LEASE_S,
        ahead=answer.ahead,
    )

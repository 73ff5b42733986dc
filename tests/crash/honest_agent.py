"""A small honest agent, for a model: it does what docs/protocol.md says, one step at a time, and repeats what is lost.

It makes no stage run and waits for nothing: whoever holds it says when a stage ends, and which of its calls arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from orchestrator.run_record import STAGE_OF
from orchestrator.steps import Refusal
from tests.orchestrator.making import MAC, PARTS, result
from vetting_agent.directives import Action, action_for
from vetting_agent.status import Activity
from vetting_agent.wire import (
    COMPLETED,
    FAILED_HOLDING,
    Claim,
    ClaimRequest,
    HeartbeatReply,
    HeartbeatRequest,
    HoldRequest,
    ResultReply,
    ResultRequest,
)

DONE, REFUSED = "done", "refused"
OFF, EXIT, REFUSED_EXIT = "powers off", "exits 0", "exits 3"


@dataclass(eq=False)
class Call:
    """A request on its way. `waited`: whether its agent still waits for the answer."""

    agent: HonestAgent
    verb: str
    request: Any
    waited: bool = True


@dataclass(frozen=True, slots=True)
class Execution:
    """What a stage that ran to its end really showed."""

    stage: str
    passed: bool
    parts: tuple[str, ...]


@dataclass(eq=False)
class HonestAgent:
    """One process of the agent. `on_wipe` is called with the order's id when it begins to wipe."""

    instance: str
    boot: str
    new_id: Callable[[], str]
    on_wipe: Callable[[str], None]
    started_s: float
    activity: Activity | None = None
    stage: str | None = None
    posting: ResultRequest | None = None
    has_key: bool = False
    cancelled: bool = False
    ending: str | None = None
    said_last: bool = False
    waiting: dict[str, Call] = field(default_factory=dict)
    truth: dict[str, Execution] = field(default_factory=dict)
    seen: dict[str, str | None] = field(default_factory=dict)
    acks: list[tuple[str, str]] = field(default_factory=list)

    # --- calls --------------------------------------------------------------------------------------------------------

    def control_call(self) -> Call | None:
        """The call that the walk needs now, unless it is on its way."""
        if "control" in self.waiting or self.ending is not None:
            return None
        if self.activity is None:
            request: Any = ClaimRequest(
                ip="10.0.0.17",
                mac=MAC,
                instance_id=self.instance,
                agent_version="1",
                kernel_boot_id=self.boot,
                agent_started_s=self.started_s,
            )
            return self._call("control", "claim", request)
        if self.posting is not None:
            return self._call("control", "result", self.posting)
        if self.activity is Activity.HOLDING and not self.has_key:
            return self._call("control", "hold", HoldRequest(ip="10.0.0.17"))
        return None

    def heartbeat_call(self) -> Call | None:
        """The next heartbeat; the last one, with an acknowledgement, when it ends."""
        if self.activity is None or "heartbeat" in self.waiting:
            return None
        if self.ending is not None:
            if self.said_last or not self.acks or self.ending == REFUSED_EXIT:
                return None
            self.said_last = True
        cmd_id, status = self.acks[0] if self.acks else (None, None)
        activity = self.activity.value
        request = HeartbeatRequest(activity=activity, stage=self.stage, acked_cmd_id=cmd_id, ack_status=status)
        return self._call("heartbeat", "heartbeat", request)

    def _call(self, lane: str, verb: str, request: Any) -> Call:
        call = self.waiting[lane] = Call(self, verb, request)
        return call

    def failed(self, call: Call) -> None:
        """No answer came: the call is made again."""
        call.waited = False
        for lane, one in list(self.waiting.items()):
            if one is call:
                del self.waiting[lane]

    def refused(self, call: Call, refusal: Refusal) -> None:
        self.failed(call)
        if refusal.status == 410:
            self.ending = self.ending or EXIT
        elif refusal.status in {401, 403, 404, 409}:
            self.ending = self.ending or REFUSED_EXIT
        elif call.verb == "result":
            self.posting, self.activity = None, Activity.PARKED

    def answered(self, call: Call, reply: object) -> None:
        self.failed(call)
        match reply:
            case HeartbeatReply():
                if call.request.acked_cmd_id is not None and self.acks:
                    self.acks.pop(0)
                if reply.cmd and self.ending is None:
                    self._obey(reply)
            case Claim():
                self._go(reply.current_state)
            case ResultReply() if self.posting is call.request:
                self._taken(reply.next_state)
            case _:
                self.has_key = self.has_key or call.verb == "hold"

    def _taken(self, state: object) -> None:
        self.posting = None
        if self.cancelled:
            self.ending = OFF
        else:
            self._go(state)

    def _go(self, state: object) -> None:
        self.stage, self.has_key = None, False
        if state == FAILED_HOLDING:
            self.activity = Activity.HOLDING
        elif state in {None, "", COMPLETED}:
            self.activity = Activity.COMPLETED
        elif isinstance(state, str) and state in STAGE_OF:
            self.activity, self.stage = Activity.RUNNING, STAGE_OF[state]
        else:
            self.activity = Activity.PARKED

    # --- work ---------------------------------------------------------------------------------------------------------

    @property
    def is_at_work(self) -> bool:
        return self.activity is Activity.RUNNING and self.ending is None

    def stage_ends(self, verdict: str, parts: list[str] = PARTS) -> None:
        """The stage came to this verdict; its result is to be posted."""
        assert self.stage is not None
        request = msgspec.structs.replace(result(self.stage, verdict, components=parts), result_id=self.new_id())
        assert request.result_id is not None
        self.truth[request.result_id] = Execution(self.stage, verdict in {"pass", "not_applicable"}, tuple(parts))
        self.posting, self.activity, self.stage = request, Activity.BETWEEN, None

    # --- directives ---------------------------------------------------------------------------------------------------

    def _obey(self, order: HeartbeatReply) -> None:
        assert order.cmd_id is not None
        assert self.activity is not None
        if order.cmd_id in self.seen:
            status = self.seen[order.cmd_id]
            if status is not None:
                self.acks.append((order.cmd_id, status))
            return
        action = action_for(order.cmd, self.activity)
        self.seen[order.cmd_id] = status = REFUSED if action is Action.REFUSE else DONE
        self.acks.append((order.cmd_id, status))
        if action is Action.RETRY:
            self._retry(order)
        elif action is Action.CANCEL:
            self.cancelled = True
            self.stage_ends("cancelled")
        elif action is Action.SHUTDOWN:
            self.ending = OFF
        elif action is Action.ABORT:
            self.ending = EXIT

    def _retry(self, order: HeartbeatReply) -> None:
        for lane in list(self.waiting):
            if lane == "control":  # the call for the hold key is given up
                self.failed(self.waiting[lane])
        self.activity, self.stage = Activity.RUNNING, order.stage
        if order.override_flags is not None and order.override_flags.wipe:
            assert order.cmd_id is not None
            self.on_wipe(order.cmd_id)

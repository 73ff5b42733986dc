"""What each verb of the agent's API does, without HTTP: one method a verb, messages in and out.

Every method raises Refusal for what the protocol forbids. Nothing is answered before it is committed.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.clock import later, now_text, seconds_between
from orchestrator.evidence import EvidenceFolder
from orchestrator.hold_keys import VALID_FOR_S, new_hold_key
from orchestrator.iperf import IperfServers
from orchestrator.run_record import RELEASED, Run, normal_mac
from orchestrator.runs import SILENT_HEARTBEATS, check_caller, transition
from orchestrator.slots import LEASE_S, RETRY_AFTER_S, SlotQueue
from orchestrator.steps import Beat, Claimed, Event, Heard, HoldAsked, Refusal, ResultPosted, Step, WentSilent
from orchestrator.store import EvidenceRecord, HoldKey, Status, Store, Transaction
from orchestrator.terminals import Terminals
from orchestrator.tokens import matches
from vetting_agent.run_view import EventView
from vetting_agent.wire import (
    FEATURE_EVIDENCE,
    FEATURE_IPERF_SLOT,
    Claim,
    ClaimRequest,
    Empty,
    HeartbeatReply,
    HeartbeatRequest,
    HelloRequest,
    HoldReply,
    HoldRequest,
    IperfSlotReply,
    IperfSlotRequest,
    LogRequest,
    ResultReply,
    ResultRequest,
    SensorRequest,
)

LAST_WORDS_S = 60.0
"""After the end of a run its agent may still acknowledge, and send its last log lines, for so long."""
MAX_SEQ = 2**62
IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(slots=True)
class Caller:
    """Who calls: the run as last committed, and the instance the agent says it is ("" when it does not)."""

    run: Run
    instance_id: str


@dataclass(slots=True)
class AgentService:
    store: Store
    evidence: EvidenceFolder
    iperf: IperfServers | None = None
    terminals: Terminals | None = None
    slots: SlotQueue = field(default_factory=SlotQueue)
    heard_at: dict[int, float] = field(default_factory=dict)
    """When each run's host last called, by the monotonic clock."""
    started_at: float = field(default_factory=time.monotonic)

    def authenticate(self, run_id: int, token: str | None, instance_id: str) -> Caller:
        """The run that this token opens. Refuses with 404, 401 or 403."""
        run = self.store.find_run(run_id)
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        if not token:
            raise Refusal(401, "no_token", "The call carries no bearer token")
        if not matches(token, run.token_hash):
            raise Refusal(403, "wrong_token", f"This is not the token of run {run_id}")
        return Caller(run, instance_id)

    async def hello(self, caller: Caller, request: HelloRequest) -> Empty:
        _refuse_when_over(caller.run)
        mac = _mac(request.mac)
        if caller.run.mac not in {None, mac}:
            raise Refusal(409, "other_host", f"Run {caller.run.run_id} belongs to another host, not to {mac}")
        return Empty()

    async def claim(self, caller: Caller, request: ClaimRequest) -> Claim:
        _check_identifier("instance_id", request.instance_id)
        event = Claimed(
            mac=_mac(request.mac),
            ip=request.ip,
            instance_id=request.instance_id,
            agent_version=request.agent_version,
            kernel_boot_id=request.kernel_boot_id,
        )
        step = await self.apply(caller.run.run_id, event)
        _refuse_when_over(step.run)  # the claim itself may show that a cancelled run has ended
        self.heard_at[caller.run.run_id] = time.monotonic()
        return self._claim_reply(step.run)

    def _claim_reply(self, run: Run) -> Claim:
        port = self.iperf.port if self.iperf else None
        return Claim(
            stages=list(run.stages),
            current_state=run.state,
            iperf_port=port,
            expected_disks=run.expected_disks,
            non_destructive=run.non_destructive,
            parameters=run.parameters,
            heartbeat_interval_s=run.intervals.heartbeat_s,
            sensor_interval_s=run.intervals.sensor_s,
            log_interval_s=run.intervals.log_s,
            features=[FEATURE_EVIDENCE, *([FEATURE_IPERF_SLOT] if port else [])],
        )

    async def heartbeat(self, caller: Caller, request: HeartbeatRequest) -> HeartbeatReply:
        await self._admit(caller, last_words=True)

        def keep_status(transaction: Transaction, _step: Step, now: str) -> None:
            transaction.put_status(caller.run.run_id, _status_of(request, now))

        event = Beat(request.acked_cmd_id, request.ack_status)
        step = await self.apply(caller.run.run_id, event, caller=caller, also=keep_status)
        if self.terminals is not None:
            self.terminals.heard(caller.run.run_id, request.acked_cmd_id, request.ack_status)
        if step.directive is None:
            order = self.terminals.reply_for(caller.run.run_id) if self.terminals is not None else None
            return order or HeartbeatReply()
        return HeartbeatReply(
            cmd=step.directive.cmd,
            stage=step.directive.stage,
            override_flags=step.directive.override_flags,
            cmd_id=step.directive.cmd_id,
        )

    async def sensor(self, caller: Caller, request: SensorRequest) -> Empty:
        await self._admit(caller, last_words=True)
        run_id, now = caller.run.run_id, now_text()
        await self.store.write(lambda transaction: transaction.add_samples(run_id, request.samples, now))
        return Empty()

    async def log(self, caller: Caller, request: LogRequest) -> Empty:
        # Lines from before the claim are welcome, and those of a released run's last moments too.
        claimed = caller.instance_id in {"", caller.run.instance_id, *caller.run.older_instances}
        await self._admit(
            caller, last_words=True, released=True, claimed=claimed and caller.run.instance_id is not None
        )
        if any(line.seq is not None and not 0 < line.seq < MAX_SEQ for line in request.lines):
            raise Refusal(422, "malformed", "seq counts up from 1")
        run_id, instance = caller.run.run_id, caller.instance_id or caller.run.instance_id or ""
        await self.store.write(lambda transaction: transaction.add_log_lines(run_id, instance, request.lines))
        return Empty()

    async def result(self, caller: Caller, request: ResultRequest) -> ResultReply:
        result_id = request.result_id or str(uuid.uuid4())
        _check_identifier("result_id", result_id)
        run_id = caller.run.run_id

        def keep_result(transaction: Transaction, step: Step, now: str) -> None:
            if not step.repeated:
                transaction.put_result(run_id, result_id, request, now)

        step = await self.apply(run_id, ResultPosted(request, result_id), caller=caller, also=keep_result)
        await self._note_heard(step.run)
        self.slots.release_run(run_id)  # a stage that ended without a word may have held it
        return ResultReply(next_state=step.next_state)

    async def hold(self, caller: Caller, request: HoldRequest) -> HoldReply:
        await self._admit(caller)
        run_id, now = caller.run.run_id, now_text()

        def work(transaction: Transaction) -> HoldKey:
            run, key = transaction.run(run_id), transaction.hold_key(run_id)
            check_caller(run, caller.instance_id)
            if key is None or key.expires_at <= now:
                key = new_hold_key(run_id, later(now, VALID_FOR_S))
            step = transition(run, HoldAsked(request.ip, key.expires_at), now)
            transaction.put_hold_key(run_id, key)
            keep(transaction, run, step, now)
            return key

        key = await self.store.write(work)
        return HoldReply(authorized_key=key.authorized_key, expires_at=key.expires_at)

    async def iperf_slot(self, caller: Caller, request: IperfSlotRequest) -> IperfSlotReply:
        await self._admit(caller)
        _check_identifier("slot_id", request.slot_id)
        if self.iperf is None or self.iperf.port is None:
            raise Refusal(422, "no_iperf", "This orchestrator has no iperf3 server")
        slot = (caller.run.run_id, request.slot_id)
        if request.action == "release":
            self.slots.release(slot)
            return IperfSlotReply(granted=False, retry_after_s=RETRY_AFTER_S, lease_s=LEASE_S)
        if request.action != "acquire":
            raise Refusal(422, "malformed", f"action must be acquire or release, not {request.action!r}")
        answer = self.slots.acquire(slot, time.monotonic())
        if answer.expired:
            self.iperf.restart()
        return IperfSlotReply(
            granted=answer.granted,
            port=self.iperf.port if answer.granted else None,
            more_ports=list(self.iperf.ports[1:]) if answer.granted else [],
            retry_after_s=RETRY_AFTER_S,
            lease_s=LEASE_S,
            ahead=answer.ahead,
        )

    async def keep_evidence(self, caller: Caller, stage: str, result_id: str, digest: str, content: bytes) -> Empty:
        """Feature `evidence`. The same digest again is a no-op."""
        await self._admit(caller)
        _check_identifier("result_id", result_id)
        if stage not in caller.run.stages:
            raise Refusal(422, "unknown_stage", f"Run {caller.run.run_id} has no stage {stage}")
        run_id = caller.run.run_id
        sha256 = await self.evidence.keep(run_id, digest, content)
        record = EvidenceRecord(
            id=0, stage=stage, result_id=result_id, sha256=sha256, size=len(content), received_at=now_text()
        )
        await self.store.write(lambda transaction: transaction.add_evidence(run_id, record))
        return Empty()

    async def apply(
        self,
        run_id: int,
        event: Event,
        *,
        caller: Caller | None = None,
        also: Callable[[Transaction, Step, str], None] | None = None,
    ) -> Step:
        """Take an event: decided and kept in one transaction."""
        now = now_text()

        def work(transaction: Transaction) -> Step:
            run = transaction.run(run_id)
            if caller is not None and not run.is_over:
                check_caller(run, caller.instance_id)
            step = transition(run, event, now)
            keep(transaction, run, step, now)
            if also is not None:
                also(transaction, step, now)
            return step

        return await self.store.write(work)

    async def _admit(
        self, caller: Caller, *, last_words: bool = False, released: bool = False, claimed: bool = True
    ) -> None:
        """Let the run's own agent in, and note that its host is alive."""
        run = caller.run
        if run.is_over:
            recent = run.finished_at is not None and seconds_between(run.finished_at, now_text()) < LAST_WORDS_S
            if not (last_words and recent and (released or run.state != RELEASED)):
                _refuse_when_over(run)
        if claimed:
            check_caller(run, caller.instance_id)
        await self._note_heard(run)

    async def _note_heard(self, run: Run) -> None:
        self.heard_at[run.run_id] = time.monotonic()
        if run.stalled:
            await self.apply(run.run_id, Heard())

    async def find_silent_hosts(self) -> None:
        """Tell each run whose host has not called for 6 heartbeats. After a start hosts get that long to call."""
        now = time.monotonic()
        for run in self.store.runs():
            if run.stalled or not run.expects_calls:
                continue
            silent_s = now - max(self.heard_at.get(run.run_id, 0.0), self.started_at)
            if silent_s > SILENT_HEARTBEATS * run.intervals.heartbeat_s:
                await self.apply(run.run_id, WentSilent())


def keep(transaction: Transaction, before: Run, step: Step, now: str) -> None:
    """Store what a step says: the record, the history, and results of the orchestrator's own."""
    if step.run is not before:
        transaction.put_run(step.run)
    for note in step.notes:
        transaction.add_event(before.run_id, EventView(ts=now, kind=note.kind, text=note.text))
    for own in step.own_results:
        request = ResultRequest(
            stage=own.stage, passed=False, summary=own.summary, message=own.summary.headline, result_id=own.result_id
        )
        transaction.put_result(before.run_id, own.result_id, request, now)


def _status_of(request: HeartbeatRequest, now: str) -> Status:
    return Status(
        last_seen_at=now,
        activity=request.activity,
        stage=request.stage,
        elapsed_s=request.elapsed_s,
        progress=request.progress,
        eta_s=request.eta_s,
        dropped_log_lines=request.dropped_log_lines or 0,
    )


def _refuse_when_over(run: Run) -> None:
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")


def _mac(text: str) -> str:
    mac = normal_mac(text)
    if mac is None:
        raise Refusal(422, "malformed", f"mac must be a MAC address, lower case with colons, not {text[:64]!r}")
    return mac


def _check_identifier(name: str, text: str) -> None:
    if not IDENTIFIER.fullmatch(text):
        raise Refusal(422, "malformed", f"{name} must be 1 to 64 letters, digits, dots, colons or dashes")

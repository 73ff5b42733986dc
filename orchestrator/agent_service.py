"""What each verb of the agent's API does, without HTTP: one method a verb, messages in and out.

Every method raises Refusal for what the protocol forbids. Nothing is answered before it is committed.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from orchestrator.boot_tokens import BootTokens, rotated
from orchestrator.callers import (
    Caller,
    caller_of,
    check_claimed,
    check_unused,
    claimable,
    instances_of,
    refuse_when_over,
)
from orchestrator.clock import later, now_text, seconds_between
from orchestrator.evidence import EvidenceFolder
from orchestrator.hold_keys import VALID_FOR_S, new_hold_key
from orchestrator.iperf import IperfServers
from orchestrator.keeping import keep
from orchestrator.pacing import Pacer, paced
from orchestrator.peers import late_findings, peer_findings
from orchestrator.pulse import Pulse
from orchestrator.results import judged_passed
from orchestrator.run_record import RELEASED, Directive, Run, normal_mac
from orchestrator.runs import SILENT_HEARTBEATS, check_caller, transition
from orchestrator.slots import LEASE_S, RETRY_AFTER_S, SlotQueue
from orchestrator.steps import (
    Beat,
    Claimed,
    Event,
    Heard,
    HoldAsked,
    PeersReviewed,
    Refusal,
    ResultPosted,
    Step,
    WentSilent,
)
from orchestrator.store import EvidenceRecord, HoldKey, Status, Store, Transaction
from orchestrator.terminals import Terminals
from orchestrator.waivers import Waiver, active_for
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
STRAY_EVENTS = 20
"""A refused claim is noted once among so many events, however often it is tried."""
IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,64}")


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
    boot_tokens: BootTokens | None = None
    to_review: set[str] = field(default_factory=set)
    """Hardware profiles of which another host has passed: what it says of its siblings is still to be seen."""
    pulse: Pulse = field(default_factory=Pulse)
    pacer: Pacer = field(default_factory=Pacer)

    def authenticate(self, run_id: int, token: str | None, instance_id: str) -> Caller:
        """The run that this token opens. Refuses with 404, 401 or 403."""
        return caller_of(self.store, self.boot_tokens, run_id, token, instance_id)

    async def hello(self, caller: Caller, request: HelloRequest) -> Empty:
        refuse_when_over(caller.run)
        check_unused(caller, again=True)
        mac = _mac(request.mac)
        if not caller.run.admits(mac):
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

        factor = self.pacer.factor(self.store.runs(), time.monotonic())

        def work(transaction: Transaction) -> tuple[Step, str | None]:
            now, before = now_text(), transaction.run(caller.run.run_id)
            run, token = claimable(before, caller, event)
            step = transition(run, event, now)
            step = replace(step, run=paced(step.run, factor))
            keep(transaction, before, step, now)
            return step, token

        try:
            step, token = await self.store.write(work)
        except Refusal as refusal:
            if refusal.code == "wrong_token":
                await self._note_stray_claim(caller.run.run_id, event, refusal)
            raise
        refuse_when_over(step.run)  # the claim itself may show that a cancelled run has ended
        self.heard_at[caller.run.run_id] = time.monotonic()
        return self._claim_reply(step.run, token)

    async def _note_stray_claim(self, run_id: int, event: Claimed, refusal: Refusal) -> None:
        """A used or outdated boot token came from another boot: a late host, or someone who listened. People see it."""
        text = f"refused a claim by {event.mac} at {event.ip[:64]}: {refusal.message}"
        note = EventView(ts=now_text(), kind="claim", text=text)
        if not any(one.text == text for one in await self.store.events(run_id, STRAY_EVENTS)):
            await self.store.write(lambda transaction: transaction.add_event(run_id, note))

    async def rotate_token(self, run_id: int, also: Callable[[Transaction], None]) -> tuple[Run, str]:
        """A new token for the run; all its others end at once. `also`: in the same transaction. Raises Refusal 410."""

        def work(transaction: Transaction) -> tuple[Run, str]:
            run, token = rotated(transaction.run(run_id))
            transaction.put_run(run)
            transaction.add_event(run_id, EventView(ts=now_text(), kind="token", text="the run's token was rotated"))
            also(transaction)
            return run, token

        return await self.store.write(work)

    def _claim_reply(self, run: Run, token: str | None) -> Claim:
        port = self.iperf.port if self.iperf else None
        return Claim(
            stages=list(run.stages),
            current_state=run.state,
            iperf_port=port,
            expected_disks=run.expected_disks,
            non_destructive=run.non_destructive,
            parameters=run.parameters,
            heartbeat_interval_s=run.pace.heartbeat_s,
            sensor_interval_s=run.pace.sensor_s,
            log_interval_s=run.pace.log_s,
            token=token,
            features=[FEATURE_EVIDENCE, *([FEATURE_IPERF_SLOT] if port else [])],
        )

    async def heartbeat(self, caller: Caller, request: HeartbeatRequest) -> HeartbeatReply:
        await self._admit(caller, last_words=True)

        run_id = caller.run.run_id
        directive = await self._beat(caller, request)
        if self.terminals is not None:
            self.terminals.heard(run_id, request.acked_cmd_id, request.ack_status)
        if directive is None:
            order = self.terminals.reply_for(run_id) if self.terminals is not None else None
            return order or HeartbeatReply()
        return HeartbeatReply(
            cmd=directive.cmd,
            stage=directive.stage,
            override_flags=directive.override_flags,
            cmd_id=directive.cmd_id,
        )

    async def _beat(self, caller: Caller, request: HeartbeatRequest) -> Directive | None:
        """Keep what the heartbeat says; the order that it takes back with it."""
        run_id = caller.run.run_id
        if request.acked_cmd_id is None and not caller.run.has_orders:  # nothing to decide: nearly all of them
            await self.store.keep_status(run_id, _status_of(request, now_text()))
            self.pulse.touch(run_id)
            return None

        def keep_status(transaction: Transaction, _step: Step, now: str) -> None:
            transaction.put_status(run_id, _status_of(request, now))

        event = Beat(request.acked_cmd_id, request.ack_status)
        return (await self.apply(run_id, event, caller=caller, also=keep_status)).directive

    async def sensor(self, caller: Caller, request: SensorRequest) -> Empty:
        await self._admit(caller, last_words=True)
        run_id, now = caller.run.run_id, now_text()
        await self.store.keep_samples(run_id, request.samples, now)
        self.pulse.sampled(run_id, request.samples, now)
        return Empty()

    async def log(self, caller: Caller, request: LogRequest) -> Empty:
        # Lines from before the claim are welcome, and those of a released run's last moments too.
        claimed = caller.grant is None and caller.instance_id in instances_of(caller.run)
        await self._admit(
            caller,
            last_words=True,
            released=True,
            before_claim=True,
            claimed=claimed and caller.run.instance_id is not None,
        )
        if any(line.seq is not None and not 0 < line.seq < MAX_SEQ for line in request.lines):
            raise Refusal(422, "malformed", "seq counts up from 1")
        run_id, instance = caller.run.run_id, caller.instance_id or caller.run.instance_id or ""
        await self.store.keep_log_lines(run_id, instance, request.lines)
        self.pulse.touch(run_id)
        return Empty()

    async def result(self, caller: Caller, request: ResultRequest) -> ResultReply:
        check_claimed(caller)
        result_id = request.result_id or str(uuid.uuid4())
        _check_identifier("result_id", result_id)
        run_id = caller.run.run_id
        outliers = await peer_findings(self.store, caller.run, request) if judged_passed(request) else ()

        def keep_result(transaction: Transaction, step: Step, now: str) -> None:
            if not step.repeated:
                transaction.put_result(run_id, result_id, request, now)

        waived = active_for(caller.run, await self.store.documents(Waiver), now_text())
        event = ResultPosted(request, result_id, waived, outliers)
        step = await self.apply(run_id, event, caller=caller, also=keep_result)
        if step.run.is_completed and step.run.hardware is not None and not step.repeated:
            self.to_review.add(step.run.hardware)
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
        self.pulse.touch(run_id)
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
        self.pulse.touch(run_id)
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

        step = await self.store.write(work)
        self.pulse.touch(run_id)
        return step

    async def _admit(
        self,
        caller: Caller,
        *,
        last_words: bool = False,
        released: bool = False,
        claimed: bool = True,
        before_claim: bool = False,
    ) -> None:
        """Let the run's own agent in, and note that its host is alive."""
        run = caller.run
        check_unused(caller) if before_claim else check_claimed(caller)
        if run.is_over:
            recent = run.finished_at is not None and seconds_between(run.finished_at, now_text()) < LAST_WORDS_S
            if not (last_words and recent and (released or run.state != RELEASED)):
                refuse_when_over(run)
        if claimed:
            check_caller(run, caller.instance_id)
        if caller.grant is None:  # one who only holds a boot token keeps no silent host alive
            await self._note_heard(run)

    async def _note_heard(self, run: Run) -> None:
        self.heard_at[run.run_id] = time.monotonic()
        if run.stalled:
            await self.apply(run.run_id, Heard())

    def is_silent(self, run: Run) -> bool:
        """Whether the host has not called for 6 heartbeats. After a start hosts get that long to call."""
        silent_s = time.monotonic() - max(self.heard_at.get(run.run_id, 0.0), self.started_at)
        return silent_s > SILENT_HEARTBEATS * run.pace.heartbeat_s

    async def review_peers(self) -> None:
        """Hold the completed runs of each profile that has news against each other."""
        while self.to_review:
            for run_id, findings in (await late_findings(self.store, self.to_review.pop())).items():
                await self.apply(run_id, PeersReviewed(tuple(findings)))

    async def find_silent_hosts(self) -> None:
        """Tell each run whose host has gone silent."""
        for run in self.store.runs():
            if not run.stalled and run.expects_calls and self.is_silent(run):
                await self.apply(run.run_id, WentSilent())


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


def _mac(text: str) -> str:
    mac = normal_mac(text)
    if mac is None:
        raise Refusal(422, "malformed", f"mac must be a MAC address, lower case with colons, not {text[:64]!r}")
    return mac


def _check_identifier(name: str, text: str) -> None:
    if not IDENTIFIER.fullmatch(text):
        raise Refusal(422, "malformed", f"{name} must be 1 to 64 letters, digits, dots, colons or dashes")

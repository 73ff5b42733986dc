"""What each verb of the agent's API does, without HTTP: one method a verb, messages in and out.

Every method raises Refusal for what the protocol forbids. Nothing is answered before it is committed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.boot_tokens import BootTokens
from orchestrator.callers import (
    Caller,
    caller_of,
    check_claimed,
    check_going_on,
    check_unused,
    instances_of,
    refuse_when_over,
)
from orchestrator.claiming import claim_event, claim_reply, claimed
from orchestrator.clock import later, now_text
from orchestrator.evidence import EvidenceFolder
from orchestrator.hold_keys import VALID_FOR_S, new_hold_key
from orchestrator.identifiers import check_address, check_fingerprint, check_identifier, given_mac
from orchestrator.iperf import IperfServers
from orchestrator.iperf_queue import slot_answer
from orchestrator.keeping import keep
from orchestrator.pacing import Pacer
from orchestrator.peers import peer_findings
from orchestrator.pulse import Pulse
from orchestrator.quota import Quotas, RunQuota
from orchestrator.results import judged_passed
from orchestrator.run_record import Directive, Run
from orchestrator.runs import SILENT_HEARTBEATS, check_caller, transition
from orchestrator.site_keys import SiteKey
from orchestrator.slots import SlotQueue
from orchestrator.steps import (
    Beat,
    Event,
    Heard,
    HoldAsked,
    Refusal,
    ResultPosted,
    Step,
)
from orchestrator.store import EvidenceRecord, HoldKey, Status, Store, Transaction
from orchestrator.terminals import Terminals
from orchestrator.waivers import Waiver, active_for
from vetting_agent.wire import (
    Claim,
    ClaimRequest,
    Empty,
    HeartbeatReply,
    HeartbeatRequest,
    HelloReply,
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

MAX_SEQ = 2**62


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
    site_keys: tuple[SiteKey, ...] = ()
    """Given to held hosts beside the run's own."""
    pacer: Pacer = field(default_factory=Pacer)
    quotas: Quotas = field(default_factory=Quotas)
    _quota: RunQuota = field(init=False)

    def __post_init__(self) -> None:
        self._quota = RunQuota(self.store, self.quotas)

    def authenticate(self, run_id: int, token: str | None, instance_id: str) -> Caller:
        """The run that this token opens. Refuses with 404, 401 or 403."""
        return caller_of(self.store, self.boot_tokens, run_id, token, instance_id)

    async def hello(self, caller: Caller, request: HelloRequest) -> HelloReply:
        refuse_when_over(caller.run)
        check_unused(caller, again=True)
        mac = given_mac(request.mac)
        if not caller.run.admits(mac):
            raise Refusal(409, "other_host", f"Run {caller.run.run_id} belongs to another host, not to {mac}")
        self.pulse.greeted(caller.run.run_id, f"{mac} at {request.ip[:64]}", caller.instance_id)
        return HelloReply(
            stages=list(caller.run.stages),
            current_state=caller.run.state,
            iperf_port=self.iperf.port if self.iperf else None,
        )

    async def claim(self, caller: Caller, request: ClaimRequest) -> Claim:
        factor = self.pacer.factor(self.store.runs(), time.monotonic())
        run, token = await claimed(self.store, caller, claim_event(request), factor)
        self.heard_at[run.run_id] = time.monotonic()
        return claim_reply(run, token, self.iperf.port if self.iperf else None)

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
            identify=directive.identify,
        )

    async def _beat(self, caller: Caller, request: HeartbeatRequest) -> Directive | None:
        """Keep what the heartbeat says; the order that it takes back with it."""
        run_id = caller.run.run_id
        if request.acked_cmd_id is None and not caller.run.is_to_be_told:  # nothing to decide: nearly all of them
            await self.store.keep_status(run_id, _status_of(request, now_text()))
            self.pulse.touch(run_id)
            return None

        def keep_status(transaction: Transaction, _step: Step, now: str) -> None:
            transaction.put_status(run_id, _status_of(request, now))

        event = Beat(request.acked_cmd_id, request.ack_status, request.ack_message)
        return (await self.apply(run_id, event, caller=caller, also=keep_status)).directive

    async def sensor(self, caller: Caller, request: SensorRequest) -> Empty:
        await self._admit(caller, last_words=True)
        run_id, now = caller.run.run_id, now_text()
        await self.store.keep_samples(run_id, await self._quota.of_samples(run_id, request.samples), now)
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
        await self.store.keep_log_lines(run_id, instance, await self._quota.of_lines(run_id, request.lines))
        self.pulse.touch(run_id)
        return Empty()

    async def result(self, caller: Caller, request: ResultRequest) -> ResultReply:
        check_claimed(caller)
        result_id = request.result_id or str(uuid.uuid4())
        check_identifier("result_id", result_id)
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
            step = transition(run, HoldAsked(request.ip, key.expires_at, request.ssh_host_key), now)
            check_address(request.ip)
            check_fingerprint(request.ssh_host_key)
            transaction.put_hold_key(run_id, key)
            keep(transaction, run, step, now)
            return key

        key = await self.store.write(work)
        self.pulse.touch(run_id)
        site_keys = [one.line for one in self.site_keys]
        return HoldReply(authorized_key=key.authorized_key, expires_at=key.expires_at, site_keys=site_keys)

    async def iperf_slot(self, caller: Caller, request: IperfSlotRequest) -> IperfSlotReply:
        await self._admit(caller)
        check_identifier("slot_id", request.slot_id)
        if self.iperf is None or self.iperf.port is None:
            raise Refusal(422, "no_iperf", "This orchestrator has no iperf3 server")
        return slot_answer(self.slots, self.iperf, caller.run.run_id, request)

    async def keep_evidence(self, caller: Caller, stage: str, result_id: str, digest: str, content: bytes) -> Empty:
        """Feature `evidence`. The same digest again is a no-op."""
        await self._admit(caller)
        check_identifier("result_id", result_id)
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
        check_unused(caller) if before_claim else check_claimed(caller)
        check_going_on(caller.run, last_words=last_words, released=released)
        if claimed:
            check_caller(caller.run, caller.instance_id)
        if caller.grant is None:  # one who only holds a boot token keeps no silent host alive
            await self._note_heard(caller.run)

    async def _note_heard(self, run: Run) -> None:
        self.heard_at[run.run_id] = time.monotonic()
        if run.stalled:
            await self.apply(run.run_id, Heard())

    def is_silent(self, run: Run) -> bool:
        """Whether the host has not called for 6 heartbeats. After a start hosts get that long to call."""
        silent_s = time.monotonic() - max(self.heard_at.get(run.run_id, 0.0), self.started_at)
        return silent_s > SILENT_HEARTBEATS * run.pace.heartbeat_s


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

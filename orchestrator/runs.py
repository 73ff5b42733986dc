"""The life of a run as one pure function: `transition(run, event, now)`.

    InventoryCheck -> SpecValidate -> SMART -> CPUStress -> Storage -> Network -> GPU -> PSU -> Reporting -> Completed
    FailedHolding   a stage failed, and the host waits for a person; a retry that passes leads back into the walk
    Cancelled       a stage's result said so            Aborted   the agent let the host go
    Released        the operator let the host go

SpecValidate and Reporting are passed through inside a result. No transition reads a clock, a store or a network.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.directives import (
    beat,
    carried_out,
    close_on_end,
    given_again,
    last_end_of,
    order,
    powered_off_at_end,
)
from orchestrator.results import post_result
from orchestrator.run_record import CANCELLED, DONE, RELEASED, Run
from orchestrator.steps import (
    Beat,
    Claimed,
    Event,
    Heard,
    HoldAsked,
    Note,
    Ordered,
    PeersReviewed,
    Refusal,
    Released,
    ResultPosted,
    Step,
    WentSilent,
    begun,
    failed_by_orchestrator,
    moved_to,
    with_directive,
)
from stages.outcome import ReasonCode
from vetting_agent.wire import ABORT, CANCEL_STAGE, RETRY_STAGE, SHUTDOWN

MAX_RESUMES = 2
SILENT_HEARTBEATS = 6
MAX_OLDER_INSTANCES = MAX_OLDER_BOOTS = 100
PEER = ReasonCode.PEER_OUTLIER.value


def transition(run: Run, event: Event, now: str) -> Step:
    """What follows from an event. Raises Refusal when the event is not allowed; nothing has changed then."""
    match event:
        case Claimed():
            return _claim(run, event, now)
        case ResultPosted():
            return post_result(run, event, now)
        case Beat():
            return beat(run, event, now)
        case Ordered():
            return order(run, event, now)
        case HoldAsked():
            return _hold(run, event)
        case Released():
            return _release(run, now)
        case WentSilent():
            return _silent(run, now)
        case Heard():
            return _heard(run)
        case PeersReviewed():
            return _reviewed(run, event)


def check_caller(run: Run, instance_id: str) -> None:
    """Whether a call may come from this agent: the newest that claimed, or one that does not say who it is."""
    if run.instance_id is None:
        raise Refusal(409, "not_claimed", f"Run {run.run_id} has not been claimed")
    if instance_id in run.older_instances:
        raise Refusal(409, "superseded", f"A newer agent has claimed run {run.run_id}")
    if instance_id not in {"", run.instance_id}:
        raise Refusal(409, "not_claimed", f"Run {run.run_id} is claimed by another agent")


def _claim(run: Run, event: Claimed, now: str) -> Step:
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")
    if not run.admits(event.mac):
        raise Refusal(409, "other_host", f"Run {run.run_id} belongs to another host, not to {event.mac}")
    if _is_late(run, event):
        raise Refusal(409, "superseded", f"A newer agent has claimed run {run.run_id}")
    step = Step(replace(run, mac=event.mac, ip=event.ip, agent_version=event.agent_version, stalled=False))
    if event.instance_id == run.instance_id:
        return step
    if run.instance_id is None:
        return _first_claim(step, event, now)
    return _next_claim(step, event, now)


def _is_late(run: Run, event: Claimed) -> bool:
    """Whether this agent ended before the one that holds the run began, and its claim was long on its way."""
    if event.instance_id in run.older_instances or event.kernel_boot_id in run.older_boots:
        return True
    if event.kernel_boot_id is None or event.kernel_boot_id != run.kernel_boot_id:
        return False
    return (
        event.instance_id != run.instance_id
        and event.started_s is not None
        and run.instance_started_s is not None
        and event.started_s < run.instance_started_s
    )


def _first_claim(step: Step, event: Claimed, now: str) -> Step:
    run = replace(
        step.run,
        instance_id=event.instance_id,
        instance_started_s=event.started_s,
        kernel_boot_id=event.kernel_boot_id,
    )
    run = begun(run, run.stage, now) if run.stage is not None else run
    return step.then(run, Note("claim", f"claimed by {event.mac} at {event.ip}"))


def _next_claim(step: Step, event: Claimed, now: str) -> Step:
    """Another instance on the same host: after a reboot, a crash of the agent, or an ordered power-off."""
    old = step.run
    assert old.instance_id is not None
    boots = (old.kernel_boot_id, event.kernel_boot_id)
    rebooted = None not in boots and boots[0] != boots[1]
    ordered_off = old.powered_off or (rebooted and _was_sent(old, SHUTDOWN))
    run = replace(
        old,
        instance_id=event.instance_id,
        older_instances=(*old.older_instances, old.instance_id)[-MAX_OLDER_INSTANCES:],
        instance_started_s=event.started_s,
        older_boots=_older_boots(old, event.kernel_boot_id),
        kernel_boot_id=event.kernel_boot_id or old.kernel_boot_id,
        powered_off=False,
    )
    if _cancel_was_done(run):
        run = close_on_end(replace(moved_to(run, CANCELLED, now), finished_at=now), now)
        return step.then(run, Note("state", f"{old.state} -> {CANCELLED}"))
    lost_stage = old.retry_stage or old.in_flight
    step = step.then(
        _without_lost_orders(run, rebooted, now),
        Note("claim", f"claimed by a new agent after {'a reboot' if rebooted else 'the old one ended'}"),
    )
    if ordered_off:
        return _started_anew(_still_up(step, old, event), now)
    if rebooted and lost_stage is not None:
        text = f"The host rebooted while {lost_stage} was running"
        return _failed(step, lost_stage, ReasonCode.HOST_REBOOTED, text, now)
    return _resumed(step, now)


def _older_boots(old: Run, boot_id: str | None) -> tuple[str, ...]:
    ended = () if old.kernel_boot_id is None or boot_id in {None, old.kernel_boot_id} else (old.kernel_boot_id,)
    return (*old.older_boots, *ended)[-MAX_OLDER_BOOTS:]


def _still_up(step: Step, old: Run, event: Claimed) -> Step:
    """In the boot that was to end the order stands: the agent was killed between its last words and the power-off."""
    last = last_end_of(step.run)
    same_boot = event.kernel_boot_id is not None and event.kernel_boot_id == old.kernel_boot_id
    return given_again(step) if same_boot and last is not None and last.cmd == SHUTDOWN else step


def _started_anew(step: Step, now: str) -> Step:
    """The host was powered off on order: its stage begins again, and a completed run is to be powered off again."""
    run = replace(step.run, in_flight=None, resumes=0)
    if run.is_completed:
        return step.then(powered_off_at_end(run, now))
    return step.then(begun(run, run.stage, now) if run.stage is not None else run)


def _resumed(step: Step, now: str) -> Step:
    """The agent alone was replaced. A hold stays a hold: an interrupted retry is the operator's to order again."""
    run = step.run
    if run.stage is None:
        return step.then(replace(run, in_flight=None, resumes=0))
    if run.resumes >= MAX_RESUMES:
        text = f"The agent ended {run.resumes + 1} times while {run.stage} was running"
        return _failed(step, run.stage, ReasonCode.AGENT_CRASH_LOOP, text, now)
    if run.in_flight is None:
        return step.then(begun(run, run.stage, now))
    run = replace(run, resumes=run.resumes + 1)
    return step.then(run, Note("claim", f"{run.stage} is resumed, {run.resumes} of {MAX_RESUMES} times"))


def _failed(step: Step, stage: str, code: ReasonCode, text: str, now: str) -> Step:
    failed = failed_by_orchestrator(step.run, stage, code, text, now)
    return Step(failed.run, step.notes + failed.notes, own_results=failed.own_results)


def _was_sent(run: Run, cmd: str) -> bool:
    """Whether this order went to the agent and has not been acknowledged."""
    return any(one.cmd == cmd and one.sent_at is not None for one in run.open_directives)


def _cancel_was_done(run: Run) -> bool:
    """Whether the agent said that it cancelled the stage whose result is still missing."""
    if run.awaited_stage is None:
        return False
    began = run.record_of(run.awaited_stage).started_at or run.created_at
    return any(
        one.cmd == CANCEL_STAGE and one.status == DONE and (one.acked_at or "") >= began for one in run.directives
    )


def _without_lost_orders(run: Run, rebooted: bool, now: str) -> Run:
    """Orders that went to the old agent. A retry is for one execution, and a reboot answers a power-off."""
    answered = {RETRY_STAGE, SHUTDOWN} if rebooted else {RETRY_STAGE}
    for one in run.open_directives:
        if one.sent_at is not None and one.cmd in answered:
            run = with_directive(run, replace(one, status=DONE, acked_at=now))
    return run


def _hold(run: Run, event: HoldAsked) -> Step:
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")
    if not run.is_holding:
        raise Refusal(422, "not_holding", f"Run {run.run_id} is {run.state}: there is no hold to give a key for")
    held = replace(run, hold_ip=event.ip, hold_expires_at=event.expires_at)
    notes = []
    if held != run:
        notes.append(Note("hold", f"{event.ip} got the hold key, valid until {event.expires_at}"))
    if event.ssh_host_key not in {None, run.hold_host_key}:
        notes.append(Note("hold", f"{event.ip} shows the SSH host key {event.ssh_host_key}"))
    return Step(replace(held, hold_host_key=event.ssh_host_key), tuple(notes))


def _release(run: Run, now: str) -> Step:
    if run.state == RELEASED:
        return Step(run, repeated=True)
    released = close_on_end(moved_to(run, RELEASED, now), now)
    released = replace(released, finished_at=run.finished_at or now)
    return Step(released, (Note("state", f"{run.state} -> {RELEASED}"),))


def _silent(run: Run, now: str) -> Step:
    """The host does not call any more. An order that ends the agent, once handed out, explains it."""
    if not run.expects_calls or run.stalled:
        return Step(run, repeated=True)
    for one in run.open_directives:
        if one.cmd in {SHUTDOWN, ABORT} and one.sent_at is not None:
            done = replace(one, status=DONE, acked_at=now)
            note = Note("directive", f"{one.cmd}: taken as done, the agent went silent after it")
            return carried_out(Step(with_directive(run, done), (note,)), done, now)
    if _cancel_was_done(run):
        ended = close_on_end(replace(moved_to(run, CANCELLED, now), finished_at=now), now)
        return Step(ended, (Note("state", f"{run.state} -> {CANCELLED}"),))
    note = Note("stalled", f"the host has been silent for {SILENT_HEARTBEATS} heartbeats")
    return Step(replace(run, stalled=True), (note,))


def _heard(run: Run) -> Step:
    if not run.stalled:
        return Step(run, repeated=True)
    return Step(replace(run, stalled=False), (Note("stalled", "the host is heard again"),))


def _reviewed(run: Run, event: PeersReviewed) -> Step:
    """More hosts have passed since: only what they say in addition is kept, nothing is taken back."""
    known = {(one.component, one.evidence.partition(":")[0]) for one in run.findings if one.reason_code == PEER}
    new = [one for one in event.findings if (one.component, one.evidence.partition(":")[0]) not in known]
    if not run.is_completed or not new:
        return Step(run, repeated=True)
    notes = tuple(Note("finding", f"{PEER}: {one.message}") for one in new)
    return Step(replace(run, findings=[*run.findings, *new]), notes)

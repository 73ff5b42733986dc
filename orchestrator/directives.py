"""Orders from the operator to the agent: which are allowed when, how they are handed out and acknowledged. Pure.

A directive is repeated in every heartbeat until one acknowledges it. What it does to the run happens when the
agent says that it was done, or when the host falls silent after it was handed out.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.lamps import check_lamp, without_old_lamps
from orchestrator.run_record import ABORTED, CANCELLED, DONE, REFUSED, WAITING, Directive, Run
from orchestrator.steps import Beat, Note, Ordered, Refusal, Step, begun, moved_to, with_directive
from stages import stage_named
from vetting_agent.wire import (
    ABORT,
    CANCEL_STAGE,
    FAILED_HOLDING,
    IDENTIFY,
    RETRY_STAGE,
    SHUTDOWN,
    OverrideFlags,
)

URGENCY = (ABORT, SHUTDOWN, CANCEL_STAGE, RETRY_STAGE, IDENTIFY)
"""What ends the agent goes first: an agent that never answers one order must still be reachable by these."""

ANSWER_LENGTH = 300


def order(run: Run, event: Ordered, now: str) -> Step:
    """The run with an order waiting for the agent, or a Refusal (409 or 422) that says why it makes no sense now."""
    if event.cmd not in URGENCY:
        raise Refusal(422, "unknown_command", f"There is no directive {event.cmd!r}; there are: {', '.join(URGENCY)}")
    if run.is_over:
        raise Refusal(409, "run_over", f"Run {run.run_id} is {run.state}: there is nobody left to give orders to")
    if event.cmd == RETRY_STAGE:
        return _order_retry(run, event, now)
    if event.wipe or event.serials:
        raise Refusal(422, "wipe_without_retry", "--wipe and --serial belong to a retry")
    if event.cmd == CANCEL_STAGE:
        return _order_cancel(run, now)
    if event.cmd == IDENTIFY:
        check_lamp(run, event.identify)
    if event.cmd == ABORT and not run.is_completed and (run.instance_id is None or run.stalled or run.powered_off):
        return _ended(*_new(run, Ordered(ABORT), now, status=DONE), ABORTED, now)
    if run.powered_off:
        raise Refusal(409, "agent_gone", f"The agent of run {run.run_id} was ended before: nobody is there to be told")
    if run.instance_id is None:
        raise Refusal(409, "not_claimed", f"No host has claimed run {run.run_id} yet: there is nobody to be told")
    if any((one.cmd, one.identify) == (event.cmd, event.identify) for one in run.open_directives):
        raise Refusal(409, "already_ordered", f"{event.cmd} is already waiting for the agent's next heartbeat")
    return _queued(*_new(run, event, now))


def powered_off_at_end(run: Run, now: str) -> Run:
    """A completed run with the shutdown that its agent waits for, unless it is to stay on or has one waiting."""
    if not run.shutdown_when_completed or any(one.cmd == SHUTDOWN for one in run.open_directives):
        return run
    return _new(run, Ordered(SHUTDOWN), now)[0]


def _order_cancel(run: Run, now: str) -> Step:
    if run.instance_id is None or (run.powered_off and run.stage is not None):
        return _ended(*_new(run, Ordered(CANCEL_STAGE), now, status=DONE), CANCELLED, now)
    if run.awaited_stage is None:
        text = f"Run {run.run_id} is {run.state}: no stage is running. To end it use shutdown, abort or release"
        raise Refusal(409, "no_stage_running", text)
    if any(one.cmd == CANCEL_STAGE for one in run.open_directives):
        raise Refusal(409, "already_ordered", "cancel_stage is already waiting for the agent's next heartbeat")
    return _queued(*_new(run, Ordered(CANCEL_STAGE), now))


def _order_retry(run: Run, event: Ordered, now: str) -> Step:
    if not run.is_holding:
        text = f"A stage is retried in {FAILED_HOLDING} only, and run {run.run_id} is {run.state}"
        raise Refusal(409, "not_holding", text)
    if run.retry_stage is not None or any(one.cmd == RETRY_STAGE for one in run.open_directives):
        raise Refusal(409, "retry_pending", "An earlier retry has no result yet")
    stage = event.stage or next((name for name in run.stages if not run.has_valid_pass(name)), None)
    if stage is None or stage not in run.stages:
        raise Refusal(422, "unknown_stage", f"Run {run.run_id} has no stage {stage}; it has: {', '.join(run.stages)}")
    if event.wipe:
        _check_wipe(run, stage)
    elif event.serials:
        raise Refusal(422, "serials_without_wipe", "Serial numbers name the disks of a wipe: give --wipe too")
    run = replace(run, component_changes=0)
    return _queued(*_new(run, Ordered(event.cmd, stage, event.wipe, event.serials), now))


def _check_wipe(run: Run, stage: str) -> None:
    if run.non_destructive:
        text = f"Run {run.run_id} was created non-destructive: no disk of this host may be written"
        raise Refusal(409, "non_destructive", text)
    declared = stage_named(stage)
    if declared is None or not declared.destructive:
        raise Refusal(422, "wipe_without_disks", f"{stage} writes to no disk: --wipe means nothing for it")


def _new(run: Run, event: Ordered, now: str, status: str = WAITING) -> tuple[Run, Directive]:
    flags = OverrideFlags(wipe=True, serials=event.serials) if event.wipe else None
    directive = Directive(
        cmd_id=f"{run.run_id}-{_next_number(run)}-{event.cmd}",
        cmd=event.cmd,
        created_at=now,
        stage=event.stage,
        override_flags=flags,
        status=status,
        acked_at=now if status == DONE else None,
        identify=event.identify,
    )
    return replace(run, directives=(*without_old_lamps(run.directives), directive)), directive


def _next_number(run: Run) -> int:
    """One above the last: old orders may have been forgotten."""
    return int(run.directives[-1].cmd_id.split("-")[1]) + 1 if run.directives else 1


def _queued(run: Run, directive: Directive) -> Step:
    return Step(run, (Note("directive", f"{described(directive)}: waiting for the agent"),), directive=directive)


def _ended(run: Run, directive: Directive, state: str, now: str) -> Step:
    """The run ends at once: there is no agent that could be asked."""
    note = Note("state", f"{run.state} -> {state}")
    run = close_on_end(replace(moved_to(run, state, now), finished_at=now), now)
    return Step(run, (Note("directive", f"{described(directive)}: no agent is there"), note), directive=directive)


def described(directive: Directive) -> str:
    """For a person: "retry_stage Storage, wiping the disks refused for data"."""
    if directive.identify is not None:
        return f"{directive.cmd} {directive.identify.target} {'on' if directive.identify.on else 'off'}"
    words = f"{directive.cmd} {directive.stage}" if directive.stage else directive.cmd
    flags = directive.override_flags
    if flags is None or not flags.wipe:
        return words
    named = ", ".join(flags.serials) if flags.serials else "the disks that were refused for data"
    return f"{words}, wiping {named}"


def beat(run: Run, event: Beat, now: str) -> Step:
    """A heartbeat: its acknowledgement taken, and the most urgent open directive handed out."""
    step = Step(run)
    if run.powered_off and not _are_last_words(run, event):
        step = given_again(step)
    if event.acked_cmd_id is not None:
        step = _acknowledged(step, event, now)
    waiting = sorted(step.run.open_directives, key=lambda one: URGENCY.index(one.cmd))
    if not waiting or step.run.is_over:
        return step
    directive = waiting[0]
    if directive.sent_at is None:
        directive = replace(directive, sent_at=now)
        step = step.then(with_directive(step.run, directive), Note("directive", f"{described(directive)}: handed out"))
    return Step(step.run, step.notes, directive=directive)


def _are_last_words(run: Run, event: Beat) -> bool:
    """Whether the agent says, once more perhaps, that it did what ends it."""
    last = last_end_of(run)
    return last is not None and last.cmd_id == event.acked_cmd_id


def _acknowledged(step: Step, event: Beat, now: str) -> Step:
    run = step.run
    directive = next((one for one in run.directives if one.cmd_id == event.acked_cmd_id), None)
    if directive is None or not directive.is_open or event.ack_status not in {DONE, REFUSED}:
        return step
    said = event.ack_message[:ANSWER_LENGTH] if event.ack_message and event.ack_status == REFUSED else None
    directive = replace(directive, status=event.ack_status, acked_at=now, answer=said)
    words = f"{described(directive)}: {event.ack_status}{f', {said}' if said else ''}"
    step = step.then(with_directive(run, directive), Note("directive", words))
    return carried_out(step, directive, now) if event.ack_status == DONE else step


def carried_out(step: Step, directive: Directive, now: str) -> Step:
    """What it means for the run that the agent did as it was told."""
    run = step.run
    if directive.cmd == RETRY_STAGE and directive.stage is not None and run.is_holding and run.in_flight is None:
        return step.then(begun(run, directive.stage, now))
    if directive.cmd == SHUTDOWN or (directive.cmd == ABORT and run.is_completed):
        # What was completed stays so; only the agent is gone.
        return step.then(replace(run, powered_off=True, in_flight=None, resumes=0, stalled=False))
    if directive.cmd == ABORT and not run.is_over:
        ended = close_on_end(replace(moved_to(run, ABORTED, now), finished_at=now), now)
        return step.then(ended, Note("state", f"{run.state} -> {ABORTED}"))
    return step


def last_end_of(run: Run) -> Directive | None:
    """The newest order to end the agent that was done, or that silence was taken for an answer to."""
    ends = (one for one in reversed(run.directives) if one.cmd in {SHUTDOWN, ABORT} and one.status == DONE)
    return next(ends, None)


def given_again(step: Step) -> Step:
    """The host that was taken for off is up: the order that was to end its agent is open again."""
    order = last_end_of(step.run)
    run = replace(step.run, powered_off=False)
    if order is None:
        return step.then(run)
    text = f"{described(order)}: given again, the host still calls"
    return step.then(with_directive(run, replace(order, status=WAITING, acked_at=None)), Note("directive", text))


def close_on_end(run: Run, now: str) -> Run:
    """The run is over: a cancel that led here was done, nothing else will be any more."""
    for one in run.open_directives:
        status = DONE if run.state == CANCELLED and one.cmd == CANCEL_STAGE else REFUSED
        run = with_directive(run, replace(one, status=status, acked_at=now))
    return replace(run, stalled=False)

"""What a posted result makes of a run: the verdict checked, the walk continued, held or completed. Pure.

Nothing passes here that was not tested: `passed` counts only when verdict and findings agree with it, `Completed`
needs a valid pass of every stage, and a pass counts only for the components that the Inventory saw.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.directives import close_on_end, powered_off_at_end
from orchestrator.run_record import (
    CANCELLED,
    CONTINUE,
    DONE,
    INVENTORY,
    STATE_OF,
    Run,
)
from orchestrator.spec import differences
from orchestrator.steps import (
    Note,
    Refusal,
    ResultPosted,
    Step,
    begun,
    finding,
    first_without_pass,
    moved_to,
    with_all_passes_void,
    with_directive,
    with_finding,
    with_peer_findings,
    with_record,
    without_findings,
)
from stages.outcome import ReasonCode, Severity, Verdict
from vetting_agent.wire import (
    COMPLETED,
    FAILED_HOLDING,
    REPORTING,
    RETRY_STAGE,
    SPEC_VALIDATE,
    ResultRequest,
    passes,
)

MAX_COMPONENT_CHANGES = 3
"""A part that comes and goes would lead to InventoryCheck for ever; after so many times a person must look."""
MAX_ANSWERS = 1000
MAX_IGNORED = 100
"""Results that nobody waits for are kept for people to look at; a host that posts them for ever fills no disk."""
HARMLESS = frozenset({Severity.WARNING.value, Severity.INFO.value})


def judged_passed(request: ResultRequest) -> bool:
    """`passed` recomputed. The agent's word, the verdict and the findings must all say so; unknown words do not."""
    clean = all(one.severity in HARMLESS for one in request.summary.findings)
    return request.passed and passes(request.summary.verdict) and clean


def waived_errors(request: ResultRequest, waived: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    """The error findings of a failed stage when all of them are waived, as "code component"; else none.

    Only a verdict of `fail` can be waived: with any other, something was not tested.
    """
    errors = [one for one in request.summary.findings if one.severity not in HARMLESS]
    if request.summary.verdict != Verdict.FAIL.value:
        return ()
    if not all((one.reason_code, one.component) in waived for one in errors):
        return ()
    return tuple(f"{one.reason_code} {one.component}" for one in errors)


def post_result(run: Run, event: ResultPosted, now: str) -> Step:
    """The run after a result; `next_state` is the answer. A result that was answered before changes nothing."""
    if (answer := run.answers.get(event.result_id)) is not None:
        return Step(run, next_state=answer, repeated=True)
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")
    if run.instance_id is None:
        raise Refusal(409, "not_claimed", f"Run {run.run_id} has not been claimed")
    if event.request.stage != run.awaited_stage:
        return _ignored(run, event)
    return _answered(_accept(run, event, now), event)


def _ignored(run: Run, event: ResultPosted) -> Step:
    if run.ignored_results >= MAX_IGNORED:
        return Step(run, next_state=run.state, repeated=True)
    text = f"a result for {event.request.stage} was ignored: the run stands at {run.state}"
    if run.ignored_results == MAX_IGNORED - 1:
        text += "; it is the last of such results that is kept"
    counted = replace(run, ignored_results=run.ignored_results + 1)
    return _answered(Step(counted, (Note("result", text),)), event)


def _answered(step: Step, event: ResultPosted) -> Step:
    answers = {**step.run.answers, event.result_id: step.run.state}
    while len(answers) > MAX_ANSWERS:
        del answers[next(iter(answers))]
    run = replace(step.run, answers=answers)
    return Step(run, step.notes, next_state=run.state, own_results=step.own_results)


def _accept(run: Run, event: ResultPosted, now: str) -> Step:
    request = event.request
    waived = waived_errors(request, event.waived)
    passed = judged_passed(request) or bool(waived)
    retried = run.is_holding
    notes = [Note("result", f"{request.stage}: {request.summary.verdict}: {request.message}")]
    if request.passed and not passed:
        notes.append(Note("result", f"{request.stage} was posted as passed, but its findings or verdict say otherwise"))
    notes += [Note("waived", f"{request.stage}: {one} is waived") for one in waived]
    run = _with_result(_retry_closed(run, now), event, passed, now, waived)
    before = run.state
    if request.summary.verdict == Verdict.CANCELLED.value:
        run = close_on_end(replace(moved_to(run, CANCELLED, now), finished_at=now), now)
        return Step(run, (*notes, Note("state", f"{before} -> {CANCELLED}")))
    outliers = event.outliers if passed else ()
    run = with_peer_findings(run, request.stage, outliers)
    notes += [Note("finding", f"{one.reason_code}: {one.message}") for one in outliers]
    if any(one.severity == Severity.ERROR.value for one in outliers):
        passed = False
        run = with_record(run, replace(run.record_of(request.stage), valid=False))
    goes_on = passed or (run.on_failure == CONTINUE and not retried)
    changed = _changed_components(run, request)
    if changed:
        # An Inventory that sees the change is where the change leads to; it is no further one.
        changes = run.component_changes + (request.stage != INVENTORY)
        run = replace(_voided(run, changed), component_changes=changes)
        notes.append(Note("finding", f"components_changed: {changed}"))
    if request.stage == INVENTORY:
        run = _inventory_taken(run, event, passed)
        notes += [Note("finding", f"spec_mismatch: {line}") for line in run.spec_diff]
        goes_on = goes_on and (not run.spec_diff or run.on_failure == CONTINUE)
    path = _path(run, request.stage, goes_on=goes_on, retried=retried, changed=bool(changed))
    run = _arrived(run, path[-1], now)
    steps = zip((before, *path), path, strict=False)
    return Step(run, (*notes, *(Note("state", f"{one} -> {two}") for one, two in steps if one != two)))


def _retry_closed(run: Run, now: str) -> Run:
    """A retry that was handed out is answered by its result: its acknowledgement was lost, or is slower than the stage.
    Then the execution began when the retry was handed out."""
    if not run.is_holding:
        return run
    for one in run.open_directives:
        if one.cmd == RETRY_STAGE and one.sent_at and one.stage and one.stage == run.retry_stage:
            run = with_directive(run, replace(one, status=DONE, acked_at=now))
            run = begun(run, one.stage, one.sent_at) if run.in_flight is None else run
    return run


def _with_result(run: Run, event: ResultPosted, passed: bool, now: str, waived: tuple[str, ...]) -> Run:
    request = event.request
    old = run.record_of(request.stage)
    record = replace(
        old,
        attempts=max(old.attempts, 1),
        valid=passed,
        passed=passed,
        result_id=event.result_id,
        started_at=old.started_at or now,
        finished_at=now,
        message=request.message,
        errors=sum(one.severity not in HARMLESS for one in request.summary.findings),
        warnings=sum(one.severity == Severity.WARNING.value for one in request.summary.findings),
        waived=waived,
    )
    run = replace(with_record(run, record), in_flight=None, resumes=0)
    solved = (ReasonCode.HOST_REBOOTED, ReasonCode.AGENT_CRASH_LOOP)
    return without_findings(run, solved, request.stage) if passed else run


def _changed_components(run: Run, request: ResultRequest) -> str:
    """How the components differ from the Inventory's, in words; empty when they do not, or either side is silent."""
    if run.components is None or request.components is None:
        return ""
    known, seen = set(run.components), set(request.components)
    gone, new = sorted(known - seen), sorted(seen - known)
    words = [f"gone: {', '.join(gone)}"] if gone else []
    return "; ".join([*words, f"new: {', '.join(new)}"] if new else words)


def _voided(run: Run, changed: str) -> Run:
    run = with_all_passes_void(run)
    text = f"The host's components differ from those of the Inventory, so that no earlier pass counts ({changed})"
    return with_finding(run, finding(ReasonCode.COMPONENTS_CHANGED, "host", text, Severity.WARNING))


def _inventory_taken(run: Run, event: ResultPosted, passed: bool) -> Run:
    """SpecValidate: the inventory is what counts from now on, and it is held against the spec."""
    request = event.request
    if passed or run.on_failure == CONTINUE:
        run = replace(run, components=request.components)
    if request.inventory is not None:
        run = replace(run, inventory_result_id=event.result_id)
    diff = [] if run.spec is None else differences(run.spec, request.inventory)
    run = replace(without_findings(run, (ReasonCode.SPEC_MISMATCH,), "host"), spec_diff=diff)
    # A pass of this execution counts, even when it is the one that told of changed components.
    run = with_record(run, replace(run.record_of(INVENTORY), valid=passed and not diff))
    if not diff:
        return run
    text = f"The host is not what its spec says: {'; '.join(diff)}"
    return with_finding(run, finding(ReasonCode.SPEC_MISMATCH, "host", text))


def _path(run: Run, stage: str, *, goes_on: bool, retried: bool, changed: bool) -> list[str]:
    """The states that the run goes through from here; the last one is where it stands then."""
    through = [SPEC_VALIDATE] if stage == INVENTORY else []
    if not goes_on:
        return [*through, FAILED_HOLDING]
    if changed and stage != INVENTORY:
        flapping = run.component_changes > MAX_COMPONENT_CHANGES
        return [FAILED_HOLDING if flapping else STATE_OF[INVENTORY]]
    ahead = run.stages[run.stages.index(stage) + 1 :] if run.on_failure == CONTINUE and not retried else run.stages
    state = first_without_pass(run, ahead)
    if state is not None:
        return [*through, state]
    done = first_without_pass(run, run.stages) is None
    return [*through, REPORTING, COMPLETED if done else FAILED_HOLDING]


def _arrived(run: Run, state: str, now: str) -> Run:
    run = moved_to(run, state, now)
    if state != COMPLETED:
        return run
    run = replace(run, finished_at=now)
    return powered_off_at_end(run, now)

"""What a transition takes and gives, and the small moves that all transitions are made of. Pure.

An event is what reached the orchestrator; a `Step` is what follows from it: the new record, lines for the run's
history, the answer, and results that the orchestrator itself wrote about a stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator.run_record import STAGE_OF, STATE_OF, Directive, Run, StageRecord
from stages.outcome import Finding, Outcome, ReasonCode, Severity
from vetting_agent.wire import FAILED_HOLDING, IdentifyOrder, ResultRequest, Summary, WireFinding, summary_of


class Refusal(Exception):
    """A call or an order that the run's rules do not allow. `status` is the HTTP status it is answered with."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the run's history. Kinds: claim, state, result, directive, hold, stalled, finding, release."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class OwnResult:
    """A result that the orchestrator wrote about a stage whose host or agent did not live to post one."""

    stage: str
    result_id: str
    summary: Summary


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event. `next_state` and `directive` are the answers to a result and to a heartbeat."""

    run: Run
    notes: tuple[Note, ...] = ()
    next_state: str | None = None
    directive: Directive | None = None
    own_results: tuple[OwnResult, ...] = ()
    repeated: bool = False
    """The event had been answered before; nothing changed."""

    def then(self, run: Run, *notes: Note) -> Step:
        """This step with a later record and more history."""
        return Step(
            run=run,
            notes=self.notes + notes,
            next_state=self.next_state,
            directive=self.directive,
            own_results=self.own_results,
        )


@dataclass(frozen=True, slots=True)
class Claimed:
    mac: str
    ip: str
    instance_id: str
    agent_version: str
    kernel_boot_id: str | None = None
    started_s: float | None = None
    """When this instance started, in seconds since its kernel did."""


@dataclass(frozen=True, slots=True)
class ResultPosted:
    """`outliers`: what of a passed result lies far from the siblings' (peers.py)."""

    request: ResultRequest
    result_id: str
    waived: frozenset[tuple[str, str]] = frozenset()
    """(reason code, component) of what is waived for this host now."""
    outliers: tuple[WireFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Beat:
    acked_cmd_id: str | None = None
    ack_status: str | None = None
    ack_message: str | None = None


@dataclass(frozen=True, slots=True)
class Ordered:
    cmd: str
    stage: str | None = None
    wipe: bool = False
    serials: list[str] | None = None
    identify: IdentifyOrder | None = None


@dataclass(frozen=True, slots=True)
class HoldAsked:
    ip: str
    expires_at: str
    ssh_host_key: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The operator lets the host go."""


@dataclass(frozen=True, slots=True)
class WentSilent:
    """No call for 6 heartbeats."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A call came from a host that was stalled."""


@dataclass(frozen=True, slots=True)
class PeersReviewed:
    """What the siblings that came later say of a completed run."""

    findings: tuple[WireFinding, ...]


Event = Claimed | ResultPosted | Beat | Ordered | HoldAsked | Released | WentSilent | Heard | PeersReviewed


def moved_to(run: Run, state: str, now: str) -> Run:
    """The run standing at `state`; if that is a stage's and an agent is there, the stage is in flight from now on."""
    stage = STAGE_OF.get(state)
    run = replace(run, state=state, in_flight=None, resumes=0)
    return begun(run, stage, now) if stage is not None and run.instance_id is not None else run


def begun(run: Run, stage: str, now: str) -> Run:
    """The run with one more execution of `stage` in flight."""
    old = run.record_of(stage)
    return with_record(
        replace(run, in_flight=stage, resumes=0),
        replace(old, attempts=old.attempts + 1, started_at=now, finished_at=None),
    )


def with_record(run: Run, record: StageRecord) -> Run:
    return replace(run, records={**run.records, record.stage: record})


def with_directive(run: Run, directive: Directive) -> Run:
    """The run with one of its directives replaced."""
    kept = (directive if one.cmd_id == directive.cmd_id else one for one in run.directives)
    return replace(run, directives=tuple(kept))


def with_all_passes_void(run: Run) -> Run:
    records = {name: replace(record, valid=False) for name, record in run.records.items()}
    return replace(run, records=records)


def with_finding(run: Run, finding: WireFinding) -> Run:
    """The run with one finding of the orchestrator's own; an older one with the same code and component gives way."""
    return replace(run, findings=[*_others(run, finding.reason_code, finding.component), finding])


def without_findings(run: Run, codes: Iterable[ReasonCode], component: str) -> Run:
    findings = run.findings
    for code in codes:
        findings = _others(replace(run, findings=findings), code.value, component)
    return replace(run, findings=findings)


def with_peer_findings(run: Run, stage: str, findings: Iterable[WireFinding]) -> Run:
    """The run with what its siblings say of this stage now; what they said before gives way."""
    code, prefix = ReasonCode.PEER_OUTLIER.value, f"{stage}: "
    kept = [one for one in run.findings if one.reason_code != code or not one.evidence.startswith(prefix)]
    new = [*kept, *findings]
    return run if new == run.findings else replace(run, findings=new)


def _others(run: Run, code: str, component: str) -> list[WireFinding]:
    return [one for one in run.findings if (one.reason_code, one.component) != (code, component)]


def finding(code: ReasonCode, component: str, message: str, severity: Severity = Severity.ERROR) -> WireFinding:
    return WireFinding(
        reason_code=code.value, severity=severity.value, component=component, message=message, evidence=""
    )


def failed_by_orchestrator(run: Run, stage: str, code: ReasonCode, message: str, now: str) -> Step:
    """`stage` failed for a reason only the orchestrator can see: the run holds, whatever its policy."""
    result_id = f"orchestrator-{stage}-{run.record_of(stage).attempts}"
    found = Finding(code, Severity.ERROR, stage, message)
    own = OwnResult(stage, result_id, summary_of(Outcome(headline=message, findings=(found,))))
    record = replace(
        run.record_of(stage), valid=False, passed=False, result_id=result_id, finished_at=now, message=message
    )
    run = with_finding(with_record(run, record), finding(code, stage, message))
    before = run.state
    run = moved_to(run, FAILED_HOLDING, now)
    notes = (Note("finding", f"{code.value}: {message}"), Note("state", f"{before} -> {run.state}"))
    return Step(run, notes, own_results=(own,))


def first_without_pass(run: Run, names: Iterable[str]) -> str | None:
    """The state of the first of these stages that has no valid pass."""
    return next((STATE_OF[name] for name in names if not run.has_valid_pass(name)), None)

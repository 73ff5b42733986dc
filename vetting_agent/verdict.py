"""What the run as a whole says of this machine: one verdict, one sentence, and all that was not tested. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from stages import STAGES, stage_named
from stages.outcome import INCONCLUSIVE, Severity, Verdict
from vetting_agent.run_view import RunView, StageView
from vetting_agent.wire import COMPLETED, WireFinding

NOT_RUN = "not_run"
RUNNING = "running"
NOT_SELECTED = "not_selected"
INCONCLUSIVE_CODES = frozenset(code.value for code in INCONCLUSIVE)


class Overall(StrEnum):
    """The verdict on the machine, as far as the selected stages go."""

    PASS = "pass"
    FAIL = "fail"
    INCOMPLETE = "incomplete"
    """Nothing failed, and something could not be judged."""
    INTERRUPTED = "interrupted"


EXIT_CODES = {Overall.PASS: 0, Overall.FAIL: 1, Overall.INCOMPLETE: 4, Overall.INTERRUPTED: 130}


@dataclass(frozen=True, slots=True)
class Ending:
    """How the walk ended. `trouble` says what cut it short, and is None for a run that reached its end."""

    trouble: str | None = None
    interrupted: bool = False


class Untested(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that this run did not test. `component` is empty where a whole stage is meant."""

    stage: str
    component: str
    reason_code: str | None
    text: str


def stage_verdict(view: StageView) -> str:
    """A Verdict's value, or `running` or `not_run`. A pass that no longer counts is unknown, and so is silence."""
    if view.state != "done":
        return RUNNING if view.state == "running" else NOT_RUN
    if view.summary is None:
        return Verdict.UNKNOWN
    passed = view.summary.verdict in {Verdict.PASS, Verdict.NOT_APPLICABLE}
    return Verdict.UNKNOWN if passed and not view.valid else view.summary.verdict


def run_findings(run: RunView) -> list[WireFinding]:
    """The orchestrator's own findings; one in a form that this version does not know becomes a plain error."""
    return [_finding(one) for one in run.run_findings]


def _finding(raw: object) -> WireFinding:
    try:
        return msgspec.convert(raw, WireFinding)
    except msgspec.ValidationError:
        text = raw if isinstance(raw, str) else msgspec.json.encode(raw).decode()
        return WireFinding(reason_code="", severity=Severity.ERROR, component="run", message=text, evidence="")


def is_whole(stages: Sequence[str]) -> bool:
    """Whether these are all the stages there are."""
    return {stage.name for stage in STAGES} <= set(stages)


def overall(run: RunView | None, ending: Ending) -> Overall:
    """The verdict: an interruption first, then a proven fault, then anything that was not judged."""
    if ending.interrupted:
        return Overall.INTERRUPTED
    if run is not None and _failed(run):
        return Overall.FAIL
    if run is None or ending.trouble is not None or _unjudged(run) or run.state != COMPLETED:
        return Overall.INCOMPLETE
    return Overall.PASS if run.stages and not _error_codes(run) else Overall.INCOMPLETE


def headline(run: RunView | None, ending: Ending) -> str:
    """The verdict as a sentence that names the stages it rests on."""
    if run is None:
        return "No stage ran" + (f": {ending.trouble}" if ending.trouble else "")
    some = "" if is_whole([stage.stage for stage in run.stages]) else "Of the selected stages, "
    failed, unjudged = _failed(run), _unjudged(run)
    if ending.interrupted:
        until_then = f"{_names(failed)} had failed by then" if failed else "nothing had failed by then"
        return f"Interrupted: {until_then}" + (f", {_names(unjudged)} not judged" if unjudged else "")
    if failed:
        rest = f"; {_names(unjudged)} could not be judged" if unjudged else ""
        return _sentence(f"{some}{_names(failed)} failed{rest}")
    if unjudged:
        return _sentence(f"{some}nothing failed, but {_names(unjudged)} could not be judged")
    if ending.trouble or overall(run, ending) is not Overall.PASS:
        return _sentence(f"{some}nothing failed, but the run did not complete")
    return "All stages passed" if not some else "All of the selected stages passed"


def not_tested(run: RunView | None) -> list[Untested]:
    """All that the run did not test: what the machine would not let it, what broke, what nobody asked for."""
    if run is None:
        return [_whole_stage(stage.name, "did not run") for stage in STAGES]
    found: list[Untested] = []
    for view in run.stages:
        found += _of_stage(view)
    found += [_of_finding("run", one) for one in run_findings(run) if one.reason_code in INCONCLUSIVE_CODES]
    selected = {view.stage for view in run.stages}
    found += [_whole_stage(stage.name, "not selected") for stage in STAGES if stage.name not in selected]
    return found


def _of_stage(view: StageView) -> list[Untested]:
    verdict = stage_verdict(view)
    findings = [] if view.summary is None else view.summary.findings
    listed = [_of_finding(view.stage, one) for one in findings if one.reason_code in INCONCLUSIVE_CODES]
    if verdict in {NOT_RUN, RUNNING}:
        return [_whole_stage(view.stage, "did not run" if verdict == NOT_RUN else "did not finish"), *listed]
    if verdict == Verdict.NOT_APPLICABLE:
        said = "no such hardware here" if view.summary is None else view.summary.headline
        return [_whole_stage(view.stage, f"not applicable: {said}"), *listed]
    if verdict in {Verdict.UNKNOWN, Verdict.CANCELLED} and not listed:
        return [_whole_stage(view.stage, view.message or "could not be judged")]
    return listed


def _whole_stage(name: str, text: str) -> Untested:
    return Untested(stage=name, component="", reason_code=None, text=text)


def _of_finding(stage: str, one: WireFinding) -> Untested:
    return Untested(stage=stage, component=one.component, reason_code=one.reason_code, text=one.message)


def _error_codes(run: RunView) -> list[str]:
    return [one.reason_code for one in run_findings(run) if one.severity == Severity.ERROR]


def _failed(run: RunView) -> list[str]:
    names = [view.stage for view in run.stages if stage_verdict(view) == Verdict.FAIL]
    return names + (["the run itself"] if set(_error_codes(run)) - INCONCLUSIVE_CODES else [])


def _unjudged(run: RunView) -> list[str]:
    judged = {Verdict.PASS, Verdict.FAIL, Verdict.NOT_APPLICABLE}
    return [view.stage for view in run.stages if stage_verdict(view) not in judged]


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def title_of(stage: str) -> str:
    """What a stage does, for people; its name when this version does not know it."""
    known = stage_named(stage)
    return known.title if known else stage

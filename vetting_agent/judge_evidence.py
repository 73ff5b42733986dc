"""The verdict of one execution of a stage, computed again from its evidence (`stages.conclusion` says which files).

Whatever is missing, cut off, foreign or changed makes an error finding that names the file: such evidence can still
fail, and never passes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from probes.counters import Counters
from stages import conclusion, stage_named
from stages.options import BadParameter, parse_options
from stages.outcome import Finding, Outcome, ReasonCode, Severity, error
from stages.stage import Stage
from vetting_agent.evidence import NOTE
from vetting_agent.judge_sources import Execution


@dataclass(frozen=True, slots=True)
class Judged:
    """One outcome, what it is about, and what was said of it when it was recorded."""

    name: str
    """The stage, or the file."""
    title: str
    place: str
    outcome: Outcome
    recorded: Outcome | None = None


def judge(execution: Execution, settings: Mapping[str, Any]) -> Judged:
    """The outcome of one execution; `settings` are laid over the options it ran with. Raises BadParameter for those."""
    stage = stage_named(execution.stage)
    if stage is None:
        text = f"{execution.place}: there is no stage {execution.stage!r}"
        finding = error(ReasonCode.OUTPUT_UNREADABLE, execution.place, text)
        return Judged(execution.stage, execution.stage, execution.place, Outcome(text, (finding,)))
    parse_options(stage.options, stage.name, settings)
    files = _Files(execution)
    recorded = files.outcome()
    if recorded is not None and not files.has(conclusion.OPTIONS) and _never_began(recorded):
        return Judged(stage.name, stage.title, execution.place, recorded, recorded)
    outcome = _conclude(stage, files, settings)
    if recorded is not None:
        doubt = "" if settings else _doubt(outcome, recorded)
        if doubt:
            place = f"{execution.place}/{conclusion.READINGS}"
            outcome = outcome.plus([error(ReasonCode.OUTPUT_UNREADABLE, place, f"{place}: {doubt}")])
        outcome = replace(outcome, duration_s=recorded.duration_s)
    return Judged(stage.name, stage.title, execution.place, outcome, recorded)


def _never_began(recorded: Outcome) -> bool:
    """A stage whose parameters were no good leaves nothing but its outcome."""
    return any(finding.reason_code is ReasonCode.BAD_PARAMETER for finding in recorded.errors)


def _doubt(now: Outcome, recorded: Outcome) -> str:
    """Why a pass is not believed: judging is pure, so that what passes now, with the same options, passed then."""
    if not now.passed:
        return ""
    if now.verdict is not recorded.verdict:
        return (
            f"it gives {now.verdict.value}, and {conclusion.OUTCOME} says {recorded.verdict.value} with the same "
            "options: one of the two was changed, or another version judged (name an option with --set to judge anew)"
        )
    gone = sorted(recorded.coverage.keys() - now.coverage.keys())
    return f"it lacks what {conclusion.OUTCOME} says was tested: {', '.join(gone)[:200]}" if gone else ""


def _conclude(stage: Stage[Any], files: _Files, settings: Mapping[str, Any]) -> Outcome:
    options = files.options(stage, settings)
    endings = files.decode(conclusion.ENDINGS, tuple[Finding, ...]) or ()
    ended_early = any(finding.severity is Severity.ERROR for finding in endings)
    readings = files.readings(stage, ended_early=ended_early)
    before = files.decode(conclusion.BEFORE, Counters)
    after = files.decode(conclusion.AFTER, Counters) if files.has(conclusion.AFTER) or not ended_early else None
    if before and after and after.uptime_s < before.uptime_s:
        files.reject(conclusion.AFTER, f"it was read before {conclusion.BEFORE}, or on another boot of the machine")
        after = None
    if options is None or before is None:
        readings, before, after = (None if options is None else readings), before or Counters(), None
    told = (*files.findings, *endings)
    try:
        return conclusion.conclude(stage, options, readings, told, before, after)
    except Exception as problem:  # readings of the right form that make no sense: no stage ever wrote them
        files.reject(conclusion.READINGS, f"it makes no sense to {stage.name}: {type(problem).__name__}: {problem}")
        return conclusion.conclude(stage, options, None, (*files.findings, *endings), before, None)


class _Files:
    """The files of one execution, and the findings about those that are no good."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.findings: list[Finding] = []
        if "." in execution.problems:
            self.reject("", execution.problems["."])

    def has(self, name: str) -> bool:
        return name in self._execution.files or name in self._execution.problems

    def reject(self, name: str, why: str) -> None:
        """An error finding that names the file."""
        place = f"{self._execution.place}/{name}".rstrip("/")
        self.findings.append(error(ReasonCode.OUTPUT_UNREADABLE, place, f"{place}: {why}"))

    def decode(self, name: str, kind: Any, *, beside: str = "") -> Any | None:
        """The content of a file as `kind`; None, with a finding, where it is not there or not what it should be."""
        raw = self._raw(name)
        if raw is None:
            return None
        try:
            return decoded(raw, kind, beside=beside)
        except Foreign as problem:
            self.reject(name, str(problem))
            return None

    def _raw(self, name: str) -> bytes | None:
        raw = self._execution.files.get(name)
        if raw is None:
            note = self._execution.files.get(NOTE, b"").decode(errors="replace")
            left_out = any(line.endswith(f": {name}") for line in note.splitlines())
            why = "it was left out of the archive, which would have been too big" if left_out else "it is missing"
            self.reject(name, self._execution.problems.get(name, why))
        return raw

    def outcome(self) -> Outcome | None:
        """What the agent concluded. Its verdict has to be the one that its own findings make."""
        outcome: Outcome | None = self.decode(conclusion.OUTCOME, Outcome, beside="verdict")
        if outcome is None:
            return None
        verdict = json.loads(self._execution.files[conclusion.OUTCOME]).get("verdict")
        if verdict != outcome.verdict.value:
            text = f"it says {str(verdict)[:20]!r}, and its own findings make it {outcome.verdict.value!r}"
            self.reject(conclusion.OUTCOME, f"{text}: it was changed")
        return outcome

    def options(self, stage: Stage[Any], settings: Mapping[str, Any]) -> Any | None:
        raw = self.decode(conclusion.OPTIONS, dict[str, Any])
        if raw is None:
            return None
        try:
            options = parse_options(stage.options, stage.name, {**raw, **settings})
        except BadParameter as problem:
            self.reject(conclusion.OPTIONS, str(problem))
            return None
        known = json.loads(conclusion.text_of(options))
        if lacking := sorted(known.keys() - raw.keys() - settings.keys()):
            text = f"it does not say {', '.join(lacking)}: another version wrote it, or it was changed"
            self.reject(conclusion.OPTIONS, f"{text}; --set {stage.name}.{lacking[0]}=... fills in")
            return None
        return options

    def readings(self, stage: Stage[Any], *, ended_early: bool) -> Any | None:
        """None without a finding only for a stage that something ended before it had read all."""
        if ended_early and not self.has(conclusion.READINGS):
            return None
        return self.decode(conclusion.READINGS, stage.readings)


class Foreign(ValueError):
    """Bytes that are not what the agent wrote for a type. `str()` says why."""


def decoded(raw: bytes, kind: Any, *, beside: str = "") -> Any:
    """The value that was kept as `raw`: exactly what `conclusion.text_of` makes of it again. Raises Foreign.

    Exactly, because a file with a field less would else be read with that field's default, and a default passes.
    `beside` names a field that is no part of `kind`.
    """
    try:
        document = json.loads(raw)
        value = msgspec.json.decode(raw, type=kind, strict=False)
        again = json.loads(conclusion.text_of(value))
    except (ValueError, TypeError, msgspec.MsgspecError, RecursionError) as problem:
        raise Foreign(f"it cannot be read: {str(problem)[:300] or type(problem).__name__}") from None
    if beside and isinstance(document, dict):
        document = {name: part for name, part in document.items() if name != beside}
    if again != document:
        raise Foreign(f"it is not what this stage writes ({_difference(document, again)})")
    return value


def _difference(document: Any, again: Any, place: str = "") -> str:
    """Where two documents part, for a person."""
    where = place or "the whole"
    if isinstance(document, dict) and isinstance(again, dict):
        for name in sorted(document.keys() | again.keys()):
            if name not in again:
                return f"{place}.{name} is none of its fields".lstrip(".")
            if name not in document:
                return f"{place}.{name} is missing".lstrip(".")
            if document[name] != again[name]:
                return _difference(document[name], again[name], f"{place}.{name}".lstrip("."))
    if isinstance(document, list) and isinstance(again, list) and len(document) == len(again):
        for index, (one, other) in enumerate(zip(document, again, strict=True)):
            if one != other:
                return _difference(one, other, f"{place}[{index}]")
    return f"{where} reads {str(document)[:60]!r}"

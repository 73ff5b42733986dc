"""A preflight: hops looked at in order up to the first that fails, each bounded in time, and what is told of it.

Both sides use this frame; what a hop is stands in preflight_*.py here and in orchestrator/preflight*.py. The record
and its table are the same for both: docs/preflight.md.
"""

from __future__ import annotations

import argparse
import asyncio
import textwrap
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from vetting_agent.printable import printable, shortened
from vetting_agent.redact import Redactor
from vetting_agent.signals import SIGNALS, Hop, Signal

HOP_LIMIT_S = 5.0
SLACK_S = 0.5
"""A hop that bounds itself knows better what did not come."""
LEAST_HOP_LIMIT_S, MOST_HOP_LIMIT_S = 1.0, 120.0
DETAIL_CHARACTERS = 300
WIDTH = 78
LABEL = 15

OK, WARNING, FAILED = "ok", "warning", "failed"
NOT_APPLICABLE, NOT_TRIED = "not_applicable", "not_tried"
SHOWN = {OK: "ok", WARNING: "warning", FAILED: "FAILED", NOT_APPLICABLE: "n/a", NOT_TRIED: "not tried"}


class Failed(Exception):
    """This hop fails. `hint`: something for the person, before the signal's own recovery."""

    def __init__(self, signal: Signal, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.signal = signal
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Seen:
    """What a hop that does not fail looks like."""

    detail: str
    status: str = OK


def none_here(detail: str) -> Seen:
    """The hop is not there to be looked at, which is no fault."""
    return Seen(detail, NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Check:
    """How a hop is looked at. `otherwise`: the signal when that takes too long or cannot be done. `times`: how often
    the limit of a hop that may take."""

    hop: Hop
    look: Callable[[], Awaitable[Seen]]
    otherwise: Signal
    times: float = 1.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One hop as it was found."""

    hop: str
    status: str
    """`ok`, `warning` (not as it should be, but this run does not need it), `failed`, `not_applicable`, `not_tried`."""
    detail: str = ""
    duration_s: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole preflight. What tells of the failure is null where there is none."""

    side: str
    """`agent` or `orchestrator`."""
    run_id: int | None
    correlation_id: str
    """Stands in X-Correlation-ID of each call that the preflight made."""
    started_at: str
    duration_s: float
    ok: bool
    failed_hop: str | None = None
    signal: str | None = None
    symptom: str | None = None
    seen: str | None = None
    """The failure in the words of who reported it."""
    likely_owner: str | None = None
    recovery: str | None = None
    hops: list[Step]


@dataclass(frozen=True, slots=True)
class Walk:
    """Whose preflight it is."""

    side: str
    run_id: int | None
    correlation_id: str
    redactor: Redactor
    hop_s: float = HOP_LIMIT_S
    """What a hop may take."""

    async def over(self, checks: Sequence[Check]) -> Report:
        """Look at one hop after the other. Never raises but for a cancel."""
        started_at, began = _now(), time.monotonic()
        steps: list[Step] = []
        failure: Failed | None = None
        for check in checks:
            if failure is not None:
                steps.append(Step(hop=check.hop, status=NOT_TRIED))
                continue
            since = time.monotonic()
            found = await _looked(check, check.times * self.hop_s)
            failure = found if isinstance(found, Failed) else None
            status = FAILED if isinstance(found, Failed) else found.status
            text = self.shown(str(found) if isinstance(found, Failed) else found.detail)
            steps.append(Step(hop=check.hop, status=status, detail=text, duration_s=_rounded(since)))
        return self.report(steps, failure, started_at, _rounded(began))

    def report(
        self, steps: list[Step], failure: Failed | None, started_at: str = "", duration_s: float = 0.0
    ) -> Report:
        """The record of these steps."""
        failed = next((one for one in steps if one.status == FAILED), None)
        meaning = SIGNALS[failure.signal] if failure is not None else None
        return Report(
            side=self.side,
            run_id=self.run_id,
            correlation_id=self.correlation_id,
            started_at=started_at or _now(),
            duration_s=duration_s,
            ok=failed is None,
            failed_hop=failed.hop if failed else None,
            signal=failure.signal if failure else None,
            symptom=meaning.symptom if meaning else None,
            seen=failed.detail if failed else None,
            likely_owner=meaning.owner if meaning else None,
            recovery=" ".join(filter(None, (failure.hint, meaning.recovery))) if failure and meaning else None,
            hops=steps,
        )

    def shown(self, text: str) -> str:
        """Without the token, on one line, and not too long."""
        return shortened(printable(self.redactor.text(text)), DETAIL_CHARACTERS)


async def _looked(check: Check, limit_s: float) -> Seen | Failed:
    try:
        async with asyncio.timeout(limit_s + SLACK_S):
            return await check.look()
    except Failed as failed:
        return failed
    except TimeoutError:
        return Failed(check.otherwise, f"nothing came of it within {limit_s:g} s")
    except Exception as problem:  # what could not be looked at has not passed
        return Failed(check.otherwise, f"it could not be looked at: {type(problem).__name__}: {problem}")


def report_of(
    walk: Walk, failure: Failed, hops: Sequence[Hop], untold: Collection[Hop] = (), hop: Hop | None = None
) -> Report:
    """The record of a failure that a call met. The call got past the hops before; of `untold` it tells nothing."""
    hop = hop or SIGNALS[failure.signal].hop
    before = hops[: hops.index(hop)]
    steps = [Step(hop=one, status=NOT_TRIED if one in untold else OK) for one in before]
    steps.append(Step(hop=hop, status=FAILED, detail=walk.shown(str(failure))))
    steps += [Step(hop=one, status=NOT_TRIED) for one in hops[hops.index(hop) + 1 :]]
    return walk.report(steps, failure)


def summary(report: Report) -> str:
    """One line for a log."""
    if report.ok:
        return f"preflight: every hop is well ({report.correlation_id})"
    return f"preflight: {report.failed_hop}: {report.signal}: {report.seen} ({report.correlation_id})"


def table(report: Report, width: int = WIDTH) -> str:
    """For people: one line a hop, and below it what failed, in full."""
    lines = [f"Preflight of the {report.side}" + (f", run {report.run_id}" if report.run_id is not None else "")]
    hops = [one.hop for one in report.hops]
    tried = hops.index(report.failed_hop) + 1 if report.failed_hop in hops else len(hops)
    for one in report.hops[:tried]:
        lines.append(shortened(f"  {one.hop:{LABEL}} {SHOWN[one.status]:10}{one.detail}".rstrip(), width))
    if rest := hops[tried:]:  # a screen may have 25 lines
        lines.append(_paragraph("  not tried", ", ".join(rest), width))
    rows = [
        ("Failed hop", report.failed_hop),
        ("Symptom", report.symptom),
        ("Seen", report.seen),
        ("Likely owner", report.likely_owner),
        ("Recovery", report.recovery),
        ("Signal", report.signal),
        ("Correlation id", report.correlation_id),
    ]
    lines.append("")
    lines += [_paragraph(name, text, width) for name, text in rows if text]
    return "\n".join([*lines, *([] if not report.ok else ["Every hop is well."])])


def _paragraph(name: str, text: str, width: int) -> str:
    indent = " " * (LABEL + 1)
    return textwrap.fill(
        text, width, initial_indent=f"{name:{LABEL}} ", subsequent_indent=indent, break_on_hyphens=False
    )


def hop_limit(text: str) -> float:
    """The value of --hop-limit. Raises argparse.ArgumentTypeError."""
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = 0.0
    if not LEAST_HOP_LIMIT_S <= limit_s <= MOST_HOP_LIMIT_S:
        raise argparse.ArgumentTypeError(f"must be {LEAST_HOP_LIMIT_S:g} to {MOST_HOP_LIMIT_S:g} seconds")
    return limit_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both sides have."""
    parser.add_argument("--json", action="store_true", help="the record instead of its table")
    parser.add_argument(
        "--hop-limit",
        metavar="S",
        type=hop_limit,
        default=HOP_LIMIT_S,
        help="seconds that a hop may take; some get a multiple of it (default: %(default)g)",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(since: float) -> float:
    return round(time.monotonic() - since, 3)

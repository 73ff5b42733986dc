"""Waivers: a person's word that one finding about one component of one host is accepted until a day. Pure.

What was found and judged broken may be waived; what could not be judged may not: nothing untested ever passes. A
waiver acts on results that come while it is in force, never on one that is there, and stays visible for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.clock import later
from orchestrator.run_record import Record, Run
from orchestrator.steps import Refusal
from stages.outcome import INCONCLUSIVE, ReasonCode

LONGEST_DAYS = 365
SHORTEST_REASON = 8
LONGEST_REASON = 500
NEVER = frozenset({ReasonCode.CANCELLED.value, ReasonCode.SPEC_MISMATCH.value})


class Waiver(Record, frozen=True, kw_only=True):
    """`component` is kind:serial. It counts for the host with this MAC alone: names like psu:1 are not unique."""

    key: str
    code: str
    component: str
    mac: str
    host: str
    run_id: int
    """The run in which the finding was made."""
    reason: str
    author: str
    created_at: str
    expires_at: str
    ended_at: str | None = None
    ended_by: str | None = None

    def is_active(self, now: str) -> bool:
        return self.ended_at is None and now < self.expires_at

    @property
    def subject(self) -> tuple[str, str]:
        """What it waives."""
        return self.code, self.component


def new_waiver(run: Run, code: str, component: str, reason: str, days: int, *, author: str, now: str) -> Waiver:
    """A waiver for a finding of this run. Raises Refusal for what may not be waived."""
    if not is_waivable(code):
        raise Refusal(
            422, "not_waivable", f"{code} says that something was not tested: that can be repaired, not waived"
        )
    if run.mac is None:
        raise Refusal(409, "not_claimed", "No host has claimed this run yet")
    text = " ".join(reason.split())
    if not SHORTEST_REASON <= len(text) <= LONGEST_REASON:
        raise Refusal(422, "no_reason", f"A reason has {SHORTEST_REASON} to {LONGEST_REASON} characters")
    if not 1 <= days <= LONGEST_DAYS:
        raise Refusal(422, "bad_expiry", f"A waiver is valid for 1 to {LONGEST_DAYS} days")
    return Waiver(
        key=f"{run.mac} {code} {component} {now}",
        code=code,
        component=component,
        mac=run.mac,
        host=run.host,
        run_id=run.run_id,
        reason=text,
        author=author,
        created_at=now,
        expires_at=later(now, days * 86400.0),
    )


def is_waivable(code: str) -> bool:
    """Whether a finding with this code says that hardware was judged, and found wanting."""
    known = {one.value for one in ReasonCode}
    return code in known and code not in NEVER and ReasonCode(code) not in INCONCLUSIVE


def active_for(run: Run, waivers: Iterable[Waiver], now: str) -> frozenset[tuple[str, str]]:
    """(code, component) of all that is waived for the host of this run now."""
    return frozenset(
        one.subject for one in waivers if one.mac == run.mac and one.is_active(now) and is_waivable(one.code)
    )

"""Waivers: a person's word that one finding about one component of one host is accepted until a day. Pure.

Only what was tested to its end and found outside its limits may be waived (`WAIVABLE`). What could not be judged, and
what ended a test early (a lost disk, a failed read, heat), may not: nothing untested ever passes. Nor may wrong
answers: a machine that computes, remembers or stores wrongly is broken, whoever says otherwise. A waiver acts on
results that come while it is in force, never on one that is there, and stays visible for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.clock import later
from orchestrator.run_record import Record, Run
from orchestrator.steps import Refusal
from stages.outcome import ReasonCode

LONGEST_DAYS = 365
SHORTEST_REASON = 8
LONGEST_REASON = 500
WAIVABLE = frozenset(
    {
        ReasonCode.DISK_REALLOCATED,
        ReasonCode.NVME_SPARE_LOW,
        ReasonCode.NVME_WORN,
        ReasonCode.DISK_WORN,
        ReasonCode.DISK_LINK_ERRORS,
        ReasonCode.DISK_OVERHEATED,
        ReasonCode.DISK_SLOW,
        ReasonCode.PCIE_LINK_DEGRADED,
        ReasonCode.MICROCODE_MISMATCH,
        ReasonCode.MCE_CORRECTED,
        ReasonCode.ECC_CORRECTED,
        ReasonCode.PCIE_AER_ERRORS,
        ReasonCode.THERMAL_THROTTLED,
        ReasonCode.CPU_SLOW,
        ReasonCode.BMC_EVENT,
        ReasonCode.NET_LINK_DEGRADED,
        ReasonCode.NET_ERRORS,
        ReasonCode.NET_THROUGHPUT_LOW,
        ReasonCode.NET_RETRANSMITS,
        ReasonCode.NET_TRANSCEIVER,
        ReasonCode.NET_PAUSE_STORM,
        ReasonCode.NET_NEIGHBOR,
        ReasonCode.GPU_REMAP_PENDING,
        ReasonCode.GPU_PAGES_RETIRED,
        ReasonCode.GPU_PCIE_DEGRADED,
        ReasonCode.GPU_NVLINK,
        ReasonCode.GPU_THROTTLED,
        ReasonCode.GPU_OVERHEATED,
        ReasonCode.PSU_ABSENT,
        ReasonCode.PSU_INPUT_LOST,
        ReasonCode.PSU_REDUNDANCY_LOST,
        ReasonCode.PSU_EVENT,
        ReasonCode.PSU_IMBALANCE,
    }
)


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
    """Whether a finding with this code may be accepted by a person."""
    return code in {one.value for one in WAIVABLE}


def active_for(run: Run, waivers: Iterable[Waiver], now: str) -> frozenset[tuple[str, str]]:
    """(code, component) of all that is waived for the host of this run now."""
    return frozenset(
        one.subject for one in waivers if one.mac == run.mac and one.is_active(now) and is_waivable(one.code)
    )

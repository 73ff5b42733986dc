"""Tickets for the retry that destroys data: what was shown to whom, used once, within minutes.

The first key is the ticket: the disks as the operator saw them. The second is each chosen disk's serial number, typed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.clock import later
from orchestrator.run_record import Record, Run
from orchestrator.steps import Refusal
from orchestrator.store import Transaction
from stages.outcome import ReasonCode
from vetting_agent.wire import WireFinding

VALID_S = 600.0
STAGE = "Storage"


class WipeDisk(Record, frozen=True, kw_only=True):
    """A disk as it was shown. `found`: what the last Storage test said of it."""

    serial: str
    name: str = ""
    model: str = ""
    size_gb: float | None = None
    found: tuple[str, ...] = ()
    in_use: bool = False
    """The host runs from it, or it is mounted: the agent would refuse, whatever is typed here."""


class WipeTicket(Record, frozen=True, kw_only=True):
    key: str
    run_id: int
    author: str
    created_at: str
    expires_at: str
    disks: list[WipeDisk]


def disks_of(inventory: Mapping[str, Any] | None, findings: Iterable[WireFinding]) -> list[WipeDisk]:
    """The disks with a serial number, as inventory and Storage test know them."""
    listed = (inventory or {}).get("disks")
    found = list(findings)
    disks = [one for one in listed if isinstance(one, dict) and one.get("serial")] if isinstance(listed, list) else []
    return [_disk(one, found) for one in disks]


def _disk(one: Mapping[str, Any], findings: list[WireFinding]) -> WipeDisk:
    serial, size = str(one["serial"]), one.get("size_gb")
    about = [finding for finding in findings if finding.component == f"disk:{serial}"]
    return WipeDisk(
        serial=serial,
        name=str(one.get("name") or ""),
        model=str(one.get("model") or ""),
        size_gb=float(size) if isinstance(size, int | float) else None,
        found=tuple(finding.message for finding in about),
        in_use=any(finding.reason_code == ReasonCode.WIPE_REFUSED_IN_USE.value for finding in about),
    )


def new_ticket(run: Run, disks: list[WipeDisk], *, author: str, now: str) -> WipeTicket:
    """The first key. Raises Refusal where a wipe could never be."""
    if run.non_destructive:
        text = f"Run {run.run_id} was created non-destructive: no disk of this host may be written"
        raise Refusal(409, "non_destructive", text)
    if not run.is_holding:
        raise Refusal(409, "not_holding", f"A wipe is ordered for a held run; run {run.run_id} is {run.state}")
    if STAGE not in run.stages:
        raise Refusal(422, "unknown_stage", f"Run {run.run_id} does not test storage")
    return WipeTicket(
        key=secrets.token_urlsafe(16),
        run_id=run.run_id,
        author=author,
        created_at=now,
        expires_at=later(now, VALID_S),
        disks=disks,
    )


def use_ticket(
    transaction: Transaction, key: str, run_id: int, serials: list[str], typed: Mapping[str, str], author: str, now: str
) -> None:
    """Both keys turned: the ticket is gone with this transaction. Raises Refusal."""
    ticket = transaction.document(WipeTicket, key)
    if ticket is None or ticket.run_id != run_id or ticket.author != author:
        raise Refusal(409, "no_ticket", "This was used already, or was made for another run or person: begin anew")
    if ticket.expires_at <= now:
        raise Refusal(409, "ticket_expired", "This was shown too long ago: begin anew")
    if not serials:
        raise Refusal(422, "no_disk", "No disk is ticked")
    shown = {one.serial: one for one in ticket.disks}
    for serial in serials:
        if serial not in shown or shown[serial].in_use:
            raise Refusal(422, "not_shown", f"{serial} is not one of the disks that may be wiped here")
        if typed.get(serial, "").strip() != serial:
            raise Refusal(422, "wrong_serial", f"The serial number typed for {serial} is another one")
    transaction.drop_document(WipeTicket, key)

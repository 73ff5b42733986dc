"""The form for a new run of a host: its test profile and stages, and the disks that may be written.

Disks can be ticked that the host's newest inventory shows with a serial number of their own: the agent's wipe guard
writes to a disk only where serial and size are those of the run's expected disks, and where the disk is blank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.run_creation import RunRequest
from orchestrator.run_record import CONTINUE, HOLD, Run
from orchestrator.steps import Refusal
from orchestrator.store import Store
from orchestrator.views import view_of
from orchestrator.web.pages import one_of
from vetting_agent.wire import ExpectedDisk

NEWEST = 20
"""An inventory is looked for in so many of the host's runs."""
WRITING = "Storage"


@dataclass(frozen=True, slots=True)
class OfferedDisk:
    """A disk that a run may be allowed to write."""

    serial: str
    name: str
    model: str
    size_gb: float


async def offered_disks(store: Store, runs: Iterable[Run]) -> tuple[OfferedDisk, ...]:
    """By the newest inventory among the host's runs, which come newest first. Not: disks without serial or size, and
    those whose serial is told twice."""
    for run in list(runs)[:NEWEST]:
        if (inventory := (await view_of(store, run)).inventory) is not None:
            return offered(inventory)
    return ()


def offered(inventory: Mapping[str, Any]) -> tuple[OfferedDisk, ...]:
    """As `offered_disks`, of one inventory."""
    listed = inventory.get("disks")
    disks = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    told = Counter(one.get("serial") for one in disks)
    return tuple(
        OfferedDisk(
            serial=one["serial"],
            name=str(one.get("name") or ""),
            model=str(one.get("model") or "unknown model"),
            size_gb=one["size_gb"],
        )
        for one in disks
        if isinstance(one.get("serial"), str)
        and one["serial"]
        and told[one["serial"]] == 1
        and isinstance(one.get("size_gb"), int | float)
        and one["size_gb"] > 0
    )


def run_request(host: str, form: Mapping[str, Sequence[str]], disks: Sequence[OfferedDisk]) -> RunRequest:
    """What the form asks for; an empty form asks for a run as the host's hardware profile has it. Refuses with 422."""
    known = {one.serial: one for one in disks}
    ticked = list(form.get("write", ()))
    if strangers := [serial for serial in ticked if serial not in known]:
        text = f"The newest inventory of {host} shows no disk {strangers[0][:64]} that could be named: look at it again"
        raise Refusal(422, "unknown_disk", text)
    stages = list(form["stage"]) if form.get("stage") else None
    if ticked and stages is not None and WRITING not in stages:
        raise Refusal(422, "writing_without_storage", f"Disks are written in the stage {WRITING}, which is not ticked")
    return RunRequest(
        host=host,
        profile=one_of(form, "profile") or None,
        stages=stages,
        non_destructive=not ticked,
        expected_disks=[ExpectedDisk(serial=serial, size_gb=known[serial].size_gb) for serial in ticked] or None,
        on_failure=CONTINUE if "continue" in form else HOLD,
        shutdown_when_completed="stay_on" not in form,
    )

"""What the disks' own counters of lost data gained while Storage loaded them.

The SMART stage judges what stands there, and runs before the load; this tells only what the load brought out. A disk
that cannot be asked was told of by SMART already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from probes import smart
from probes.host import Host
from stages.outcome import Finding, ReasonCode, error, warning
from stages.smart_counters import CRITICAL, LINK, REPLACED, gain_counts
from stages.storage_disk import Subject

LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class SmartCounts:
    """A disk's counters before and after, each by what it counts. `after` is None where it did not answer again."""

    before: Mapping[str, int]
    after: Mapping[str, int] | None


async def counts(host: Host, subjects: Sequence[Subject]) -> dict[str, dict[str, int]]:
    """The counters of each disk that answers to its own serial, by component. Raises nothing but a cancel."""
    asked = [one for one in subjects if one.disk.serial and one.disk.transport not in smart.WITHOUT_SMART]
    targets = smart.merge((), [one.disk for one in asked])
    if host.tools.find("smartctl") is None:
        return {}
    found = {}
    for reading in await smart.read_all(host.tools, targets, limit_s=LIMIT_S):
        for one in asked:
            if one.disk.name in reading.target.disks and reading.report and reading.report.serial == one.disk.serial:
                found[one.component] = gain_counts(reading.report)
    return found


def paired(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> dict[str, SmartCounts]:
    """Both readings of each disk that answered before."""
    return {component: SmartCounts(counted, after.get(component)) for component, counted in before.items()}


def findings(counted: Mapping[str, SmartCounts], labels: Mapping[str, str]) -> Iterator[Finding]:
    """What rose, disk by disk (pure)."""
    for component, pair in counted.items():
        label = labels.get(component, component)
        if pair.after is None:
            text = f"The disk {label} told its SMART counters before this stage, and not after it"
            yield warning(ReasonCode.SMART_UNREADABLE, component, text)
            continue
        for name, now in pair.after.items():
            if now > pair.before.get(name, now):
                text = f"The disk {label}: {name} rose from {pair.before[name]} to {now} during this stage"
                code, make = _CODES.get(name, (ReasonCode.DISK_MEDIA_ERRORS, error))
                yield make(code, component, text)


_CODES = {
    REPLACED: (ReasonCode.DISK_REALLOCATED, error),
    LINK: (ReasonCode.DISK_LINK_ERRORS, warning),
    CRITICAL: (ReasonCode.NVME_CRITICAL_WARNING, error),
}

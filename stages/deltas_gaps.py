"""What of the fault counters could not be compared between two readings: unread, gone, begun anew, overwritten (pure).

A counter that is gone, or that is lower than it was, may have counted anything meanwhile: it is no zero. Judged as a
warning, and as an error where the stage rests on the counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from probes.counters import AerErrors, Counters, MemoryErrors
from probes.kernel_log import KernelLog

COUNTERS, KERNEL_LOG = "fault-counters", "kernel-log"
LISTED = 8


def gaps(before: Counters, after: Counters) -> Iterator[tuple[str, str]]:
    """(component, what was not seen), once for each of the two."""
    unread = before.unreadable or after.unreadable
    if unread:
        yield COUNTERS, f"Not read, so not judged: {'; '.join(unread)}"
        return
    if not_compared := [*_gone(before, after), *_anew(before, after)]:
        yield COUNTERS, f"Not judged: {'; '.join(not_compared)}"
    if why := _log_gap(before.kernel_log, after.kernel_log):
        yield KERNEL_LOG, why


def _gone(before: Counters, after: Counters) -> Iterator[str]:
    sets: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("the memory error counters of", before.memory, after.memory),
        ("the PCIe error counters of", before.aer, after.aer),
        ("the throttle counters of CPU", before.throttle, after.throttle),
    )
    for what, old, new in sets:
        if lost := sorted(set(old) - set(new)):
            yield f"{what} {_listed(lost)} were there at first and are gone"
    single = (
        ("the count of machine check exceptions", before.mce_exceptions, after.mce_exceptions),
        ("the amount of broken memory", before.hardware_corrupted_kib, after.hardware_corrupted_kib),
    )
    for what, count, now in single:
        if count is not None and now is None:
            yield f"{what} was there at first and is gone"


def _anew(before: Counters, after: Counters) -> Iterator[str]:
    """Counters that only ever grow, and are lower now."""
    shrunk = [name for name, old in before.memory.items() if _less_memory(old, after.memory.get(name))]
    if shrunk:
        yield f"the memory error counters of {_listed(shrunk)} began anew"
    shrunk = [address for address, old in before.aer.items() if _less_aer(old, after.aer.get(address))]
    if shrunk:
        yield f"the PCIe error counters of {_listed(shrunk)} began anew"
    if after.mce_exceptions is not None and after.mce_exceptions < (before.mce_exceptions or 0):
        yield "the count of machine check exceptions began anew"


def _less_memory(old: MemoryErrors, new: MemoryErrors | None) -> bool:
    return new is not None and (new.corrected < old.corrected or new.uncorrected < old.uncorrected)


def _less_aer(old: AerErrors, new: AerErrors | None) -> bool:
    return new is not None and (
        new.fatal < old.fatal or new.nonfatal < old.nonfatal or new.correctable < old.correctable
    )


def _log_gap(before: KernelLog, after: KernelLog) -> str | None:
    if before.last_sequence is not None and (after.last_sequence is None or after.last_sequence < before.last_sequence):
        return "The kernel log begins anew: what it held meanwhile is not known"
    if lost := after.lost_since(before):
        return f"{lost} records of the kernel log were overwritten before they could be read"
    return None


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED} more" if len(every) > LISTED else "")

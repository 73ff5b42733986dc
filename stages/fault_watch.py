"""Looks, while a stage runs, for faults after which going on can do harm: it ends the stage early.

Memory that loses data makes every later result worthless, and what is written to a disk wrong; a disk that leaves says
that a cable, a backplane or a controller is going. Heat is watched in the agent, beside the samples that it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from probes import counters, disks
from probes.apart import apart
from probes.counters import Counters, MemoryErrors
from probes.host import Host
from probes.notes import Notes
from stages.outcome import Finding, ReasonCode, error

LOOK_S = 5.0
STOPPED = "the stage was stopped: going on could do harm"


async def harm(host: Host, before: Counters, present: Mapping[str, str], *, look_s: float | None = None) -> Finding:
    """Waits, for ever if need be, for harm that was not there in `before`; says which.

    `present`: the `fixed_disks` that have to stay.
    """
    while True:
        await asyncio.sleep(LOOK_S if look_s is None else look_s)
        found = await apart(lambda: next(_seen(host, before, present), None), "fault watch")
        if found is not None:
            return found


async def fixed_disks(host: Host) -> Mapping[str, str]:
    """Device number → component of each disk that stays where it is. Raises nothing but a cancel."""
    try:
        found = await disks.collect(host, Notes())
    except OSError:
        return {}
    return {
        str(one.device_number): one.component
        for one in found
        if not one.removable and one.transport not in disks.COMES_AND_GOES and _is_there(host, one.device_number)
    }


def _is_there(host: Host, number: str | None) -> bool:
    return number is not None and host.sys("dev", "block", number).exists()


def _seen(host: Host, before: Counters, present: Mapping[str, str]) -> Iterator[Finding]:
    memory, exceptions = counters.uncorrected(host)
    for name, errors in memory.items():
        old = before.memory.get(name, None if before.unreadable else MemoryErrors())
        if old is not None and errors.uncorrected > old.uncorrected:
            text = f"{name} lost data (uncorrected memory error); {STOPPED}"
            yield error(ReasonCode.ECC_UNCORRECTED, f"dimm:{name}", text)
    if exceptions is not None and before.mce_exceptions is not None and exceptions > before.mce_exceptions:
        text = f"A CPU reported an uncorrected hardware error (machine check exception); {STOPPED}"
        yield error(ReasonCode.MCE_UNCORRECTED, "host", text)
    for number, component in present.items():
        if not _is_there(host, number):
            text = f"{component} left while another part was tested: the kernel does not list it any more; {STOPPED}"
            yield error(ReasonCode.DISK_LOST, component, text)

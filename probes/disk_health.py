"""What the disks of the kernel say of themselves at one moment: their SMART data, read beside the fault counters.

Disks behind a RAID controller are not among them: to find those takes a search, which SMART makes once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probes import disks, smart
from probes.host import Host
from probes.notes import Notes
from probes.smart import Reading, Target


async def first(
    host: Host, known: Sequence[Reading], *, may_have_left: bool = False, limit_s: float = smart.READ_LIMIT_S
) -> tuple[Reading, ...]:
    """A reading of each disk that the kernel shows: one of `known` where it is of the same disk, else a new one.

    A disk of `known` that is not there any more keeps its reading, so that it is missed when it is to be read again;
    unless disks `may_have_left` rightly, as in a hold, or it is of a kind that comes and goes.
    Raises nothing but a cancel; without a list of disks there is no reading.
    """
    try:
        listed = await disks.collect(host, Notes())
    except OSError:
        return ()
    targets = [one for one in smart.merge((), listed) if one.transport not in smart.WITHOUT_SMART]
    kept = {one.target: one for one in known if one.report is not None}
    read = await smart.read_all(host.tools, [one for one in targets if one not in kept], limit_s=limit_s)
    stay = [one for one in kept if one in targets or not (may_have_left or one.transport in disks.COMES_AND_GOES)]
    return tuple(kept[one] for one in stay) + tuple(read)


async def again(host: Host, before: Iterable[Reading], *, limit_s: float = smart.READ_LIMIT_S) -> tuple[Reading, ...]:
    """One more reading of each disk of `before` that could be read. Raises nothing but a cancel."""
    targets: list[Target] = [one.target for one in before if one.report is not None]
    return tuple(await smart.read_all(host.tools, targets, limit_s=limit_s))

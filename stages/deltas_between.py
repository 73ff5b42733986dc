"""Where a stage begins to count: with what the one before it ended with, so that nothing comes between two unseen."""

from __future__ import annotations

from dataclasses import replace

from probes.counters import Counters


def going_on(last: Counters, now: Counters) -> Counters:
    """The reading that a stage begins with, `now`, where nobody was at the machine since the one before ended with
    `last`: what came in between is charged to this stage too. Of links, heat and disks `now` counts, which are
    measured by time or keep a count of their own."""
    if last.is_blank or now.is_blank:
        return now
    left = {name: mac for name, mac in last.nic_macs.items() if mac not in now.nic_macs.values()}
    # The name of a port that left may be another one's by now.
    ports = {f"{name} ({mac})" if name in now.nic_macs else name: mac for name, mac in left.items()}
    usb = tuple(shown for shown, name in zip(ports, left, strict=True) if name in last.usb_nics)
    now = replace(now, nic_macs={**ports, **now.nic_macs}, usb_nics=(*now.usb_nics, *usb))
    if last.sel is not None and now.sel is not None:
        now = replace(now, sel=last.sel)
    if last.unreadable:  # the stage that could not read them has said so
        return now
    return replace(
        now,
        kernel_log=last.kernel_log,
        memory={**now.memory, **last.memory},
        mce_exceptions=now.mce_exceptions if last.mce_exceptions is None else last.mce_exceptions,
        hardware_corrupted_kib=now.hardware_corrupted_kib
        if last.hardware_corrupted_kib is None
        else last.hardware_corrupted_kib,
        aer={**now.aer, **last.aer},
    )

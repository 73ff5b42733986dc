"""What the reason codes of disks mean: (what was seen, likely cause, what to do next, who usually owns it)."""

from __future__ import annotations

from collections.abc import Mapping

from stages.outcome import ReasonCode as Code

TECHNICIAN = "hardware technician"
OPERATOR = "fleet operator"
SOFTWARE = "fleet software"

TEXTS: Mapping[Code, tuple[str, str, str, str]] = {
    Code.DISK_MISSING: (
        "A disk that this host is expected to have was not found.",
        "The disk is dead, not seated, or its cable, backplane or controller is faulty; or the order is wrong.",
        "Find the bay by the serial, reseat or replace the disk; if the expectation is wrong, correct the host's spec.",
        TECHNICIAN,
    ),
    Code.DISK_SIZE_MISMATCH: (
        "A disk has another size than expected.",
        "The wrong model was fitted, or the disk shows less than its capacity (host protected area, firmware fault).",
        "Compare the model on the label with the order; remove a host protected area or replace the disk.",
        TECHNICIAN,
    ),
    Code.DISK_SERIAL_AMBIGUOUS: (
        "Two disks show the same serial number, or a disk shows none.",
        "A USB bridge or controller invents serials, one disk is seen over two paths, or a virtual disk has none set.",
        "Look whether it is one disk on two paths; such a disk is never written by this tool.",
        OPERATOR,
    ),
    Code.SMART_HEALTH_FAILED: (
        "The disk itself says that it is failing.",
        "The drive's own health assessment crossed a limit set by its maker.",
        "Replace the disk.",
        TECHNICIAN,
    ),
    Code.SMART_PREFAIL: (
        "A health attribute of the disk is below the threshold set by its maker.",
        "The disk is wearing out or failing; makers expect the end within about a day of use.",
        "Replace the disk.",
        TECHNICIAN,
    ),
    Code.SMART_UNREADABLE: (
        "The disk's health data could not be read.",
        "The disk does not answer, or it sits behind a controller whose pass-through is not known.",
        "Try smartctl -x on it by hand; check the controller's mode and firmware, then replace the disk.",
        TECHNICIAN,
    ),
    Code.NVME_CRITICAL_WARNING: (
        "The NVMe disk raises a critical warning.",
        "By its bits: spare blocks low, too hot, unreliable, read-only, or its power-loss backup failed.",
        "Cool it if the bit is the temperature; replace it for any other bit.",
        TECHNICIAN,
    ),
    Code.NVME_SPARE_LOW: (
        "The NVMe disk has fewer spare blocks than its own threshold.",
        "Many of its flash blocks went bad.",
        "Replace the disk.",
        TECHNICIAN,
    ),
    Code.NVME_WORN: (
        "The NVMe disk has used up most or all of the writes that it is rated for.",
        "It was in use before, or carries a heavy write load.",
        "Over 100 %: replace it; over 80 %: plan its replacement or use it for light writes.",
        OPERATOR,
    ),
    Code.DISK_MEDIA_ERRORS: (
        "The disk has sectors or blocks that it could not read back.",
        "The medium is damaged.",
        "Replace the disk; data on these sectors is lost.",
        TECHNICIAN,
    ),
    Code.DISK_REALLOCATED: (
        "The disk has replaced bad sectors with spare ones.",
        "Parts of the medium went bad; the count tells how many.",
        "A few old ones can stay under watch; a count that rises during the run means: replace the disk.",
        TECHNICIAN,
    ),
    Code.DISK_WORN: (
        "The SATA or SAS SSD has used up most or all of the writes that it is rated for.",
        "It was in use before, or carries a heavy write load.",
        "Plan its replacement, or use it for light writes.",
        OPERATOR,
    ),
    Code.DISK_LINK_ERRORS: (
        "Data between the disk and its controller was damaged on the way during the stage, and sent again.",
        "A bad or loose cable, backplane or connector; seldom the disk.",
        "Reseat the disk, then replace the cable or move it to another bay, and run again.",
        TECHNICIAN,
    ),
    Code.SMART_SELF_TEST_FAILED: (
        "The disk failed its own self-test.",
        "A damaged surface (the LBA is named) or broken electronics.",
        "Replace the disk.",
        TECHNICIAN,
    ),
    Code.SMART_SELF_TEST_TIMEOUT: (
        "The disk's self-test did not end in twice the time that the disk itself announced.",
        "The disk is busy with other work, or its firmware hangs.",
        "Run the stage again on an idle disk; if it hangs again, update its firmware or replace it.",
        TECHNICIAN,
    ),
    Code.SMART_SELF_TEST_NOT_RUN: (
        "The disk's self-test was wanted and could not be run.",
        "The disk refused it, another test was running, or smartctl is too old for NVMe self-tests (before 7.4).",
        "Wait for the running test or use a newer smartmontools, then run the stage again.",
        SOFTWARE,
    ),
    Code.DISK_OVERHEATED: (
        "The disk is or was at its own temperature limit.",
        "Poor airflow: a missing blank, a failed fan, or a bay without a heat sink.",
        "Check fans and blanks around the bay, then run the stage again.",
        TECHNICIAN,
    ),
    Code.DISK_IO_ERROR: (
        "Reading or writing the disk failed, or the kernel logged time-outs or resets for it.",
        "The disk, its cable, its backplane slot or its controller is faulty.",
        "Move the disk to another slot and run again: the fault stays with the disk or the slot; replace that one.",
        TECHNICIAN,
    ),
    Code.DISK_VERIFY_MISMATCH: (
        "The disk gave back other data than was written to it.",
        "The disk, its controller, its cable or the host's memory corrupts data silently.",
        "Do not use the host; replace the disk, and if it happens again the controller or the memory.",
        TECHNICIAN,
    ),
    Code.DISK_CAPACITY_FRAUD: (
        "The disk stores less than the capacity that it claims.",
        "A forged disk: addresses beyond its real size wrap around onto others.",
        "Replace the disk and tell the buyer where it came from.",
        OPERATOR,
    ),
    Code.DISK_SLOW: (
        "The disk is slower than its kind should be, as a whole or in one zone.",
        "A failing medium that retries, a link at a lower speed, or a disk busy with internal work.",
        "Check its link speed and its SMART data; replace it if it stays slow when idle.",
        TECHNICIAN,
    ),
    Code.DISK_LOST: (
        "The disk left the system during the test.",
        "Its firmware crashed, or power or the cable was interrupted.",
        "Reseat it, run again; replace it if it leaves again.",
        TECHNICIAN,
    ),
    Code.DISK_NOT_TESTED: (
        "The disk could not be tested.",
        "It could not be opened, or not be read in the way the test needs.",
        "Read the message for the cause; run from the live image, where no disk is in use.",
        OPERATOR,
    ),
    Code.WIPE_REFUSED_DATA_PRESENT: (
        "A destructive test was wanted, but the disk is not blank; nothing was written.",
        "The host was in use before, or its disks were not wiped on return.",
        "Make sure that nobody needs the data, then retry the stage with the wipe override for this serial.",
        OPERATOR,
    ),
    Code.WIPE_REFUSED_NOT_EXPECTED: (
        "A destructive test was wanted, but the disk is not one of the run's expected disks; nothing was written.",
        "The spec lacks the disk, its size differs, its serial is not unique, or it is not local to this host.",
        "Correct the host's expected disks, or leave the disk alone.",
        OPERATOR,
    ),
    Code.WIPE_REFUSED_IN_USE: (
        "A destructive test was wanted, but the disk is in use; nothing was written.",
        "It holds the booted system, or is mounted, swapped to, reserved, or part of RAID, LVM, ZFS or multipath.",
        "Boot the live image; take the disk out of what uses it.",
        OPERATOR,
    ),
}

"""What the counters gained is charged to the stage; what they held before is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.counters import AerErrors, Counters, MemoryErrors, Throttle
from probes.kernel_log import KernelLine, KernelLog
from stages.deltas import earlier, judge
from stages.outcome import Finding, ReasonCode, Severity
from tests.support.detection import detects

OLD = "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408"
PORT = "0000:89:02.0"
QUIET = Counters(kernel_log=KernelLog(None, 0, 10, (KernelLine(3, OLD),)), mce_exceptions=0, hardware_corrupted_kib=0)


def after(*lines: str, **changes: object) -> Counters:
    new = tuple(KernelLine(11 + place, line) for place, line in enumerate(lines))
    log = KernelLog(None, 0, 10 + len(lines), (*QUIET.kernel_log.lines, *new))
    return replace(QUIET, kernel_log=log, **changes)  # type: ignore[arg-type]


def found(now: Counters, before: Counters = QUIET) -> list[tuple[ReasonCode, Severity, str]]:
    findings, _ = judge(before, now)
    return [(finding.reason_code, finding.severity, finding.component) for finding in findings]


def test_old_entries_are_nobodys() -> None:
    assert judge(QUIET, QUIET) == ([], [])
    (finding,) = earlier(QUIET)
    assert finding.severity is Severity.INFO
    assert finding.evidence == OLD


def test_nothing_earlier_says_nothing() -> None:
    assert earlier(Counters()) == []


@pytest.mark.parametrize(
    ("line", "code", "severity", "component"),
    [
        (OLD, ReasonCode.MCE_UNCORRECTED, Severity.ERROR, "cpu:0"),
        (
            "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 4: 9c00000000000151",
            ReasonCode.MCE_CORRECTED,
            Severity.WARNING,
            "cpu:1",
        ),
        ("EDAC MC0: 1 UE memory read error on DIMM_B2 (x)", ReasonCode.ECC_UNCORRECTED, Severity.ERROR, "dimm:DIMM_B2"),
        ("EDAC MC0: 4 CE error on DIMM_A1 (x)", ReasonCode.ECC_CORRECTED, Severity.WARNING, "dimm:DIMM_A1"),
        ("EDAC MC0: 50 CE error on DIMM_A1 (x)", ReasonCode.ECC_CORRECTED, Severity.ERROR, "dimm:DIMM_A1"),
        (
            "pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer",
            ReasonCode.PCIE_AER_FATAL,
            Severity.ERROR,
            "pci:0000:89:02.0",
        ),
        (
            "pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)",
            ReasonCode.PCIE_AER_ERRORS,
            Severity.WARNING,
            "pci:0000:89:02.0",
        ),
        (
            "watchdog: BUG: soft lockup - CPU#5 stuck for 26s! [bash:5]",
            ReasonCode.KERNEL_FAULT,
            Severity.ERROR,
            "cpu:5",
        ),
        ("INFO: task dd:77 blocked for more than 120 seconds.", ReasonCode.KERNEL_FAULT, Severity.ERROR, "kernel"),
        ("Oops: 0000 [#1] PREEMPT SMP NOPTI", ReasonCode.KERNEL_FAULT, Severity.ERROR, "kernel"),
        (
            "Out of memory: Killed process 16 (sshd) total-vm:1kB",
            ReasonCode.KERNEL_FAULT,
            Severity.ERROR,
            "kernel",
        ),
        (
            "Memory cgroup out of memory: Killed process 16 (java) total-vm:1kB",
            ReasonCode.KERNEL_FAULT,
            Severity.WARNING,
            "kernel",
        ),
        (
            "Out of memory: Killed process 17 (stress-ng-vm) total-vm:1kB",
            ReasonCode.LOAD_OOM_KILLED,
            Severity.ERROR,
            "memory",
        ),
        (
            "Out of memory: Killed process 17 (stressapptest) total-vm:1kB",
            ReasonCode.LOAD_OOM_KILLED,
            Severity.ERROR,
            "memory",
        ),
        (  # Debian's kernel collects corrected memory errors and says no more of them
            "mce: [Hardware Error]: Machine check events logged",
            ReasonCode.MCE_CORRECTED,
            Severity.WARNING,
            "host",
        ),
        (
            "Memory failure: 0x1fc53: recovery action for dirty LRU page: Recovered",
            ReasonCode.ECC_UNCORRECTED,
            Severity.ERROR,
            "memory",
        ),
        (
            "NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.",
            ReasonCode.GPU_XID,
            Severity.ERROR,
            "pci:0000:01:00",
        ),
    ],
)
def test_a_new_line_is_charged(line: str, code: ReasonCode, severity: Severity, component: str) -> None:
    findings, _ = judge(QUIET, after(line))
    (finding,) = findings
    assert (finding.reason_code, finding.severity, finding.component) == (code, severity, component)
    assert finding.evidence == line


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 4: 9c00000000000151", ReasonCode.MCE_CORRECTED),
        ("EDAC MC0: 4 CE error on DIMM_A1 (x)", ReasonCode.ECC_CORRECTED),
        ("Memory failure: 0x1fc53: recovery action for dirty LRU page: Recovered", ReasonCode.ECC_UNCORRECTED),
    ],
)
def test_an_error_that_is_told_is_not_told_again_as_untold(line: str, code: ReasonCode) -> None:
    told = found(after("mce: [Hardware Error]: Machine check events logged", line))
    assert [one for one, _, _ in told] == [code]


def test_a_poisoned_page_is_charged_once_and_to_no_dimm() -> None:
    line = "Memory failure: 0x1fc53: recovery action for dirty LRU page: Recovered"
    findings, _ = judge(QUIET, after(line, hardware_corrupted_kib=4))
    (finding,) = findings
    assert finding.component == "memory"
    assert "4 KiB" in finding.message
    assert "0x1fc53" in finding.message


@pytest.mark.parametrize(
    "line",
    [
        "I/O error, dev sda, sector 10000 op 0x0:(READ) flags 0x80700 phys_seg 3 prio class 0",
        "NVRM: Xid (PCI:0000:01:00): 31, pid=79749, name=exe, Ch 0000000a, intr 00000000. MMU Fault",
        "NVRM: Xid (PCI:0000:01:00): 63, Row Remapper: Row remapping was successful.",
    ],
)
def test_what_other_stages_judge_is_left_to_them(line: str) -> None:
    assert found(after(line)) == []


def test_edac_counters_are_judged_and_their_lines_are_not_judged_twice() -> None:
    before = replace(QUIET, memory={"A1": MemoryErrors(3, 0), "B1": MemoryErrors(0, 0)})
    now = after(
        "EDAC MC0: 2 CE error on A1 (x)",
        "EDAC MC0: 1 UE memory read error on B1 (x)",
        memory={"A1": MemoryErrors(5, 0), "B1": MemoryErrors(0, 1)},
    )
    findings, measurements = judge(before, now)
    assert [(finding.reason_code, finding.component) for finding in findings] == [
        (ReasonCode.ECC_CORRECTED, "dimm:A1"),
        (ReasonCode.ECC_UNCORRECTED, "dimm:B1"),
    ]
    assert [(figure.component, figure.value, figure.ok) for figure in measurements] == [("dimm:A1", 2, True)]


def test_fifty_corrected_errors_fail() -> None:
    now = after(memory={"A1": MemoryErrors(50, 0)})
    assert found(now) == [(ReasonCode.ECC_CORRECTED, Severity.ERROR, "dimm:A1")]
    now = after(memory={"A1": MemoryErrors(49, 0)})
    assert found(now) == [(ReasonCode.ECC_CORRECTED, Severity.WARNING, "dimm:A1")]


def test_a_machine_check_without_a_line_still_fails() -> None:
    assert found(after(mce_exceptions=2)) == [(ReasonCode.MCE_UNCORRECTED, Severity.ERROR, "host")]
    assert found(after(OLD, mce_exceptions=2)) == [(ReasonCode.MCE_UNCORRECTED, Severity.ERROR, "cpu:0")]


def test_memory_taken_out_of_use_fails() -> None:
    assert found(after(hardware_corrupted_kib=4)) == [(ReasonCode.ECC_UNCORRECTED, Severity.ERROR, "memory")]


def test_pcie_counters_are_judged_once() -> None:
    before = replace(QUIET, aer={"0000:89:02.0": AerErrors(1, 0, 0)})
    line = "pcieport 0000:89:02.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer"
    now = after(line, aer={"0000:89:02.0": AerErrors(1, 0, 1)})
    assert found(now, before) == [(ReasonCode.PCIE_AER_FATAL, Severity.ERROR, "pci:0000:89:02.0")]
    assert found(after(aer={"0000:89:02.0": AerErrors(1, 0, 0)}), before) == []


def test_a_counter_that_begins_anew_is_no_zero() -> None:
    full = replace(QUIET, memory={"A1": MemoryErrors(9, 9)}, aer={PORT: AerErrors(4, 0, 0)}, mce_exceptions=5)
    now = replace(full, memory={"A1": MemoryErrors(0, 1)})
    assert found(now, full) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, "fault-counters")]
    assert "of A1 began anew" in judge(full, now)[0][0].message
    assert "0000:89:02.0 began anew" in judge(full, replace(full, aer={PORT: AerErrors(3, 1, 0)}))[0][0].message
    assert "exceptions began anew" in judge(full, replace(full, mce_exceptions=4))[0][0].message
    assert found(replace(full, hardware_corrupted_kib=0), replace(full, hardware_corrupted_kib=8)) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"memory": {}}, "the memory error counters of A1, A2 were"),
        ({"memory": {"A1": MemoryErrors()}}, "the memory error counters of A2 were"),
        ({"aer": {}}, "the PCIe error counters of 0000:89:02.0 were"),
        ({"throttle": {"0": Throttle()}}, "the throttle counters of CPU 1 were"),
        ({"mce_exceptions": None}, "machine check exceptions was"),
        ({"hardware_corrupted_kib": None}, "broken memory was"),
    ],
)
def test_a_counter_that_is_gone_is_no_zero(now: dict[str, object], words: str) -> None:
    full = replace(
        QUIET,
        memory={"A1": MemoryErrors(), "A2": MemoryErrors()},
        aer={PORT: AerErrors()},
        throttle={"0": Throttle(), "1": Throttle()},
    )
    (finding,) = judge(full, replace(full, **now), needed=True)[0]  # type: ignore[arg-type]
    assert (finding.reason_code, finding.severity) == (ReasonCode.OUTPUT_UNREADABLE, Severity.ERROR)
    assert words in finding.message
    assert judge(full, full, needed=True)[0] == []


def test_what_was_not_read_before_is_charged_to_nobody() -> None:
    """The counters since boot would else all count as new."""
    old = {"memory": {"A1": MemoryErrors(900, 3)}, "aer": {PORT: AerErrors(7, 7, 7)}, "mce_exceptions": 9}
    now = replace(QUIET, hardware_corrupted_kib=64, **old)  # type: ignore[arg-type]
    assert found(now, UNREAD) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, "fault-counters")]


def test_a_kernel_log_that_begins_anew_is_not_seen() -> None:
    assert found(replace(QUIET, kernel_log=KernelLog())) == [
        (ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, "kernel-log")
    ]


UNREAD = Counters(kernel_log=KernelLog(unreadable="gone"), unreadable=("gone",))
OVERWRITTEN = replace(QUIET, kernel_log=KernelLog(None, 20, 30, ()))


@pytest.mark.parametrize(("now", "component"), [(UNREAD, "fault-counters"), (OVERWRITTEN, "kernel-log")])
def test_what_was_not_seen_is_a_warning_and_an_error_where_the_stage_rests_on_it(now: Counters, component: str) -> None:
    assert found(now) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, component)]
    findings = judge(QUIET, now, needed=True)[0]
    assert [(one.reason_code, one.severity, one.component) for one in findings] == [
        (ReasonCode.OUTPUT_UNREADABLE, Severity.ERROR, component)
    ]


OLD_FAULTS = {
    "memory": {"A1": MemoryErrors(3, 1)},
    "mce_exceptions": 2,
    "hardware_corrupted_kib": 4,
    "aer": {"0000:01:00.0": AerErrors(1, 1, 1)},
    "throttle": {"0": Throttle(9, 90_000)},
    "uptime_s": 100.0,
}


def test_without_a_reading_from_before_old_faults_are_not_taken_for_new_ones() -> None:
    now = replace(QUIET, **OLD_FAULTS)  # type: ignore[arg-type]
    assert found(now, before=UNREAD) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, "fault-counters")]


def test_without_the_log_from_before_its_old_lines_are_not_taken_for_new_ones() -> None:
    before = replace(QUIET, kernel_log=KernelLog(unreadable="gone"), unreadable=("gone",), uptime_s=90.0)
    assert found(QUIET, before=before) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.WARNING, "fault-counters")]


def test_messages_name_what_and_how_many() -> None:
    findings: list[Finding] = judge(QUIET, after(memory={"A1": MemoryErrors(7, 0)}))[0]
    assert "7 corrected memory errors on A1" in findings[0].message


def test_link_errors_are_charged_to_every_stage_but_the_one_that_judges_them() -> None:
    quiet = replace(QUIET, nics={"eth0": {"rx_crc_errors": 3, "rx_dropped": 1}}, nic_macs={"eth0": "52:54:00:12:34:56"})
    now = replace(quiet, nics={"eth0": {"rx_crc_errors": 5, "rx_dropped": 900}})
    (finding,) = judge(quiet, now, stage="Storage")[0]
    assert (finding.reason_code, finding.severity) == (ReasonCode.NET_ERRORS, Severity.WARNING)
    assert finding.component == "nic:52:54:00:12:34:56"
    assert finding.message.endswith("rx_crc_errors +2")
    assert judge(quiet, now, stage="Network")[0] == []
    assert judge(replace(quiet, nic_macs={}), replace(now, nic_macs={}), stage="Storage")[0] == []  # a bridge
    assert judge(replace(quiet, nics={}), now, stage="Storage")[0] == []  # plugged in meanwhile: nothing to compare


@detects(ReasonCode.NET_LINK_DOWN, "made counters of a port that falls off its bus during any stage")
@pytest.mark.parametrize("stage", ["Storage", "Network"])
def test_a_port_that_leaves_fails_whichever_stage_it_was(stage: str) -> None:
    quiet = replace(QUIET, nic_macs={"eth0": "52:54:00:12:34:56"})
    (gone,) = judge(quiet, replace(quiet, nic_macs={}), stage=stage)[0]
    assert (gone.reason_code, gone.severity) == (ReasonCode.NET_LINK_DOWN, Severity.ERROR)
    assert gone.component == "nic:52:54:00:12:34:56"
    on_usb = replace(quiet, usb_nics=("eth0",))
    (gone,) = judge(on_usb, replace(quiet, nic_macs={}), stage=stage)[0]
    assert gone.severity is Severity.WARNING, "a BMC's own port may come and go"
    assert judge(quiet, replace(quiet, nic_macs={"enp2s0": "52:54:00:12:34:56"}), stage=stage)[0] == [], "renamed"
    unread = Counters(unreadable=("a read hangs in the kernel",))
    assert not any(one.reason_code is ReasonCode.NET_LINK_DOWN for one in judge(quiet, unread, stage=stage)[0])


def test_throttling_is_charged_to_every_stage_but_the_one_that_judges_it() -> None:
    before = replace(QUIET, uptime_s=100.0, throttle={"0": Throttle(1, 500), "1": Throttle(1, 500)})
    now = replace(before, uptime_s=200.0, throttle={"0": Throttle(2, 500 + 4000), "1": Throttle(2, 500 + 30_000)})
    (finding,) = judge(before, now, stage="GPU")[0]
    assert (finding.reason_code, finding.severity, finding.component) == (
        ReasonCode.THERMAL_THROTTLED,
        Severity.WARNING,
        "cpu:1",
    )
    assert judge(before, now, stage="CPUStress")[0] == []

"""Faults that arise in a recorded machine while a stage runs, through the whole runner: each is charged to that stage.

The stage itself finds nothing wrong. What changes meanwhile is what the kernel and the BMC would change: a line of the
kernel log, a counter in /sys, an entry of the event log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probes import counters
from probes.host import Host
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from stages.runner import StageRun
from stages.stage import Stage, StageContext
from tests.stages.test_runner import Options, stage
from tests.support.detection import detects, spares
from tests.support.replay import host_in
from tests.support.stage_context import stage_context
from tests.support.trees import copy_of

ERROR, WARNING = Severity.ERROR, Severity.WARNING
Fault = Callable[[Path], None]
DIMMS = "sys/devices/system/edac/mc/mc0"
PORT = "0000:03:00.0"
THROTTLE = "sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_total_time_ms"
EVENTS = "tools/ipmitool sel list last 25.out"
OLD_LINE = "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: a600000000020408"


def line(text: str) -> Fault:
    """The kernel logs this."""

    def act(root: Path) -> None:
        with (root / "dev/kmsg").open("a") as log:
            log.write(f"3,{len((root / 'dev/kmsg').read_text().splitlines())},500,-;{text}\n")

    return act


def counts(path: str, figure: str) -> Fault:
    """A counter stands at this, a hundred seconds later."""

    def act(root: Path) -> None:
        (root / path).write_text(f"{figure}\n")
        (root / "proc/uptime").write_text("86517.20 331307.44\n")

    return act


def logs(text: str) -> Fault:
    """The BMC logs this event."""

    def act(root: Path) -> None:
        with (root / EVENTS).open("a") as log:
            log.write(f"   a | 11/21/26 | 09:00:00 UTC | {text} | Asserted\n")

    return act


def nothing(root: Path) -> None:
    """A stage in which nothing happens."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A two-socket server with EDAC, a BMC and PCIe error counters."""
    root = copy_of("two-socket-raid", tmp_path)
    for kind, short in (("correctable", "COR"), ("nonfatal", "NONFATAL"), ("fatal", "FATAL")):
        (root / "sys/bus/pci/devices" / PORT / f"aer_dev_{kind}").write_text(f"TOTAL_ERR_{short} 0\n")
    for cpu in (0, 1):
        (root / THROTTLE.format(cpu=cpu)).parent.mkdir(parents=True, exist_ok=True)
        (root / THROTTLE.format(cpu=cpu)).write_text("500\n")
    return root


async def through(root: Path, evidence: Path, fault: Fault) -> Outcome:
    """The outcome of a stage that is content, and meanwhile the fault arises."""

    async def run(context: StageContext, options: Options) -> Outcome:
        fault(root)
        return Outcome("all is well")

    host: Host = host_in(root)
    context, _ = stage_context(evidence, host)
    subject: Stage[Options] = stage(run)
    return await StageRun(subject, None, context).run()


def serious(outcome: Outcome) -> list[tuple[ReasonCode, Severity, str]]:
    found = [one for one in outcome.findings if one.severity is not Severity.INFO]
    return [(one.reason_code, one.severity, one.component) for one in found]


async def test_a_fault_of_an_execution_that_was_cut_short_is_charged_to_the_next(root: Path, tmp_path: Path) -> None:
    host = host_in(root)
    before = await counters.snapshot(host, limit_s=5.0)
    line(OLD_LINE)(root)  # and then the agent is killed

    async def run(context: StageContext, options: Options) -> Outcome:
        return Outcome("all is well")

    context, _ = stage_context(tmp_path / "evidence", host)
    assert (await StageRun(stage(run), None, context).run()).verdict is Verdict.PASS, "old lines are nobody's"
    outcome = await StageRun(stage(run), None, context, before).run()
    assert [one.reason_code for one in outcome.errors] == [ReasonCode.MCE_UNCORRECTED]


async def test_a_fault_counts_even_where_the_judge_of_the_stage_crashes(root: Path, tmp_path: Path) -> None:
    async def run(context: StageContext, options: Options) -> Options:
        line(OLD_LINE)(root)
        return options

    def judge(readings: Options, options: Options) -> Outcome:
        raise ValueError("a judge that cannot count")

    subject = replace(stage(run), readings=Options, judge=judge)  # type: ignore[arg-type]
    context, _ = stage_context(tmp_path / "evidence", host_in(root))
    outcome = await StageRun(subject, None, context).run()
    codes = {one.reason_code for one in outcome.errors}
    assert codes == {ReasonCode.STAGE_CRASHED, ReasonCode.MCE_UNCORRECTED}


FATAL_LINE = f"pcieport {PORT}: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer"


@pytest.mark.parametrize(
    ("fault", "code", "severity", "component"),
    [
        pytest.param(
            line(OLD_LINE),
            ReasonCode.MCE_UNCORRECTED,
            ERROR,
            "cpu:0",
            marks=detects(ReasonCode.MCE_UNCORRECTED, "recorded server whose kernel logs a machine check of CPU 0"),
            id="mce",
        ),
        pytest.param(
            line("mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 4: 9c00000000000151"),
            ReasonCode.MCE_CORRECTED,
            WARNING,
            "cpu:1",
            marks=detects(
                ReasonCode.MCE_CORRECTED,
                "recorded server whose kernel logs a corrected machine check of CPU 1: a warning",
            ),
            id="corrected mce",
        ),
        pytest.param(
            counts(f"{DIMMS}/dimm1/dimm_ue_count", "1"),
            ReasonCode.ECC_UNCORRECTED,
            ERROR,
            "DIMM 1",
            marks=detects(
                ReasonCode.ECC_UNCORRECTED,
                "recorded server of which one DIMM counts an uncorrected error (EDAC)",
            ),
            id="ecc",
        ),
        pytest.param(
            counts(f"{DIMMS}/dimm1/dimm_ce_count", "60"),
            ReasonCode.ECC_CORRECTED,
            ERROR,
            "DIMM 1",
            marks=detects(
                ReasonCode.ECC_CORRECTED,
                "recorded server of which one DIMM counts more than 50 corrected errors in a stage (EDAC)",
            ),
            id="many corrected ecc",
        ),
        pytest.param(
            line(FATAL_LINE),
            ReasonCode.PCIE_AER_FATAL,
            ERROR,
            f"pci:{PORT}",
            marks=detects(ReasonCode.PCIE_AER_FATAL, "recorded server whose kernel logs a fatal PCIe error of a card"),
            id="fatal aer",
        ),
        pytest.param(
            counts(f"sys/bus/pci/devices/{PORT}/aer_dev_correctable", "TOTAL_ERR_COR 3"),
            ReasonCode.PCIE_AER_ERRORS,
            WARNING,
            f"pci:{PORT}",
            marks=detects(
                ReasonCode.PCIE_AER_ERRORS,
                "recorded server of which one card counts three corrected PCIe errors: a warning",
            ),
            id="aer",
        ),
        pytest.param(
            counts(THROTTLE.format(cpu=1), "20500"),
            ReasonCode.THERMAL_THROTTLED,
            WARNING,
            "cpu:1",
            marks=detects(
                ReasonCode.THERMAL_THROTTLED,
                "recorded server of which one CPU is held back by heat during a stage other than CPUStress: a warning",
            ),
            id="throttled",
        ),
        pytest.param(
            line("watchdog: BUG: soft lockup - CPU#5 stuck for 26s! [bash:5]"),
            ReasonCode.KERNEL_FAULT,
            ERROR,
            "cpu:5",
            marks=detects(ReasonCode.KERNEL_FAULT, "recorded server whose kernel logs a soft lockup of CPU 5"),
            id="lockup",
        ),
        pytest.param(
            line("Out of memory: Killed process 16 (sshd) total-vm:1kB"),
            ReasonCode.KERNEL_FAULT,
            ERROR,
            "kernel",
            marks=detects(
                ReasonCode.KERNEL_FAULT,
                "recorded server whose kernel, out of memory, kills a process that is none of the load",
            ),
            id="oom",
        ),
        pytest.param(
            line("Out of memory: Killed process 18 (vetting-agent) total-vm:1kB"),
            ReasonCode.KERNEL_FAULT,
            WARNING,
            "kernel",
            id="oom of the agent",
        ),
        pytest.param(
            line("Out of memory: Killed process 17 (stressapptest) total-vm:1kB"),
            ReasonCode.LOAD_OOM_KILLED,
            ERROR,
            "memory",
            marks=detects(
                ReasonCode.LOAD_OOM_KILLED, "recorded server whose kernel, out of memory, kills the memory test"
            ),
            id="load oom",
        ),
        pytest.param(
            line("NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus."),
            ReasonCode.GPU_XID,
            ERROR,
            "pci:0000:01:00",
            marks=detects(ReasonCode.GPU_XID, "recorded server whose driver logs XID 79, a GPU fallen off the bus"),
            id="xid",
        ),
        pytest.param(
            logs("Voltage #0x11 | Lower Critical going low"),
            ReasonCode.BMC_EVENT,
            ERROR,
            "sensor:Voltage #0x11",
            marks=detects(ReasonCode.BMC_EVENT, "recorded server whose BMC logs a voltage below its critical limit"),
            id="bmc event",
        ),
        pytest.param(
            logs("Temperature #0x30 | Upper Critical going high"),
            ReasonCode.THERMAL_CRITICAL,
            ERROR,
            "sensor:Temperature #0x30",
            marks=detects(
                ReasonCode.THERMAL_CRITICAL, "recorded server whose BMC logs a temperature over its critical limit"
            ),
            id="bmc heat",
        ),
        pytest.param(
            logs("Power Supply #0x3b | Power Supply AC lost"),
            ReasonCode.PSU_EVENT,
            ERROR,
            "psu:#0x3b",
            marks=detects(ReasonCode.PSU_EVENT, "recorded server whose BMC logs that a power supply lost its input"),
            id="psu event",
        ),
    ],
)
async def test_a_fault_is_charged_to_the_stage(
    root: Path, tmp_path: Path, fault: Fault, code: ReasonCode, severity: Severity, component: str
) -> None:
    if component == "DIMM 1":
        component = f"dimm:{(root / DIMMS / 'dimm1/dimm_label').read_text().strip()}"
    outcome = await through(root, tmp_path / "evidence", fault)
    assert serious(outcome) == [(code, severity, component)]
    assert outcome.passed is (severity is WARNING)


@spares(ReasonCode.MCE_UNCORRECTED, "recorded server with a machine check of before the stage")
@spares(ReasonCode.MCE_CORRECTED, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.ECC_UNCORRECTED, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.ECC_CORRECTED, "recorded server with three corrected errors of before the stage")
@spares(ReasonCode.PCIE_AER_FATAL, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.PCIE_AER_ERRORS, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.KERNEL_FAULT, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.LOAD_OOM_KILLED, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.GPU_XID, "recorded server on which nothing happens during the stage")
@spares(ReasonCode.BMC_EVENT, "recorded server with an event log of years ago")
@spares(ReasonCode.PSU_EVENT, "recorded server with a cable pulled years ago, by its event log")
async def test_what_was_there_before_is_charged_to_nobody(root: Path, tmp_path: Path) -> None:
    line(OLD_LINE)(root)
    outcome = await through(root, tmp_path / "evidence", nothing)
    assert (outcome.verdict, outcome.findings) == (Verdict.PASS, ())


@spares(ReasonCode.GPU_XID, "recorded server whose driver logs XID 31, the fault of a program")
@spares(ReasonCode.KERNEL_FAULT, "recorded server whose kernel logs an XID that tells of no broken hardware")
async def test_a_line_that_tells_of_no_fault(root: Path, tmp_path: Path) -> None:
    fault = line("NVRM: Xid (PCI:0000:01:00): 31, pid=79749, name=exe, Ch 0000000a, intr 00000000. MMU Fault")
    assert serious(await through(root, tmp_path / "evidence", fault)) == []

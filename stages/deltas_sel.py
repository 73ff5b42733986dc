"""Judges what the BMC's event log gained while a stage ran (pure).

An entry reads "SENSOR TYPE [#NUMBER or name] | EVENT | Asserted or Deasserted", as `ipmitool sel list` decodes it (IPMI
2.0, tables 42-2 and 42-3). A line of the kernel log tells of the same fault more precisely where there is one; this is
the way that faults come which only the BMC sees.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probes import ipmi
from probes.counters import Counters
from stages.outcome import Finding, ReasonCode, error, info, warning

_Make = Callable[..., Finding]


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an event of a sensor type means. `kind` is the kind of component that is to blame."""

    sensor: re.Pattern[str]
    event: re.Pattern[str]
    code: ReasonCode
    make: _Make
    kind: str


def _rule(sensor: str, event: str, code: ReasonCode, make: _Make, kind: str = "bmc") -> _Rule:
    return _Rule(re.compile(sensor, re.IGNORECASE), re.compile(event, re.IGNORECASE), code, make, kind)


_CRITICAL = r"(?:Upper|Lower) (?:Critical|Non-recoverable)|transition to (?:Critical|Non-recoverable)"
_RULES = (
    # Memory #0x88 | Correctable ECC (CPU0_G1) | Asserted                                     ipmitool/ipmitool#385
    # Memory #0x02 | Uncorrectable ECC | Asserted
    _rule("Memory", r"Correctable ECC logging limit", ReasonCode.ECC_CORRECTED, error, "memory"),
    _rule("Memory", r"^Correctable", ReasonCode.ECC_CORRECTED, warning, "memory"),
    _rule("Memory", r"Uncorrectable|Parity|Critical overtemp", ReasonCode.ECC_UNCORRECTED, error, "memory"),
    # Processor #0x44 | IERR | Asserted
    _rule("Processor", r"Thermal Trip", ReasonCode.THERMAL_CRITICAL, error, "cpu"),
    _rule("Processor", r"Throttled|Terminator", ReasonCode.THERMAL_THROTTLED, warning, "cpu"),
    _rule("Processor", r"^Correctable", ReasonCode.MCE_CORRECTED, warning, "cpu"),
    _rule("Processor", r"IERR|FRB|Uncorrectable|Machine Check|Startup", ReasonCode.MCE_UNCORRECTED, error, "cpu"),
    # Critical Interrupt #0x75 | Bus Fatal Error | Asserted
    _rule("Critical Interrupt", r"Bus Correctable", ReasonCode.PCIE_AER_ERRORS, warning, "bmc"),
    _rule("Critical Interrupt", r"Fatal|SERR|PERR|Uncorrectable", ReasonCode.PCIE_AER_FATAL, error, "bmc"),
    # Temperature #0x30 | Upper Critical going high | Asserted
    _rule("Temperature", r"Upper (?:Critical|Non-recoverable)", ReasonCode.THERMAL_CRITICAL, error, "sensor"),
    _rule("Temperature", r"Upper Non-critical", ReasonCode.THERMAL_CRITICAL, warning, "sensor"),
    # Power Supply #0x3b | Power Supply AC lost | Asserted
    _rule("Power (?:Supply|Unit)", r"", ReasonCode.PSU_EVENT, error, "psu"),
    _rule("Voltage|Current", _CRITICAL, ReasonCode.BMC_EVENT, error, "sensor"),
    _rule("Drive Slot", r"Drive Fault|In (?:Critical|Failed) Array", ReasonCode.BMC_EVENT, error, "sensor"),
    # Fans slower than the BMC's default threshold are ordinary; so are entries nobody can decode.
    _rule("", "", ReasonCode.BMC_EVENT, warning, "sensor"),
)
_NO_FAULT = re.compile(
    r"^(?:System Firmware Progress|System Boot|OS Boot|Boot|Session Audit|Event Logging Disabled|Button|Version Change"
    r"|Management Subsystem Health \S* \| .*State Deasserted|ACPI Power State|System ACPI|Watchdog\S* \S* \| .*Reset)"
    r"|\| (?:Presence detected|Device Present|Drive Present|Fully Redundant|State Deasserted|Device Enabled"
    r"|(?:transition to )?(?:OK|Running|On Line)|Power off/down|Power cycle|Performance Met|Limit Not Exceeded"
    r"|Log area reset.*|OEM System boot event|Timestamp Clock Sync\S*) \| Asserted",
    re.IGNORECASE,
)
_GOOD = re.compile(r"\| (?:Presence detected|Device Present|Drive Present|Fully Redundant) \| Deasserted", re.I)
"""A deassertion is good news, except of these."""


def findings(before: Counters, after: Counters, *, power: bool = True) -> Iterator[Finding]:
    """Findings for the new entries; `power`: also those about power supplies.

    A BMC that does not answer is told for information: its silence is judged in the PSU stage.
    """
    if why := before.sel_unreadable or after.sel_unreadable:
        yield info(ReasonCode.BMC_UNREADABLE, "bmc", f"The BMC's event log was not judged: {why}")
        return
    if before.sel is None or after.sel is None:
        return
    try:
        new = ipmi.new_entries(before.sel, after.sel)
    except ipmi.IpmiError as problem:
        yield info(ReasonCode.BMC_UNREADABLE, "bmc", f"The BMC's event log was not judged: {problem}")
        return
    texts = Counter(entry.text for entry in new if _bad(entry.text))
    for text, count in texts.items():
        finding = _finding(text, count)
        if power or finding.reason_code is not ReasonCode.PSU_EVENT:
            yield finding


def _bad(text: str) -> bool:
    """Whether an entry is more than a note or good news."""
    if text.endswith("Deasserted"):
        return bool(_GOOD.search(text))
    return not _NO_FAULT.search(text)


def _finding(text: str, count: int) -> Finding:
    sensor, _, event = text.partition(" | ")
    rule = next(rule for rule in _RULES if rule.sensor.match(sensor) and rule.event.search(event))
    times = "" if count == 1 else f" ({count} times)"
    message = f"The BMC logged an event during this stage{times}: {text}"
    return rule.make(rule.code, _component(rule, sensor, event), message, text)


def _component(rule: _Rule, sensor: str, event: str) -> str:
    """Kind and name; for memory the DIMM, where the event names one ("Correctable ECC (CPU0_G1)")."""
    if rule.kind == "memory":
        named = re.search(r"\(([\w .#/-]+)\)|@\s*(DIMM\w*)", event)
        return f"dimm:{named[1] or named[2]}" if named else "memory"
    if rule.kind in {"cpu", "bmc"}:
        return rule.kind  # a BMC's sensor numbers are no CPU numbers and no PCI addresses
    return f"{rule.kind}:{re.sub(r'^Power (?:Supply|Unit) ', '', sensor)}"

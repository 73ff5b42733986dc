"""For the operator: what each reason code means, its likely cause, what to do next, and who usually owns it.

`python -m stages.reasons --markdown` prints the README's table.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from stages import reasons_disk, reasons_host
from stages.outcome import INCONCLUSIVE, ReasonCode
from stages.reasons_host import OPERATOR, SOFTWARE, TECHNICIAN

BEGIN = "<!-- reason codes begin -->"
END = "<!-- reason codes end -->"

_GENERAL: Mapping[ReasonCode, tuple[str, str, str, str]] = {
    ReasonCode.PROBE_ERROR: (
        "A part of the machine could not be read.",
        "A tool or kernel interface is missing, or the part does not answer.",
        "Read the message for what was asked and what came back; run again in the live image.",
        SOFTWARE,
    ),
    ReasonCode.STAGE_TIMEOUT: (
        "The stage ran far longer than planned and was stopped.",
        "A device that hardly answers, or a load that hangs.",
        "Look at the last log lines of the stage for the device, then run it again.",
        TECHNICIAN,
    ),
    ReasonCode.STAGE_CRASHED: (
        "The stage's own program failed, so nothing was judged.",
        "A fault in this software.",
        "Report it with crash.txt from the evidence; the host is neither proven good nor bad.",
        SOFTWARE,
    ),
    ReasonCode.TOOL_MISSING: (
        "A program that the stage needs is not installed.",
        "The image or the host lacks a package.",
        "Install the program that is named, then run again.",
        SOFTWARE,
    ),
    ReasonCode.TOOL_FAILED: (
        "A program that the stage needs crashed, was killed, or ended with an error.",
        "A fault of the program, or hardware that makes it fail.",
        "Read its output in the evidence, run it by hand, then run the stage again.",
        SOFTWARE,
    ),
    ReasonCode.OUTPUT_UNREADABLE: (
        "A program's output could not be understood.",
        "Another version of the program than this software knows, or truncated output.",
        "Compare the program's version with the supported ones; report it with the evidence.",
        SOFTWARE,
    ),
    ReasonCode.UNKILLABLE: (
        "A process could not be ended, not even by SIGKILL.",
        "It waits in the kernel for a device that does not answer.",
        "Find the device in the kernel log; the host needs a power cycle.",
        TECHNICIAN,
    ),
    ReasonCode.CANCELLED: (
        "The stage was stopped on request before it was done.",
        "An operator cancelled it.",
        "Start it again when wanted.",
        OPERATOR,
    ),
    ReasonCode.UNKNOWN_STAGE: (
        "The run names a stage that this agent does not have.",
        "The agent is older than the orchestrator, or the name is misspelt.",
        "Use a newer image or correct the run.",
        SOFTWARE,
    ),
    ReasonCode.BAD_PARAMETER: (
        "A parameter of the stage is unknown or has a value that it cannot take.",
        "A mistake in the profile or in the run's parameters.",
        "Correct the parameter that is named and retry the stage.",
        OPERATOR,
    ),
    ReasonCode.COVERAGE_LOW: (
        "A smaller part was tested than the profile demands.",
        "Too little time, or memory or disks that were in use.",
        "Give the stage more time, or run in the live image with nothing else on the host.",
        OPERATOR,
    ),
    ReasonCode.NOTHING_TO_TEST: (
        "There was nothing that the stage could test, though something should be there.",
        "The hardware is missing or hidden, or the profile rules everything out.",
        "Compare the inventory with what the host should have.",
        OPERATOR,
    ),
    ReasonCode.EARLIER_EVENTS: (
        "There were errors before this stage began; they are not charged to it.",
        "They happened at boot, in an earlier stage, or long ago.",
        "Read them; run again if they speak of a part that was not tested since.",
        OPERATOR,
    ),
    ReasonCode.HOST_REBOOTED: (
        "The host rebooted while a stage was running.",
        "It crashed or lost power under load, or somebody rebooted it.",
        "Read the BMC's event log; treat it as a hardware fault unless somebody did it.",
        TECHNICIAN,
    ),
    ReasonCode.AGENT_CRASH_LOOP: (
        "The agent on the host started again too often in one stage.",
        "A fault in this software, or memory running out.",
        "Read the agent's log on the host and report it.",
        SOFTWARE,
    ),
    ReasonCode.SPEC_MISMATCH: (
        "The hardware found differs from the host's spec.",
        "Parts are missing, wrong or not recognised; or the spec is wrong.",
        "Read the difference line by line; correct the hardware or the spec.",
        TECHNICIAN,
    ),
    ReasonCode.COMPONENTS_CHANGED: (
        "The parts of the host changed since its inventory; earlier passes no longer count.",
        "Somebody swapped a part, or a part comes and goes.",
        "Nothing if a part was swapped on purpose: the run starts over; otherwise find the part.",
        TECHNICIAN,
    ),
    ReasonCode.PEER_OUTLIER: (
        "A figure lies far on the wrong side of what the host's siblings measure.",
        "A part is weak, throttled, in a slower slot or set otherwise; or the siblings were tested otherwise.",
        "Open the profile's chart; compare slot, firmware and settings with a sibling, then run the stage again.",
        TECHNICIAN,
    ),
    ReasonCode.STALLED: (
        "The host has not been heard of for six heartbeats.",
        "It crashed, lost power or network, or the agent ended.",
        "Look at its console or BMC.",
        TECHNICIAN,
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason code in words. Each field is a sentence or two, but for `owner`."""

    code: ReasonCode
    meaning: str
    """What was seen."""
    cause: str
    """The likely cause."""
    action: str
    """What to do next."""
    owner: str
    """Who usually owns it."""

    @property
    def inconclusive(self) -> bool:
        """True when, as an error, it says "could not be judged" rather than "broken"."""
        return self.code in INCONCLUSIVE


_TEXTS = {**_GENERAL, **reasons_disk.TEXTS, **reasons_host.TEXTS}

REASONS: Mapping[ReasonCode, Reason] = {code: Reason(code, *_TEXTS[code]) for code in ReasonCode}
"""Every code, in the order of ReasonCode."""


def nearest(text: str, limit: int = 5) -> list[str]:
    """Codes that look like `text`, the best first."""
    wanted = text.strip().lower().replace("-", "_").replace(" ", "_")
    containing = [code.value for code in ReasonCode if wanted and wanted in code.value]
    similar = difflib.get_close_matches(wanted, [code.value for code in ReasonCode], n=limit, cutoff=0.5)
    return list(dict.fromkeys([*similar, *containing]))[:limit]


def markdown() -> str:
    """The README's table of all codes."""
    lines = ["| code | what was seen | likely cause | what to do next | who |", "|---|---|---|---|---|"]
    lines += [
        f"| `{reason.code}` | {reason.meaning} | {reason.cause} | {reason.action} | {reason.owner} |"
        for reason in REASONS.values()
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Print the table."""
    if argv != ["--markdown"]:
        sys.stderr.write("usage: python -m stages.reasons --markdown\n")
        return 2
    sys.stdout.write(markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

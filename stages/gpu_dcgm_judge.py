"""What DCGM's complaints are to us: warnings, beside our own judgement of the same GPUs, which they never replace.

DCGM is one more sensor. It is known to complain of sound machines, so that nothing fails by it, and what it is known to
say of sound machines under a full load is told as a note alone. Nothing passes by it either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from probes.dcgm import DcgmHealth, DcgmIncident
from probes.tools import ToolError
from stages.outcome import Finding, Measurement, ReasonCode, info, warning
from stages.runner import tool_finding

NOTES: Mapping[str, str] = {
    "Power system": "a GPU under full load is held at its power limit; how long it was slowed down is judged by itself",
    "NVLINK system": "DCGM also says so of cards without NVLink; the links are judged by themselves",
}
"""Systems of which DCGM complains on sound GPUs, and why that is no warning. NVLink: NVSentinel's pull request 1481
(A100 PCIe) and NVIDIA/aicr's issue 2641 (GB300, no IMEX daemon)."""


def judge(told: DcgmHealth) -> Iterator[Finding]:
    """A finding for each incident. Never an error."""
    for incident in told.incidents:
        gpu = told.gpus.get(incident.entity) if incident.group == "GPU" else None
        component = f"gpu:{gpu}" if gpu else "gpu"
        text = f"DCGM reports {_of(incident)}: {incident.health}"
        note = NOTES.get(incident.system)
        if note is None:
            yield warning(ReasonCode.GPU_DCGM_HEALTH, component, text, incident.words)
        else:
            words = f": {incident.words}" if incident.words else ""
            yield info(ReasonCode.GPU_DCGM_HEALTH, component, f"{text}{words}; {note}")


def _of(incident: DcgmIncident) -> str:
    """ "the PCIe system of its GPU 3"."""
    whose = f"its {incident.group} {incident.entity}" if incident.group else "the machine"
    return f"the {incident.system} of {whose}" if incident.system else whose


def unhelpful(problem: ToolError) -> Finding:
    """DCGM is installed and said nothing: a note, since nothing is judged by it."""
    finding = tool_finding(problem, "gpu")
    return info(finding.reason_code, "gpu", f"NVIDIA's DCGM was of no help: {finding.message}")


def measure(told: DcgmHealth) -> Iterator[Measurement]:
    yield Measurement("gpu_dcgm_incidents", "gpu", float(len(told.incidents)), "count")

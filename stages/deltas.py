"""Placeholder: judges what the fault counters gained during a stage."""

from probes.counters import Counters
from stages.outcome import Finding, Measurement


def judge(before: Counters, after: Counters) -> tuple[list[Finding], list[Measurement]]:
    return [], []

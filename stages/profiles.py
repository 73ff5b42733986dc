"""How long and how thoroughly a run tests: profile -> stage -> parameter -> value.

The orchestrator lays the run's own parameters over these and sends the result as the claim's `parameters`.
Every name and value must be accepted by the `Options` of its stage; a test holds each profile against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOUR_S = 3600.0

QUICK: Mapping[str, Mapping[str, Any]] = {
    "SMART": {"self_test": "short_if_quick"},
    "CPUStress": {"duration_s": 60.0, "memory_coverage_floor": 0.80, "alone_coverage_floor": 0.50},
    "Storage": {"duration_s": 30.0, "coverage_floor": 0.02},
    "Network": {"duration_s": 5.0},
    "GPU": {"duration_s": 10.0},
    # No load of its own: it judges the samples that were taken while CPUStress ran.
    "PSU": {"duration_s": 0.0},
}

STANDARD: Mapping[str, Mapping[str, Any]] = {
    "SMART": {"self_test": "short"},
    "CPUStress": {"duration_s": 120.0, "memory_coverage_floor": 0.95},
    "Storage": {"duration_s": 300.0, "until_covered": True, "coverage_floor": 0.20},
    "Network": {"duration_s": 10.0},
    "GPU": {"duration_s": 60.0},
    "PSU": {"duration_s": 30.0},
}

BURNIN: Mapping[str, Mapping[str, Any]] = {
    "SMART": {"self_test": "short"},
    "CPUStress": {"duration_s": 12 * HOUR_S, "memory_coverage_floor": 1.0},
    # `write_fraction` is of destructive runs: what all of a disk is read for, all of it is written for.
    "Storage": {"duration_s": 12 * HOUR_S, "until_covered": True, "coverage_floor": 1.0, "write_fraction": 1.0},
    "Network": {"duration_s": 600.0},
    "GPU": {"duration_s": HOUR_S},
    "PSU": {"duration_s": 600.0},
}

PROFILES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"quick": QUICK, "standard": STANDARD, "burnin": BURNIN}

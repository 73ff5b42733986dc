"""Each profile is accepted by the stages, and the profiles grow from quick to burnin."""

from __future__ import annotations

from typing import Any

import pytest

from stages import STAGES, stage_named
from stages.options import parse_options
from stages.profiles import PROFILES

GROWING = [
    ("CPUStress", "duration_s"),
    ("CPUStress", "memory_coverage_floor"),
    ("Storage", "duration_s"),
    ("Storage", "coverage_floor"),
    ("Network", "duration_s"),
    ("GPU", "duration_s"),
    ("PSU", "duration_s"),
]


def parsed(profile: str, stage_name: str) -> Any:
    stage = stage_named(stage_name)
    assert stage is not None, f"profile {profile} names a stage that does not exist: {stage_name}"
    return parse_options(stage.options, stage.name, PROFILES[profile].get(stage_name))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_takes_its_parameters(profile: str) -> None:
    for stage in {*PROFILES[profile], *(stage.name for stage in STAGES)}:
        parsed(profile, stage)


@pytest.mark.parametrize(("stage", "name"), GROWING)
def test_profiles_grow(stage: str, name: str) -> None:
    quick, standard, burnin = (getattr(parsed(profile, stage), name) for profile in ("quick", "standard", "burnin"))
    assert quick < standard <= burnin


def test_coverage_floors() -> None:
    floors = {
        profile: (parsed(profile, "Storage").coverage_floor, parsed(profile, "CPUStress").memory_coverage_floor)
        for profile in PROFILES
    }
    assert floors == {"quick": (0.02, 0.80), "standard": (0.20, 0.95), "burnin": (1.0, 1.0)}


def test_a_quick_run_on_a_small_machine_fits_into_four_minutes() -> None:
    planned = 0.0
    # SMART plans for a self-test of two minutes; all but a few disks need less, and a machine without one none.
    for stage in (stage for stage in STAGES if stage.name != "SMART"):
        options = parse_options(stage.options, stage.name, PROFILES["quick"].get(stage.name))
        planned += stage.planned_s(options)
    assert planned <= 240.0

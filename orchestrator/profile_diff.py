"""How two versions of a profile differ, and how a host differs from one: lines that a person reads."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.hardware_profile import HardwareProfile
from orchestrator.profile_learning import as_document
from orchestrator.run_record import Run
from orchestrator.spec import differences
from stages.profiles import PROFILES


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `old` is None for what was added, `new` for what was taken away."""

    path: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.path}: {self.new}"
        if self.new is None:
            return f"- {self.path}: {self.old}"
        return f"~ {self.path}: {self.old} -> {self.new}"


def changes(old: HardwareProfile, new: HardwareProfile) -> list[Change]:
    """What became of each stated value, by path; lists of parts are compared by what the parts are, not by order."""
    before, after = _flat(as_document(old)), _flat(as_document(new))
    return [
        Change(path=path, old=before.get(path), new=after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def host_differences(profile: HardwareProfile, inventory: object, run: Run | None) -> list[str]:
    """How a host is not as the profile says, by its newest inventory and the run that took it."""
    lines = [] if profile.spec is None else differences(profile.spec, inventory)
    if run is None:
        return lines
    if run.profile != profile.test_profile:
        lines.append(f"test profile: the profile says {profile.test_profile}, run {run.run_id} had {run.profile}")
    base = PROFILES[profile.test_profile]
    for stage in run.stages:
        wanted = {**base.get(stage, {}), **profile.parameters.get(stage, {})}
        had = run.parameters.get(stage, {})
        for name in sorted(wanted.keys() | had.keys()):
            if wanted.get(name) != had.get(name):
                text = f"the profile says {_said(wanted.get(name))}, run {run.run_id} had {_said(had.get(name))}"
                lines.append(f"{stage}.{name}: {text}")
    return lines


def _said(value: Any) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for name, part in value.items():
            found |= _flat(part, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return _parts(value, path)
    return {} if value is None else {path: _said(value) if not isinstance(value, str) else value}


def _parts(parts: list[dict[str, Any]], path: str) -> dict[str, str]:
    counts: dict[str, int] = {}
    for part in parts:
        words = " ".join(str(value) for name, value in part.items() if name != "count") or "any"
        counts[f"{path}[{words}]"] = counts.get(f"{path}[{words}]", 0) + int(part.get("count", 1))
    return {name: f"{count} of them" for name, count in counts.items()}

"""A hardware profile learnt from a host that passed: from its inventory and the options that it passed with.

What differs between equal hosts is left out, and said so with the reason: a profile must fit the next host too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from orchestrator.hardware_profile import HardwareProfile
from orchestrator.run_record import STAGE_NAMES, Run
from orchestrator.spec import MEMORY_HIGH, MEMORY_LOW, CpuSpec, DiskSpec, GpuSpec, NicSpec, Spec, differences
from orchestrator.steps import Refusal
from stages.profiles import PROFILES

Found = dict[str, Any]
WIDTH = 110
MOST = 1e9
FOREIGN = ("usb", "iscsi", "fc", "nvme-of", "nbd", "rbd")
ALWAYS_LEFT_OUT: tuple[tuple[str, str, str], ...] = (
    ("system", "serial", "each host has its own"),
    ("system", "uuid", "each host has its own"),
    ("system", "bios", "firmware is renewed; another date is no other hardware"),
    ("cpu", "microcode", "it comes with firmware and image, and is renewed"),
    ("bmc", "address", "each host has its own"),
    ("bmc", "firmware", "firmware is renewed"),
)
OF_EACH: tuple[tuple[str, str, str], ...] = (
    ("disks", "serial", "each disk has its own"),
    ("disks", "firmware", "firmware is renewed"),
    ("nics", "mac", "each NIC has its own"),
    ("nics", "firmware", "firmware is renewed"),
    ("gpus", "uuid", "each GPU has its own"),
    ("psus", "serial", "each power supply has its own"),
)


@dataclass(slots=True)
class Learnt:
    """The profile, and a line for each thing that was left out, with why."""

    profile: HardwareProfile
    left_out: list[str] = field(default_factory=list)

    def text(self, heading: str) -> str:
        """The YAML document, the reasons above it as comments."""
        lines = [heading, "Left out, because it differs between equal hosts or could not be told:"]
        lines += [f"  {line}" for line in self.left_out] or ["  nothing"]
        comments = "\n".join(f"# {_plain(line)}" for line in lines)
        body = yaml.safe_dump(as_document(self.profile), sort_keys=False, allow_unicode=True, width=WIDTH)
        return f"{comments}\n{body}"


def as_document(profile: HardwareProfile) -> dict[str, Any]:
    """The profile as the object that its YAML stands for, without what is not stated."""
    document: dict[str, Any] = msgspec.to_builtins(profile)
    return {"test_profile": profile.test_profile, **document, "peers": profile.peers}


def learnt(run: Run, inventory: Found | None) -> Learnt:
    """The profile of a run that passed. Raises Refusal 422 for one that did not."""
    if not run.is_completed:
        text = f"Run {run.run_id} is {run.state}: a profile is learnt from a run that is Completed"
        raise Refusal(422, "not_passed", text)
    if not isinstance(inventory, dict):
        raise Refusal(422, "no_inventory", f"Run {run.run_id} has no inventory to learn from")
    result = Learnt(HardwareProfile())
    result.left_out += [
        f"{section}.{name}: {why}" for section, name, why in ALWAYS_LEFT_OUT if _has(inventory, section, name)
    ]
    result.left_out += _own_names(inventory)
    stages = None if run.stages == STAGE_NAMES else list(run.stages)
    spec = _spec(inventory, result.left_out)
    result.profile = HardwareProfile(
        test_profile=run.profile, stages=stages, parameters=_own_parameters(run), spec=spec, peers=run.peers
    )
    return result


def _own_parameters(run: Run) -> dict[str, dict[str, Any]]:
    """What the run had beside its test profile's parameters."""
    base = PROFILES.get(run.profile, {})
    kept = {
        stage: {name: value for name, value in values.items() if base.get(stage, {}).get(name) != value}
        for stage, values in run.parameters.items()
    }
    return {stage: values for stage, values in kept.items() if values}


def _spec(inventory: Found, left_out: list[str]) -> Spec:
    """Section by section; one that the host itself would not fit is left out with the reason."""
    parts: dict[str, Any] = {
        "cpu": _cpu(inventory.get("cpu")),
        "memory_gib": _memory(inventory.get("memory")),
        "disks": _disks(inventory.get("disks"), left_out),
        "nics": _nics(inventory.get("nics"), left_out),
        "gpus": _gpus(inventory.get("gpus")),
        "psus": _count(inventory.get("psus")),
    }
    for name, part in parts.items():
        if part is None:
            left_out.append(f"{name}: the inventory does not tell")
        elif why := differences(Spec(**{name: part}), inventory):
            left_out.append(f"{name}: the host itself would not fit: {'; '.join(why)}")
            parts[name] = None
    return Spec(**parts)


def _cpu(found: object) -> CpuSpec | None:
    if not isinstance(found, dict):
        return None
    cpu = CpuSpec(
        model=_text(found.get("model")),
        sockets=_whole(found.get("sockets")),
        physical_cores=_whole(found.get("physical_cores")),
        logical_cores=_whole(found.get("logical_cores")),
    )
    return None if cpu == CpuSpec() else cpu


def _memory(found: object) -> float | None:
    """What is fitted where the firmware tells, since what the kernel leaves varies; else what is usable."""
    if not isinstance(found, dict):
        return None
    fitted, total = _amount(found.get("installed_gib")), _amount(found.get("total_gib"))
    if total is None:
        return None
    if fitted is not None and fitted * MEMORY_LOW <= total <= fitted * MEMORY_HIGH:
        return fitted
    return round(total, 1)


def _disks(found: object, left_out: list[str]) -> list[DiskSpec] | None:
    if not isinstance(found, list):
        return None
    fixed = []
    for one in _objects(found):
        if one.get("removable") is True or one.get("transport") in FOREIGN:
            left_out.append(f"disks: {one.get('name')}: it is removable or not of this host")
        else:
            fixed.append((_text(one.get("model")), _amount(one.get("size_gb"))))
    return [DiskSpec(model=model, size_gb=size, count=count) for (model, size), count in _counted(fixed)]


def _nics(found: object, left_out: list[str]) -> list[NicSpec] | None:
    """Ports by the speed of their link; one without a link counts in no profile: cabling differs."""
    if not isinstance(found, list):
        return None
    speeds = []
    for one in _objects(found):
        if speed := _amount(one.get("speed_mbps")):
            speeds += [] if one.get("virtual_function") else [(speed,)]
        else:
            left_out.append(f"nics: {one.get('name')}: it has no link")
    return [NicSpec(speed_mbps=speed, count=count) for (speed,), count in _counted(speeds)]


def _gpus(found: object) -> list[GpuSpec] | None:
    if not isinstance(found, list):
        return None
    kinds = [(_text(one.get("model")), _amount(one.get("memory_gib"))) for one in _objects(found)]
    return [GpuSpec(model=model, memory_gib=memory, count=count) for (model, memory), count in _counted(kinds)]


def _count(found: object) -> int | None:
    return len(found) if isinstance(found, list) else None


def _counted(kinds: list[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], int]]:
    return sorted(Counter(kinds).items(), key=lambda one: str(one[0]))


def _objects(found: object) -> list[Found]:
    """An inventory is what an agent posted: of any shape."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() else None


def _amount(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST
    return float(value) if number else None  # type: ignore[arg-type]  # a number, by the line above


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and _amount(value) is not None else None


def _has(inventory: Found, section: str, name: str) -> bool:
    found = inventory.get(section)
    return isinstance(found, dict) and bool(found.get(name))


def _own_names(inventory: Found) -> Iterator[str]:
    for section, name, why in OF_EACH:
        found = inventory.get(section)
        values = [str(one[name]) for one in _objects(found) if one.get(name)]
        if values:
            shown = ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
            yield f"{section}.{name} ({shown}): {why}"


def _plain(text: str) -> str:
    """On one line, whatever a device called itself."""
    return "".join(character if character.isprintable() else "?" for character in text)

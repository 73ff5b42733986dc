"""What a host must be made of, and how what was found differs from it: SpecValidate.

`differences` is pure: it takes the spec and the posted inventory (protocol §7) and returns one readable line for
each difference. What the inventory could not read is a difference: nothing unread is taken for right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

MEMORY_LOW, MEMORY_HIGH = 0.92, 1.02
"""Firmware and kernel keep some of the memory: 512 GiB of DIMMs show as about 503."""
SIZE_TOLERANCE = 0.01


class SpecPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base: what is not stated is not checked."""


class CpuSpec(SpecPart, frozen=True, kw_only=True):
    model: str | None = None
    """Part of the model name, in any case."""
    sockets: int | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None


class DiskSpec(SpecPart, frozen=True, kw_only=True):
    serial: str | None = None
    model: str | None = None
    size_gb: float | None = None
    """10^9 bytes, within 1 %."""
    count: int = 1


class NicSpec(SpecPart, frozen=True, kw_only=True):
    mac: str | None = None
    speed_mbps: float | None = None
    """At least this."""
    count: int = 1


class GpuSpec(SpecPart, frozen=True, kw_only=True):
    model: str | None = None
    memory_gib: float | None = None
    """At least 92 % of this."""
    count: int = 1


class Spec(SpecPart, frozen=True, kw_only=True):
    cpu: CpuSpec | None = None
    memory_gib: float | None = None
    disks: list[DiskSpec] | None = None
    nics: list[NicSpec] | None = None
    gpus: list[GpuSpec] | None = None
    psus: int | None = None
    exact: bool = False
    """True: a disk, NIC, GPU or PSU more than stated is a difference too."""


Found = dict[str, Any]


def differences(spec: Spec, inventory: object) -> list[str]:
    """One line for each difference, empty when the host is as it should be."""
    if not isinstance(inventory, dict):
        return ["inventory: expected one to compare with the spec, found none"]
    return list(_differences(spec, inventory))


def _differences(spec: Spec, inventory: Found) -> Iterator[str]:
    if spec.cpu is not None:
        yield from _cpu(spec.cpu, inventory.get("cpu"))
    if spec.memory_gib is not None:
        yield from _memory(spec.memory_gib, inventory.get("memory"))
    if spec.disks is not None:
        yield from _listed("disks", spec.disks, inventory, _disk_fits, _disk_words, spec.exact)
    if spec.nics is not None:
        yield from _listed("nics", spec.nics, inventory, _nic_fits, _nic_words, spec.exact)
    if spec.gpus is not None:
        yield from _listed("gpus", spec.gpus, inventory, _gpu_fits, _gpu_words, spec.exact)
    if spec.psus is not None:
        yield from _psus(spec.psus, inventory.get("psus"), spec.exact)


def _cpu(spec: CpuSpec, found: object) -> Iterator[str]:
    cpu = found if isinstance(found, dict) else {}
    if spec.model is not None and not _contains(cpu.get("model"), spec.model):
        yield f"cpu model: expected {spec.model}, found {_said(cpu.get('model'))}"
    for name in ("sockets", "physical_cores", "logical_cores"):
        wanted = getattr(spec, name)
        if wanted is not None and cpu.get(name) != wanted:
            yield f"cpu {name.replace('_', ' ')}: expected {wanted}, found {_said(cpu.get(name))}"


def _memory(wanted_gib: float, found: object) -> Iterator[str]:
    total = _number(found.get("total_gib")) if isinstance(found, dict) else None
    if total is None or not wanted_gib * MEMORY_LOW <= total <= wanted_gib * MEMORY_HIGH:
        yield f"memory: expected {wanted_gib:g} GiB, found {_said(total)}{' GiB' if total is not None else ''}"


def _psus(wanted: int, found: object, exact: bool) -> Iterator[str]:
    count = len(found) if isinstance(found, list) else None
    if count is None or count < wanted or (exact and count > wanted):
        yield f"psus: expected {wanted}, found {_said(count)}"


def _listed(
    what: str,
    wanted: Sequence[Any],
    inventory: Found,
    fits: Callable[[Any, Found], bool],
    words: Callable[[Any], str],
    exact: bool,
) -> Iterator[str]:
    listed = inventory.get(what)
    if not isinstance(listed, list):
        yield f"{what}: expected {sum(one.count for one in wanted)}, found nothing readable"
        return
    free = [one for one in listed if isinstance(one, dict)]
    # The most exactly described ones choose first, so that "any 960 GB disk" does not take the named one's place.
    for one in sorted(wanted, key=_vagueness):
        taken = [candidate for candidate in free if fits(one, candidate)][: one.count]
        free = [candidate for candidate in free if not any(candidate is other for other in taken)]
        if len(taken) < one.count:
            yield f"{what}: expected {one.count} x {words(one)}, found {len(taken)}"
    for extra in free if exact else ():
        yield f"{what}: found one too many: {_name(extra)}"


def _vagueness(wanted: msgspec.Struct) -> int:
    named = getattr(wanted, "serial", None) or getattr(wanted, "mac", None)
    stated = sum(getattr(wanted, name) is not None for name in wanted.__struct_fields__)
    return -100 * bool(named) - stated


def _disk_fits(wanted: DiskSpec, found: Found) -> bool:
    return (
        (wanted.serial is None or found.get("serial") == wanted.serial)
        and (wanted.model is None or _contains(found.get("model"), wanted.model))
        and (wanted.size_gb is None or _near(_number(found.get("size_gb")), wanted.size_gb))
    )


def _nic_fits(wanted: NicSpec, found: Found) -> bool:
    mac = found.get("mac")
    same = wanted.mac is None or (isinstance(mac, str) and mac.lower() == wanted.mac.lower())
    return same and _at_least(found.get("speed_mbps"), wanted.speed_mbps)


def _gpu_fits(wanted: GpuSpec, found: Found) -> bool:
    named = wanted.model is None or _contains(found.get("model"), wanted.model)
    least = None if wanted.memory_gib is None else wanted.memory_gib * MEMORY_LOW
    return named and _at_least(found.get("memory_gib"), least)


def _disk_words(one: DiskSpec) -> str:
    size = None if one.size_gb is None else f"{one.size_gb:g} GB"
    return _words("disk", one.model, size, one.serial and f"serial {one.serial}")


def _nic_words(one: NicSpec) -> str:
    speed = None if one.speed_mbps is None else f"{one.speed_mbps:g} Mb/s"
    return _words("NIC", speed, one.mac)


def _gpu_words(one: GpuSpec) -> str:
    memory = None if one.memory_gib is None else f"{one.memory_gib:g} GiB"
    return _words("GPU", one.model, memory)


def _words(kind: str, *facts: str | None) -> str:
    return " ".join([kind, *(fact for fact in facts if fact)])


def _name(found: Found) -> str:
    parts = [str(found[key]) for key in ("name", "model", "serial", "mac", "uuid") if found.get(key)]
    return " ".join(parts) or "one without a name"


def _contains(found: object, part: str) -> bool:
    return isinstance(found, str) and part.lower() in found.lower()


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _near(found: float | None, wanted: float) -> bool:
    return found is not None and abs(found - wanted) <= wanted * SIZE_TOLERANCE


def _at_least(found: object, wanted: float | None) -> bool:
    number = _number(found)
    return wanted is None or (number is not None and number >= wanted)


def _said(found: object) -> str:
    return "nothing readable" if found is None else str(found)

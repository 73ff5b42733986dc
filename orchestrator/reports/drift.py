"""What changed on a host between two of its vettings, part by part. Pure: two views of runs in, changes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vetting_agent.run_view import RunView
from vetting_agent.verdict import stage_verdict

Found = Mapping[str, Any]
NOTABLE = 0.10
"""A measurement that changed by less than this part of itself is left out."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "disks": ("serial", "wwn"),
    "nics": ("mac",),
    "gpus": ("uuid",),
    "dimms": ("slot",),
}
ANY_NAME = ("serial", "slot", "mac", "uuid", "name", "address")
"""What tells parts of one kind apart, the surest first. A DIMM is told by its slot: another one there is a change."""
VOLATILE = frozenset({"name", "index"})
"""Numbers that the kernel gives anew at each boot."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: `gone`, `new`, `changed` (a fact of the inventory), `measured`, `verdict`, `finding`."""

    component: str
    kind: str
    what: str
    before: Any = None
    after: Any = None


def drift(before: RunView, after: RunView) -> list[Change]:
    """The changes, those of parts first. `before` is the older run."""
    return [
        *_parts(before.inventory or {}, after.inventory or {}),
        *_verdicts(before, after),
        *_findings(before, after),
        *_measurements(before, after),
    ]


def _parts(before: Found, after: Found) -> Iterator[Change]:
    for section in sorted({*before, *after}):
        old, new = before.get(section), after.get(section)
        if isinstance(old, list) or isinstance(new, list):
            yield from _listed(section, _as_list(old), _as_list(new))
        elif isinstance(old, dict) or isinstance(new, dict):
            yield from _facts(section, _as_dict(old), _as_dict(new))
            for inner in sorted(_lists_in(old) | _lists_in(new)):
                yield from _listed(inner, _as_list(_as_dict(old).get(inner)), _as_list(_as_dict(new).get(inner)))


def _listed(section: str, old: Sequence[Found], new: Sequence[Found]) -> Iterator[Change]:
    olds, news = _by_name(section, old), _by_name(section, new)
    for name in sorted({*olds, *news}):
        component = f"{section}:{name}"
        if name not in news:
            yield Change(component=component, kind="gone", what="part", before=_words(olds[name]))
        elif name not in olds:
            yield Change(component=component, kind="new", what="part", after=_words(news[name]))
        else:
            yield from _facts(component, olds[name], news[name])


def _by_name(section: str, parts: Sequence[Found]) -> dict[str, Found]:
    """Parts by what names them; of two with one name the second gets a number."""
    found: dict[str, Found] = {}
    for part in parts:
        name = next((str(part[key]) for key in (*NAMES.get(section, ()), *ANY_NAME) if part.get(key)), "without a name")
        unique = name
        number = 2
        while unique in found:
            unique, number = f"{name} #{number}", number + 1
        found[unique] = part
    return found


def _facts(component: str, old: Found, new: Found) -> Iterator[Change]:
    for key in sorted({*old, *new} - VOLATILE):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict | list) or isinstance(after, dict | list):
            continue
        if before != after:
            yield Change(component=component, kind="changed", what=key, before=before, after=after)


def _verdicts(before: RunView, after: RunView) -> Iterator[Change]:
    olds = {stage.stage: stage_verdict(stage) for stage in before.stages}
    news = {stage.stage: stage_verdict(stage) for stage in after.stages}
    for name in [*olds, *(name for name in news if name not in olds)]:
        if olds.get(name) != news.get(name):
            change = {"before": olds.get(name), "after": news.get(name)}
            yield Change(component=name, kind="verdict", what="verdict", **change)


def _findings(before: RunView, after: RunView) -> Iterator[Change]:
    olds, news = _found(before), _found(after)
    for component, code in sorted(olds.keys() | news.keys()):
        old, new = olds.get((component, code)), news.get((component, code))
        if old is None or new is None:
            yield Change(component=component, kind="finding", what=code, before=old, after=new)


def _found(run: RunView) -> dict[tuple[str, str], str]:
    summaries = [stage.summary for stage in run.stages if stage.summary is not None]
    return {(one.component, one.reason_code): one.message for summary in summaries for one in summary.findings}


def _measurements(before: RunView, after: RunView) -> Iterator[Change]:
    olds, news = _measured(before), _measured(after)
    for key in sorted(olds.keys() & news.keys()):
        old, new = olds[key], news[key]
        if abs(new - old) > NOTABLE * max(abs(old), abs(new)):
            yield Change(component=key[0], kind="measured", what=f"{key[1]} ({key[2]})", before=old, after=new)


def _measured(run: RunView) -> dict[tuple[str, str, str], float]:
    summaries = [stage.summary for stage in run.stages if stage.summary is not None]
    return {(one.component, one.name, one.unit): one.value for summary in summaries for one in summary.measurements}


def _as_list(found: object) -> list[Found]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _as_dict(found: object) -> Found:
    return found if isinstance(found, dict) else {}


def _lists_in(found: object) -> set[str]:
    return {key for key, value in _as_dict(found).items() if isinstance(value, list)}


def _words(part: Found) -> str:
    return " ".join(str(part[key]) for key in ("vendor", "model", "size_gb", "size_gib") if part.get(key)) or "part"

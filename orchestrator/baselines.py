"""What hosts of one kind measure, and which of them lies far on the wrong side of its siblings. Pure.

A figure is compared with the same figure of the same kind of part in the siblings: the median, and as spread the
median absolute deviation (MAD). Both stand when up to half of the siblings are odd themselves. Sound machines differ
a little, and five of them may by chance differ hardly at all: so the distance that counts has a floor, in parts of
the median, and few siblings widen it. One that is equal to the median is never far from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

FEWEST_SIBLINGS = 5
MAD_TO_DEVIATION = 1.4826
"""Of normally spread figures the standard deviation is so many times the MAD."""
DEVIATIONS = 6.0
FEW = 8.0
"""With n figures the distance is (1 + FEW / n) times as wide: the spread of five tells little."""

Worse = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a measurement is compared. `floor`: the least distance that counts, in parts of the median."""

    worse: Worse
    floor: float
    least: float = 0.0
    """And the least distance in the measurement's own unit."""


RULES: tuple[tuple[str, str, Rule], ...] = (
    ("CPUStress", "bogo_ops_*", Rule("lower", 0.15)),
    ("CPUStress", "memory_copy", Rule("lower", 0.20)),
    ("Storage", "throughput", Rule("lower", 0.20)),
    ("Storage", "write_throughput", Rule("lower", 0.25)),
    ("Storage", "latency_p50", Rule("higher", 0.75, 0.1)),
    ("Storage", "latency_p999", Rule("higher", 2.0, 5.0)),
    ("Network", "throughput_send", Rule("lower", 0.15)),
    ("Network", "throughput_receive", Rule("lower", 0.15)),
)
"""Stage, measurement (`*`: whatever follows) and rule. What is not here says nothing of a host among equals: counters
and hours differ for good reasons, temperatures with the place in the rack, link speeds are judged by the spec."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of one part of one host. `kind` is the same for parts that ought to be equal."""

    host: str
    run_id: int
    stage: str
    name: str
    component: str
    kind: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure beside its siblings'. `limit`: where far begins."""

    figure: Figure
    worse: Worse
    siblings: int
    """Hosts, this one not counted."""
    median: float
    spread: float
    limit: float

    @property
    def is_outlier(self) -> bool:
        if self.worse == "lower":
            return self.figure.value < self.limit
        return self.figure.value > self.limit

    @property
    def text(self) -> str:
        """For people: how far, from what, and among how many."""
        one = self.figure
        times = one.value / self.median if self.median else 0.0
        what = f"{one.value:g} {one.unit} is {times:.0%} of the {self.median:g} {one.unit}"
        return f"{one.name}: {what} that {self.siblings} siblings have in the middle (limit {self.limit:.4g})"


def rule_of(stage: str, name: str) -> Rule | None:
    """How this measurement is compared; None: it is not."""
    for of_stage, pattern, rule in RULES:
        if of_stage == stage and (name == pattern or (pattern[-1] == "*" and name.startswith(pattern[:-1]))):
            return rule
    return None


def compared(own: Iterable[Figure], siblings: Sequence[Figure]) -> list[Comparison]:
    """Each figure of a host beside those of its siblings; those with too few siblings are left out."""
    groups = grouped(siblings)
    found = []
    for figure in own:
        rule = rule_of(figure.stage, figure.name)
        others = [one for one in groups.get(_key(figure), ()) if one.host != figure.host]
        hosts = {one.host for one in others}
        if rule is not None and len(hosts) >= FEWEST_SIBLINGS:
            found.append(_comparison(figure, rule, [one.value for one in others], len(hosts)))
    return found


def grouped(figures: Iterable[Figure]) -> dict[tuple[str, str, str, str], list[Figure]]:
    """By stage, measurement, kind and unit: what may be compared with each other."""
    groups: dict[tuple[str, str, str, str], list[Figure]] = {}
    for one in figures:
        groups.setdefault(_key(one), []).append(one)
    return groups


def _key(figure: Figure) -> tuple[str, str, str, str]:
    return figure.stage, figure.name, figure.kind, figure.unit


def _comparison(figure: Figure, rule: Rule, values: Sequence[float], hosts: int) -> Comparison:
    middle = median(values)
    spread = MAD_TO_DEVIATION * median(abs(value - middle) for value in values)
    distance = max(DEVIATIONS * spread * (1 + FEW / hosts), rule.floor * abs(middle), rule.least)
    limit = middle - distance if rule.worse == "lower" else middle + distance
    return Comparison(figure, rule.worse, hosts, middle, spread, limit)


def kinds_of(inventory: Mapping[str, object] | None) -> dict[str, str]:
    """The kind of each part, by component. A part whose model is not known has none: it is compared with nothing."""
    if inventory is None:
        return {}
    cpu, memory = _object(inventory.get("cpu")), _object(inventory.get("memory"))
    kinds: dict[str, str] = {}
    if cpu.get("model"):
        kinds["cpu"] = f"{cpu['model']} x {cpu.get('logical_cores')}"
        fitted = memory.get("installed_gib") or memory.get("total_gib")
        if isinstance(fitted, int | float):
            kinds["memory"] = f"{cpu['model']}, {round(fitted, -1 if fitted > 100 else 0):g} GiB"
    for one in _objects(inventory.get("disks")):
        if one.get("model") and one.get("size_gb"):
            kinds[f"disk:{one.get('serial') or one.get('name')}"] = f"{one['model']} {one['size_gb']} GB"
    for one in _objects(inventory.get("nics")):
        if one.get("driver") and one.get("speed_mbps"):
            kinds[f"nic:{one.get('mac') or one.get('name')}"] = f"{one['driver']} {one['speed_mbps']} Mb/s"
    return kinds


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

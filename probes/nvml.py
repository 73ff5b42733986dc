"""What NVML says of NVIDIA GPUs, sample by sample.

NVML is asked in a child process (`probes.nvml_child`), since a sick GPU can hang every driver call for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from probes.host import Host
from probes.json_paths import dig, flag, number, parsed, rows
from probes.tools import ToolError, ToolMissing, ToolResult, ToolTimeout, ToolUnkillable

NVML_LIMIT_S = 30.0
"""Without persistence mode the driver starts each GPU on the first call: seconds for eight of them."""
MOST = 1e300
LINK_COUNTS = ("crc_flit", "crc_data", "replay", "recovery", "recovery_failed", "effective")


@dataclass(frozen=True, slots=True)
class NvLink:
    """One NVLink. `active` is None where the state could not be read; a counter is None where it is not counted."""

    number: int
    active: bool | None
    crc_errors: int | None
    replays: int | None = None
    recoveries: int | None = None
    failed_recoveries: int | None = None
    effective_errors: int | None = None
    """Of NVLink 5, which counts these instead of CRC errors: what its forward error correction let through."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What NVML said of one GPU at one moment. A fact is absent from `values` where it is not known."""

    index: int
    values: Mapping[str, Any]
    """By the names in `probes.nvml_facts`."""
    unsupported: frozenset[str]
    """Facts that this GPU or driver does not have. Not the same as 0."""
    errors: Mapping[str, str]
    """Facts that could not be read, with the driver's words; `handle` when the GPU itself is not reachable."""
    nvlinks: tuple[NvLink, ...]
    lost: bool = False
    """A call was answered with "GPU is lost": it left the bus."""
    reset_required: bool = False
    """A call was answered with "GPU requires reset"."""

    @property
    def uuid(self) -> str | None:
        return self.text("uuid")

    @property
    def pci(self) -> str:
        """The PCI address as sysfs writes it."""
        return _sysfs_address(self.text("pci") or "")

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def amount(self, name: str) -> float | None:
        value = self.values.get(name)
        return value if _is_figure(value) else None


def _is_figure(value: Any) -> TypeGuard[float]:
    """A number that can be one: NaN and infinity are not less than any bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


@dataclass(frozen=True, slots=True)
class XidEvent:
    """A fault that the driver told of through NVML's event set. `index`, `pci`: None where it is not known whose."""

    index: int | None
    pci: str | None
    """The PCI address as sysfs writes it."""
    xid: int


@dataclass(frozen=True, slots=True)
class NvmlSample:
    """All GPUs at one moment, and the faults told since the sample before. `time_s` is a monotonic clock."""

    time_s: float
    driver: str | None
    gpus: tuple[GpuFacts, ...]
    events: tuple[XidEvent, ...] = ()
    events_error: str | None = None
    """Why the driver's events could not be waited for; None also where it has none."""


class NvmlUnusable(Exception):
    """NVML did not tell all that it was asked.

    `kind`: no_module, no_library, no_driver, init, hung, crashed, unreadable.
    """

    def __init__(self, kind: str, message: str, seen: tuple[NvmlSample, ...] = (), asked: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.seen = seen
        """The samples that it told before."""
        self.asked = asked
        """The PCI address of the GPU whose facts were being read when it hung or crashed, where that is known."""


async def sample_nvml(
    host: Host,
    *,
    samples: int = 1,
    interval_s: float = 0.0,
    limit_s: float = NVML_LIMIT_S,
    on_sample: Callable[[NvmlSample], None] | None = None,
) -> list[NvmlSample]:
    """Ask NVML `samples` times, `interval_s` apart; `limit_s` is how long it may be silent beside the interval.

    Raises NvmlUnusable, ToolMissing.
    """
    command = (sys.executable, "-I", "-m", "probes.nvml_child", str(samples), str(interval_s))
    silence_s = limit_s + interval_s
    following = _Following(on_sample or (lambda sample: None), silence_s)
    try:
        result = await following.run(host, command, samples * silence_s + limit_s)
    except (TimeoutError, ToolTimeout, ToolUnkillable) as problem:
        text = f"the NVIDIA driver did not answer within {limit_s:.0f} s: a GPU or its driver hangs"
        raise following.unusable("hung", text) from problem
    except ToolMissing:
        raise
    except ToolError as problem:
        words = problem.result.stderr.strip().splitlines()[-1:] if problem.result else []
        text = f"the process that asks NVML died: {problem} {' '.join(words)}".strip()
        raise following.unusable("crashed", text) from problem
    seen = [parse_sample(line) for line in result.stdout.splitlines() if _asking(line) is None]
    if len(seen) != samples:
        raise following.unusable("unreadable", f"NVML was to be read {samples} times, and was {len(seen)} times")
    return seen


@dataclass(slots=True)
class _Following:
    """What the child has said so far, and what it was about to ask."""

    on_sample: Callable[[NvmlSample], None]
    silence_s: float
    seen: list[NvmlSample] = field(default_factory=list)
    asked: str | None = None

    async def run(self, host: Host, command: tuple[str, ...], limit_s: float) -> ToolResult:
        """Run the child and kill it when it has been silent for too long: then TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.silence_s) as patience:

            def on_line(line: str) -> None:
                if not patience.expired():
                    patience.reschedule(loop.time() + self.silence_s)
                self._take(line)

            return await host.tools.run(*command, timeout_s=limit_s, on_line=on_line)

    def _take(self, line: str) -> None:
        asking = _asking(line)
        if asking is not None:
            place = dig(asking, "pci")
            self.asked = _sysfs_address(place) if isinstance(place, str) else None
            return
        with contextlib.suppress(NvmlUnusable):  # judged when the whole output is read
            sample = parse_sample(line)
            self.seen.append(sample)
            self.on_sample(sample)

    def unusable(self, kind: str, message: str) -> NvmlUnusable:
        where = f" (asked of the GPU at PCI {self.asked})" if self.asked else ""
        return NvmlUnusable(kind, message + where, tuple(self.seen), self.asked)


def _asking(line: str) -> Mapping[str, Any] | None:
    """The line by which the child says what it is about to ask; None for any other."""
    if not line.startswith('{"asking"'):
        return None
    with contextlib.suppress(ValueError):
        document = parsed(line)
        return document if isinstance(document, Mapping) else None
    return None


def parse_sample(line: str) -> NvmlSample:
    """One line of `probes.nvml_child`. Raises NvmlUnusable."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise NvmlUnusable("unreadable", f"the NVML reader printed no JSON: {line[:80]!r}") from None
    failure = dig(document, "failure")
    if isinstance(failure, str):
        raise NvmlUnusable(failure, str(dig(document, "message")))
    when = dig(document, "time")
    count = number(dig(document, "count", "value"))
    gpus = tuple(_facts(row) for row in rows(document, "gpus"))
    if not _is_figure(when) or count != len(gpus):
        words = dig(document, "count", "error") or "its output has another form than expected"
        raise NvmlUnusable("unreadable", f"NVML did not list its GPUs: {words}")
    driver = dig(document, "driver", "value")
    why = dig(document, "events", "error")
    return NvmlSample(
        time_s=float(when),
        driver=driver if isinstance(driver, str) else None,
        gpus=gpus,
        events=tuple(_event(row) for row in rows(document, "events", "value")),
        events_error=str(why) if why is not None else None,
    )


def _event(row: object) -> XidEvent:
    place, xid = dig(row, "pci"), number(dig(row, "xid"))
    if xid is None:
        raise NvmlUnusable("unreadable", f"an event without its number: {row!r:.80}")
    return XidEvent(number(dig(row, "index")), _sysfs_address(place) if isinstance(place, str) else None, xid)


def _facts(row: object) -> GpuFacts:
    index = number(dig(row, "index"))
    if not isinstance(row, Mapping) or index is None:
        raise NvmlUnusable("unreadable", f"a GPU without an index: {row!r:.80}")
    facts = {name: fact for name, fact in row.items() if isinstance(fact, Mapping)}
    return GpuFacts(
        index=index,
        values={name: fact["value"] for name, fact in facts.items() if "value" in fact},
        unsupported=frozenset(name for name, fact in facts.items() if fact.get("unsupported") is True),
        errors={name: str(fact["error"]) for name, fact in facts.items() if "error" in fact},
        nvlinks=tuple(_nvlink(link) for link in rows(row, "nvlinks")),
        lost=any(fact.get("lost") is True for fact in facts.values()),
        reset_required=any(fact.get("reset") is True for fact in facts.values()),
    )


def _nvlink(row: object) -> NvLink:
    counts = {name: number(dig(row, "errors", name, "value")) for name in LINK_COUNTS}
    crc = [count for name in ("crc_flit", "crc_data") if (count := counts[name]) is not None]
    return NvLink(
        number=number(dig(row, "link")) or 0,
        active=flag(dig(row, "active", "value")),
        crc_errors=sum(crc) if crc else None,
        replays=counts["replay"],
        recoveries=counts["recovery"],
        failed_recoveries=counts["recovery_failed"],
        effective_errors=counts["effective"],
    )


def _sysfs_address(bus_id: str) -> str:
    """NVML writes 00000000:3B:00.0, sysfs 0000:3b:00.0."""
    domain, _, rest = bus_id.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:
        return bus_id.lower()

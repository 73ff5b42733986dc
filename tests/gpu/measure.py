"""What a real GPU does under the burn, and whether faults made on it are caught: measured, and written to docs/gpu.md.

python -m tests.gpu.measure [--seconds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from probes.host import REAL_ROOT, Host
from probes.tools import Tools
from stages.gpu import STAGE, Options, Readings
from stages.gpu_burn import BurnPlan, Target, burn
from stages.gpu_burn_judge import judge_burn
from stages.outcome import Outcome, ReasonCode
from tests.support.stage_context import Remembering, stage_context

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gpu.md"
KEPT = "## How the checks work"
"""From here on the page is written by hand."""
GOALS: Mapping[str, tuple[float, str]] = {
    "gpu_bf16": (600.0, "≥ 600 TFLOP/s on an H200, by the faster kernel"),
    "gpu_bf16_wgmma": (600.0, "≥ 600 TFLOP/s on an H200"),
    "gpu_copy": (4000.0, "≥ 4,000 GB/s on an H200"),
}
FAULTS: Sequence[tuple[str, Mapping[str, Any], ReasonCode]] = (
    ("nothing planted", {}, ReasonCode.GPU_NOT_LOADED),
    ("one bit flipped in the GPU's memory", {"spoil": {"memory": 4711}}, ReasonCode.GPU_MEMORY_ERROR),
    ("one bit flipped in a result", {"spoil": {"fp32": 4711}}, ReasonCode.GPU_MISCOMPUTE),
    ("kernels that compute one result wrong", {"fault": True}, ReasonCode.GPU_MISCOMPUTE),
    ("a load that leaves the GPU idle four fifths of the time", {"pace": 0.8}, ReasonCode.GPU_SLOW),
)
"""What is done, how the children are told, and what has to be found; the first one is to find nothing."""


@dataclass(slots=True)
class Timed(Remembering):
    """A listener that keeps when each sample came."""

    began: float = field(default_factory=time.monotonic)
    curves: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)

    def sample(self, kind: str, key: str, value: float, unit: str) -> None:
        self.curves.setdefault((kind, key), []).append((time.monotonic() - self.began, value))


@dataclass(frozen=True, slots=True)
class Caught:
    """One planted fault: what was found, and whether it is what should have been."""

    what: str
    said: tuple[str, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Measured:
    outcome: Outcome
    readings: Readings
    curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
    seconds: float
    own_cpu: float
    """CPU seconds of this process, which is what the agent's would be."""
    children_cpu: float
    caught: tuple[Caught, ...]


async def measure(host: Host, folder: Path, seconds: float, planted_s: float) -> Measured:
    """The stage as it is, then each planted fault on the first GPU."""
    options = Options(duration_s=seconds, interval_s=max(0.1, min(1.0, seconds / 20)))
    context, _ = stage_context(folder / "stage", host)
    listener = Timed()
    began, own, others = time.monotonic(), _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    readings = await STAGE.run(replace(context, listener=listener), options)
    took = time.monotonic() - began
    own, others = _cpu(resource.RUSAGE_SELF) - own, _cpu(resource.RUSAGE_CHILDREN) - others
    outcome = STAGE.judge(readings, options)
    caught = [await plant(host, folder, readings.targets[0], planted_s, *fault) for fault in FAULTS]
    return Measured(outcome, readings, listener.curves, took, own, others, tuple(caught))


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


async def plant(
    host: Host, folder: Path, target: Target, seconds: float, what: str, how: Mapping[str, Any], code: ReasonCode
) -> Caught:
    """One fault made on purpose. Nothing is left of it: it is in memory that is given back."""
    context, _ = stage_context(folder / "planted", host)
    said = await burn(context, [target], BurnPlan(seconds, extra=how))
    found = judge_burn(said, {target.pci: target.uuid}, 0.9).findings
    lines = tuple(
        f"`{one.reason_code}`: {one.message}" + (f" ({one.evidence})" if one.evidence else "") for one in found
    )
    right = {one.reason_code for one in found} == {code} if how else not found
    return Caught(what, lines, right)


def page(measured: Measured, when: str) -> str:
    """The text of docs/gpu.md."""
    names = sorted({one.name for one in measured.readings.burned if one.name})
    driver = measured.outcome.tool_versions.get("NVIDIA driver", "")
    rows = [
        "# What the burn does on a GPU",
        "",
        f"Written by `tests/gpu/run` on {when}, on {', '.join(names) or 'no GPU'}, driver {driver}. "
        f"The verdict of the stage: **{measured.outcome.verdict}**.",
        "",
        "| figure | component | value | floor | goal |",
        "|---|---|---|---|---|",
        *(_row(one) for one in measured.outcome.measurements if one.name.startswith("gpu_")),
        *_memory_rows(measured),
        f"| CPU of the agent's process | | {measured.own_cpu / measured.seconds:.2f} cores | | ≤ 1 core |",
        f"| CPU of the load's processes | | {measured.children_cpu / measured.seconds:.2f} cores | | |",
        "",
        *(f"- {one.severity}: `{one.reason_code}` {one.message}" for one in measured.outcome.findings),
        "",
        "## Faults made on purpose",
        "",
        "| what was done | what was said | right |",
        "|---|---|---|",
        *(
            f"| {one.what} | {'; '.join(one.said) or 'nothing'} | {'yes' if one.right else '**no**'} |"
            for one in measured.caught
        ),
        "",
        "## Curves",
        "",
        *(f"![{kind}](pictures/gpu-{kind}.svg)" for kind in ("power", "temperature", "clock") if _of(measured, kind)),
        "",
    ]
    return "\n".join(rows)


def _row(one: Any) -> str:
    goal = GOALS.get(one.name, (0.0, ""))[1]
    limit = "" if one.limit is None else f"{one.limit:g}"
    return f"| {one.name} | {one.component} | {one.value:,.4g} {one.unit} | {limit} | {goal} |"


def _memory_rows(measured: Measured) -> list[str]:
    tests = [one for said in measured.readings.burned for one in said.results if one.test == "memory" and one.free]
    return [
        f"| memory tested | | {one.bytes / one.free:.1%} of what was free, {one.rounds} rounds of all patterns in "
        f"{one.seconds:.1f} s | 90 % | ≥ 90 % in ≤ 2 min |"
        for one in tests
    ]


def _of(measured: Measured, kind: str) -> dict[str, Sequence[tuple[float, float]]]:
    return {key: curve for (name, key), curve in measured.curves.items() if name == kind and len(curve) > 1}


def chart(title: str, unit: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over time as SVG, from zero."""
    wide, high, left, low = 720, 260, 56, 30
    last = max(moment for curve in curves.values() for moment, _ in curve) or 1.0
    most = max(value for curve in curves.values() for _, value in curve) or 1.0

    def point(moment: float, value: float) -> str:
        x, y = left + moment / last * (wide - left - 10), high - low - value / most * (high - low - 24)
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<polyline fill="none" stroke="hsl({47 * number % 360},70%,40%)" stroke-width="1.5" points="'
        + " ".join(point(*one) for one in curve)
        + f'"><title>{escape(key)}</title></polyline>'
        for number, (key, curve) in enumerate(curves.items())
    ]
    text = 'font-family="sans-serif" font-size="12" fill="#555"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}">',
            f'<rect width="{wide}" height="{high}" fill="white"/>',
            f'<text x="{left}" y="16" {text}>{escape(title)}, {escape(unit)}</text>',
            f'<text x="4" y="28" {text}>{most:.0f}</text><text x="4" y="{high - low}" {text}>0</text>',
            f'<text x="{wide - 60}" y="{high - 8}" {text}>{last:.0f} s</text>',
            f'<path d="M{left} 24V{high - low}H{wide - 10}" fill="none" stroke="#999"/>',
            *lines,
            "</svg>",
            "",
        ]
    )


def write(measured: Measured, out: Path, when: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures = out.parent / "pictures"
    for kind, unit in (("power", "W"), ("temperature", "°C"), ("clock", "MHz")):
        if curves := _of(measured, kind):
            pictures.mkdir(exist_ok=True)
            (pictures / f"gpu-{kind}.svg").write_text(chart(kind, unit, curves))
    out.write_text(page(measured, when) + kept(out))


def kept(out: Path) -> str:
    """What the page says of how it all works, which no measurement changes."""
    text = out.read_text() if out.exists() else ""
    start = text.find(KEPT)
    return f"\n{text[start:]}" if start >= 0 else ""


def main(arguments: Sequence[str]) -> int:
    """0 when the stage passed, the goals were reached and each planted fault was found; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--out", type=Path, default=PAGE)
    chosen = parser.parse_args(arguments)
    host = Host(root=REAL_ROOT, tools=Tools.of_environment(REAL_ROOT / "proc"))
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(_measured(host, Path(folder), chosen.seconds))
    if measured is None:
        print("There is no NVIDIA GPU here that its driver shows: nothing was measured, and the page is as it was.")
        return 2
    write(measured, chosen.out, time.strftime("%Y-%m-%d", time.gmtime()))
    print(
        f"{chosen.out}: {measured.outcome.verdict}; " + "; ".join(f"{one.what}: {one.right}" for one in measured.caught)
    )
    return 0 if measured.outcome.passed and all(one.right for one in measured.caught) else 1


async def _measured(host: Host, folder: Path, seconds: float) -> Measured | None:
    context, _ = stage_context(folder / "look", host)
    look = await STAGE.run(context, Options(duration_s=0.1, interval_s=0.1, load=False))
    if not any(gpu.pci for sample in look.samples for gpu in sample.gpus):
        return None
    return await measure(host, folder, seconds, planted_s=20.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Line charts over time as inline SVG. Pure: series in, markup out.

The lines are SVG that stretches to the width of the page; every label is HTML placed in per cent over it, so that text
keeps its size on a phone and on paper. Colours come from the page's style sheet, by class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vetting_agent.printable import clock, figure, printable
from vetting_agent.report import CELSIUS, Report, Series

HUES = 7
"""So many lines get a colour of their own; the rest are drawn thin and grey."""
WIDTH = 1000.0
HEIGHT = 200.0
TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Subject:
    """One chart: which units belong on it. `from_zero` starts its axis at nought, as amounts deserve."""

    name: str
    units: frozenset[str]
    nothing: str
    from_zero: bool = True


SUBJECTS = (
    Subject(
        "Temperature",
        CELSIUS,
        "No temperature sensor of this machine reported during this run.",
        from_zero=False,
    ),
    Subject("Power", frozenset({"W"}), "No power sensor of this machine reported during this run."),
    Subject(
        "Clock",
        frozenset({"Hz", "kHz", "MHz", "GHz"}),
        "No clock frequencies were reported during this run.",
    ),
    Subject("Load", frozenset({"%"}), "No load was measured during this run."),
    Subject(
        "Throughput",
        frozenset({"B/s", "kB/s", "MB/s", "GB/s", "MiB/s", "GiB/s", "bit/s", "Mb/s", "Gb/s", "Mbit/s", "Gbit/s"}),
        "No throughput was measured during this run.",
    ),
)


@dataclass(frozen=True, slots=True)
class Band:
    """The time during which a stage ran, in seconds since the run began."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its ends and the values at which it is labelled."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """Where `value` lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def value_axis(low: float, high: float, *, from_zero: bool, steps: int = 4) -> Axis:
    """An axis with round labels that holds `low` and `high`."""
    if from_zero:
        low = min(0.0, low)
    if high - low < 1e-9:
        high = low + max(1.0, abs(low) * 0.1)
    step = _round_step((high - low) / steps)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(round(number * step, 9) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _round_step(raw: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `raw`."""
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)


def time_axis(end_s: float, steps: int = 6) -> Axis:
    """An axis from 0 to `end_s` with labels at whole minutes or hours."""
    end_s = max(end_s, 1.0)
    step = next((step for step in TIME_STEPS_S if end_s / step <= steps), TIME_STEPS_S[-1])
    return Axis(0.0, end_s, tuple(float(tick) for tick in range(0, int(end_s) + 1, step)))


def segments(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points in runs without a gap: a line must not bridge a time in which nothing was measured."""
    if not points:
        return []
    gaps = sorted(later[0] - earlier[0] for earlier, later in itertools.pairwise(points))
    limit = max(10.0, 3.0 * gaps[len(gaps) // 2]) if gaps else 10.0
    parts = [[points[0]]]
    for earlier, later in itertools.pairwise(points):
        if later[0] - earlier[0] > limit:
            parts.append([])
        parts[-1].append(later)
    return parts


def bands_of(report: Report, seconds_of: dict[str, tuple[float, float]]) -> list[Band]:
    """The bands of the stages that ran, in order of time."""
    bands = [Band(stage.stage, *seconds_of[stage.stage]) for stage in report.stages if stage.stage in seconds_of]
    return sorted(bands, key=lambda band: band.start)


def chart(subject: Subject, series: Sequence[Series], bands: Sequence[Band], end_s: float) -> list[str]:
    """The figures of one subject, one for each unit; a sentence where nothing was measured."""
    wanted = [one for one in series if one.unit in subject.units and one.points]
    if not wanted:
        return [f'<p class="empty">{escape(subject.nothing)}</p>']
    units = sorted({one.unit for one in wanted})
    return [_figure(subject, unit, [one for one in wanted if one.unit == unit], bands, end_s) for unit in units]


def _figure(subject: Subject, unit: str, series: Sequence[Series], bands: Sequence[Band], end_s: float) -> str:
    ranked = sorted(series, key=lambda one: -max(value for _, value in one.points))
    values = [value for one in ranked for _, value in one.points]
    across = time_axis(max(end_s, *(one.points[-1][0] for one in ranked)))
    up = value_axis(min(values), max(values), from_zero=subject.from_zero)
    grid = "".join(_grid_line(up, tick) for tick in up.ticks)
    lines = "".join(_line(one, number, across, up) for number, one in reversed(list(enumerate(ranked))))
    unit_shown = escape(printable("°C" if unit in CELSIUS else unit))
    label = f"{escape(subject.name)} in {unit_shown} over the time since the start"
    return (
        f'<figure class="chart"><figcaption>{escape(subject.name)} <span class="unit">{unit_shown}</span></figcaption>'
        f'<div class="plot"><div class="bands">{"".join(_band(band, across) for band in bands)}</div>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{grid}{lines}</svg>"
        f'<div class="y">{"".join(_y_label(up, tick) for tick in up.ticks)}</div>'
        f'<div class="x">{"".join(_x_label(across, tick) for tick in across.ticks)}</div></div>'
        f'<p class="axis">time since the start of the run, minutes:seconds</p>{_legend(ranked)}</figure>'
    )


def _band(band: Band, across: Axis) -> str:
    left = 100 * across.part(max(0.0, band.start))
    width = max(0.3, 100 * across.part(min(band.end, across.high)) - left)
    name = f"<span>{escape(printable(band.name))}</span>" if width >= 6 else ""
    return f'<div class="band" style="left:{left:.2f}%;width:{width:.2f}%">{name}</div>'


def _grid_line(up: Axis, tick: float) -> str:
    y = HEIGHT * (1 - up.part(tick))
    return f'<line class="grid" x1="0" x2="{WIDTH:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _line(series: Series, number: int, across: Axis, up: Axis) -> str:
    hue = f"hue{number}" if number < HUES else "other"
    return "".join(_path(part, hue, across, up) for part in segments(series.points))


def _path(points: Sequence[tuple[float, float]], hue: str, across: Axis, up: Axis) -> str:
    placed = [(WIDTH * across.part(at), HEIGHT * (1 - up.part(value))) for at, value in points]
    if len(placed) == 1:  # a line of no length still shows, thanks to its round ends
        placed *= 2
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return f'<polyline class="line {hue}" points="{drawn}"/>'


def _y_label(up: Axis, tick: float) -> str:
    return f'<span style="bottom:{100 * up.part(tick):.2f}%">{figure(tick)}</span>'


def _x_label(across: Axis, tick: float) -> str:
    return f'<span style="left:{100 * across.part(tick):.2f}%">{clock(tick)}</span>'


def _legend(ranked: Sequence[Series]) -> str:
    rows = "".join(_legend_row(one, number) for number, one in enumerate(ranked[:HUES]))
    rest = ranked[HUES:]
    if rest:
        low = min(value for one in rest for _, value in one.points)
        high = max(value for one in rest for _, value in one.points)
        rows += f'<li class="other"><i></i>{len(rest)} more <b>{figure(low)} – {figure(high)}</b></li>'
    return f'<ul class="legend">{rows}</ul>'


def _legend_row(series: Series, number: int) -> str:
    values = [value for _, value in series.points]
    name = escape(printable(series.key or series.kind))
    return f'<li class="hue{number}"><i></i>{name} <b>{figure(min(values))} – {figure(max(values))}</b></li>'

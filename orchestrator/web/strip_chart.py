"""One dot a host on one line of values, with median and limit: places for the SVG that a template draws."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.peers import Baseline

WIDTH, LEFT, RIGHT, TOP, ROWS, ROW = 640.0, 12.0, 12.0, 14.0, 5, 9.0


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    title: str
    outlier: bool
    run_id: int


@dataclass(frozen=True, slots=True)
class StripChart:
    """All in the SVG's own units. `median` and `limit` are None with too few siblings."""

    width: float
    height: float
    dots: list[Dot]
    median: float | None
    limit: float | None
    low: float
    """The value at the left end, and that at the right."""
    high: float


def strip_chart(chart: Baseline) -> StripChart:
    """The places of a chart's points."""
    values = [point.value for point in chart.points]
    marks = [*values, *(value for value in (chart.median, chart.limit) if value is not None)]
    low, high = min(marks, default=0.0), max(marks, default=1.0)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - 0.05 * span, high + 0.05 * span

    def place(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    dots = [
        Dot(
            x=place(point.value),
            y=TOP + ROW * (number % ROWS),
            title=f"{point.host} {point.component}: {point.value:g} {chart.unit}",
            outlier=point.outlier,
            run_id=point.run_id,
        )
        for number, point in enumerate(chart.points)
    ]
    return StripChart(
        width=WIDTH,
        height=TOP + ROW * ROWS + 6,
        dots=dots,
        median=None if chart.median is None else place(chart.median),
        limit=None if chart.limit is None else place(chart.limit),
        low=low,
        high=high,
    )

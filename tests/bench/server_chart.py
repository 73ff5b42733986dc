"""One picture: bars of the server's CPU time for a call, by the number of hosts. Plain SVG, on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping

WIDTH, BAR, GAP, LEFT, RIGHT, TOP = 640, 26, 12, 110, 90, 44
INK, FILL = "#7a8794", "#2f7fd1"
"""Both are seen on white and on black."""


def chart(values: Mapping[int, float]) -> str:
    """`values`: microseconds by hosts, in the order of the bars."""
    longest = max(values.values())
    height = TOP + len(values) * (BAR + GAP)
    bars = "".join(_bar(number, hosts, us, longest) for number, (hosts, us) in enumerate(values.items()))
    title = "CPU time of the server for one call, by the number of hosts"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"'
        f' font-family="sans-serif" font-size="14" fill="{INK}"><title>{title}</title>'
        f'<text x="{LEFT}" y="24">{title}</text>{bars}</svg>\n'
    )


def _bar(number: int, hosts: int, us: float, longest: float) -> str:
    top = TOP + number * (BAR + GAP)
    width = round((WIDTH - LEFT - RIGHT) * us / longest, 1)
    middle = top + BAR / 2 + 5
    return (
        f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{hosts:,} hosts</text>'
        f'<rect x="{LEFT}" y="{top}" width="{width}" height="{BAR}" rx="3" fill="{FILL}"/>'
        f'<text x="{LEFT + width + 8}" y="{middle}">{us:.0f} µs</text>'
    )

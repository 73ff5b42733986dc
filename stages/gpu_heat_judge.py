"""What a GPU's temperatures, power limit and throttling say of it. Readings in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from stages.gpu_case import Case
from stages.outcome import Finding, ReasonCode

# Bits of NVML's clock event reasons that mean "held down for heat or by the board", not for power or by choice.
HELD_DOWN = {0x08: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}
# Counters of the seconds for which clocks were held down. Time at the power limit is no fault, and none of these.
HELD_DOWN_TIMES = {
    "thermal_violation": "thermal violation time",
    "software_thermal_time": "software thermal time",
    "hardware_thermal_time": "hardware thermal time",
    "power_brake_time": "power brake time",
}
CAPPED = 0.9
"""A power limit below this part of the usual one is told of."""


def judge(case: Case) -> Iterator[Finding]:
    yield from _temperatures(case)
    percent, how = throttled(case)
    if percent is not None and percent > case.limits.throttled_percent:
        text = f"its clocks were held down for {percent:.0f} % of the stage ({how})"
        yield case.error(ReasonCode.GPU_THROTTLED, text, f"limit {case.limits.throttled_percent:.0f} %")
    limit, usual = case.amount("power_limit"), case.amount("power_limit_default")
    if limit is not None and usual and limit < CAPPED * usual:
        text = f"its power limit is set to {limit:.0f} W, {usual:.0f} W is usual: it will be slower than others"
        yield case.warning(ReasonCode.GPU_THROTTLED, text)


def _temperatures(case: Case) -> Iterator[Finding]:
    hottest, slowdown = case.highest("temperature"), case.amount("temperature_slowdown")
    margins, last_margin = case.all("temperature_margin"), case.amount("slowdown_margin")
    if hottest is not None and slowdown and hottest >= slowdown:
        text = f"{hottest:.0f} °C, it slows itself down at {slowdown:.0f} °C"
        yield case.error(ReasonCode.GPU_OVERHEATED, text)
    elif margins and last_margin is not None and min(margins) <= last_margin:
        text = f"it came to the temperature at which it slows itself down (margin {min(margins):.0f} °C)"
        yield case.error(ReasonCode.GPU_OVERHEATED, text)
    memory, most = case.highest("memory_temperature"), case.amount("temperature_memory_max")
    if memory is not None and most and memory >= most:
        text = f"its memory came to {memory:.0f} °C, {most:.0f} °C is the most at which it may run"
        yield case.error(ReasonCode.GPU_OVERHEATED, text)


def throttled(case: Case) -> tuple[float | None, str]:
    """Percent of the time, by the counters of time and by the samples: the greatest of them."""
    masks = [int(mask) for mask in case.all("throttle_reasons")]
    held = [mask for mask in masks if any(mask & bit for bit in HELD_DOWN)]
    words = sorted({word for mask in held for bit, word in HELD_DOWN.items() if mask & bit})
    shares = [(100 * len(held) / len(masks), ", ".join(words))] if masks else []
    if case.seconds > 0:
        gains = ((case.gained(fact), words) for fact, words in HELD_DOWN_TIMES.items())
        shares += [(min(100.0, 100 * gain / case.seconds), words) for gain, words in gains if gain is not None]
    return max(shares, default=(None, ""), key=lambda share: share[0] or 0.0)

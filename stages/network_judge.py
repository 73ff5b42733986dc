"""Judges network ports by their links, error counters and measured flows. Pure: no reading, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from probes.links import Port
from stages import network_extras
from stages.network_readings import FlowReading, PortReading, carried
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning

BUSY_CPU = 95.0
THREADED_SINCE = (3, 16)
"""From this version on iperf3 runs each stream in a thread of its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as sound. Shares are parts of 1."""

    throughput_share: float
    path_mbps: float | None
    errors_per_minute: float
    retransmit_warning: float
    retransmit_failure: float
    transceiver_alarms_fail: bool = False
    pauses_per_second: float = 1000.0
    neighbors: Mapping[str, str] = field(default_factory=dict)
    """The neighbour that is expected, by MAC address: "SYSTEM" or "SYSTEM/PORT"."""


Judged = tuple[list[Finding], list[Measurement]]


def judge_port(reading: PortReading, limits: Limits) -> Judged:
    """Findings and measurements of one port."""
    findings = [*reading.problems, *_judge_link(reading), *network_extras.judge(reading, limits)]
    measurements: list[Measurement] = []
    if reading.speed_mbps is not None and reading.port.carrier:
        measurements.append(Measurement("link_speed", reading.port.component, float(reading.speed_mbps), "Mb/s"))
    measurements += network_extras.measured(reading)
    for part in (_judge_counters(reading, limits), *_judge_flows(reading, limits)):
        findings += part[0]
        measurements += part[1]
    return findings, measurements


def judge_absent(expected: Iterable[str], boot_mac: str | None, present: Iterable[Port]) -> list[Finding]:
    """Findings for ports that should be here and are not."""
    macs = {mac for port in present for mac in port.macs}
    found = [
        error(ReasonCode.NET_LINK_DOWN, f"nic:{mac}", f"Network port {mac} is expected here and was not found")
        for mac in expected
        if mac not in macs
    ]
    if boot_mac is not None and boot_mac not in macs:
        text = f"No network port here has the MAC address {boot_mac} that the host is said to have booted from"
        found.append(warning(ReasonCode.NET_LINK_DOWN, f"nic:{boot_mac}", text))
    return found


def _judge_link(reading: PortReading) -> list[Finding]:
    port = reading.port
    if not port.carrier:
        text = f"{port.name} has no link"
        if reading.needed:
            return [error(ReasonCode.NET_LINK_DOWN, port.component, f"{text}, and it should be in use")]
        return [info(ReasonCode.NET_LINK_DOWN, port.component, f"{text}; it is not expected to have one")]
    if port.virtual:
        return []
    return [*_judge_duplex(reading), *_judge_speed(reading)]


def _judge_duplex(reading: PortReading) -> list[Finding]:
    duplex = (reading.offer.duplex if reading.offer else None) or reading.port.duplex
    # There is no half duplex at 1 Gb/s and up; drivers of USB adapters (cdc_ncm) say so all the same.
    if duplex != "half" or (reading.speed_mbps or 0) >= 1000:
        return []
    text = f"{reading.port.name} runs at half duplex"
    return [error(ReasonCode.NET_LINK_DEGRADED, reading.port.component, text)]


def _judge_speed(reading: PortReading) -> list[Finding]:
    port, offer, speed = reading.port, reading.offer, reading.speed_mbps
    if speed is None:
        text = (
            f"{port.name} has a link, and its driver does not say how fast: neither that nor its throughput is judged"
        )
        return [warning(ReasonCode.NET_LINK_DEGRADED, port.component, text)]
    if offer is None:
        return []
    common, own = offer.best_common_mbps(), offer.best_own_mbps()
    if common is not None and speed < common:
        text = f"{port.name} runs at {speed} Mb/s, though both ends offer {common} Mb/s"
        return [error(ReasonCode.NET_LINK_DEGRADED, port.component, text)]
    if common is None and own is not None and speed < own:
        text = f"{port.name} runs at {speed} Mb/s and could do {own} Mb/s; what the other end offers is not shown"
        return [warning(ReasonCode.NET_LINK_DEGRADED, port.component, text)]
    return []


def _judge_counters(reading: PortReading, limits: Limits) -> Judged:
    port, before, after = reading.port, reading.before, reading.after
    if before is None or after is None:
        text = f"{port.name} vanished during the test" if before else f"The counters of {port.name} cannot be read"
        code = ReasonCode.NET_LINK_DOWN if before else ReasonCode.PROBE_ERROR
        return [error(code, port.component, text)], []
    gained = _gained(reading)
    new = sum(gained.values())
    rate = new / (reading.watched_s / 60) if reading.watched_s > 0 else 0.0
    bad = bool(reading.flows) and rate > limits.errors_per_minute
    limit = limits.errors_per_minute if reading.flows else None
    measured = [Measurement("link_errors", port.component, rate, "1/min", limit, None if limit is None else not bad)]
    if new == 0:
        return _began_anew(reading), measured
    evidence = ", ".join(f"{name} +{count}" for name, count in gained.items() if count)
    text = f"{port.name} counted {new} link errors in {reading.watched_s:.0f} s ({evidence})"
    found = (error if bad else warning)(ReasonCode.NET_ERRORS, port.component, text, evidence)
    return [found, *_began_anew(reading)], measured


def _began_anew(reading: PortReading) -> list[Finding]:
    """Counters that are lower than before, or gone: what they counted meanwhile is not known."""
    before, after = reading.before, reading.after
    assert before is not None
    assert after is not None
    names = ("crc", "frame", "carrier", "carrier_changes", "rx_bytes", "tx_bytes")
    lost = [name for name in names if getattr(after, name) < getattr(before, name)]
    lost += network_extras.lost_counters(reading)
    if not lost:
        return []
    text = f"Counters of {reading.port.name} began anew or went away during the test: {', '.join(lost)}"
    return [warning(ReasonCode.NET_ERRORS, reading.port.component, text)]


def _gained(reading: PortReading) -> dict[str, int]:
    """Errors by kind. A driver's own count of damaged frames may go beyond the kernel's, never add to it."""
    before, after = reading.before, reading.after
    assert before is not None
    assert after is not None
    gained = {name: max(0, getattr(after, name) - getattr(before, name)) for name in ("crc", "frame", "carrier")}
    gained["crc"] = max(gained["crc"], network_extras.gained(reading, "crc"))
    gained["link changes"] = max(0, after.carrier_changes - before.carrier_changes)
    gained["uncorrectable FEC blocks"] = network_extras.gained(reading, "fec_uncorrectable")
    return gained


def _judge_flows(reading: PortReading, limits: Limits) -> list[Judged]:
    judged = [_judge_flow(reading, direction, flow, limits) for direction, flow in reading.flows.items()]
    at_once = [_judge_at_once(reading, direction, flow, limits) for direction, flow in reading.at_once.items()]
    return [*judged, *at_once, _at_once_untested(reading), _judge_retransmits(reading, limits)]


def _at_once_untested(reading: PortReading) -> Judged:
    if not reading.at_once_problem:
        return [], []
    text = f"{reading.port.name} was not tested both ways at once: {reading.at_once_problem}"
    return [warning(ReasonCode.IPERF_UNREACHABLE, reading.port.component, text)], []


def _judge_at_once(reading: PortReading, direction: str, measured: FlowReading, limits: Limits) -> Judged:
    """A link that does each way alone and not both is a warning: the fault may be this host's bus or the other end."""
    port, flow = reading.port, measured.flow
    limit = _throughput_limit(reading, limits) if carried(measured) and not _cpu_bound(measured) else None
    ok = None if limit is None else flow.mbps >= limit
    measurement = Measurement(f"throughput_{direction}_at_once", port.component, flow.mbps, "Mb/s", limit, ok)
    alone = reading.flows.get(direction)
    if limit is None or ok or alone is None or alone.flow.mbps < limit:
        return [], [measurement]
    verb = "sends" if direction == "send" else "receives"
    text = f"{port.name} {verb} only {flow.mbps:.0f} Mb/s while it does the other at once; {limit:.0f} Mb/s expected"
    return [warning(ReasonCode.NET_THROUGHPUT_LOW, port.component, text)], [measurement]


def _judge_flow(reading: PortReading, direction: str, measured: FlowReading, limits: Limits) -> Judged:
    port, flow = reading.port, measured.flow
    limit = _throughput_limit(reading, limits)
    ok = None if limit is None else flow.mbps >= limit
    measurement = Measurement(f"throughput_{direction}", port.component, flow.mbps, "Mb/s", limit, ok)
    if not carried(measured):
        text = f"The {direction} test of {port.name} went over another port: its counter moved only "
        text += f"{measured.counted_bytes or 0} of {flow.bytes_moved} bytes"
        finding = error(ReasonCode.NET_THROUGHPUT_NOT_TESTED, port.component, text)
        return [finding], [Measurement(measurement.name, port.component, flow.mbps, "Mb/s")]
    if limit is None or ok:
        return [], [measurement]
    if _cpu_bound(measured):
        text = f"{port.name} reached {flow.mbps:.0f} of at least {limit:.0f} Mb/s ({direction}), but a CPU was the "
        text += f"limit, not the link (busy: {flow.own_cpu:.0f} % here, {flow.peer_cpu:.0f} % at the other end)"
        return [error(ReasonCode.NET_THROUGHPUT_NOT_TESTED, port.component, text)], [measurement]
    verb = "sends" if direction == "send" else "receives"
    slower = limits.path_mbps is not None and limits.path_mbps < (reading.speed_mbps or 0)
    what = f"path of {limits.path_mbps:.0f}" if slower else f"link of {reading.speed_mbps}"
    text = f"{port.name} {verb} {flow.mbps:.0f} Mb/s; a {what} Mb/s should reach {limit:.0f} Mb/s"
    return [error(ReasonCode.NET_THROUGHPUT_LOW, port.component, text)], [measurement]


def _throughput_limit(reading: PortReading, limits: Limits) -> float | None:
    """None: measured only, for a virtual port or where the speed is not known."""
    if reading.port.virtual or reading.speed_mbps is None:
        return None
    path = limits.path_mbps if limits.path_mbps is not None else float(reading.speed_mbps)
    return limits.throughput_share * min(path, float(reading.speed_mbps))


def _cpu_bound(reading: FlowReading) -> bool:
    version = tuple(int(part) for part in reading.flow.version.split(".")[:2] if part.isdigit())
    threads = reading.streams if version >= THREADED_SINCE else 1
    return max(reading.flow.own_cpu, reading.flow.peer_cpu) >= BUSY_CPU * threads


def _judge_retransmits(reading: PortReading, limits: Limits) -> Judged:
    port = reading.port
    shares = {way: share for way, flow in reading.flows.items() if (share := flow.flow.retransmit_share) is not None}
    measured = [
        Measurement(f"retransmits_{way}", port.component, 100 * share, "%", 100 * limits.retransmit_warning,
                    share <= limits.retransmit_warning)
        for way, share in shares.items()
    ]  # fmt: skip
    worst = max(shares.values(), default=0.0)
    if worst <= limits.retransmit_warning:
        return [], measured
    text = f"TCP had to send {100 * worst:.2f} % of the segments over {port.name} again"
    errors = sum(_gained(reading).values()) if reading.after and reading.before else 0
    if worst > limits.retransmit_failure and errors > 0:
        return [error(ReasonCode.NET_RETRANSMITS, port.component, f"{text}, and its link counted errors")], measured
    return [warning(ReasonCode.NET_RETRANSMITS, port.component, text)], measured

"""The outcome for all network ports together: what was tested, what was not, and whether that matters. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stages import network_extras
from stages.network_judge import Limits, judge_absent, judge_port
from stages.network_readings import NetworkReadings, PortReading, ServerMissing, Untested
from stages.outcome import Finding, Outcome, ReasonCode, Severity, error, info

NOT_TESTED = "Throughput not tested: "


def judge(
    readings: NetworkReadings, limits: Limits, expected: Sequence[str], throughput_required: bool | None
) -> Outcome:
    """`expected` are MAC addresses in lower case; `throughput_required` as the stage's option."""
    ports = readings.ports
    absent = judge_absent(expected, readings.boot_mac, [one.port for one in ports])
    if not ports:
        text = "No network port was found"
        return Outcome(text, (*absent, error(ReasonCode.NOTHING_TO_TEST, "network", text)))
    judged = [judge_port(reading, limits) for reading in ports]
    findings = [
        *absent,
        *(finding for found, _ in judged for finding in found),
        *untested(readings, throughput_required),
        *network_extras.same_addresses(ports),
        *network_extras.unheard(ports, limits),
        *_silence(readings, limits),
    ]
    versions = sorted({flow.flow.version for reading in ports for flow in reading.flows.values()})
    return Outcome(
        headline=_headline(ports, findings),
        findings=tuple(findings),
        measurements=tuple(measurement for _, measured in judged for measurement in measured),
        coverage={reading.port.component: reading.coverage for reading in ports},
        tool_versions={"libiperf": ", ".join(versions)} if versions else {},
    )


def untested(readings: NetworkReadings, required: bool | None) -> Iterator[Finding]:
    """A finding for each port that no traffic was sent over."""
    ports, server = readings.ports, readings.server
    driven = any(one.untested is None for one in ports) or (
        server is not None and any(one.port.carrier for one in ports)
    )
    needed = Severity.WARNING if required is False else Severity.ERROR
    for one in ports:
        if one.unreachable:
            yield Finding(ReasonCode.IPERF_UNREACHABLE, needed, one.port.component, NOT_TESTED + one.unreachable)
        if one.untested is None:
            continue
        if one.untested is Untested.NO_SERVER and server is not None:
            yield _without_server(one, server, required)
            continue
        severity = Severity.WARNING if one.untested is Untested.SHARED else Severity.INFO
        # With no port driven at all, "no route" is no detail of one port any more.
        text = NOT_TESTED + one.untested_why
        severity = severity if driven else needed
        yield Finding(ReasonCode.NET_THROUGHPUT_NOT_TESTED, severity, one.port.component, text)


def _without_server(reading: PortReading, server: ServerMissing, required: bool | None) -> Finding:
    lax = required is False or (required is None and server.own_host)
    severity = Severity.WARNING if lax and not server.ours else Severity.ERROR
    return Finding(server.reason_code, severity, reading.port.component, server.message, server.evidence)


def _silence(readings: NetworkReadings, limits: Limits) -> Iterator[Finding]:
    """Why nothing was heard, where something should have been."""
    if readings.listening_problem and limits.neighbors:
        text = f"Neighbours could not be listened for: {readings.listening_problem}"
        yield info(ReasonCode.NET_NEIGHBOR_UNSEEN, "network", text)


def _headline(readings: Sequence[PortReading], findings: Sequence[Finding]) -> str:
    up = sum(reading.port.carrier for reading in readings)
    ports = f"{len(readings)} network port{'s' if len(readings) != 1 else ''}, {up} with a link"
    flows = [
        f"{reading.port.name} "
        + " and ".join(f"{flow.flow.mbps:.0f} Mb/s {way}" for way, flow in reading.flows.items())
        for reading in readings
        if reading.flows
    ]
    if flows:
        return f"{ports}; {', '.join(flows)}"
    reasons = sorted(
        (finding for finding in findings if finding.message.startswith(NOT_TESTED)),
        key=lambda finding: finding.severity is Severity.INFO,
    )
    why = reasons[0].message.removeprefix(NOT_TESTED) if reasons else "no port was driven"
    return f"{ports}; throughput not tested: {why}"

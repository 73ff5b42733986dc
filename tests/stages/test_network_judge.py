"""How ports are judged: recorded links, counters that rise, flows that lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probes.links import LinkCounters, Port, parse_offer
from stages import network
from stages.iperf import Flow
from stages.network import Options
from stages.network_readings import FlowReading, NetworkReadings, PortReading
from stages.options import BadParameter, parse_options
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from tests.support import round_trip
from tests.support.detection import detects, spares

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "tools" / "ethtool"
GB = 10**9
PORT = Port(
    name="eno1",
    component="nic:aa:00:00:00:00:01",
    macs=frozenset({"aa:00:00:00:00:01"}),
    driver="ixgbe",
    virtual=False,
    carrier=True,
    speed_mbps=1000,
    duplex="full",
)
ZERO = LinkCounters(crc=0, frame=0, carrier=0, carrier_changes=1, rx_bytes=0, tx_bytes=0)
FLOW = Flow(mbps=941.0, bytes_moved=GB, retransmits=0, packets=GB / 1448, own_cpu=10.0, peer_cpu=20.0, version="3.12")


def moved(flow: Flow = FLOW, **changes: object) -> FlowReading:
    flow = replace(flow, **changes)  # type: ignore[arg-type]
    return FlowReading(flow, streams=1, counted_bytes=round(flow.bytes_moved * 1.04))


def driven(**changes: object) -> PortReading:
    """A sound port, driven both ways for 20 s, with changes."""
    sound = PortReading(
        port=PORT, needed=True, before=ZERO, after=ZERO, watched_s=20.0, flows={"send": moved(), "receive": moved()}
    )
    return replace(sound, **changes)  # type: ignore[arg-type]


def offered(name: str) -> PortReading:
    """A port that is not driven, with a recorded link."""
    offer = parse_offer((RECORDINGS / f"{name}.out").read_text())
    return driven(offer=offer, port=replace(PORT, speed_mbps=offer.speed_mbps), flows={})


def judged(reading: PortReading, options: Options | None = None) -> Outcome:
    return round_trip.judged(network.STAGE, NetworkReadings((reading,)), options or Options())


def codes(outcome: Outcome) -> list[tuple[ReasonCode, Severity]]:
    return [(finding.reason_code, finding.severity) for finding in outcome.findings]


@spares(ReasonCode.NET_RETRANSMITS, "readings of a sound gigabit port without retransmits")
def test_a_sound_port_passes() -> None:
    outcome = judged(driven())
    assert outcome.verdict is Verdict.PASS
    assert outcome.findings == ()
    assert outcome.coverage == {PORT.component: 1.0}
    assert outcome.headline == "1 network port, 1 with a link; eno1 941 Mb/s send and 941 Mb/s receive"


@spares(
    ReasonCode.NET_LINK_DEGRADED, "four recordings of sound links, one at 100 Mb/s because its partner offers no more"
)
@pytest.mark.parametrize("name", ["r8169-1g", "r8169-partner-100", "ice-25g", "e1000-no-partner"])
def test_sound_recorded_links(name: str) -> None:
    found = codes(judged(offered(name)))
    assert found == []


@detects(ReasonCode.NET_LINK_DEGRADED, "recording of a gigabit link that came back at 100 Mb/s")
def test_slower_than_both_ends_offer() -> None:
    outcome = judged(offered("gigabit-pair-broken"))
    assert codes(outcome) == [(ReasonCode.NET_LINK_DEGRADED, Severity.ERROR)]
    assert outcome.message == "eno1 runs at 100 Mb/s, though both ends offer 1000 Mb/s"


def test_slower_than_it_could_with_a_silent_partner_is_a_warning() -> None:
    reading = offered("e1000-no-partner")
    assert reading.offer is not None
    slow = replace(reading, offer=replace(reading.offer, speed_mbps=100))
    assert codes(judged(slow)) == [(ReasonCode.NET_LINK_DEGRADED, Severity.WARNING)]


@detects(ReasonCode.NET_LINK_DEGRADED, "recording of a port at half duplex behind a hub")
def test_half_duplex() -> None:
    assert codes(judged(offered("half-duplex"))) == [(ReasonCode.NET_LINK_DEGRADED, Severity.ERROR)]


def test_half_duplex_at_a_gigabit_is_a_drivers_lie() -> None:
    assert codes(judged(driven(port=replace(PORT, duplex="half")))) == []


def test_links_of_virtual_ports_are_not_judged() -> None:
    reading = offered("gigabit-pair-broken")
    assert codes(judged(replace(reading, port=replace(reading.port, virtual=True, duplex="half")))) == []


@detects(ReasonCode.NET_LINK_DOWN, "readings of the port booted from, without carrier")
@spares(ReasonCode.NET_LINK_DOWN, "readings of a port without carrier that nobody needs")
@pytest.mark.parametrize(("needed", "severity"), [(True, Severity.ERROR), (False, Severity.INFO)])
def test_a_dark_port(needed: bool, severity: Severity) -> None:
    dark = driven(port=replace(PORT, carrier=False), needed=needed, flows={})
    assert codes(judged(dark)) == [(ReasonCode.NET_LINK_DOWN, severity)]


@pytest.mark.parametrize(
    ("after", "severity"),
    [
        (replace(ZERO, crc=1), Severity.WARNING),
        (replace(ZERO, crc=1, frame=1), Severity.ERROR),
        (replace(ZERO, carrier=2), Severity.ERROR),
        (replace(ZERO, carrier_changes=3), Severity.ERROR),
    ],
)
def test_more_than_three_errors_a_minute_under_load_fail(after: LinkCounters, severity: Severity) -> None:
    assert codes(judged(driven(after=after))) == [(ReasonCode.NET_ERRORS, severity)]


def test_errors_without_load_are_a_warning() -> None:
    assert codes(judged(driven(after=replace(ZERO, crc=50), flows={}))) == [(ReasonCode.NET_ERRORS, Severity.WARNING)]


def test_errors_from_before_do_not_count() -> None:
    old = replace(ZERO, crc=4711, carrier_changes=12)
    assert codes(judged(driven(before=old, after=old))) == []


def test_a_counter_that_began_anew_hides_no_error() -> None:
    full = replace(ZERO, frame=1000)
    outcome = judged(driven(before=full, after=replace(ZERO, crc=5)))
    assert codes(outcome) == [(ReasonCode.NET_ERRORS, Severity.ERROR), (ReasonCode.NET_ERRORS, Severity.WARNING)]
    assert "began anew or went away during the test: frame" in outcome.findings[1].message
    assert codes(judged(driven(before=full, after=ZERO))) == [(ReasonCode.NET_ERRORS, Severity.WARNING)]


def test_a_link_of_unknown_speed_is_told() -> None:
    untold = driven(port=replace(PORT, speed_mbps=None))
    assert codes(judged(untold)) == [(ReasonCode.NET_LINK_DEGRADED, Severity.WARNING)]
    assert codes(judged(replace(untold, port=replace(PORT, speed_mbps=None, virtual=True)))) == []


@pytest.mark.parametrize(
    "raw", [{"path_mbps": 0}, {"errors_per_minute": -1}, {"retransmit_failure": -0.1}, {"pauses_per_second": -1}]
)
def test_limits_that_would_pass_everything(raw: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        parse_options(Options, "Network", raw)


def test_a_port_that_vanishes_fails() -> None:
    outcome = judged(driven(after=None))
    assert outcome.verdict is Verdict.FAIL
    assert "vanished" in outcome.message


def test_counters_that_cannot_be_read_are_unknown() -> None:
    assert codes(judged(driven(before=None, after=None))) == [(ReasonCode.PROBE_ERROR, Severity.ERROR)]


@pytest.mark.parametrize(("mbps", "verdict"), [(800.0, Verdict.PASS), (799.0, Verdict.FAIL)])
def test_eighty_percent_of_the_link(mbps: float, verdict: Verdict) -> None:
    outcome = judged(driven(flows={"send": moved(mbps=mbps), "receive": moved()}))
    assert outcome.verdict is verdict


def test_a_known_slower_path_is_the_measure() -> None:
    slow = driven(flows={"send": moved(mbps=480.0), "receive": moved(mbps=480.0)})
    assert judged(slow).verdict is Verdict.FAIL
    assert judged(slow, Options(path_mbps=500.0)).verdict is Verdict.PASS
    assert "a link of 1000 Mb/s should reach 800 Mb/s" in judged(slow).message
    assert "a path of 700 Mb/s should reach 560 Mb/s" in judged(slow, Options(path_mbps=700.0)).message
    assert judged(slow, Options(throughput_share=0.4)).verdict is Verdict.PASS


@pytest.mark.parametrize("busy", [{"own_cpu": 99.0}, {"peer_cpu": 97.0}])
def test_a_cpu_that_is_the_limit_proves_nothing_of_the_link(busy: dict[str, float]) -> None:
    outcome = judged(driven(flows={"send": moved(mbps=500.0, **busy), "receive": moved()}))
    assert codes(outcome) == [(ReasonCode.NET_THROUGHPUT_NOT_TESTED, Severity.ERROR)]
    assert outcome.verdict is Verdict.UNKNOWN


def test_threads_of_newer_versions_may_use_more_than_one_cpu() -> None:
    fast = replace(PORT, speed_mbps=100_000)
    reading = FlowReading(replace(FLOW, mbps=50_000.0, own_cpu=300.0, version="3.18"), 10, 2 * GB)
    outcome = judged(driven(port=fast, flows={"send": reading, "receive": moved(mbps=95_000.0)}))
    assert codes(outcome) == [(ReasonCode.NET_THROUGHPUT_LOW, Severity.ERROR)]


@pytest.mark.parametrize("counted", [None, 0, GB // 2])
def test_traffic_that_took_another_port_is_no_test_of_this_one(counted: int | None) -> None:
    outcome = judged(driven(flows={"send": FlowReading(FLOW, 1, counted), "receive": moved()}))
    assert codes(outcome) == [(ReasonCode.NET_THROUGHPUT_NOT_TESTED, Severity.ERROR)]
    assert outcome.coverage == {PORT.component: 0.5}


def test_retransmits() -> None:
    some = driven(flows={"send": moved(retransmits=3500), "receive": moved()})
    assert codes(judged(some)) == [(ReasonCode.NET_RETRANSMITS, Severity.WARNING)]
    many = driven(flows={"send": moved(retransmits=20000), "receive": moved()})
    assert codes(judged(many)) == [(ReasonCode.NET_RETRANSMITS, Severity.WARNING)]
    outcome = judged(replace(many, after=replace(ZERO, crc=1)))
    assert (ReasonCode.NET_RETRANSMITS, Severity.ERROR) in codes(outcome)


def test_unknown_retransmits_are_not_zero() -> None:
    outcome = judged(driven(flows={"send": moved(retransmits=None), "receive": moved()}))
    assert [one.name for one in outcome.measurements if one.name.startswith("retransmits")] == ["retransmits_receive"]

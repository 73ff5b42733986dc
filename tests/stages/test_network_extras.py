"""What the Network stage sees beside links and flows, judged on recordings, and over real cables."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.link_statistics import LinkStatistics, parse_counts, parse_module
from probes.lldp import Neighbor
from probes.path import PathReading
from stages import network
from stages.network import Options, processes_for
from stages.network_readings import FlowReading, NetworkReadings, PortReading
from stages.options import parse_options
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from stages.stage import IperfPeer, RunFacts
from tests.stages.test_network_judge import FLOW, PORT, ZERO, codes, driven, moved
from tests.support import round_trip
from tests.support.detection import detects, spares
from tests.support.namespaces import PORT as IPERF_PORT
from tests.support.namespaces import SERVER_ADDRESS, Wire
from tests.support.recordings import text
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

DARK = parse_module(text("ethtool", "module-sfp28-dark.out"))
SOUND = parse_module(text("ethtool", "module-sfp-sound.out"))
MAC = "aa:00:00:00:00:01"


def judged(*readings: PortReading, **options: Any) -> Outcome:
    asked = parse_options(Options, "Network", options)
    return round_trip.judged(network.STAGE, NetworkReadings(tuple(readings)), asked)


def counted(**gained: int) -> PortReading:
    """A sound driven port whose driver counted this much more after 20 s."""
    return driven(
        statistics_before=LinkStatistics(dict.fromkeys(gained, 7)),
        statistics_after=LinkStatistics({name: 7 + count for name, count in gained.items()}, fec="RS"),
    )


@spares(ReasonCode.NET_TRANSCEIVER, "recording of a sound SFP module")
def test_a_sound_transceiver_is_measured() -> None:
    outcome = judged(driven(statistics_after=LinkStatistics(module=SOUND)))
    assert outcome.findings == ()
    assert [(one.name, one.value) for one in outcome.measurements if "mod" in one.name or "power" in one.name] == [
        ("module_temperature", 41.7),
        ("receive_power", -4.96),
    ]


@detects(ReasonCode.NET_TRANSCEIVER, "recording of an SFP28 module with power alarms: a warning, an error by profile")
def test_alarms_of_a_transceiver_with_a_link() -> None:
    sick = driven(statistics_after=LinkStatistics(module=DARK))
    assert codes(judged(sick)) == [(ReasonCode.NET_TRANSCEIVER, Severity.WARNING)]
    assert "DELL EMC M14MK, serial VN0AP8005718904" in judged(sick).findings[0].message
    assert judged(sick, transceiver_alarms_fail=True).verdict is Verdict.FAIL


def test_alarms_of_a_dark_port_are_natural() -> None:
    dark = driven(
        port=replace(PORT, carrier=False), needed=False, flows={}, statistics_after=LinkStatistics(module=DARK)
    )
    assert codes(judged(dark)) == [(ReasonCode.NET_LINK_DOWN, Severity.INFO)]


def test_mere_warnings_are_information() -> None:
    assert DARK is not None
    uneasy = driven(statistics_after=LinkStatistics(module=replace(DARK, alarms=())))
    assert codes(judged(uneasy)) == [(ReasonCode.NET_TRANSCEIVER, Severity.INFO)]


@detects(ReasonCode.NET_PAUSE_STORM, "readings of a port with 20,001 pause frames in 20 s: a warning")
@spares(ReasonCode.NET_PAUSE_STORM, "readings of a port with 1,000 pause frames in 20 s")
@pytest.mark.parametrize(
    ("gained", "wanted"),
    [
        ({"fec_corrected": 10**9}, []),
        ({"fec_uncorrectable": 1}, [(ReasonCode.NET_ERRORS, Severity.WARNING)]),
        ({"fec_uncorrectable": 2}, [(ReasonCode.NET_ERRORS, Severity.ERROR)]),
        ({"crc": 2}, [(ReasonCode.NET_ERRORS, Severity.ERROR)]),
        ({"symbol": 1}, [(ReasonCode.NET_ERRORS, Severity.WARNING)]),
        ({"pause_received": 1000}, []),
        ({"pause_received": 20_001}, [(ReasonCode.NET_PAUSE_STORM, Severity.WARNING)]),
        ({"pause_sent": 20_001}, [(ReasonCode.NET_PAUSE_STORM, Severity.WARNING)]),
        ({"pause_storm": 1}, [(ReasonCode.NET_PAUSE_STORM, Severity.WARNING)]),
        # The driver began anew.
        ({"crc": -7}, [(ReasonCode.NET_ERRORS, Severity.WARNING)]),
        ({"symbol": -7}, [(ReasonCode.NET_ERRORS, Severity.WARNING)]),
        ({"pause_storm": -7}, [(ReasonCode.NET_ERRORS, Severity.WARNING)]),
    ],
)
def test_counters_of_the_driver(gained: dict[str, int], wanted: list[tuple[ReasonCode, Severity]]) -> None:
    assert codes(judged(counted(**gained))) == wanted


def test_a_drivers_count_of_the_same_frames_is_not_added() -> None:
    both = replace(counted(crc=1), after=replace(ZERO, crc=1))
    assert codes(judged(both)) == [(ReasonCode.NET_ERRORS, Severity.WARNING)]


def test_a_lane_that_fails_between_two_readings() -> None:
    after = LinkStatistics(parse_counts(text("ethtool", "stats-mlx5-sick-lane.out")), "RS")
    sick = driven(statistics_before=LinkStatistics(dict.fromkeys(after.counts, 0)), statistics_after=after)
    assert codes(judged(sick)) == [(ReasonCode.NET_ERRORS, Severity.WARNING)]
    assert "(FEC: RS)" in judged(sick).findings[0].message


def test_late_collisions_tell_of_a_duplex_mismatch() -> None:
    outcome = judged(driven(after=replace(ZERO, late_collisions=3)))
    assert codes(outcome) == [(ReasonCode.NET_LINK_DEGRADED, Severity.WARNING)]


LEAF = Neighbor("leaf3.example.net", "Ethernet1/7", "to rack 7")


@spares(ReasonCode.NET_NEIGHBOR, "readings of a port that hears the switch that is expected")
@spares(ReasonCode.NET_NEIGHBOR_UNSEEN, "readings of a port that hears the switch that is expected")
@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (f"{MAC}=leaf3", None),
        (f"{MAC.upper()}=LEAF3.example.net", None),
        (f"{MAC}=leaf3/Ethernet1/7", None),
        (f"{MAC}=leaf3/to rack 7", None),
        (f"{MAC}=leaf4", ReasonCode.NET_NEIGHBOR),
        (f"{MAC}=leaf3/Ethernet1/8", ReasonCode.NET_NEIGHBOR),
        ("aa:00:00:00:00:99=leaf4", None),
    ],
)
def test_an_expected_neighbour(wanted: str, code: ReasonCode | None) -> None:
    outcome = judged(driven(neighbor=LEAF), expected_neighbors=[wanted])
    assert [finding.reason_code for finding in outcome.errors] == ([code] if code else [])
    assert "lldp_neighbor leaf3.example.net Ethernet1/7" in {one.name for one in outcome.measurements}


@detects(ReasonCode.NET_NEIGHBOR_UNSEEN, "readings of a port that hears no neighbour where one is expected")
def test_an_expected_neighbour_that_is_not_heard_is_unknown() -> None:
    outcome = judged(driven(), expected_neighbors=[f"{MAC}=leaf3"])
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [(ReasonCode.NET_NEIGHBOR_UNSEEN, Severity.ERROR)]
    assert outcome.errors[0].component == f"nic:{MAC}"
    assert judged(driven()).verdict is Verdict.PASS, "none is expected"


@detects(ReasonCode.NET_ADDRESS_DUPLICATE, "readings of a port whose address another host answers for too: a warning")
@spares(ReasonCode.NET_ADDRESS_DUPLICATE, "readings of a port that is alone with its address")
@detects(ReasonCode.NET_MTU_BLACK_HOLE, "readings of a path that swallows packets of 9,000 bytes: a warning")
@spares(ReasonCode.NET_MTU_BLACK_HOLE, "readings of a path that carries packets of its MTU")
def test_addresses_and_path() -> None:
    twice = driven(path=PathReading(True, True, 1500, ("02:00:00:00:00:09",)))
    assert codes(judged(twice)) == [(ReasonCode.NET_ADDRESS_DUPLICATE, Severity.WARNING)]
    hole = driven(path=PathReading(True, False, 9000))
    assert codes(judged(hole)) == [(ReasonCode.NET_MTU_BLACK_HOLE, Severity.WARNING)]
    for sound in (PathReading(True, True, 1500), None):
        assert codes(judged(driven(path=sound))) == []
    silent = judged(driven(path=PathReading(False, False, 1500)))
    assert codes(silent) == [(ReasonCode.NET_MTU_BLACK_HOLE, Severity.INFO)]
    untold = judged(driven(path=PathReading(problem="no right to raw sockets")))
    assert codes(untold) == [(ReasonCode.OUTPUT_UNREADABLE, Severity.INFO)]


def test_a_counter_of_the_driver_that_went_away_is_no_zero() -> None:
    reset = driven(statistics_before=LinkStatistics({"fec_uncorrectable": 7}), statistics_after=LinkStatistics())
    assert codes(judged(reset)) == [(ReasonCode.NET_ERRORS, Severity.WARNING)]
    assert "fec_uncorrectable" in judged(reset).findings[0].message


def test_a_neighbour_expected_at_a_port_that_is_not_here_is_told() -> None:
    outcome = judged(driven(), expected_neighbors=["aa:00:00:00:00:99=leaf4"])
    assert codes(outcome) == [(ReasonCode.NET_NEIGHBOR_UNSEEN, Severity.INFO)]
    assert outcome.findings[0].component == "nic:aa:00:00:00:00:99"


def test_two_ports_with_one_address_for_life() -> None:
    one = driven(port=replace(PORT, own_mac=MAC))
    other = driven(port=replace(PORT, name="eno2", own_mac=MAC))
    assert codes(judged(one, other)) == [(ReasonCode.NET_ADDRESS_DUPLICATE, Severity.WARNING)]
    assert codes(judged(one, replace(other, port=replace(other.port, own_mac="aa:00:00:00:00:02")))) == []
    assert codes(judged(one, replace(other, port=replace(other.port, own_mac=None)))) == [], "a member of a bond"


def test_both_ways_at_once() -> None:
    slow = {"send": moved(mbps=941.0), "receive": moved(mbps=300.0)}
    assert codes(judged(driven(at_once=slow))) == [(ReasonCode.NET_THROUGHPUT_LOW, Severity.WARNING)]
    busy = {"send": moved(), "receive": moved(mbps=300.0, own_cpu=99.0)}
    assert codes(judged(driven(at_once=busy))) == []
    alone = driven(at_once=slow, flows={"send": moved(), "receive": moved(mbps=300.0)})
    assert codes(judged(alone)) == [(ReasonCode.NET_THROUGHPUT_LOW, Severity.ERROR)], "said once"
    failed = driven(at_once_problem="the server is too old")
    assert codes(judged(failed)) == [(ReasonCode.IPERF_UNREACHABLE, Severity.WARNING)]


def test_several_processes_where_one_is_not_enough() -> None:
    speeds = [None, 1000, 10_000, 25_000, 40_000, 100_000, 400_000]
    assert [processes_for(speed, 16) for speed in speeds] == [1, 1, 1, 1, 2, 4, 16]
    assert processes_for(400_000, 1) == 1
    fast = replace(PORT, speed_mbps=100_000)
    # Each process has a CPU of its own: at 99 % of one the CPU was the limit, and the link is not judged.
    busy = FlowReading(replace(FLOW, mbps=50_000.0, own_cpu=99.0), 3, 2 * FLOW.bytes_moved, processes=4)
    outcome = judged(driven(port=fast, flows={"send": busy, "receive": replace(busy, flow=replace(FLOW, mbps=95e3))}))
    assert outcome.verdict is Verdict.UNKNOWN


# --- over real cables ------------------------------------------------------------------------------------------------

ETHTOOL_100G = """Settings for p0:
    Supported link modes:   100000baseCR4/Full
    Speed: 100000Mb/s
    Duplex: Full
"""


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


async def vet(wire: Wire, folder: Path, stand_ins: StandIns, peer: IperfPeer, **parameters: Any) -> Outcome:
    plain = {"duration_s": 1.0, "warm_up_s": 0.0, "retry_s": 0.5, "both_at_once": False, "retransmit_warning": 1.0}
    host = wire.host(folder / "host", stand_ins.tools(), driver=parameters.pop("driver", None))
    context, _ = stage_context(folder / "evidence", host, facts=RunFacts(orchestrator_host=SERVER_ADDRESS), peer=peer)
    options = parse_options(Options, "Network", {**plain, **parameters})
    return round_trip.judged(network.STAGE, await network.STAGE.run(context, options), options)


@pytest.mark.slow
@pytest.mark.root
async def test_a_fast_port_is_driven_by_as_many_processes_as_there_are_servers(
    wire: Wire, tmp_path: Path, stand_ins: StandIns
) -> None:
    stand_ins.python("ethtool", f"sys.exit(95) if sys.argv[1].startswith('-') else sys.stdout.write({ETHTOOL_100G!r})")
    wire.limit(60)
    peer = IperfPeer(SERVER_ADDRESS, IPERF_PORT, more_ports=(IPERF_PORT + 1,))
    with wire.peers():
        wire.serve()
        wire.serve(IPERF_PORT + 1)
        more: dict[str, Any] = {"driver": "mlx5_core", "path_mbps": 60.0, "both_at_once": True, "duration_s": 3.0}
        outcome = await vet(wire, tmp_path, stand_ins, peer, **more)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    children = [path.read_text() for path in (tmp_path / "evidence" / "tools").glob("*.json")]
    asked = [text for text in children if "iperf_child" in text]
    assert len(asked) == 6, "two processes each: send, receive, both"
    assert sum('\\"streams\\": 5' in text for text in asked) == 6
    for name in ("throughput_send", "throughput_receive_at_once"):
        assert 40 < next(one.value for one in outcome.measurements if one.name == name) < 90


@detects(
    ReasonCode.NET_NEIGHBOR, "real cable between namespaces, at whose end leaf3 speaks LLDP where leaf4 is expected"
)
@pytest.mark.root
async def test_the_neighbour_is_heard_while_the_port_is_driven(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    def tlv(kind: int, value: bytes) -> bytes:
        return struct.pack("!H", kind << 9 | len(value)) + value

    head = bytes.fromhex("0180c200000e02000000000188cc")
    wire.limit(50)
    peer = IperfPeer(SERVER_ADDRESS, IPERF_PORT)
    wanted = [f"{wire.mac()}=leaf4"]
    with wire.peers():
        wire.speak(head + tlv(1, b"\x07leaf3") + tlv(2, b"\x05Eth7") + tlv(3, b"\x00\x78") + tlv(0, b""))
        wire.serve()
        outcome = await vet(wire, tmp_path, stand_ins, peer, expected_neighbors=wanted, lldp_wait_s=10.0)
    assert codes(outcome) == [(ReasonCode.NET_NEIGHBOR, Severity.ERROR)]
    assert "is cabled to leaf3 Eth7, not to leaf4" in outcome.message


LIAR = """
import json
end = {"bytes": 10**11, "bits_per_second": 8e10, "retransmits": 0}
cpu = {"host_total": 1.0, "remote_total": 1.0}
report = {"start": {"tcp_mss_default": 1448}, "end": {
    "sum_sent": end, "sum_received": end, "cpu_utilization_percent": cpu}}
print(json.dumps({"report": report, "version": "3.12"}))
"""


@pytest.mark.root
async def test_a_client_that_lies_is_no_measurement(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools(), python=stand_ins.python("client", LIAR))
    peer = IperfPeer(SERVER_ADDRESS, IPERF_PORT)
    context, _ = stage_context(tmp_path / "evidence", host, facts=RunFacts(), peer=peer)
    options = Options(both_at_once=False)
    outcome = round_trip.judged(network.STAGE, await network.STAGE.run(context, options), options)
    assert outcome.verdict is Verdict.UNKNOWN
    assert {finding.reason_code for finding in outcome.errors} == {ReasonCode.NET_THROUGHPUT_NOT_TESTED}
    assert set(outcome.coverage.values()) == {0.0}


GARBAGE = "connection.sendall(b'\\x7f' * 4096)\ntime.sleep(0.2)\nconnection.close()"


@pytest.mark.root
@pytest.mark.parametrize("code", [GARBAGE, "connection.close()"])
async def test_a_peer_that_talks_rubbish_is_unknown(wire: Wire, tmp_path: Path, stand_ins: StandIns, code: str) -> None:
    with wire.peers():
        wire.play(code)
        outcome = await vet(wire, tmp_path, stand_ins, IperfPeer(SERVER_ADDRESS, IPERF_PORT))
    assert outcome.verdict is Verdict.UNKNOWN
    assert [finding.severity for finding in outcome.findings] == [Severity.ERROR]
    assert set(outcome.coverage.values()) == {0.0}


@pytest.mark.slow
@pytest.mark.root
async def test_two_hosts_queue_for_the_server_and_none_fails(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    wire.limit(50)
    peer = IperfPeer(SERVER_ADDRESS, IPERF_PORT)
    with wire.peers():
        wire.serve()
        outcomes = await asyncio.gather(
            *(vet(wire, tmp_path / name, stand_ins, peer, retry_s=30.0) for name in ("one", "two"))
        )
    assert [outcome.verdict for outcome in outcomes] == [Verdict.PASS, Verdict.PASS], outcomes

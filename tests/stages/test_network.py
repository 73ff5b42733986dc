"""Network against real iperf3 servers over real cables between namespaces, and its judging of recorded links."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.host import Host
from probes.tools import ToolTimeout
from stages import iperf, network, network_server
from stages.iperf import IperfUnavailable, Request
from stages.network import Options
from stages.options import parse_options
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from stages.stage import IperfPeer, RunFacts
from tests.support import round_trip
from tests.support.detection import detects, spares
from tests.support.namespaces import HOST_ADDRESS, PORT, SERVER_ADDRESS, InNamespace, Wire, free_port, sh
from tests.support.stage_context import Remembering, stage_context
from tests.support.stand_ins import StandIns

PEER = IperfPeer(SERVER_ADDRESS, PORT)
FACTS = RunFacts(orchestrator_host=SERVER_ADDRESS)
SHORT: dict[str, Any] = {"duration_s": 1.0, "warm_up_s": 0.0, "retry_s": 0.5, "both_at_once": False}
ETHTOOL_10 = """Settings for p0:
    Supported link modes:   10baseT/Full
                            1000baseT/Full
    Link partner advertised link modes:  {partner}
    Link partner advertised auto-negotiation: Yes
    Speed: 10Mb/s
    Duplex: {duplex}
    Auto-negotiation: on
"""


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


@pytest.fixture
def server(wire: Wire) -> subprocess.Popen[bytes]:
    """A real iperf3 server at the other end of the wire."""
    return wire.serve()


def physical(stand_ins: StandIns, *, partner: str = "10baseT/Full", duplex: str = "Full") -> None:
    """Let ethtool show the port as a copper port of a real card at 10 Mb/s: a rate that a busy machine reaches too."""
    text = ETHTOOL_10.format(partner=partner, duplex=duplex)
    stand_ins.python("ethtool", f"sys.exit(95) if sys.argv[1].startswith('-') else sys.stdout.write({text!r})")


async def vet(
    host: Host, folder: Path, *, facts: RunFacts = FACTS, peer: IperfPeer | None = PEER, **parameters: Any
) -> tuple[Outcome, Remembering]:
    context, listener = stage_context(folder / "evidence", host, facts=facts, peer=peer)
    options = parse_options(network.Options, "Network", {**SHORT, **parameters})
    return round_trip.judged(network.STAGE, await network.STAGE.run(context, options), options), listener


def codes(outcome: Outcome) -> list[tuple[ReasonCode, Severity]]:
    return [(finding.reason_code, finding.severity) for finding in outcome.findings]


def value(outcome: Outcome, name: str) -> float:
    return next(measurement.value for measurement in outcome.measurements if measurement.name == name)


@spares(ReasonCode.NET_THROUGHPUT_LOW, "real cable between namespaces that carries its 10 Mb/s")
@spares(ReasonCode.NET_THROUGHPUT_NOT_TESTED, "real cable between namespaces with a real iperf3 server")
@spares(ReasonCode.IPERF_UNREACHABLE, "real iperf3 server over a cable between namespaces")
@spares(ReasonCode.NET_LINK_DOWN, "real cable between namespaces, both ends up")
@spares(ReasonCode.NET_ERRORS, "real cable between namespaces that loses nothing")
@spares(ReasonCode.NOTHING_TO_TEST, "real cable between namespaces")
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_a_sound_cable_passes(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    physical(stand_ins)
    wire.limit(11, burst_kb=128)  # a little more than the port says: a busy machine takes its part
    host = wire.host(tmp_path / "host", stand_ins.tools(), driver="ixgbe")
    outcome, listener = await vet(
        host, tmp_path, duration_s=3.0, warm_up_s=1.0, retransmit_warning=1.0, both_at_once=True
    )
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert outcome.findings == ()
    component = f"nic:{wire.mac()}"
    assert outcome.coverage == {component: 1.0}
    assert 8 <= value(outcome, "throughput_send") <= 12
    assert 8 <= value(outcome, "throughput_receive") <= 12
    assert 8 <= value(outcome, "throughput_send_at_once") <= 12
    assert 8 <= value(outcome, "throughput_receive_at_once") <= 12
    assert value(outcome, "link_speed") == 10
    assert outcome.tool_versions["libiperf"].startswith("3.")
    live = [sample for sample in listener.samples if sample[0] == "throughput"]
    assert {sample[1] for sample in live} == {f"{component}/send", f"{component}/receive"}
    assert max(sample[2] for sample in live) > 5
    assert listener.fractions[-1] == 1.0


@detects(ReasonCode.NET_THROUGHPUT_LOW, "real cable between namespaces, held to 4 of 10 Mb/s")
@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_a_slow_path_fails_and_names_the_port(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    physical(stand_ins)
    wire.limit(4)
    host = wire.host(tmp_path / "host", stand_ins.tools(), driver="ixgbe")
    outcome, _ = await vet(host, tmp_path, retransmit_warning=1.0)
    assert outcome.verdict is Verdict.FAIL
    low = [finding for finding in outcome.findings if finding.reason_code is ReasonCode.NET_THROUGHPUT_LOW]
    assert [finding.component for finding in low] == [f"nic:{wire.mac()}"] * 2
    assert "a link of 10 Mb/s should reach 8 Mb/s" in low[0].message


@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_a_virtual_port_is_measured_only(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    wire.limit(30)
    host = wire.host(tmp_path / "host", stand_ins.tools())  # the real ethtool says: veth
    outcome, _ = await vet(host, tmp_path, retransmit_warning=1.0)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert 0 < value(outcome, "throughput_send") < 40
    assert all(one.limit is None for one in outcome.measurements if one.name.startswith("throughput"))


@detects(ReasonCode.NET_RETRANSMITS, "real cable between namespaces that loses 2 % of the packets: a warning")
@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_lost_packets_show_as_retransmits(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    wire.limit(50)
    wire.lose(0.02)
    host = wire.host(tmp_path / "host", stand_ins.tools())
    outcome, _ = await vet(host, tmp_path)
    assert (ReasonCode.NET_RETRANSMITS, Severity.WARNING) in codes(outcome)
    assert outcome.verdict is Verdict.PASS
    assert value(outcome, "retransmits_send") > 0.1


@detects(ReasonCode.NET_ERRORS, "real cable between namespaces whose far end goes down and up under load")
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_a_link_that_flaps_under_load_fails(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    wire.limit(50)
    host = wire.host(tmp_path / "host", stand_ins.tools())

    async def flap() -> None:
        # The load is on by then, and the counters before it were read.
        while _received(wire) < 2_000_000:  # noqa: ASYNC110  # the kernel sends no event for it
            await asyncio.sleep(0.1)
        for state in ("down", "up"):
            sh("ip", "-n", wire.far, "link", "set", "p0", state)

    flapping = asyncio.create_task(flap())
    outcome, _ = await vet(host, tmp_path, duration_s=2.0, retry_s=30.0)
    await flapping
    assert outcome.verdict is Verdict.FAIL
    errors = next(finding for finding in outcome.findings if finding.reason_code is ReasonCode.NET_ERRORS)
    assert errors.severity is Severity.ERROR
    assert "link changes +2" in errors.message


def _received(wire: Wire) -> int:
    """Bytes that came to the far end of the cable."""
    answer = json.loads(sh("ip", "-n", wire.far, "-s", "-j", "link", "show", "p0"))
    return int(answer[0]["stats64"]["rx"]["bytes"])


@detects(ReasonCode.IPERF_UNREACHABLE, "real cable between namespaces without a server at its end")
@pytest.mark.root
async def test_no_server_is_unknown_never_a_pass(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools())
    outcome, _ = await vet(host, tmp_path)
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [(ReasonCode.IPERF_UNREACHABLE, Severity.ERROR)]
    assert "Connection refused" in outcome.message
    assert outcome.coverage == {f"nic:{wire.mac()}": 0.0}
    assert "throughput not tested" in outcome.headline


@detects(ReasonCode.IPERF_UNREACHABLE, "real iperf3 server that is killed in mid-test")
@pytest.mark.root
async def test_a_server_that_dies_in_the_test_is_unknown(
    wire: Wire, server: subprocess.Popen[bytes], tmp_path: Path, stand_ins: StandIns
) -> None:
    wire.limit(50)
    host = wire.host(tmp_path / "host", stand_ins.tools())
    running = asyncio.create_task(vet(host, tmp_path, duration_s=20.0))
    await until(lambda: "ESTAB" in sh("ip", "netns", "exec", wire.far, "ss", "-Htn"))
    server.kill()
    outcome, _ = await asyncio.wait_for(running, 15)
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [(ReasonCode.IPERF_UNREACHABLE, Severity.ERROR)]


@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_a_port_without_route_is_said_and_the_other_passes(
    wire: Wire, tmp_path: Path, stand_ins: StandIns
) -> None:
    wire.cable("p1", "10.198.0.1", "10.198.0.2")
    wire.limit(50)
    host = wire.host(tmp_path / "host", stand_ins.tools())
    outcome, _ = await vet(host, tmp_path, retransmit_warning=1.0)
    assert outcome.verdict is Verdict.PASS
    assert codes(outcome) == [(ReasonCode.NET_THROUGHPUT_NOT_TESTED, Severity.INFO)]
    assert outcome.coverage == {f"nic:{wire.mac('p0')}": 1.0, f"nic:{wire.mac('p1')}": 0.0}


@detects(ReasonCode.NET_THROUGHPUT_NOT_TESTED, "real port without a route to the server")
@pytest.mark.root
async def test_no_port_with_a_route_is_unknown(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools())
    outcome, _ = await vet(host, tmp_path, peer=IperfPeer("203.0.113.9", PORT))
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome) == [(ReasonCode.NET_THROUGHPUT_NOT_TESTED, Severity.ERROR)]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.usefixtures("server")
async def test_two_hosts_at_once_are_both_served(wire: Wire, stand_ins: StandIns, tmp_path: Path) -> None:
    wire.limit(50)
    host = Host(tools=InNamespace(stand_ins.tools().recording(tmp_path), wire.near))
    request = Request(
        SERVER_ADDRESS, PORT, seconds=1, omit=0, streams=1, reverse=False, address=HOST_ADDRESS, device="p0"
    )
    first = asyncio.create_task(iperf.measure(host, replace(request, seconds=3), retry_s=30))
    await until(lambda: "ESTAB" in sh("ip", "netns", "exec", wire.far, "ss", "-Htn"))
    flows = [await iperf.measure(host, request, retry_s=30), await first]
    assert all(flow.bytes_moved > 0 for flow in flows)
    assert any("busy" in path.read_text() for path in tmp_path.glob("*.out")), "they never met"


async def until(condition: Any, limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def local_server() -> AsyncIterator[int]:
    port = free_port()
    argv = ("iperf3", "-s", "-p", str(port), "-B", "127.0.0.1")
    server = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
    try:
        await until(lambda: f":{port} " in sh("ss", "-Hltn"))
        yield port
    finally:
        server.kill()
        await server.wait()


async def test_a_report_of_more_than_64_kib_arrives(host: Host, tmp_path: Path) -> None:
    recording = host.with_tools(host.tools.recording(tmp_path))
    async with local_server() as port:
        request = Request("127.0.0.1", port, seconds=2, omit=0, streams=80, reverse=False)
        flow = await iperf.measure(recording, request, retry_s=10)
    assert flow.mbps > 0
    assert max(path.stat().st_size for path in tmp_path.glob("*.out")) > 65536


async def test_a_hung_test_is_killed_in_time(host: Host) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        request = Request("127.0.0.1", deaf.getsockname()[1], seconds=1, streams=1, reverse=False, slack_s=0.2)
        with pytest.raises(ToolTimeout):
            await iperf.measure(host, request, retry_s=0.1)


async def test_a_cancel_kills_the_test(host: Host) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        request = Request("127.0.0.1", deaf.getsockname()[1], seconds=60, streams=1, reverse=False)
        task = asyncio.create_task(iperf.measure(host, request, retry_s=60))
        deaf.setblocking(False)
        connection, _ = await asyncio.get_running_loop().sock_accept(deaf)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 2.0
        connection.close()  # conftest sees to it that no child is left


async def test_a_refusing_server_is_tried_for_the_given_time(host: Host) -> None:
    request = Request("127.0.0.1", free_port(), seconds=1, streams=1, reverse=False)
    started = time.monotonic()
    with pytest.raises(IperfUnavailable, match="Connection refused"):
        await iperf.measure(host, request, retry_s=1.0)
    assert time.monotonic() - started >= 1.0


async def test_an_orchestrator_on_this_host_passes_with_a_word_on_it(host: Host, tmp_path: Path) -> None:
    outcome, _ = await vet(
        host, tmp_path, facts=RunFacts(orchestrator_host="127.0.0.1"), peer=IperfPeer("127.0.0.1", 1)
    )
    assert ReasonCode.NET_THROUGHPUT_NOT_TESTED in {finding.reason_code for finding in outcome.findings}
    assert "throughput not tested: the orchestrator is on this very host" in outcome.headline
    assert set(outcome.coverage.values()) <= {0.0}
    assert outcome.errors == ()


async def test_unless_throughput_is_required(host: Host, tmp_path: Path) -> None:
    facts = RunFacts(orchestrator_host="localhost")
    outcome, _ = await vet(host, tmp_path, facts=facts, peer=None, throughput_required=True)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.errors[0].reason_code is ReasonCode.NET_THROUGHPUT_NOT_TESTED


async def test_without_an_orchestrator_it_is_unknown(host: Host, tmp_path: Path) -> None:
    outcome, _ = await vet(host, tmp_path, facts=RunFacts(), peer=None)
    assert outcome.verdict is Verdict.UNKNOWN
    outcome, _ = await vet(host, tmp_path, facts=RunFacts(), peer=None, throughput_required=False)
    assert outcome.verdict is Verdict.PASS


@detects(ReasonCode.NOTHING_TO_TEST, "machine without a network port")
async def test_no_port_at_all_is_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    outcome, _ = await vet(Host(root=tmp_path / "nothing", tools=stand_ins.tools()), tmp_path)
    assert codes(outcome) == [(ReasonCode.NOTHING_TO_TEST, Severity.ERROR)]


@detects(ReasonCode.NET_LINK_DOWN, "this machine, of which a port is expected that it does not have")
async def test_an_expected_port_that_is_not_there_fails(host: Host, tmp_path: Path) -> None:
    facts = RunFacts(orchestrator_host="127.0.0.1", boot_mac="02:00:5e:00:00:99")
    outcome, _ = await vet(host, tmp_path, facts=facts, peer=None, expected_nics=["02:00:5E:00:00:01"])
    found = [finding for finding in outcome.findings if finding.reason_code is ReasonCode.NET_LINK_DOWN]
    assert [(finding.severity, finding.component) for finding in found if "found" in finding.message] == [
        (Severity.ERROR, "nic:02:00:5e:00:00:01")
    ]
    assert (Severity.WARNING, "nic:02:00:5e:00:00:99") in [(one.severity, one.component) for one in found]


async def test_missing_tools_are_unknown(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome, _ = await vet(Host(tools=only_stand_ins.tools()), tmp_path)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.errors[0].reason_code is ReasonCode.TOOL_MISSING


async def test_waiting_in_the_queue_is_not_charged_to_the_stage(host: Host, tmp_path: Path) -> None:
    context, _ = stage_context(tmp_path / "evidence", host)
    before = context.plan.planned_s

    class Queue:
        @contextlib.asynccontextmanager
        async def lease(self) -> AsyncIterator[IperfPeer | None]:
            await until(lambda: context.plan.planned_s > before + 0.2)
            yield None

    async with network_server.leased(replace(context, iperf=Queue()), tick_s=0.05):
        waited = context.plan.planned_s
        await asyncio.sleep(0.2)
        assert context.plan.planned_s == waited, "only the waiting counts"


@pytest.mark.root
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("os.kill(os.getpid(), 11)", ReasonCode.TOOL_FAILED),
        ("sys.exit(7)", ReasonCode.TOOL_FAILED),
        ("print('Segmentation')", ReasonCode.OUTPUT_UNREADABLE),
        ("print('[]')", ReasonCode.OUTPUT_UNREADABLE),
        ('print(\'{"report": {}, "version": "3.12"}\')', ReasonCode.OUTPUT_UNREADABLE),
        ('print(\'{"error": "no libiperf"}\'); sys.exit(3)', ReasonCode.TOOL_MISSING),
    ],
)
async def test_a_broken_client_is_unknown(
    wire: Wire, tmp_path: Path, stand_ins: StandIns, body: str, code: ReasonCode
) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools(), python=stand_ins.python("client", body))
    outcome, _ = await vet(host, tmp_path)
    assert outcome.verdict is Verdict.UNKNOWN
    # The same interpreter asks about the path, and cannot say either; that is no more than a note.
    assert [found for found in codes(outcome) if found[1] is not Severity.INFO] == [(code, Severity.ERROR)]


MOVED_NOTHING = {
    "report": {
        "start": {"tcp_mss_default": 1448},
        "end": {
            "sum_sent": {"bytes": 0, "retransmits": 0},
            "sum_received": {"bytes": 0, "bits_per_second": 0.0},
            "cpu_utilization_percent": {"host_total": 1.0, "remote_total": 1.0},
        },
    },
    "version": "3.12",
}


async def test_a_test_that_moved_nothing_is_a_fault_of_the_network(
    wire: Wire, tmp_path: Path, stand_ins: StandIns
) -> None:
    client = stand_ins.python("client", f"print({json.dumps(MOVED_NOTHING)!r})")
    outcome, _ = await vet(wire.host(tmp_path / "host", stand_ins.tools(), python=client), tmp_path)
    wanted = [(ReasonCode.NET_THROUGHPUT_LOW, Severity.ERROR)]
    assert [found for found in codes(outcome) if found[1] is not Severity.INFO] == wanted
    assert "Not one byte" in outcome.message


def test_recorded_report() -> None:
    text = (Path(__file__).parents[1] / "fixtures" / "tools" / "iperf3" / "two-streams.out").read_text()
    flow = iperf.flow_of(json.loads(text))
    assert (round(flow.mbps), flow.bytes_moved, flow.retransmits) == (15233, 3807641706, 8)
    assert flow.retransmit_share == pytest.approx(8 * 32768 / 3806330880), "of what was sent, not of what arrived"


def test_streams_grow_with_the_speed() -> None:
    speeds = [None, 100, 10_000, 25_000, 100_000, 800_000]
    assert [network.streams_for(speed) for speed in speeds] == [1, 1, 1, 3, 10, 40]


def test_options_say_what_is_wrong() -> None:
    assert Options().duration_s == 10.0
    assert network.planned_s(Options(duration_s=5.0)) == 24.0
    assert network.planned_s(Options(duration_s=5.0, both_at_once=False)) == 16.0

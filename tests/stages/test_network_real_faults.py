"""Faults beside link and throughput, found by the whole Network stage over real cables between namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probes.link_statistics import parse_counts
from stages.outcome import Finding, Outcome, ReasonCode, Severity
from stages.stage import IperfPeer
from tests.stages.test_network_extras import vet
from tests.support.detection import detects, spares
from tests.support.namespaces import HOST_ADDRESS, PORT, SERVER_ADDRESS, Wire, sh
from tests.support.recordings import text
from tests.support.stand_ins import StandIns

pytestmark = pytest.mark.root
THIRD_ADDRESS = "10.199.0.9"
WARNING = Severity.WARNING


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        made.limit(50)
        yield made


async def seen(wire: Wire, folder: Path, stand_ins: StandIns, **parameters: Any) -> Outcome:
    with wire.peers():
        wire.serve()
        return await vet(wire, folder, stand_ins, IperfPeer(SERVER_ADDRESS, PORT), **parameters)


def of(outcome: Outcome, code: ReasonCode) -> list[Finding]:
    return [finding for finding in outcome.findings if finding.reason_code is code]


@detects(ReasonCode.NET_ADDRESS_DUPLICATE, "real cables: a second host answers for the port's address: a warning")
async def test_a_second_host_with_our_address(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    other = wire.second_host(HOST_ADDRESS)
    (finding,) = of(await seen(wire, tmp_path, stand_ins), ReasonCode.NET_ADDRESS_DUPLICATE)
    assert (finding.severity, finding.component) == (WARNING, f"nic:{wire.mac()}")
    assert finding.evidence == other


@spares(ReasonCode.NET_ADDRESS_DUPLICATE, "real cables: a second host with an address of its own")
@spares(ReasonCode.NET_MTU_BLACK_HOLE, "real cable that carries packets of its MTU")
async def test_a_second_host_with_its_own_address(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    wire.second_host(THIRD_ADDRESS)
    outcome = await seen(wire, tmp_path, stand_ins)
    assert of(outcome, ReasonCode.NET_ADDRESS_DUPLICATE) == []
    assert of(outcome, ReasonCode.NET_MTU_BLACK_HOLE) == []


@detects(ReasonCode.NET_MTU_BLACK_HOLE, "real cable of MTU 9,000 behind which packets over 1,500 bytes vanish")
async def test_full_size_packets_vanish(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    for namespace in (wire.near, wire.far):
        sh("ip", "-n", namespace, "link", "set", "p0", "mtu", "9000")
    # TCP is spared, as where a router on the way clamps its segments: what is left fails much later, elsewhere.
    rule = "add rule ip m c meta length > 1500 meta l4proto != tcp drop"
    chain = "add table ip m; add chain ip m c { type filter hook input priority 0; }"
    sh("ip", "netns", "exec", wire.far, "nft", f"{chain}; {rule}")
    (finding,) = of(await seen(wire, tmp_path, stand_ins), ReasonCode.NET_MTU_BLACK_HOLE)
    assert finding.severity is WARNING
    assert "MTU of p0, 9000 bytes, do not reach" in finding.message


@detects(ReasonCode.NET_NEIGHBOR_UNSEEN, "real cable at whose end nobody speaks LLDP, where leaf4 is expected")
async def test_a_neighbour_that_is_silent(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    with wire.peers():
        wire.speak(bytes.fromhex("01000ccccccc" + "020000000002" + "2000") + b"another protocol".ljust(46, b"\0"))
        outcome = await seen(wire, tmp_path, stand_ins, expected_neighbors=[f"{wire.mac()}=leaf4"], lldp_wait_s=2.0)
    (finding,) = of(outcome, ReasonCode.NET_NEIGHBOR_UNSEEN)
    assert (finding.severity, finding.component) == (Severity.ERROR, f"nic:{wire.mac()}")


LINK = """Settings for p0:
    Supported link modes:   1000baseT/Full
    Speed: 1000Mb/s
    Duplex: Full
"""
PLAYED = """
import pathlib
if sys.argv[1] == "p0":
    sys.stdout.write(LINK)
elif sys.argv[1] == "-S":
    memory = pathlib.Path(sys.argv[0] + ".asked")
    asked = int(memory.read_text()) if memory.exists() else 0
    memory.write_text(str(asked + 1))
    for line in STATISTICS.splitlines():
        name, _, count = line.rpartition(": ")
        print(f"{name}: {int(count) + asked * GAIN}" if name.strip() == "rx_xoff_pause_rcvd" else line)
else:
    sys.exit(95)
"""


@detects(ReasonCode.NET_PAUSE_STORM, "stand-in ethtool: recorded tg3 counters of which the pauses rise by a million")
@spares(ReasonCode.NET_PAUSE_STORM, "stand-in ethtool: recorded tg3 counters of which the pauses rise by ten")
@pytest.mark.parametrize(("gain", "stormy"), [(10**6, True), (10, False)])
async def test_a_port_that_is_paused(wire: Wire, tmp_path: Path, stand_ins: StandIns, gain: int, stormy: bool) -> None:
    recorded = text("ethtool", "stats-tg3.out")
    assert "pause_received" in parse_counts(recorded)
    made = f"LINK, STATISTICS, GAIN = {LINK!r}, {recorded!r}, {gain}"
    stand_ins.python("ethtool", f"{made}{PLAYED}")
    outcome = await seen(wire, tmp_path, stand_ins, driver="tg3", throughput_share=0.0)
    found = of(outcome, ReasonCode.NET_PAUSE_STORM)
    assert [one.severity for one in found] == ([WARNING] if stormy else [])
    assert all("was told to pause" in one.message for one in found)

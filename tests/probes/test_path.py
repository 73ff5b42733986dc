"""The path between two namespaces: sound, too narrow for a full-size packet, and with an address used twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from probes import path
from probes.host import Host
from probes.path import PathReading
from tests.support.namespaces import HOST_ADDRESS, SERVER_ADDRESS, Wire, sh
from tests.support.stand_ins import StandIns


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


@pytest.mark.root
async def test_a_sound_path(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    host = wire.host(tmp_path / "host", stand_ins.tools())
    assert await path.check(host, "p0", HOST_ADDRESS, SERVER_ADDRESS) == PathReading(True, True, 1500)


@pytest.mark.root
async def test_a_black_hole_for_full_size_packets(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    sh("ip", "-n", wire.near, "link", "set", "p0", "mtu", "9000")
    sh("ip", "-n", wire.far, "link", "set", "p0", "mtu", "9000")
    chain = "add table ip m; add chain ip m c { type filter hook input priority 0; }"
    sh("ip", "netns", "exec", wire.far, "nft", f"{chain}; add rule ip m c meta length > 1500 drop")
    host = wire.host(tmp_path / "host", stand_ins.tools())
    assert await path.check(host, "p0", HOST_ADDRESS, SERVER_ADDRESS) == PathReading(True, False, 9000)


@pytest.mark.root
async def test_another_device_with_our_address(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    sh("ip", "-n", wire.far, "addr", "add", f"{HOST_ADDRESS}/32", "dev", "p0")
    mac = sh("ip", "netns", "exec", wire.far, "cat", "/sys/class/net/p0/address").strip()
    host = wire.host(tmp_path / "host", stand_ins.tools())
    reading = await path.check(host, "p0", HOST_ADDRESS, SERVER_ADDRESS)
    assert reading is not None
    assert reading.claimed_by == (mac,)


@pytest.mark.root
async def test_our_own_other_port_is_no_other_device(wire: Wire, tmp_path: Path, stand_ins: StandIns) -> None:
    """Linux answers for all its addresses on every port: two ports on one network hear each other."""
    wire.cable("p1", "10.199.0.3", "10.199.0.4")
    sh("ip", "-n", wire.far, "link", "add", "br0", "type", "bridge")
    sh("ip", "-n", wire.far, "link", "set", "br0", "up")
    for port in ("p0", "p1"):
        sh("ip", "-n", wire.far, "link", "set", port, "master", "br0")
    host = wire.host(tmp_path / "host", stand_ins.tools())
    reading = await path.check(host, "p0", HOST_ADDRESS, SERVER_ADDRESS)
    assert reading is not None
    assert reading.claimed_by == ()


@pytest.mark.parametrize("out", ["", "[]", '{"small": 1, "full": true, "mtu": 1, "claimed_by": []}', "{"])
async def test_a_child_that_says_nothing_sound(stand_ins: StandIns, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "CHILD", (str(stand_ins.says("child", out)),))
    seen = await path.check(Host(tools=stand_ins.tools()), "lo", "127.0.0.1", "127.0.0.1")
    assert seen is not None
    assert (seen.small, seen.full, seen.claimed_by) == (None, None, ())
    assert seen.problem


async def test_a_child_without_the_right_says_so(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "CHILD", (str(stand_ins.says("child", stderr="Operation not permitted", exit_code=1)),))
    seen = await path.check(Host(tools=stand_ins.tools()), "lo", "127.0.0.1", "127.0.0.1")
    assert seen == PathReading(problem="Operation not permitted")


async def test_another_family_is_not_tried(host: Host) -> None:
    assert await path.check(host, "lo", "::1", "::1") is None

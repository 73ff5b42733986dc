"""Which device leads where, by recorded `ip -j`."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from probes import routes
from probes.host import Host
from probes.routes import Routing, UnreadableRoutes, parse_addresses, parse_routes
from tests.support.stand_ins import StandIns

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "tools" / "ip"


@pytest.fixture
def routing() -> Routing:
    texts = {name: (RECORDINGS / f"firecracker-{name}.out").read_text() for name in ("addr", "route4", "route6")}
    table = (*parse_routes(texts["route4"], "-4"), *parse_routes(texts["route6"], "-6"))
    return Routing(parse_addresses(texts["addr"]), table)


@pytest.mark.parametrize("own", ["127.0.0.1", "127.9.9.9", "::1", "192.0.2.2", "fd00::2"])
def test_own_addresses(routing: Routing, own: str) -> None:
    assert routing.is_own(ipaddress.ip_address(own))


def test_a_neighbour_is_not_own(routing: Routing) -> None:
    assert not routing.is_own(ipaddress.ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.77", ("eth0", "192.0.2.2")),
        ("8.8.8.8", ("eth0", "192.0.2.2")),
        ("2001:db8::1", ("eth0", "fd00::2")),
        ("fe80::1", ("eth0", "fe80::fc:ff:fe00:1")),
    ],
)
def test_source(routing: Routing, peer: str, source: tuple[str, str]) -> None:
    found = routing.source(["eth9", "eth0"], ipaddress.ip_address(peer))
    assert found == (source[0], ipaddress.ip_address(source[1]))


def test_no_source_without_a_route_or_an_address(routing: Routing) -> None:
    assert routing.source(["ifb0", "eth9"], ipaddress.ip_address("8.8.8.8")) is None
    only_near = Routing(routing.addresses, tuple(route for route in routing.routes if route.destination.prefixlen))
    assert only_near.source(["eth0"], ipaddress.ip_address("8.8.8.8")) is None


def test_a_route_with_several_hops_and_one_without_device() -> None:
    text = '[{"dst":"default","nexthops":[{"dev":"a"},{"dev":"b"}]},{"type":"unreachable","dst":"10.0.0.0/8"}]'
    assert [(str(route.destination), route.device) for route in parse_routes(text, "-4")] == [
        ("0.0.0.0/0", "a"),
        ("0.0.0.0/0", "b"),
    ]


@pytest.mark.parametrize("text", ["Object not found", "{}", '[{"dst":"nowhere","dev":"eth0"}]'])
def test_other_output_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableRoutes):
        parse_routes(text, "-4")


async def test_this_machine(host: Host) -> None:
    routing = await routes.read_routing(host)
    assert routing.is_own(ipaddress.ip_address("127.0.0.1"))


async def test_a_lying_ip_is_unreadable(stand_ins: StandIns) -> None:
    stand_ins.says("ip", "oops")
    with pytest.raises(UnreadableRoutes, match="oops"):
        await routes.read_routing(Host(tools=stand_ins.tools()))

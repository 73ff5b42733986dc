"""The near end of the way to the orchestrator."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from vetting_agent import __version__, route
from vetting_agent.route import NO_MAC, Route, route_to


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://localhost:8443/base"])
async def test_over_loopback_it_is_loopback(url: str) -> None:
    route = await route_to(url)
    assert route.ip in {"127.0.0.1", "::1"}
    assert route.mac == NO_MAC


async def test_over_a_real_interface_it_is_that_interfaces_address() -> None:
    route = await route_to("http://192.0.2.1")  # TEST-NET-1: routed like any other, never answered
    if not route.ip:
        pytest.skip("this machine has no default route")
    owners = [
        addresses for addresses in psutil.net_if_addrs().values() if route.ip in {one.address for one in addresses}
    ]
    assert owners
    assert route.mac in {one.address for one in owners[0] if one.family == psutil.AF_LINK} | {""}


async def test_a_name_nobody_knows_is_no_route() -> None:
    route = await route_to("http://no-such-host.invalid")
    assert route == Route(trouble=route.trouble)
    assert "the name no-such-host.invalid is not resolved: " in route.trouble


async def test_a_name_server_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever(_name: str, _port: int) -> list[object]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(route, "LOOK_UP_LIMIT_S", 0.01)
    monkeypatch.setattr(route, "_look_up", for_ever)
    found = await route_to("http://orchestrator.test")
    assert (found.ip, "no answer from a name server" in found.trouble) == ("", True)


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert __version__ == version("vetting-agent")

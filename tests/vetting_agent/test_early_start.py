"""An agent that is started early in the boot: it waits for an address before it calls, for devices before it tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from probes.host import Host
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.stand_ins import StandIns
from tests.vetting_agent.test_sidecars import client_on
from vetting_agent import claiming, devices
from vetting_agent.claiming import Claimer, Identity
from vetting_agent.errors import Trouble
from vetting_agent.lock import TokenStore
from vetting_agent.logs import LogBook
from vetting_agent.params import BootParams, Token
from vetting_agent.redact import Redactor
from vetting_agent.route import Route


def book_of(lines: list[str]) -> LogBook:
    return LogBook(redactor=Redactor(), echo=lambda line: lines.append(line.text))


async def test_udev_is_asked_to_settle(stand_ins: StandIns) -> None:
    stand_ins.says("udevadm")
    lines: list[str] = []
    await devices.settled(stand_ins.tools(), book_of(lines), limit_s=3)
    assert stand_ins.calls("udevadm") == [["udevadm", "settle", "--timeout=3"]]
    assert lines == []


async def test_devices_that_do_not_settle_are_told_and_stop_nothing(stand_ins: StandIns) -> None:
    stand_ins.says("udevadm", exit_code=1)
    lines: list[str] = []
    await devices.settled(stand_ins.tools(), book_of(lines), limit_s=3)
    assert "not all settled" in lines[0]


async def test_the_first_call_waits_for_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Route(), Route(), Route("127.0.0.1")]
    asked: list[bool] = []

    async def route_to(_url: str, *, with_mac: bool) -> Route:
        asked.append(with_mac)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(claiming, "route_to", route_to)
    monkeypatch.setattr(claiming, "ROUTE_POLL_S", 0.01)
    server, lines = FakeOrchestrator(), list[str]()
    async with client_on(server) as client:
        params = BootParams(server.url, 7, Token("t"), mac="52:54:00:7e:70:01")
        identity = Identity.of(Host(root=tmp_path), "inst")
        claimer = Claimer(params, identity, client, TokenStore(tmp_path, params), book_of(lines))
        await claimer.first()
    assert [call.verb for call in server.calls] == ["hello", "claim"]
    assert server.of("hello")[0].body["ip"] == "127.0.0.1"
    assert answers == [Route("127.0.0.1")]
    assert not any(asked)  # the boot loader has told the MAC address: none is looked up


async def test_look_ups_that_take_long_do_not_make_the_waiting_longer_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty seconds are sixty seconds, also where each look at the route takes five of them."""
    looks = 0

    async def route_to(_url: str, *, with_mac: bool) -> Route:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.05)
        return Route("127.0.0.1") if looks > 60 else Route(trouble="the name o is not resolved: no answer")

    monkeypatch.setattr(claiming, "route_to", route_to)
    for name, value in (("ROUTE_LIMIT_S", 0.4), ("ROUTE_QUIET_S", 0.1), ("ROUTE_POLL_S", 0.001)):
        monkeypatch.setattr(claiming, name, value)
    server, lines = FakeOrchestrator(), list[str]()
    async with client_on(server) as client:
        params = BootParams(server.url, 7, Token("t"), mac="52:54:00:7e:70:01")
        claimer = Claimer(
            params, Identity.of(Host(root=tmp_path), "inst"), client, TokenStore(tmp_path, params), book_of(lines)
        )
        await claimer._wait_for_route()
        assert looks <= 9
        with pytest.raises(Trouble, match="the name o is not resolved: no answer"):
            await claimer.once()
    assert [line for line in lines if "not resolved" in line] == [
        "waiting for a way to the orchestrator: the name o is not resolved: no answer"
    ]

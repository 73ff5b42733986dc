"""An agent that is started early in the boot: it waits for an address before it calls, for devices before it tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.host import Host
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.stand_ins import StandIns
from tests.vetting_agent.test_sidecars import client_on
from vetting_agent import claiming, devices
from vetting_agent.claiming import Claimer, Identity
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

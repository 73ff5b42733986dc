"""The terminal's own connection: the pin holds for it too, and what is no WebSocket is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.certificates import make
from tests.support.fake_orchestrator import FakeOrchestrator
from vetting_agent.client import Client
from vetting_agent.errors import Trouble
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.terminal_stream import open_stream
from vetting_agent.wire import HelloRequest, TerminalOrder

ORDER = TerminalOrder(session="a-session", token="one-time-secret")
HELLO = HelloRequest(agent_version="1", mac="m", ip="i", instance_id="x")


def client_of(url: str, pin: str, notes: list[str]) -> Client:
    params = BootParams(url, 7, Token("secret-token"), (pin,))
    return Client(params, "instance", way_to(url, (pin,)), note=lambda _, text: notes.append(text))


async def tried(client: Client) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await open_stream(client, ORDER)
    await client.close()


async def test_a_wrong_certificate_gets_no_byte(tmp_path: Path) -> None:
    notes: list[str] = []
    async with FakeOrchestrator().serve(make().server_context(tmp_path)) as server:
        await tried(client_of(server.url, "ab" * 32, notes))
    assert (server.bytes_received, server.connections > 0) == (0, True)
    assert "fingerprint" in notes[0]
    assert "secret" not in str(notes)


async def test_a_certificate_that_changes_between_the_calls_and_the_terminal_gets_no_byte(tmp_path: Path) -> None:
    good, bad = make(), make()
    notes: list[str] = []
    async with FakeOrchestrator().serve(good.server_context(tmp_path)) as first:
        client = client_of(first.url, good.fingerprint, notes)
        await client.hello(HELLO)
    port = int(first.url.rsplit(":", 1)[1])
    async with FakeOrchestrator().serve(bad.server_context(tmp_path), port=port) as second:
        await tried(client)
    assert (second.bytes_received, second.connections > 0) == (0, True)
    assert notes


async def test_a_child_of_the_pinned_certificate_gets_no_byte(tmp_path: Path) -> None:
    parent = make("parent", is_ca=True)
    async with FakeOrchestrator().serve(make(issuer=parent).server_context(tmp_path)) as server:
        await tried(client_of(server.url, parent.fingerprint, []))
    assert server.bytes_received == 0


async def test_an_answer_that_is_no_upgrade_ends_it_and_is_told(tmp_path: Path) -> None:
    certificate = make()
    async with FakeOrchestrator().serve(certificate.server_context(tmp_path)) as server:
        client = client_of(server.url, certificate.fingerprint, [])
        with pytest.raises((Trouble, TimeoutError)):
            async with asyncio.timeout(1.5):
                await open_stream(client, ORDER)
        await client.close()

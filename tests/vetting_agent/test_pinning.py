"""The pin against real TLS servers that count what they get."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.certificates import Certificate, make
from tests.support.fake_orchestrator import FakeOrchestrator
from vetting_agent.client import Backoff, Client
from vetting_agent.errors import Trouble
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import PinnedWay, fetch_leaf, fingerprint_of, pinned_context, way_to
from vetting_agent.wire import HelloRequest

HELLO = HelloRequest(agent_version="1", mac="m", ip="i", instance_id="x")


def client_of(url: str, *pins: str) -> Client:
    params = BootParams(url, 7, Token("secret-token"), tuple(pins))
    return Client(params, "instance", way_to(url, pins), backoff=Backoff(0.01, 0.02))


SOUND = {
    "self-signed EC": lambda: make(),
    "self-signed RSA": lambda: make(use_rsa=True),
    "leaf of a private CA": lambda: make(issuer=make("ca", is_ca=True)),
    "expired": lambda: make(expired=True),
    "another host's name": lambda: make("elsewhere.example"),
}


@pytest.mark.parametrize("kind", SOUND)
async def test_the_pinned_certificate_is_taken_whatever_else_it_says(kind: str, tmp_path: Path) -> None:
    certificate = SOUND[kind]()
    async with FakeOrchestrator().serve(certificate.server_context(tmp_path)) as server:
        client = client_of(server.url, "00" * 32, certificate.fingerprint)
        await client.hello(HELLO)
        await client.hello(HELLO)
        await client.close()
    assert [call.headers["authorization"] for call in server.of("hello")] == ["Bearer secret-token"] * 2
    assert server.of("hello")[0].headers["x-correlation-id"] == "instance"


async def refused(certificate: Certificate, pin: str, tmp_path: Path) -> str:
    """Try to call; the server must get nothing."""
    async with FakeOrchestrator().serve(certificate.server_context(tmp_path)) as server:
        client = client_of(server.url, pin)
        with pytest.raises(Trouble) as caught:
            await client.hello(HELLO)
        await client.close()
    assert server.bytes_received == 0
    assert server.connections > 0
    return str(caught.value)


async def test_a_wrong_certificate_gets_no_byte_and_the_message_says_why(tmp_path: Path) -> None:
    certificate = make()
    text = await refused(certificate, "ab" * 32, tmp_path)
    assert "fingerprint" in text
    assert "ab" * 32 in text
    assert certificate.fingerprint in text
    assert "secret" not in text


async def test_a_child_of_the_pinned_certificate_gets_no_byte(tmp_path: Path) -> None:
    parent = make("parent", is_ca=True)
    assert "fingerprint" in await refused(make(issuer=parent), parent.fingerprint, tmp_path)


async def test_the_context_alone_refuses_a_child_of_its_anchor(tmp_path: Path) -> None:
    # As if the certificate were swapped between the look at it and the connection: the anchor has signed the child.
    parent = make("parent", is_ca=True)
    child = make(issuer=parent)
    async with FakeOrchestrator().serve(child.server_context(tmp_path)) as server:
        port = int(server.url.rsplit(":", 1)[1])
        assert fingerprint_of(await fetch_leaf("127.0.0.1", port)) == child.fingerprint
        leaf = ssl.PEM_cert_to_DER_cert(parent.certificate.public_bytes(serialization.Encoding.PEM).decode())
        async with httpx.AsyncClient(verify=pinned_context(leaf, (parent.fingerprint,))) as bare:
            with pytest.raises(httpx.ConnectError, match="fingerprint"):
                await bare.post(server.url + "/api/v1/runs/1/hello", content=b"secret")
    assert server.bytes_received == 0


async def test_a_certificate_swapped_before_a_reconnect_gets_no_byte(tmp_path: Path) -> None:
    good, bad = make(), make()
    async with FakeOrchestrator().serve(good.server_context(tmp_path)) as first:
        client = client_of(first.url, good.fingerprint)
        await client.hello(HELLO)
    port = int(first.url.rsplit(":", 1)[1])
    async with FakeOrchestrator().serve(bad.server_context(tmp_path), port=port) as second:
        for _ in range(3):
            with pytest.raises(Trouble) as caught:
                await client.hello(HELLO)
        await client.close()
    assert "fingerprint" in str(caught.value)
    assert bad.fingerprint in str(caught.value)
    assert second.bytes_received == 0
    assert second.connections >= 3


async def test_a_rotation_to_another_pinned_certificate_is_followed(tmp_path: Path) -> None:
    old, new = make(), make()
    async with FakeOrchestrator().serve(old.server_context(tmp_path)) as first:
        client = client_of(first.url, old.fingerprint, new.fingerprint)
        await client.hello(HELLO)
    port = int(first.url.rsplit(":", 1)[1])
    async with FakeOrchestrator().serve(new.server_context(tmp_path), port=port) as second:
        # The first call may still find the old connection that the old server has closed.
        await client.insist("hello", lambda: client.hello(HELLO), limit_s=10)
        await client.close()
    assert len(second.of("hello")) == 1


async def test_without_a_fingerprint_only_the_system_is_trusted(tmp_path: Path) -> None:
    async with FakeOrchestrator().serve(make().server_context(tmp_path)) as server:
        client = client_of(server.url)
        with pytest.raises(Trouble, match="verify failed"):
            await client.hello(HELLO)
        await client.close()
    assert server.bytes_received == 0


async def test_a_proxy_in_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    certificate = make()
    async with FakeOrchestrator().serve(certificate.server_context(tmp_path)) as server:
        client = client_of(server.url, certificate.fingerprint)
        await client.hello(HELLO)
        await client.close()
    assert len(server.of("hello")) == 1


async def test_nobody_there_is_trouble_not_a_crash() -> None:
    client = client_of("https://127.0.0.1:9", "ab" * 32)
    with pytest.raises(Trouble):
        await client.hello(HELLO)
    assert isinstance(client.way, PinnedWay)
    await client.close()

"""The agent's end of the golden messages: it sends the requests as they stand there and takes the replies."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.agent_rig import SHORT
from vetting_agent import wire
from vetting_agent.client import Client
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import FixedWay

# Loading a certificate store would take longer than the test.
NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
GOLDEN = Path(__file__).parents[1] / "fixtures" / "wire"
REQUESTS: dict[str, type[wire.Message]] = {
    "hello": wire.HelloRequest,
    "claim": wire.ClaimRequest,
    "heartbeat": wire.HeartbeatRequest,
    "sensor": wire.SensorRequest,
    "log": wire.LogRequest,
    "result": wire.ResultRequest,
    "hold": wire.HoldRequest,
    "iperf_slot": wire.IperfSlotRequest,
}


def names(part: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(f"*-{part}*.json") if path.stem.split("-")[0] in REQUESTS)


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def without_nulls(value: Any) -> Any:
    """On the wire null and absent mean the same."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def client_answering(content: bytes, seen: list[httpx.Request]) -> Client:
    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(content))

    way = FixedWay(httpx.AsyncClient(transport=httpx.MockTransport(handler), verify=NO_TRUST))
    return Client(BootParams("http://orc", 7, Token("t")), "inst", way, backoff=SHORT)


@pytest.mark.parametrize("name", names("request"))
async def test_a_request_goes_out_as_it_stands_there(name: str) -> None:
    verb = name.split("-")[0]
    message = golden(name)
    reply = next(one for one in names("reply") if one.startswith(f"{verb}-"))
    seen: list[httpx.Request] = []
    client = client_answering((GOLDEN / f"{reply}.json").read_bytes(), seen)
    await getattr(client, verb)(msgspec.convert(message, REQUESTS[verb]))
    await client.close()
    sent = json.loads(seen[0].content)
    assert seen[0].url.path.endswith(f"/{verb}")
    assert without_nulls(sent) == without_nulls(message)


@pytest.mark.parametrize("name", names("reply"))
async def test_a_reply_is_taken_as_it_stands_there(name: str) -> None:
    verb = name.split("-")[0]
    message = golden(name)
    request = next(golden(one) for one in names("request") if one.startswith(f"{verb}-"))
    client = client_answering((GOLDEN / f"{name}.json").read_bytes(), [])
    taken = await getattr(client, verb)(msgspec.convert(request, REQUESTS[verb]))
    await client.close()
    if taken is None:
        assert message == {}
        return
    understood = msgspec.to_builtins(taken)
    assert {key: understood[key] for key in message} == message


def test_every_verb_has_its_golden_messages() -> None:
    for verb in REQUESTS:
        assert [one for one in names("request") if one.startswith(f"{verb}-")], verb
        assert [one for one in names("reply") if one.startswith(f"{verb}-")], verb

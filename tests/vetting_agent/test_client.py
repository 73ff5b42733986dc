"""The status table, retries and limits of the client, over an injected transport."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from pytest_httpx import HTTPXMock

from vetting_agent import client as client_module
from vetting_agent import wire
from vetting_agent.client import ANSWER_LIMIT_BYTES, Backoff, Client
from vetting_agent.errors import CallError, FinalRefusal, Rejected, Trouble
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import FixedWay

# Loading a certificate store would take longer than the test.
NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TOKEN = "the-secret-token"
BASE = "http://orc/base"
ENVELOPE = {"error": {"code": "nope", "message": "because", "correlation_id": "c"}}
CLAIM = {
    "stages": ["Inventory"],
    "current_state": "InventoryCheck",
    "iperf_port": 5201,
    "expected_disks": [{"serial": "S", "size_gb": 100}],
    "non_destructive": True,
}
HELLO = wire.HelloRequest(agent_version="1", mac="m", ip="i", instance_id="x")


def make_client(notes: list[str] | None = None) -> Client:
    params = BootParams(BASE, 7, Token(TOKEN))
    way = FixedWay(httpx.AsyncClient(trust_env=False, verify=NO_TRUST))
    note = (lambda verb, text: notes.append(f"{verb}: {text}")) if notes is not None else (lambda _verb, _text: None)
    return Client(params, "instance-1", way, backoff=Backoff(0.01, 0.02), note=note)


@pytest.fixture
def mute_server() -> Iterator[int]:
    """The port of one that takes connections and never says a word, as one that is stopped does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield listener.getsockname()[1]


SUMMARY = wire.Summary(
    verdict="pass", headline="", findings=[], measurements=[], coverage={}, duration_s=1.0, tool_versions={}
)
RESULT = wire.ResultRequest(stage="SMART", passed=True, summary=SUMMARY, message="", result_id="r")
VERBS: dict[str, Callable[[Client], Any]] = {
    "hello": lambda one: one.hello(HELLO),
    "claim": lambda one: one.claim(wire.ClaimRequest(ip="i", mac="m", instance_id="x", agent_version="1")),
    "heartbeat": lambda one: one.heartbeat(wire.HeartbeatRequest()),
    "sensor": lambda one: one.sensor(wire.SensorRequest(samples=[])),
    "log": lambda one: one.log(wire.LogRequest(lines=[])),
    "result": lambda one: one.result(RESULT),
    "hold": lambda one: one.hold(wire.HoldRequest(ip="i")),
}
GOOD = {
    "hello": {},
    "claim": CLAIM,
    "heartbeat": {"cmd": "", "stage": "", "override_flags": None},
    "sensor": {},
    "log": {},
    "result": {"next_state": "SMART"},
    "hold": {"authorized_key": "k"},
}


async def attempt(verb: str) -> Any:
    one = make_client()
    try:
        return await VERBS[verb](one)
    finally:
        await one.close()


@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_goes_where_the_page_says_and_carries_what_it_says(verb: str, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json=GOOD[verb] | {"unknown": {"fields": ["are", "ignored"]}})
    await attempt(verb)
    request = httpx_mock.get_requests()[0]
    assert request.method == "POST"
    assert str(request.url) == f"{BASE}/api/v1/runs/7/{verb}"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["X-Correlation-ID"] == "instance-1"
    assert request.headers["Content-Type"] == "application/json"
    assert isinstance(json.loads(request.content), dict)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("status", "exit_code"), [(401, 3), (403, 3), (404, 3), (409, 3), (410, 0)])
async def test_the_orchestrators_own_refusal_is_final(
    verb: str, status: int, exit_code: int, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=status, json=ENVELOPE)
    with pytest.raises(FinalRefusal, match="because") as caught:
        await attempt(verb)
    assert caught.value.exit_code == exit_code
    assert TOKEN not in str(caught.value)


async def test_a_refusal_without_the_envelope_is_final_only_when_it_lasts(
    httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx_mock.add_response(status_code=404, text="<html>no such page", is_reusable=True)
    monkeypatch.setattr(client_module, "UNPROVEN_REFUSAL_S", 0.2)
    one = make_client()
    with pytest.raises(Trouble, match="not the orchestrator's own"):
        await one.heartbeat(wire.HeartbeatRequest())
    await asyncio.sleep(0.25)
    with pytest.raises(FinalRefusal):
        await one.heartbeat(wire.HeartbeatRequest())
    await one.close()


async def test_an_answer_in_between_starts_the_patience_anew(
    httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "UNPROVEN_REFUSAL_S", 0.2)
    one = make_client()
    for between in ({"json": {"cmd": ""}}, {"status_code": 500}):
        httpx_mock.add_response(status_code=401)
        httpx_mock.add_response(**between)  # type: ignore[arg-type]
        httpx_mock.add_response(status_code=401)
        for pause_s in (0.0, 0.15, 0.1):
            await asyncio.sleep(pause_s)
            try:
                await one.heartbeat(wire.HeartbeatRequest())
            except Trouble:
                continue
        assert len(httpx_mock.get_requests()) % 3 == 0
    await one.close()


@pytest.mark.parametrize("status", [301, 302, 307, 400, 405, 413, 418, 422, 451])
async def test_a_rejection_is_not_trouble_and_shows_the_body(status: int, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=status, text="field x\x1b[31m", headers={"Location": "http://elsewhere/"})
    with pytest.raises(Rejected, match=r"field x\\x1b") as caught:
        await attempt("result")
    assert caught.value.status == status
    assert len(httpx_mock.get_requests()) == 1  # no redirect is followed


@pytest.mark.parametrize("status", [500, 502, 504, 429, 503, 201, 204])
async def test_trouble_on_the_way(status: int, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=status)
    with pytest.raises(Trouble) as caught:
        await attempt("result")
    assert caught.value.maybe_done is (status not in {429, 503})


BODIES = [b"", b"<html>", b"[]", b"null", b'"x"', b'{"next_state"', b"\xff\xfe{}", b"{" * 5000]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_body_that_makes_no_sense_is_trouble(verb: str, body: bytes, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(content=body)
    with pytest.raises(Trouble) as caught:
        await attempt(verb)
    assert caught.value.maybe_done


@pytest.mark.parametrize(
    ("verb", "change"),
    [
        ("claim", {"stages": None}),
        ("claim", {"stages": "Inventory"}),
        ("claim", {"iperf_port": "x"}),
        ("claim", {"token": "with space"}),
        ("heartbeat", {"cmd": 5}),
        ("heartbeat", {"override_flags": {"wipe": "yes"}}),
        ("hold", {"authorized_key": 5}),
    ],
)
async def test_a_field_of_the_wrong_type_is_trouble(verb: str, change: dict[str, Any], httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json=GOOD[verb] | change)
    with pytest.raises(Trouble):
        await attempt(verb)


@pytest.mark.parametrize(
    ("value", "destructive"), [(True, False), (False, True), (None, False), ("false", False), (0, False)]
)
async def test_a_malformed_non_destructive_means_true(value: object, destructive: bool, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json=CLAIM | {"non_destructive": value, "current_state": 5})
    claim = await attempt("claim")
    assert claim.is_destructive is destructive


@pytest.mark.parametrize("features", [None, []])
async def test_a_list_of_features_that_was_never_filled_is_empty(features: object, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json=CLAIM | {"features": features})
    claim = await attempt("claim")
    assert not claim.offers("evidence")


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_without_end_is_cut_off(announced: bool) -> None:
    body = b'{"next_state": "' + b"x" * ANSWER_LIMIT_BYTES + b'"}'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"Content-Length: %d" % len(body) if announced else b"Connection: close"
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one = Client(
            BootParams(url, 7, Token(TOKEN)),
            "instance-1",
            FixedWay(httpx.AsyncClient(trust_env=False, verify=NO_TRUST)),
        )
        with pytest.raises(Trouble, match="longer than"):
            await one.result(RESULT)
        await one.close()
    await asyncio.sleep(0.05)


async def test_a_compressed_answer_is_not_unpacked(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(content=b"x", headers={"Content-Encoding": "gzip"})
    with pytest.raises(Trouble, match="compressed"):
        await attempt("result")


@pytest.mark.parametrize(
    ("problem", "maybe_done"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ReadError("reset"), True),
        (httpx.RemoteProtocolError("closed"), True),
        (httpx.ReadTimeout("slow"), True),
    ],
)
async def test_connection_errors_are_trouble(problem: httpx.HTTPError, maybe_done: bool, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(problem)
    with pytest.raises(Trouble) as caught:
        await attempt("result")
    assert caught.value.maybe_done is maybe_done


async def test_a_call_has_its_time_limit(httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(200)

    assert (client_module.CALL_LIMIT_S, client_module.QUICK_LIMIT_S) == (10.0, 5.0)
    monkeypatch.setattr(client_module, "CALL_LIMIT_S", 0.3)
    monkeypatch.setattr(client_module, "QUICK_LIMIT_S", 0.1)
    httpx_mock.add_callback(slow, is_reusable=True)
    for verb in ("heartbeat", "sensor"):
        with pytest.raises(Trouble, match=r"within 0\.1 s"):
            await attempt(verb)
    with pytest.raises(Trouble, match=r"within 0\.3 s"):
        await attempt("claim")


async def test_long_requests_that_get_lost_while_short_ones_are_answered_point_to_the_way(
    httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def short_ones(request: httpx.Request) -> httpx.Response:
        if len(request.content) > 2000:
            await asyncio.sleep(30)
        return httpx.Response(200, json={"next_state": None})

    monkeypatch.setattr(client_module, "CALL_LIMIT_S", 1.0)
    httpx_mock.add_callback(short_ones, is_reusable=True)
    client = make_client()
    long = msgspec.structs.replace(RESULT, message="x" * 3000)
    with pytest.raises(Trouble) as nothing_answered_yet:
        await client.result(long)
    assert "MTU" not in str(nothing_answered_yet.value)
    posting = asyncio.create_task(client.result(long))
    await asyncio.sleep(0.1)
    await client.log(wire.LogRequest(lines=[]))
    with pytest.raises(Trouble, match=r"no answer within 1 s to \d{4} bytes, while short calls .* MTU"):
        await posting


DATE = datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"Retry-After": "7"}, 6.5, 7.0),
        (
            {
                "Retry-After": format_datetime(DATE + timedelta(seconds=9), usegmt=True),
                "Date": format_datetime(DATE, usegmt=True),
            },
            8.5,
            9.0,
        ),
        ({"Retry-After": "soon"}, 0.0, 0.0),
        ({"Retry-After": "-5"}, 0.0, 0.0),
        ({}, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("verb", ["heartbeat", "result"])
async def test_retry_after_holds_this_verb_back(
    verb: str, headers: dict[str, str], least_s: float, most_s: float, status: int, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=status, headers=headers)
    one = make_client()
    with pytest.raises(Trouble):
        await VERBS[verb](one)
    assert least_s <= one.wait_s(verb) <= most_s
    assert one.wait_s("log") == 0.0
    await one.close()


@pytest.mark.parametrize("verb", ["heartbeat", "result"])
async def test_the_next_call_of_a_verb_waits_as_it_was_asked_to(verb: str, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=429, headers={"Retry-After": "1"})
    httpx_mock.add_response(json=GOOD[verb])
    one = make_client()
    with pytest.raises(Trouble):
        await VERBS[verb](one)
    started = time.monotonic()
    await VERBS[verb](one)
    assert time.monotonic() - started >= 0.9
    await one.close()


async def test_insisting_goes_through_trouble_and_says_so_ever_less_often(httpx_mock: HTTPXMock) -> None:
    for _ in range(9):
        httpx_mock.add_response(status_code=500)
    httpx_mock.add_response(json=GOOD["result"])
    notes: list[str] = []
    one = make_client(notes)
    reply = await one.insist("result", lambda: one.result(RESULT))
    assert reply.next_state == "SMART"
    assert [note.split("attempt ")[1].split(",")[0] for note in notes] == ["1", "2", "4", "8"]
    await one.close()


@pytest.mark.parametrize("status", [401, 410, 422])
async def test_insisting_ends_at_a_final_word(status: int, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=500)
    httpx_mock.add_response(status_code=status, json=ENVELOPE)
    one = make_client()
    with pytest.raises(CallError) as caught:
        await one.insist("result", lambda: one.result(RESULT))
    assert not isinstance(caught.value, Trouble)
    await one.close()


async def test_insisting_for_a_time_only(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=500, is_reusable=True)
    one = make_client()
    with pytest.raises(Trouble):
        await one.insist("hello", lambda: one.hello(HELLO), limit_s=0.2)
    assert len(httpx_mock.get_requests()) > 2
    await one.close()


def test_the_back_off_is_full_jitter_from_2_to_30_seconds() -> None:
    wait = client_module._Wait(Backoff(), lambda: 0.0)

    def waits(attempt_number: int) -> list[float]:
        state: Any = type("State", (), {"attempt_number": attempt_number})
        return [wait(state) for _ in range(500)]

    for number, bound in ((1, 2.0), (2, 4.0), (3, 8.0), (5, 30.0), (500, 30.0)):
        drawn = waits(number)
        assert max(drawn) <= bound
        assert max(drawn) > bound * 0.9
        assert min(drawn) < bound * 0.1


async def test_evidence_is_a_gzip_with_its_digest(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={})
    one = make_client()
    await one.evidence("SMART", "id-1", b"packed", "d" * 64)
    request = httpx_mock.get_requests()[0]
    assert str(request.url) == f"{BASE}/api/v1/runs/7/evidence/SMART?result_id=id-1"
    assert request.headers["Content-Type"] == "application/gzip"
    assert request.headers["X-Content-SHA256"] == "d" * 64
    assert request.content == b"packed"
    await one.close()


async def test_a_server_that_hangs_in_the_handshake_costs_no_descriptors(
    mute_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the collector, which would close what a cancelled handshake leaves open, some day."""
    monkeypatch.setattr(client_module, "HANDSHAKE_SHARE", 0.1)
    params = BootParams(f"https://127.0.0.1:{mute_server}", 7, Token(TOKEN))
    way = FixedWay(httpx.AsyncClient(trust_env=False, verify=NO_TRUST))
    client = Client(params, "instance-1", way)
    gc.disable()
    try:
        open_files = []
        for _ in range(8):
            with pytest.raises(Trouble, match=r"no answer within 5 s"):
                await client.heartbeat(wire.HeartbeatRequest())
            open_files.append(psutil.Process().num_fds())
    finally:
        gc.enable()
        gc.collect()
        await client.close()
    assert open_files[-1] - open_files[0] <= 2, open_files

"""A host's connection on the wire: what is answered at once, what waits, and what goes to uvicorn; over real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from orchestrator.agent_line import AgentLine
from orchestrator.call_head import MOST_BODY_BYTES, CallHead, head_of
from tests.orchestrator.served import Agent, Served, _unverified

LIMIT_S = 60.0
BODY = b'{"activity": "running", "stage": "Inventory"}'


def head_bytes(*more: str, path: str = "/api/v1/runs/7/heartbeat", length: int = 2) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {length}", *more)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def test_a_plain_head_is_read() -> None:
    data = head_bytes("Authorization:  Bearer t ", "X-CORRELATION-id: one", "Connection: Keep-Alive")
    head = CallHead(run="7", verb="heartbeat", authorization="Bearer t", correlation="one", size=len(data), length=2)
    assert head_of(data + b"{}POST /api/v1") == head


@pytest.mark.parametrize(
    "data",
    [
        head_bytes()[:-2],
        head_bytes("Content-Length: 2"),
        head_bytes("Authorization: Bearer a", "authorization: Bearer b"),
        head_bytes("Transfer-Encoding: chunked"),
        head_bytes("Expect: 100-continue"),
        head_bytes("Connection: close"),
        head_bytes("Connection: Upgrade", "Upgrade: websocket"),
        head_bytes("Content-Encoding: gzip"),
        head_bytes("X : y"),
        head_bytes(" folded"),
        head_bytes("X: a\nContent-Length: 9"),
        head_bytes("X: \x00"),
        head_bytes(length=MOST_BODY_BYTES + 1),
        head_bytes(length=-2),
        head_bytes("Accept: " + "x" * 9000),
        head_bytes(path="/api/v1/runs/7/evidence/SMART"),
        head_bytes(path="/api/v1/runs/7/heartbeat?x=1"),
        head_bytes(path="/api/v1/runs/%37/heartbeat"),
        head_bytes().replace(b"POST", b"GET"),
        head_bytes().replace(b"HTTP/1.1", b"HTTP/1.0"),
        head_bytes().replace(b"Content-Length: 2\r\n", b""),
        b"POST /api/v1/runs/7/heartbeat HTTP/1.1\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_plain_is_left_to_uvicorn(data: bytes) -> None:
    assert head_of(data) is None


@given(st.binary(max_size=200), st.integers(0, 120))
def test_no_bytes_break_it(noise: bytes, at: int) -> None:
    data = head_bytes("Authorization: Bearer t")
    head = head_of(data[:at] + noise + data[at:])
    assert head is None or 0 <= head.length <= MOST_BODY_BYTES


class Wire:
    """A TLS connection, byte by byte."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        plain = socket.create_connection(("127.0.0.1", agent.served.port), timeout=LIMIT_S)
        self.socket: ssl.SSLSocket = _unverified().wrap_socket(plain, server_hostname="h")
        self._data = b""

    def request(self, verb: str = "heartbeat", body: bytes = BODY, *more: str) -> bytes:
        lines = [f"{name}: {value}" for name, value in self.agent.headers.items()]
        return head_bytes(*lines, *more, path=f"/api/v1/runs/{self.agent.run_id}/{verb}", length=len(body)) + body

    def answer(self) -> tuple[int, dict[str, Any]]:
        """The next one."""
        while b"\r\n\r\n" not in self._data:
            self._read()
        head, _, rest = self._data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length:
            self._read()
            rest = self._data.partition(b"\r\n\r\n")[2]
        self._data = rest[length:]
        return int(head[9:12]), json.loads(rest[:length])

    def _read(self) -> None:
        more = self.socket.recv(65536)
        assert more, f"the server closed the connection; so far {self._data!r}"
        self._data += more


@contextlib.contextmanager
def wired(served: Served) -> Iterator[Wire]:
    agent = served.create(stages=["SMART"])
    agent.claim()
    wire = Wire(agent)
    try:
        yield wire
    finally:
        wire.socket.close()


def test_calls_one_after_the_other_on_a_connection(served: Served) -> None:
    with wired(served) as wire:
        for _ in range(3):
            wire.socket.sendall(wire.request())
            assert wire.answer()[0] == 200
        assert served.run(wire.agent.run_id)["agent"]["activity"] == "running"


def test_calls_that_do_not_wait_for_answers_get_them_in_their_order(served: Served) -> None:
    with wired(served) as wire:
        wire.socket.sendall(wire.request() + wire.request("nonsense") + wire.request("log", b'{"lines": []}'))
        first, second, third = (wire.answer() for _ in range(3))
        assert (first[0], second[0], third) == (200, 422, (200, {}))
        assert second[1]["error"]["code"] == "unknown_verb"
        assert second[1]["error"]["correlation_id"] == wire.agent.instance


def test_a_body_that_comes_in_pieces(served: Served) -> None:
    with wired(served) as wire:
        text = "x" * 100_000
        line = {"ts": "t", "level": "info", "stage": "", "text": text, "seq": 1}
        whole = wire.request("log", json.dumps({"lines": [line]}).encode())
        for at in range(0, len(whole), 30_000):
            wire.socket.sendall(whole[at : at + 30_000])
            time.sleep(0.02)
        assert wire.answer() == (200, {})
        rows = served.operator.get(f"/runs/{wire.agent.run_id}/logs").json()
        assert [row["text"] for row in rows] == [text]


def test_a_plain_call_before_and_odd_ones_after_it(served: Served) -> None:
    """Chunked: uvicorn takes the connection over, and keeps it."""
    with wired(served) as wire:
        wire.socket.sendall(wire.request())
        assert wire.answer()[0] == 200
        chunked = wire.request("heartbeat", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        for _ in range(2):
            wire.socket.sendall(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
            assert wire.answer()[0] == 200
        wire.socket.sendall(wire.request())
        assert wire.answer()[0] == 200


def test_too_much_is_refused_and_the_connection_goes_on(served: Served) -> None:
    with wired(served) as wire:
        wire.socket.sendall(wire.request("heartbeat", b" " * 70_000))
        status, envelope = wire.answer()
        assert (status, envelope["error"]["code"]) == (422, "too_large")
        wire.socket.sendall(wire.request())
        assert wire.answer()[0] == 200


def test_a_wrong_token_and_a_run_that_is_not_there(served: Served) -> None:
    with wired(served) as wire:
        wire.socket.sendall(wire.request().replace(b"Bearer ", b"Bearer x"))
        assert wire.answer()[0] == 403
        wire.socket.sendall(wire.request().replace(b"Authorization", b"X-Nothing"))
        assert wire.answer()[0] == 401
        wire.socket.sendall(wire.request().replace(b"runs/", b"runs/9999"))
        assert wire.answer()[0] == 404


async def test_a_call_that_never_came_as_a_whole_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host went away, or the rest did not come in time: whoever answers is told, for the host's liveness."""
    told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def answer(head: CallHead, body: bytes | Exception) -> tuple[int, bytes]:
        told.put_nowait((head.verb, type(body).__name__))
        return 503, b"{}"

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    loop, config, state = asyncio.get_running_loop(), Config(lambda: None), ServerState()
    host, port = server.sockets[0].getsockname()
    for late_s, expected in ((LIMIT_S, "ClientDisconnect"), (0.05, "Refusal")):
        monkeypatch.setattr("orchestrator.agent_line.BODY_TIME_S", late_s)
        _, line = await loop.create_connection(lambda: AgentLine(answer, config, state, {}), host, port)
        line.data_received(head_bytes(length=9) + b"{}")
        if expected == "ClientDisconnect":
            line.transport.abort()
        async with asyncio.timeout(LIMIT_S):
            assert await told.get() == ("heartbeat", expected)
    gone.set()
    server.close()
    await server.wait_closed()


def test_the_server_ends_while_hosts_are_connected(start: Any) -> None:
    served = start()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(wired(served)) for _ in range(3)]
        wires[0].socket.sendall(wires[0].request()[:-5])
        wires[1].socket.sendall(wires[1].request())
        assert wires[1].answer()[0] == 200
        assert served.end() == 0
    assert served.stderr() == ""

"""A scripted orchestrator on loopback: walks a run as it is told, and misbehaves as it is told.

It speaks HTTP/1.1 (with TLS when given a context), counts every application byte that it gets, and remembers every
call. It knows nothing of the orchestrator beside it: both are written from the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Call:
    """One call as it came."""

    verb: str
    path: str
    headers: dict[str, str]
    content: bytes
    at: float
    method: str = "POST"
    answered: int | None = None
    """The status that it was answered with; None: hung up on, or not yet."""

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.content)
        return body


class WaitedInVain(AssertionError):
    """What was waited for did not come."""


@dataclass
class Fault:
    """A way to misbehave once: `act` first (the call counts) or not, then hang up, or answer something else."""

    act: bool = False
    reply: Reply | None = None
    delay_s: float = 0.0


LOSE = Fault(act=True)
DROP = Fault(act=False)
GARBLE = Fault(act=True, reply=(200, {}, b"<html>hello"))


def status(code: int, body: bytes = b"<html>proxy</html>", **headers: str) -> Fault:
    """An answer of a proxy: no error envelope."""
    return Fault(reply=(code, {name.replace("_", "-"): value for name, value in headers.items()}, body))


def refusal(code: int) -> Fault:
    """An answer of the orchestrator itself."""
    envelope = {"error": {"code": f"e{code}", "message": f"refused with {code}", "correlation_id": "c"}}
    return Fault(reply=(code, {}, json.dumps(envelope).encode()))


@dataclass
class ScriptedOrchestrator:
    """Walks `states` in order; a result that did not pass leads to FailedHolding, a retry that passes goes on."""

    states: list[str] = field(default_factory=lambda: ["InventoryCheck"])
    claim_extra: dict[str, Any] = field(
        default_factory=lambda: {
            "heartbeat_interval_s": 0.05,
            "sensor_interval_s": 0.1,
            "log_interval_s": 0.05,
            "features": ["evidence"],
        }
    )
    stages: list[str] = field(default_factory=lambda: ["Inventory", "SMART"])
    knows_result_ids: bool = True
    hold_key: Any = None
    strange: dict[str, Any] = field(default_factory=dict)
    """Fields that nobody knows, in every answer."""
    follow: dict[str, str] = field(default_factory=dict)
    """The state that a result of a stage leads to, whatever it says."""
    sticky: set[str] = field(default_factory=set)
    """The cmd_ids that are repeated though they were acknowledged."""
    handed_out: dict[str, float] = field(default_factory=dict)
    """When each cmd_id was handed out first, by the monotonic clock."""
    calls: list[Call] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    always: dict[str, Fault] = field(default_factory=dict)
    directives: deque[dict[str, Any]] = field(default_factory=deque)
    acks: list[tuple[str, str]] = field(default_factory=list)
    state: Any = None
    bytes_received: int = 0
    connections: int = 0
    chooser: Callable[[str], Fault | None] = lambda _verb: None
    url: str = ""
    _answers: dict[str, Any] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.state is None:
            self.state = self.states[0]

    # --- for tests ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serve(self, context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[ScriptedOrchestrator]:
        """Listen on a port of loopback while the block lasts."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not server.is_serving():  # its handshake was under way when we closed
                writer.transport.abort()
                return
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            try:
                await self._connection(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await asyncio.sleep(0.01)

    def of(self, verb: str) -> list[Call]:
        """The calls of one verb, in order."""
        return [call for call in self.calls if call.verb == verb]

    async def until(self, condition: Callable[[], Any], what: str, limit_s: float = 20.0, every_s: float = 0.1) -> Any:
        """Wait until a condition holds; it is looked at after each call, and every `every_s`."""
        deadline = time.monotonic() + limit_s
        while not (value := condition()):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                verbs = [call.verb for call in self.calls][-30:]
                raise WaitedInVain(f"waited {limit_s} s in vain for {what}; calls: {verbs}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left_s, every_s))
        return value

    def direct(self, cmd: str, cmd_id: str | None = "1", **more: Any) -> None:
        """Have a directive in the next heartbeat's answer: repeated until acknowledged when it has an id."""
        directive = {"cmd": cmd, "stage": "", "override_flags": None} | more
        self.directives.append(directive | ({} if cmd_id is None else {"cmd_id": cmd_id}))

    async def acked(self, cmd_id: str, how: str) -> None:
        """Wait for an acknowledgement."""
        await self.until(lambda: (cmd_id, how) in self.acks, f"{cmd_id} {how}")

    @property
    def texts(self) -> list[str]:
        return [line["text"] for line in self.lines.values()]

    # --- the other end of the wire ------------------------------------------------------------------------------------

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (head := await self._read(reader.readuntil(b"\r\n\r\n"))) is not None:
            lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            headers = {name.lower(): value for name, value in headers.items()}
            content = await self._read(reader.readexactly(int(headers.get("content-length", 0))))
            if content is None:
                return
            method, path = lines[0].split(" ")[:2]
            verb = [*path.split("?")[0].split("/"), *[""] * 6][5]
            call = Call(verb, path, headers, content, time.monotonic(), method)
            reply = await self._reply(call)
            self._changed.set()
            if reply is None:
                return
            code, extra, body = reply
            call.answered = code
            head_lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}"]
            head_lines += [f"{name}: {value}" for name, value in extra.items()]
            writer.write(("\r\n".join(head_lines) + "\r\n\r\n").encode() + body)
            await writer.drain()

    async def _read(self, reading: Any) -> bytes | None:
        try:
            content: bytes = await reading
        except asyncio.IncompleteReadError as end:
            self.bytes_received += len(end.partial)
            return None
        self.bytes_received += len(content)
        return content

    async def _reply(self, call: Call) -> Reply | None:
        self.calls.append(call)
        fault = self.faults[call.verb].popleft() if self.faults[call.verb] else self.always.get(call.verb)
        fault = fault or self.chooser(call.verb)
        if fault is None:
            return 200, {}, json.dumps(self._act(call)).encode()
        await asyncio.sleep(fault.delay_s)
        answer = self._act(call) if fault.act else None
        if fault.delay_s and fault.reply is None:
            return 200, {}, json.dumps(answer if fault.act else self._act(call)).encode()
        return fault.reply

    def _act(self, call: Call) -> Any:
        answer: Any = getattr(self, f"_on_{call.verb}", lambda _call: {})(call)
        return self.strange | answer if self.strange and isinstance(answer, dict) else answer

    def _on_claim(self, _: Call) -> Any:
        return {
            "stages": self.stages,
            "current_state": self.state,
            "iperf_port": 0,
            "expected_disks": [],
            "non_destructive": True,
        } | self.claim_extra

    def _on_heartbeat(self, call: Call) -> Any:
        acked = call.body.get("acked_cmd_id")
        if acked is not None:
            self.acks.append((acked, call.body["ack_status"]))
            if acked not in self.sticky:
                self.directives = deque(one for one in self.directives if one.get("cmd_id") != acked)
        if not self.directives:
            return {"cmd": "", "stage": "", "override_flags": None}
        first = self.directives[0]
        self.handed_out.setdefault(first.get("cmd_id", ""), time.monotonic())
        return self.directives.popleft() if "cmd_id" not in first else first

    def _on_log(self, call: Call) -> Any:
        for line in call.body["lines"]:
            self.lines.setdefault((call.headers.get("x-correlation-id", ""), line["seq"]), line)
        return {}

    def _on_result(self, call: Call) -> Any:
        result_id = call.body["result_id"]
        if self.knows_result_ids and result_id in self._answers:
            return self._answers[result_id]
        self.results.append(call.body)
        stands_at = self.states.index(self.state) if self.state in self.states else None
        if stands_at is None:
            stage = call.body["stage"]
            stands_at = next((at for at, one in enumerate(self.states) if one.startswith(stage)), 0)
        if call.body["stage"] in self.follow:
            self.state = self.follow[call.body["stage"]]
        elif call.body["passed"]:
            self.state = self.states[stands_at + 1] if stands_at + 1 < len(self.states) else "Completed"
        else:
            self.state = "FailedHolding"
        self._answers[result_id] = {"next_state": self.state}
        return self._answers[result_id]

    def _on_hold(self, _: Call) -> Any:
        return self.hold_key if isinstance(self.hold_key, dict) else {"authorized_key": self.hold_key or ""}

"""A real host in a hold, and an operator at the local socket who asks for terminals."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.walk.rig import Agent, Orchestrator, wait_for
from vetting_agent.web_socket import WebSocket

STAGES = ["Inventory", "PSU"]
HOLDS_AT_ONCE = {"PSU": {"bmc_expected": True}}


def started(data: Path, *arguments: str) -> Orchestrator:
    """A server that has all its processes: one that comes later would pass for a test's leftover."""
    server = Orchestrator(data, *arguments)
    server.start()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    wait_for(lambda: any("iperf3" in one.name() for one in process.children(recursive=True)), "iperf3")
    return server


def held(
    folder: Path, orchestrator: Orchestrator, *, url: str | None = None, bash: str | None = None, name: str = "agent"
) -> Agent:
    """An agent that has come to the hold. `bash`: a script that stands where its shell should be."""
    created = orchestrator.create_run(STAGES, parameters=HOLDS_AT_ONCE)
    agent = Agent(folder / name, url or orchestrator.url, orchestrator.fingerprint, created)
    agent.stand_ins.mkdir(parents=True)
    agent.environment["HOME"] = str(agent.folder)  # what this machine's root has in his login scripts is not tested
    if bash is not None:
        (agent.stand_ins / "bash").write_text(bash)
        (agent.stand_ins / "bash").chmod(0o755)
    agent.start()
    run_id = created["run_id"]
    try:
        wait_for(lambda: orchestrator.run(run_id)["state"] == "FailedHolding", "the hold")
        wait_for(lambda: "hold key is" in agent.errors, "the hold key")
    except BaseException:
        print(agent.errors)  # pytest shows it beside the failure
        end(agent)
        raise
    return agent


def end(agent: Agent) -> None:
    if agent.process is not None and agent.process.poll() is None:
        agent.process.terminate()
        agent.wait()


class Desk:
    """One terminal at the operator's end: what it was told, what it has shown. Acknowledges unless `slow`."""

    def __init__(self, stream: WebSocket, minted: dict[str, Any]) -> None:
        self.stream = stream
        self.minted = minted
        self.told: list[dict[str, Any]] = []
        self.shown = b""
        self.size = 0
        self.slow = False

    @property
    def session(self) -> str:
        return str(self.minted["correlation_id"])

    async def until(self, kind: str, limit_s: float = 40.0) -> dict[str, Any]:
        """The next message of that type; whatever else comes is kept."""
        async with asyncio.timeout(limit_s):
            while True:
                before = len(self.told)
                assert await self.next() is not None, f"closed while waiting for {kind}: {self.told}"
                for message in self.told[before:]:
                    if message["type"] == kind:
                        return message

    async def next(self) -> bytes | str | None:
        message = await self.stream.receive()
        if isinstance(message, bytes):
            self.size += len(message)
            self.shown = (self.shown + message)[-200_000:]
            if not self.slow:
                await self.tell(type="ack", bytes=len(message))
        elif message is not None:
            self.told.append(json.loads(message))
        return message

    async def tell(self, **message: Any) -> None:
        await self.stream.send(json.dumps(message))

    async def see(self, text: str, limit_s: float = 40.0) -> None:
        """Until that was shown."""
        async with asyncio.timeout(limit_s):
            while text.encode() not in self.shown:
                assert await self.next() is not None, f"closed while waiting for {text!r}: {self.told} {self.shown!r}"

    async def type(self, text: str) -> None:
        await self.stream.send(text.encode())

    async def ask(self, command: str, answer: str) -> None:
        """Type a command, and see what it prints. The command must not hold the answer as it stands."""
        self.shown = b""
        await self.type(command + "\n")
        await self.see(answer)


async def mint(orchestrator: Orchestrator, run_id: int, correlation: str = "") -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=orchestrator.facts["operator_socket"])
    async with httpx.AsyncClient(transport=transport, base_url="http://operator", timeout=20) as client:
        headers = {"X-Correlation-ID": correlation} if correlation else {}
        path = f"/operator/v1/runs/{run_id}/terminal"
        return await client.post(path, json={"columns": 100, "rows": 30}, headers=headers)


@contextlib.asynccontextmanager
async def socket_with(orchestrator: Orchestrator, minted: dict[str, Any]) -> AsyncIterator[Desk]:
    reader, writer = await asyncio.open_unix_connection(orchestrator.facts["operator_socket"])
    stream = await WebSocket.upgrade(reader, writer, "operator", "/operator/v1/terminal/socket", {})
    try:
        await stream.send(json.dumps({"token": minted["token"]}))
        yield Desk(stream, minted)
    finally:
        await stream.close()


@contextlib.asynccontextmanager
async def opening(orchestrator: Orchestrator, run_id: int) -> AsyncIterator[Desk]:
    """A terminal that is on its way."""
    answer = await mint(orchestrator, run_id)
    assert answer.status_code == 201, answer.text
    async with socket_with(orchestrator, answer.json()) as desk:
        yield desk


@contextlib.asynccontextmanager
async def open_terminal(orchestrator: Orchestrator, run_id: int) -> AsyncIterator[Desk]:
    """A terminal that is ready."""
    async with opening(orchestrator, run_id) as desk:
        await desk.until("ready")
        yield desk


def evidence_of(orchestrator: Orchestrator, run_id: int, session: str) -> tuple[dict[str, Any], list[Any]]:
    """What is kept of a terminal: its facts, and the lines of its recording."""

    def piece() -> Any:
        pieces = orchestrator.operator("GET", f"/runs/{run_id}/evidence")
        return next((one for one in pieces if one["result_id"] == session), None)

    found = wait_for(piece, "the evidence of the terminal")
    assert found["stage"] == "Terminal"
    transport = httpx.HTTPTransport(uds=orchestrator.facts["operator_socket"])
    with httpx.Client(transport=transport, base_url="http://operator") as client:
        content = client.get(f"/operator/v1/runs/{run_id}/evidence/{found['id']}").content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {member.name.split("/")[-1]: archive.extractfile(member) for member in archive}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    lines = [json.loads(line) for line in texts.get("terminal.cast", "").splitlines()]
    return json.loads(texts["terminal.json"]), lines


def shown_in(recording: list[Any]) -> str:
    return "".join(line[2] for line in recording[1:] if line[1] == "o")

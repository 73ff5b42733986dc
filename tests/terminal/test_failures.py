"""Each of the ways in which a terminal does not come to be, brought about for real: bounded, named, and told alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.served import Agent, Served, serving
from tests.support.tls_proxy import TlsProxy
from tests.terminal.conftest import holding
from tests.terminal.rig import Desk, evidence_of, mint, opening, socket_with, started
from tests.walk.rig import Orchestrator, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.root]
OPEN_S = 3.0
CALM = {"heartbeat_s": 4.0, "sensor_s": 4.0, "log_s": 4.0}
"""So slow that a host which says nothing while a browser logs in is not stalled yet."""
# A machine under load, not a limit of the product's.
SLACK_S = 15.0


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    server = started(tmp_path_factory.mktemp("server") / "o", "--terminal-timeout", str(OPEN_S))
    yield server
    server.stop()


def assert_told_alike(orchestrator: Orchestrator, run_id: int, correlation: str, code: str) -> dict[str, Any]:
    """Log, history and evidence name the failure and carry its correlation id; the evidence's facts."""
    facts, _ = evidence_of(orchestrator, run_id, correlation)
    assert (facts["session"], facts["failure"]) == (correlation, code)
    line = next(line for line in orchestrator.errors.splitlines() if correlation in line)
    assert code in line
    assert any(code in one["text"] and correlation in one["text"] for one in orchestrator.run(run_id)["events"])
    return facts


async def failed(desk: Desk, code: str, limit_s: float) -> str:
    """It fails so within that time; the detail."""
    began = time.monotonic()
    message = await desk.until("failed", limit_s + SLACK_S)
    assert message["code"] == code, message
    assert message["correlation_id"] == desk.session
    assert message["meaning"]
    assert message["next_action"]
    assert time.monotonic() - began < limit_s + SLACK_S
    assert await desk.next() is None  # and then it is over
    return str(message["detail"])


async def test_no_terminal_outside_a_hold(orchestrator: Orchestrator) -> None:
    run_id = orchestrator.create_run(["Inventory"])["run_id"]
    refused = await mint(orchestrator, run_id, "seen-by-the-page-0001")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "no_terminal_now")
    assert "InventoryCheck" in error["message"]
    assert error["correlation_id"] == "seen-by-the-page-0001"
    code = "terminal_token_mint_failed"
    await asyncio.to_thread(assert_told_alike, orchestrator, run_id, "seen-by-the-page-0001", code)
    assert (await mint(orchestrator, 4711)).status_code == 404


async def test_a_host_that_does_not_call_times_out(tmp_path: Path) -> None:
    with serving(tmp_path / "o", arguments=["--terminal-timeout", "1"]) as served:
        server, agent = as_orchestrator(served), silent_host(served)
        async with opening(server, agent.run_id) as desk:
            detail = await failed(desk, "terminal_node_stream_timeout", 2 * CALM["heartbeat_s"] + 5.0)
        assert "heartbeat" in detail
        await asyncio.to_thread(assert_told_alike, server, agent.run_id, desk.session, "terminal_node_stream_timeout")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("refused", "terminal_open_without_stream"),
        ("done", "terminal_open_without_stream"),
        (None, "terminal_node_stream_timeout"),
    ],
)
async def test_an_agent_that_answers_or_not_and_opens_no_stream(tmp_path: Path, status: str | None, code: str) -> None:
    with serving(tmp_path / "o", arguments=["--terminal-timeout", "1"]) as served:
        server, agent = as_orchestrator(served), silent_host(served)

        async def answer() -> None:
            """As an agent from before terminals refuses what it does not know."""
            order = await asyncio.to_thread(ordered, agent)
            assert order["cmd"] == "open_terminal"
            if status is not None:
                body = {"activity": "holding", "acked_cmd_id": order["cmd_id"], "ack_status": status}
                reply = await asyncio.to_thread(agent.call, "heartbeat", body)
                assert reply["cmd"] == ""

        async with opening(server, agent.run_id) as desk:
            answering = asyncio.ensure_future(answer())
            detail = await failed(desk, code, 1.0)
            await answering
        assert status is None or status in detail
        await asyncio.to_thread(assert_told_alike, server, agent.run_id, desk.session, code)


def ordered(agent: Agent) -> dict[str, Any]:
    """The first order that a heartbeat brings."""
    order: dict[str, Any] = wait_for(
        lambda: (reply := agent.call("heartbeat", {"activity": "holding"}))["cmd"] and reply, "an order"
    )
    return order


def silent_host(served: Served) -> Agent:
    """A host in a hold whose agent is the test."""
    agent = served.create(stages=["SMART"], intervals=CALM)
    agent.claim()
    agent.post("Inventory", "fail")
    agent.call("hold", {"ip": "127.0.0.1"})
    agent.call("heartbeat", {"activity": "holding"})
    return agent


def as_orchestrator(served: Served) -> Orchestrator:
    """The same server as the rig's helpers want it."""
    server = Orchestrator(served.data)
    server.facts = served.info
    (served.data.parent / "orchestrator.err").symlink_to(served.data.parent / f"{served.data.name}.stderr")
    return server


async def test_a_node_stream_that_is_blocked_on_the_way_times_out_and_the_next_one_opens(
    orchestrator: Orchestrator, tmp_path: Path
) -> None:
    blocked = True

    def decide(path: str, upgrade: bool) -> int | None:
        return 502 if blocked and upgrade else None

    with TlsProxy(orchestrator.url, orchestrator.data, decide) as proxy:
        async with holding(orchestrator, tmp_path, url=proxy.url) as hold:
            async with opening(orchestrator, hold.run_id) as desk:
                detail = await failed(desk, "terminal_node_stream_timeout", OPEN_S)
            assert f"{OPEN_S:g} s" in detail
            assert any(f"/terminal/{desk.session}" in path for path in proxy.seen)
            code = "terminal_node_stream_timeout"
            facts = await asyncio.to_thread(assert_told_alike, orchestrator, hold.run_id, desk.session, code)
            assert list(facts["steps_s"]) == ["token", "browser_socket", "open_sent"]
            wait_for(lambda: "no connection to the orchestrator" in hold.agent.errors, "the agent's own words")
            assert "trouble with terminal: HTTP 502" in hold.agent.errors
            blocked = False
            await opens_in_the_end(orchestrator, hold.run_id)


async def opens_in_the_end(orchestrator: Orchestrator, run_id: int) -> None:
    """A loaded machine may need more than one attempt."""
    for _ in range(5):
        async with opening(orchestrator, run_id) as desk:
            while await desk.next() is not None:
                if desk.told[-1:] and desk.told[-1]["type"] == "ready":
                    return
    raise AssertionError(desk.told)


SHELLS = {
    "#!/nowhere/at-all\n": "No such file",
    "#!/bin/sh\nexit 9\n": "exit code 9",
    "#!/bin/sh\nkill -SEGV $$\n": "signal 11",
    "#!/bin/sh\nexec sleep 3391\n": "shows nothing within",
}


@pytest.mark.parametrize("script", SHELLS)
async def test_a_shell_that_is_missing_broken_or_mute(orchestrator: Orchestrator, tmp_path: Path, script: str) -> None:
    async with holding(orchestrator, tmp_path, bash=script) as hold:
        async with opening(orchestrator, hold.run_id) as desk:
            detail = await failed(desk, "terminal_pty_failed", OPEN_S + 2)
        assert SHELLS[script] in detail
        code = "terminal_pty_failed"
        facts = await asyncio.to_thread(assert_told_alike, orchestrator, hold.run_id, desk.session, code)
        assert list(facts["steps_s"])[-1] == "node_stream"
        await asyncio.to_thread(wait_for, lambda: desk.session in hold.agent.errors, "the agent's own words")
        assert not [one for one in hold.agent.descendants() if one.name() == "sleep"]


async def test_a_token_that_is_not_whole_opens_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "o") as served:
        server, agent = as_orchestrator(served), silent_host(served)
        minted = (await mint(server, agent.run_id)).json()
        async with socket_with(server, {"token": minted["token"][:-1]}) as desk:
            message = await desk.until("failed")
        assert message["code"] == "terminal_gateway_upgrade_failed"


def test_a_stream_without_the_right_token_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "o") as served:
        agent = silent_host(served)
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "X-Terminal-Token": "made-up",
        }
        answer = agent.send("terminal/no-such-session", method="GET", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_such_terminal")
        assert answer.headers["Connection"] == "close"
        headers["Authorization"] = "Bearer wrong"
        answer = agent.send("terminal/no-such-session", method="GET", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_token")

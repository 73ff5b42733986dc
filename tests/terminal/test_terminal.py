"""A terminal into a held host: real server, real agent, real shell; the operator's end is a program."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.terminal.conftest import Hold, holding
from tests.terminal.rig import end, evidence_of, held, mint, open_terminal, opening, shown_in, socket_with
from tests.walk.rig import Orchestrator, wait_for
from vetting_agent.terminal_session import SILENCE_S as SILENCE_LIMIT_S

pytestmark = [pytest.mark.slow, pytest.mark.root]
SILENCE_S = 4.0
"""How old a heartbeat may become under a flood; the interval is 0.3 s."""
STEPS = ["browser_socket", "open_sent", "node_stream", "pty"]


def sleeper(seconds: int) -> list[psutil.Process]:
    """Processes that sleep for exactly so long: how those are known that a test has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline() == ["sleep", str(seconds)]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def events(hold: Hold) -> str:
    return "\n".join(one["text"] for one in hold.orchestrator.run(hold.run_id)["events"] if one["kind"] == "terminal")


async def test_a_shell_answers_takes_sizes_and_ends_with_its_status(hold: Hold) -> None:
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        assert [one["step"] for one in desk.told if one["type"] == "step"] == STEPS
        await desk.ask("stty size", "30 100\r\n")
        await desk.ask("tty; ps -o tty= -p $$", "pts/")
        await desk.tell(type="resize", columns=133, rows=41)
        await desk.ask("stty size", "41 133\r\n")
        await desk.ask("echo t$((40+2))t; cat /proc/self/oom_score_adj", "t42t\r\n300\r\n")
        await desk.type("exit 7\n")
        over = await desk.until("ended")
    assert (over["reason"], over["status"]) == ("exit", 7)
    facts, recording = evidence_of(hold.orchestrator, hold.run_id, desk.session)
    assert (facts["reason"], facts["status"], list(facts["steps_s"])) == ("exit", 7, ["token", *STEPS])
    assert facts["operator"] == "local"
    assert recording[0]["version"] == 2
    assert (recording[0]["width"], recording[0]["height"]) == (100, 30)
    assert [1, "r", "133x41"] in [[1, *line[1:]] for line in recording[1:]]
    assert "41 133" in shown_in(recording)
    assert desk.session in events(hold)
    assert desk.session in hold.agent.errors


async def test_what_is_typed_without_echo_and_the_runs_token_are_not_recorded(hold: Hold) -> None:
    token = hold.agent.run["token"]
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        await desk.ask("stty -echo; echo rea''dy; read secret; stty echo; echo len=${#secret}", "ready")
        await desk.ask("hunter2-unseen", "len=14")
        await desk.ask(f"echo {token[:20]}''{token[20:]}", token)
        assert token.encode() in desk.shown
        await desk.type("exit\n")
        await desk.until("ended")
    _, recording = evidence_of(hold.orchestrator, hold.run_id, desk.session)
    assert "len=14" in shown_in(recording)
    assert "hunter2" not in str(recording)
    assert token not in shown_in(recording)
    assert "[token]" in shown_in(recording)


async def test_a_token_opens_one_socket_once(hold: Hold) -> None:
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        async with socket_with(hold.orchestrator, desk.minted) as second:
            refused = await second.until("failed")
        assert refused["code"] == "terminal_gateway_upgrade_failed"
        assert "used" in refused["detail"]
        await desk.ask("echo st$((1))ll", "st1ll")
    async with socket_with(hold.orchestrator, {"token": "made up"}) as third:
        assert (await third.until("failed"))["code"] == "terminal_gateway_upgrade_failed"


async def test_the_tokens_stand_in_no_log_argument_list_or_environment(hold: Hold) -> None:
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        assert hold.agent.process is not None
        below = [psutil.Process(hold.agent.process.pid), *hold.agent.descendants()]
        seen = str([(one.cmdline(), one.environ()) for one in below])
        assert "TERM" in seen
        for token in (desk.minted["token"], hold.agent.run["token"]):
            assert token not in seen
            assert token not in hold.orchestrator.errors + hold.agent.errors
            assert token not in str(hold.orchestrator.logs(hold.run_id))
        await desk.ask("env | grep -c -i token", "0\r\n")


def rss(process: Any) -> float:
    return float(psutil.Process(process.pid).memory_info().rss) / 2**20


def heard(hold: Hold) -> float:
    text = hold.orchestrator.run(hold.run_id)["agent"]["last_seen_at"]
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def silences_of(hold: Hold, span_s: float) -> list[float]:
    """How old the last heartbeat was, looked at again and again."""
    until, seen = time.monotonic() + span_s, []
    while time.monotonic() < until:
        seen.append(heard(hold))
        time.sleep(0.2)
    return seen


async def test_a_flood_keeps_heartbeats_and_memory_and_an_interrupt_is_felt(hold: Hold) -> None:
    processes = (hold.agent.process, hold.orchestrator.process)
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        await desk.ask("echo re$((1))dy", "re1dy")
        before = [rss(one) for one in processes]
        await desk.type("yes\n")
        watching = asyncio.ensure_future(asyncio.to_thread(silences_of, hold, 6.0))
        while not watching.done():
            await desk.next()
        flooded, silences = desk.size, watching.result()
        after = [rss(one) for one in processes]
        await desk.type("\x03")
        asked = time.monotonic()
        await desk.ask("echo aft$((1))r", "aft1r")
        assert time.monotonic() - asked < 5.0
    assert flooded > 2**17  # more than the window: it goes on
    assert max(silences) < SILENCE_S, silences
    assert all(grown < 12 for grown in (b - a for a, b in zip(before, after, strict=True))), (before, after)
    _, recording = evidence_of(hold.orchestrator, hold.run_id, desk.session)
    assert sum(len(str(line)) for line in recording) < 12 * 2**20


async def test_an_operator_who_only_thinks_keeps_the_shell(hold: Hold) -> None:
    """Nothing typed and nothing shown for longer than the agent bears a silent server."""
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        await desk.ask("echo re$((1))dy", "re1dy")
        reading = asyncio.ensure_future(desk.until("ended", 600))
        await asyncio.wait({reading}, timeout=SILENCE_LIMIT_S + 8)
        assert not reading.done(), desk.told
        reading.cancel()
        await asyncio.wait({reading})
        await desk.ask("echo st$((1))ll", "st1ll")


async def test_an_operator_who_does_not_read_stops_the_flood_and_nothing_else(hold: Hold) -> None:
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        await desk.ask("echo re$((1))dy", "re1dy")
        desk.slow = True
        start = desk.size
        await desk.type("yes\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    await desk.next()
        assert 2**16 <= desk.size - start < 256 * 1024  # the window, not more
        assert hold.agent.process is not None
        flood = next(one for one in hold.agent.descendants() if one.name() == "yes")
        spent = flood.cpu_times().user
        await asyncio.sleep(1.0)
        assert flood.cpu_times().user - spent < 0.2
        assert heard(hold) < 4.0
        desk.slow = False
        await desk.tell(type="ack", bytes=desk.size)
        await desk.type("\x03")
        await desk.ask("echo aft$((1))r", "aft1r")


async def test_input_that_nobody_reads_is_dropped_and_said_so(hold: Hold) -> None:
    async with open_terminal(hold.orchestrator, hold.run_id) as desk:
        await desk.ask("stty raw -echo; echo re$((1))dy; sleep 3333", "re1dy")
        for _ in range(64):
            await desk.stream.send(b"x" * 16384)
        assert "dropped" in (await desk.until("note"))["text"]
        assert heard(hold) < 4.0
    wait_for(lambda: not sleeper(3333), "the end of what ran there", 5)


ESCAPES = (
    "setsid nohup sleep 3371 >/dev/null 2>&1 & (setsid sh -c 'trap \"\" HUP TERM INT; sleep 3372 & sleep 3373' &)"
    ' ; python3 -c \'import os\nif not os.fork():\n os.setsid()\n if not os.fork(): os.execlp("sleep","sleep","3374")\''
)
SLEEPERS = (3371, 3372, 3373, 3374)


async def run_escapes(desk: Any) -> None:
    await desk.ask(f"{ESCAPES}\necho st$((1))rted", "st1rted")
    await asyncio.to_thread(wait_for, lambda: all(map(sleeper, SLEEPERS)), "the escaped children")


def assert_all_gone(limit_s: float) -> None:
    wait_for(lambda: not any(map(sleeper, SLEEPERS)), "the end of the escaped children", limit_s)


@pytest.mark.parametrize("how", ["the operator leaves", "exit", "abort", "the agent is killed", "release"])
async def test_what_was_started_ends_with_the_terminal(orchestrator: Orchestrator, tmp_path: Path, how: str) -> None:
    async with holding(orchestrator, tmp_path) as hold:
        async with open_terminal(orchestrator, hold.run_id) as desk:
            await run_escapes(desk)
            await asyncio.to_thread(end_by, how, hold)
            if how == "exit":
                await desk.type("exit\n")
            if how != "the operator leaves":
                reason = (await desk.until("ended"))["reason"]
                assert (how == "the agent is killed") == ("lost" in reason), reason
        await asyncio.to_thread(assert_all_gone, 5.0)
        facts, _ = await asyncio.to_thread(evidence_of, orchestrator, hold.run_id, desk.session)
        assert "failure" not in facts


def end_by(how: str, hold: Hold) -> None:
    if how == "abort":
        hold.orchestrator.direct(hold.run_id, "abort")
    elif how == "release":
        hold.orchestrator.operator("POST", f"/runs/{hold.run_id}/release")
    elif how == "the agent is killed":
        assert hold.agent.process is not None
        hold.agent.process.kill()
        hold.agent.process.wait()


async def test_a_terminal_stays_through_a_retry_that_fails_and_a_fifth_is_refused(
    orchestrator: Orchestrator, tmp_path: Path
) -> None:
    async with holding(orchestrator, tmp_path) as hold, open_terminal(orchestrator, hold.run_id) as desk:
        for _ in range(3):
            assert (await mint(orchestrator, hold.run_id)).status_code == 201
        refused = await mint(orchestrator, hold.run_id)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_terminals")
        await asyncio.to_thread(orchestrator.direct, hold.run_id, "retry_stage", stage="PSU")

        def retried() -> bool:
            return bool(orchestrator.run(hold.run_id)["directives"][-1]["status"] == "done")

        await asyncio.to_thread(wait_for, retried, "the retry's result")
        await desk.ask("echo st$((1))ll", "st1ll")


async def test_a_server_that_is_killed_ends_the_shell_and_finds_the_recording_again(tmp_path: Path) -> None:
    server = Orchestrator(tmp_path / "o")
    server.start()
    agent = held(tmp_path, server)
    try:
        async with opening(server, agent.run["run_id"]) as desk:
            await desk.until("ready")
            await run_escapes(desk)
            await asyncio.sleep(1.2)  # the recording is given to the operating system twice a second
            server.kill()
            await asyncio.to_thread(assert_all_gone, 10.0)
        server.start()
        facts, recording = await asyncio.to_thread(evidence_of, server, agent.run["run_id"], desk.session)
        assert "server ended" in facts["reason"]
        assert "st1rted" in shown_in(recording)
    finally:
        end(agent)
        server.stop()

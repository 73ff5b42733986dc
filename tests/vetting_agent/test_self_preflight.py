"""The agent looks for the reason by itself when it cannot claim: real agents, an orchestrator that comes and goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.canned_server import CannedServer, response
from tests.support.certificates import make
from tests.support.preflights import assert_failed, orchestrator_preflight
from tests.support.tls_proxy import TlsProxy
from tests.walk.conftest import new_agent, orchestrator
from tests.walk.rig import Agent, Orchestrator, wait_for
from vetting_agent.self_preflight import MOST_PAUSE_S

LIMIT_S = 90.0
SOON = ["--preflight-after", "1"]

__all__ = ["new_agent", "orchestrator"]  # fixtures


def screens(folder: Path) -> list[str]:
    """A virtual terminal and a serial line, as far as an agent can tell."""
    for name in ("tty1", "ttyS0"):
        (folder / name).touch()
    return [word for name in ("tty1", "ttyS0") for word in ("--console", str(folder / name))]


def ended(agent: Agent) -> None:
    if agent.process is not None and agent.process.poll() is None:
        agent.process.kill()
        agent.process.wait()


@pytest.mark.slow
def test_an_orchestrator_that_is_away_and_comes_back(tmp_path: Path) -> None:
    server = Orchestrator(tmp_path / "o")
    server.start()
    run = server.create_run(["Inventory"])
    server.kill()
    arguments = [*SOON, *screens(tmp_path), "--state-dir", str(tmp_path / "state")]
    agent = Agent(tmp_path / "agent", server.url, server.fingerprint, run, arguments).start()
    try:
        told = "preflight: tcp: node_agent_api_unreachable"
        wait_for(lambda: agent.errors.count(told) >= 3, "three looks", LIMIT_S)
        assert agent.errors.count("Failed hop      tcp") == 1, "the table is printed when it says something new"
        for name in ("tty1", "ttyS0"):
            shown = wait_for(lambda name=name: _table_on(tmp_path / name), f"the table on {name}", LIMIT_S)
            assert "Connection refused" in shown
        server.start()
        wait_for(lambda: server.run(run["run_id"])["agent"]["instance_id"], "a claim", LIMIT_S)
        instance = server.run(run["run_id"])["agent"]["instance_id"]
        lines = wait_for(
            lambda: [one["text"] for one in server.logs(run["run_id"]) if told in one["text"]], "the log", LIMIT_S
        )
        assert all(f"({instance})" in line for line in lines), "told with the correlation id of the agent's calls"
    finally:
        ended(agent)
        server.stop()


def _table_on(file: Path) -> str:
    text = file.read_text()
    return text if "Failed hop      tcp" in text and "node_agent_api_unreachable" in text else ""


def test_a_final_refusal_is_told_in_the_same_form(tmp_path: Path, orchestrator: Orchestrator) -> None:
    run = orchestrator.create_run(["Inventory"]) | {"token": "not-this-one"}
    arguments = [*screens(tmp_path), "--state-dir", str(tmp_path / "state")]
    agent = Agent(tmp_path / "agent", orchestrator.url, orchestrator.fingerprint, run, arguments).start()
    try:
        assert agent.wait(LIMIT_S) == 3
    finally:
        ended(agent)
    assert "preflight: token: node_agent_auth_failed: auth_failed: " in agent.errors
    assert "not-this-one" not in agent.errors
    shown = (tmp_path / "tty1").read_text()
    assert "node_agent_auth_failed" in shown
    assert "token rotate RUN" in " ".join(shown.split())


def test_an_agent_that_may_not_ask_is_not_a_second_one(tmp_path: Path) -> None:
    """A server that asked for a pause gets no hello of a preflight meanwhile."""
    certificate = make()

    def answer(path: str) -> bytes:
        return response(429, b"", Retry_After="600") if path.endswith("/claim") else response(200, b"{}")

    with CannedServer(answer, certificate.server_context(tmp_path)) as server:
        run = {"run_id": 1, "token": "t0ken"}
        arguments = [*SOON, "--state-dir", str(tmp_path / "state")]
        agent = Agent(tmp_path / "agent", server.url, certificate.fingerprint, run, arguments).start()
        try:
            wait_for(lambda: "asked to wait 600 s" in agent.errors, "the pause", LIMIT_S)
            asked = len(server.heads)
            with pytest.raises(AssertionError):
                wait_for(lambda: len(server.heads) > asked, "another call", 4.0)
        finally:
            ended(agent)


def test_never(tmp_path: Path, orchestrator: Orchestrator) -> None:
    run = orchestrator.create_run(["Inventory"]) | {"token": "not-this-one"}
    arguments = ["--preflight-after", "0", "--state-dir", str(tmp_path / "state")]
    agent = Agent(tmp_path / "agent", orchestrator.url, orchestrator.fingerprint, run, arguments).start()
    try:
        assert agent.wait(LIMIT_S) == 3
    finally:
        ended(agent)
    assert "preflight" not in agent.errors


def test_the_pauses_end_at_ten_minutes() -> None:
    assert MOST_PAUSE_S == 600.0


@pytest.mark.slow
def test_a_result_that_is_not_taken_has_its_name(tmp_path: Path, orchestrator: Orchestrator) -> None:
    blocked = [True]

    def decide(path: str, _upgrade: bool) -> int | None:
        return 500 if blocked[0] and path.endswith("/result") else None

    with TlsProxy(orchestrator.url, orchestrator.data, decide) as proxy:
        run = orchestrator.create_run(["Inventory"], shutdown_when_completed=False)
        arguments = ["--state-dir", str(tmp_path / "state")]
        agent = Agent(tmp_path / "agent", proxy.url, orchestrator.fingerprint, run, arguments).start()
        try:
            told = "node_task_result_post_failed: trouble with result"
            wait_for(
                lambda: any(told in one["text"] for one in orchestrator.logs(run["run_id"])), "the signal", LIMIT_S
            )
            wait_for(
                lambda: orchestrator_preflight(orchestrator.data, run["run_id"])["signal"], "the other side", LIMIT_S
            )
            report = orchestrator_preflight(orchestrator.data, run["run_id"])
            assert "trouble with result" in assert_failed(report, "result", "node_task_result_post_failed")
            blocked[0] = False
            wait_for(lambda: orchestrator.run(run["run_id"])["state"] == "Completed", "the result", LIMIT_S)
            assert orchestrator_preflight(orchestrator.data, run["run_id"])["ok"]
        finally:
            ended(agent)

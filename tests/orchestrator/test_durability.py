"""What was answered is there after a SIGKILL, and a server that starts again goes on where it was."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.orchestrator.served import Agent, Served, serving

Start = Callable[..., Served]


def _again(start: Start, served: Served) -> Served:
    """Killed, and started again on the same folder and port."""
    served.kill()
    return start(listen=f"127.0.0.1:{served.port}")


def test_nothing_that_was_answered_is_lost_by_a_kill(start: Start) -> None:
    served = start()
    agent = served.create(stages=["SMART", "Storage"])
    agent.claim()
    result_id = str(uuid.uuid4())
    assert agent.post("Inventory", result_id=result_id) == "SMART"
    line = {"ts": "t", "level": "info", "stage": "", "text": "kept", "seq": 1}
    agent.call("log", {"lines": [line]})
    agent.call("heartbeat", {"activity": "running", "stage": "SMART"})
    served.order(agent.run_id, "shutdown")
    fingerprint = served.info["fingerprint"]

    served = _again(start, served)
    assert served.info["fingerprint"] == fingerprint
    same = agent.newer(served)
    same.headers = agent.headers
    same.instance = agent.instance
    assert same.post("Inventory", result_id=result_id) == "SMART", "the same answer after the kill"
    same.call("log", {"lines": [line]})
    assert same.call("heartbeat", {"activity": "running"})["cmd"] == "shutdown"
    assert same.post("SMART", "fail") == "FailedHolding"
    key = same.call("hold", {"ip": "127.0.0.1"})

    served = _again(start, served)
    same = Agent(served, agent.run_id, agent.headers["Authorization"].removeprefix("Bearer "))
    same.headers = agent.headers
    assert same.call("hold", {"ip": "127.0.0.1"}) == key
    view = served.run(agent.run_id)
    assert view["state"] == "FailedHolding"
    assert [stage["valid"] for stage in view["stages"]] == [True, False, False]
    assert [line["text"] for line in served.operator.get(f"/runs/{agent.run_id}/logs").json()] == ["kept"]
    assert agent.newer(served).claim()["current_state"] == "FailedHolding"
    assert served.end() == 0


def test_a_late_claim_of_a_dead_agent_is_refused_also_after_a_restart_and_noted_once(start: Start) -> None:
    served = start()
    dead = served.create()
    live = dead.newer()
    dead.started_s, live.started_s = 30.0, 60.0
    late = dead.claim_body()  # on its way when its agent is killed: the server has heard nothing of it yet
    live.claim()
    assert dead.refused("claim", late) == (409, "superseded")

    served = _again(start, served)
    again = live.newer(served)
    again.headers = dead.headers
    assert again.refused("claim", late) == (409, "superseded")
    again.headers = live.headers
    assert again.call("heartbeat", {"activity": "running"})["cmd"] == ""
    assert again.post("Inventory") == "SMART"
    said = [event["text"] for event in served.run(live.run_id)["events"] if "refused a claim" in event["text"]]
    assert [text.rpartition(": ")[2] for text in said] == [f"A newer agent has claimed run {live.run_id}"]


def test_a_kill_amid_many_results_keeps_every_answered_one(start: Start) -> None:
    served = start()
    agents = [served.create(stages=["SMART"]) for _ in range(6)]
    answered: dict[int, list[str]] = {agent.run_id: [] for agent in agents}

    def walk(agent: Agent) -> None:
        try:
            agent.claim()
            for stage in ("Inventory", "SMART"):
                answered[agent.run_id].append(agent.post(stage))
                time.sleep(0.05)
        except httpx.TransportError:
            return

    threads = [threading.Thread(target=walk, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while sum(map(len, answered.values())) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    served.process.kill()
    for thread in threads:
        thread.join()
    served.kill()
    assert sum(map(len, answered.values())) >= 4
    again = start()
    for run_id, states in answered.items():
        valid = [stage["valid"] for stage in again.run(run_id)["stages"]]
        assert valid[: len(states)] == [True] * len(states)


def _draft(data: Path) -> Path:
    """What a server leaves that is killed while it writes an upload."""
    path = data / "evidence" / "7" / f"{'ab' * 32}.tar.gz.new"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half of it")
    return path


def test_a_draft_of_a_killed_servers_upload_is_removed_by_the_next_one(start: Start) -> None:
    served = start()
    draft = _draft(served.data)
    whole, foreign = draft.with_suffix(""), draft.with_name("notes.new")
    for other in (whole, foreign):
        other.write_bytes(b"kept")
    linked = draft.with_name(f"{'cd' * 32}.tar.gz.new")
    linked.symlink_to(whole)
    _again(start, served)
    assert sorted(draft.parent.iterdir()) == sorted([whole, foreign])
    assert whole.read_bytes() == b"kept"
    assert "evidence: removed 2 drafts of uploads that a server was killed in" in served.stderr()


def test_a_running_servers_upload_is_left_to_it(served: Served) -> None:
    draft = _draft(served.data)
    _refused_beside(served)
    assert draft.exists()


def test_two_servers_on_one_folder_are_one_too_many(served: Served) -> None:
    _refused_beside(served)


def _refused_beside(served: Served) -> None:
    argv = [sys.executable, "-m", "orchestrator", "serve", "--data", str(served.data), "--listen", "127.0.0.1:0"]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (second.returncode, second.stdout) == (1, "")
    assert "another vetting-orchestrator already serves" in second.stderr


def test_what_is_kept_is_private(served: Served) -> None:
    assert stat.S_IMODE(served.data.stat().st_mode) == 0o700
    for name in ("operator.sock", "orchestrator.db", "server.json", "tls-key.pem"):
        assert stat.S_IMODE((served.data / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_takes_everything_along(start: Start, number: int) -> None:
    served = start()
    agent = served.create()
    agent.claim()  # leaves a connection open
    children = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(number)
    assert served.process.wait(timeout=20) == 0
    served.kill()
    assert served.stderr() == ""
    assert not (served.data / "server.json").exists()
    assert not (served.data / "operator.sock").exists()
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert (len(gone), alive) == (len(children), [])


def test_a_folder_with_a_long_name_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    data = tmp_path / ("long-" * 12) / ("name-" * 12)
    with serving(data) as served:
        path = Path(served.info["operator_socket"])
        assert len(os.fsencode(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert served.operator.get("/server").json() == served.info
    assert not path.parent.exists()


def _iperf_of(served: Served) -> psutil.Process:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in psutil.Process(served.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "iperf3" and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        time.sleep(0.02)
    raise AssertionError("no iperf3 was started")


def test_several_iperf3_servers_are_lent_together(start: Start) -> None:
    served = start(arguments=("--iperf-servers", "3"))
    agent = served.create()
    agent.claim()
    reply = agent.call("iperf_slot", {"action": "acquire", "slot_id": str(uuid.uuid4())})
    ports = [reply["port"], *reply["more_ports"]]
    assert len(set(ports)) == 3
    for port in ports:
        _measure(port)


def test_an_iperf3_that_dies_is_started_again_and_never_outlives_a_killed_server(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        assert served.info["iperf_port"] is not None, "iperf3 is not installed: make setup-test"
        first = _iperf_of(served)
        first.kill()
        psutil.wait_procs([first], timeout=5)
        second = _iperf_of(served)
        assert second.pid != first.pid
        _measure(served.info["iperf_port"])
        served.kill()
        assert psutil.wait_procs([second], timeout=5)[1] == []


def _measure(port: int) -> None:
    argv = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-n", "1M", "-J"]
    deadline = time.monotonic() + 15
    while (done := subprocess.run(argv, capture_output=True, text=True)).returncode != 0:
        assert time.monotonic() < deadline, done.stdout
        time.sleep(0.1)


def test_without_iperf3_the_claim_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environment={"PATH": str(tmp_path)}) as served:
        assert served.info["iperf_port"] is None
        agent = served.create()
        claim = agent.claim()
        assert (claim["iperf_port"], claim["features"]) == (None, ["evidence"])
        assert agent.refused("iperf_slot", {"action": "acquire", "slot_id": "s"}) == (422, "no_iperf")
        served.end()
    assert "iperf3 is not installed" in served.stderr()

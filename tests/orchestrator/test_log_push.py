"""Log lines pushed on: a real server, and a real receiver that refuses, hangs up and goes away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orchestrator.log_push import endpoint
from tests.orchestrator.making import START
from tests.orchestrator.receivers import HANG_UP, Receiver
from tests.orchestrator.served import Agent, serving

pytestmark = pytest.mark.slow


def pushing_to(receiver: Receiver) -> dict[str, Any]:
    words = ("--push-logs", f"http://127.0.0.1:{receiver.port}")
    return {"arguments": words, "environment": {"NO_PROXY": "127.0.0.1"}}


def logs(agent: Agent, first: int, count: int) -> None:
    lines = [
        {"ts": START, "level": "info", "stage": "SMART", "text": f"line {number} ✓", "seq": number}
        for number in range(first, first + count)
    ]
    agent.call("log", {"lines": lines})


def pushed(receiver: Receiver) -> list[dict[str, str]]:
    calls = [one for one in receiver.calls if 200 <= one.answered < 300]
    return [json.loads(line) for call in calls for line in call.body.splitlines()]


def until(receiver: Receiver, text: str) -> None:
    deadline = time.monotonic() + 30
    while not any(line["_msg"] == text for line in pushed(receiver)):
        assert time.monotonic() < deadline, (text, [one.answered for one in receiver.calls])
        time.sleep(0.05)


def test_every_line_arrives_in_order_whatever_the_receiver_does(tmp_path: Path) -> None:
    with Receiver(answers=[503, HANG_UP]) as receiver, serving(tmp_path / "data", **pushing_to(receiver)) as served:
        agent = served.create(host="rack7-node3", stages=["SMART"])
        agent.claim()
        logs(agent, 1, 3)
        until(receiver, "line 3 ✓")
        logs(agent, 4, 1)
        until(receiver, "line 4 ✓")
        assert [line["_msg"] for line in pushed(receiver)] == [f"line {number} ✓" for number in range(1, 5)]
        first = pushed(receiver)[0]
        assert (first["host"], first["run"], first["stage"]) == ("rack7-node3", str(agent.run_id), "SMART")
        assert (first["level"], first["_time"]) == ("info", START)
        call = urlsplit(receiver.calls[0].path)
        assert call.path == "/insert/jsonline"
        assert parse_qs(call.query)["_msg_field"] == ["_msg"]
        said = served.stderr()
        assert said.count("cannot be pushed") == 2, "each kind of trouble once"
        assert said.count("are pushed to") == 1


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Receiver() as receiver:
        with serving(data, **pushing_to(receiver)) as served:
            agent = served.create(stages=["SMART"])
            agent.claim()
            logs(agent, 1, 2)
            until(receiver, "line 2 ✓")
            receiver.always = 503
            logs(agent, 3, 2)
            served.kill()
        receiver.always = 200
        with serving(data, **pushing_to(receiver)) as served:
            until(receiver, "line 4 ✓")
    assert [line["_msg"] for line in pushed(receiver)] == [f"line {number} ✓" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://h:9428", "http://h:9428/insert/jsonline"),
        ("http://h:9428/", "http://h:9428/insert/jsonline"),
        ("https://h/select/0/insert/jsonline", "https://h/select/0/insert/jsonline"),
    ],
)
def test_the_path_is_added_where_there_is_none(url: str, where: str) -> None:
    assert endpoint(url) == where


def test_a_url_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "orchestrator", "serve", "--data", str(tmp_path / "d"), "--push-logs", "h:9428"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--push-logs: the URL must be http://" in done.stderr

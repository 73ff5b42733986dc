"""No event is lost: servers that are killed between an event and its delivery, and what starts no server at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from tests.orchestrator.receivers import Receiver, held, hooked_to, until_empty
from tests.orchestrator.served import FAST, Agent, Served

Start = Callable[..., Served]


@pytest.mark.slow
def test_an_event_survives_kills_between_it_and_its_delivery(start: Start) -> None:
    receiver = Receiver(always=503)
    with receiver:
        served = start(**hooked_to(receiver))
        agent = held(served)
        receiver.wait(lambda one: one.calls)
        served.kill()
    served = start(**hooked_to(receiver))  # nobody listens there now
    agent = Agent(served, agent.run_id, agent.headers["Authorization"].removeprefix("Bearer "))
    agent.claim()
    served.operator.post(f"/runs/{agent.run_id}/release", json={})
    served.kill()
    first = receiver.calls[0].id
    receiver.always = 200
    with receiver:
        served = start(**hooked_to(receiver))
        receiver.wait(lambda one: len(one.taken()) == 2)
        assert sorted(event["type"] for event in receiver.taken()) == ["run.held", "run.released"]
        assert first in {one.id for one in receiver.calls if one.answered == 200}
        until_empty(served)


@pytest.mark.slow
def test_no_event_is_lost_by_kills_at_any_moment(start: Start) -> None:
    """Every hold that an agent was answered is told, wherever the kill fell."""
    answered: list[str] = []
    with Receiver() as receiver:
        for round_ in range(4):
            served = start(**hooked_to(receiver))
            for number in range(4):
                host = f"node{round_}-{number}"
                held(served, host)
                answered.append(host)
                time.sleep(0.03 * round_ * number)
            served.kill()
        served = start(**hooked_to(receiver))
        until_empty(served)
        told = {event["data"]["run"]["host"] for event in receiver.taken("run.held")}
        assert told == set(answered)
        ids = {one.id for one in receiver.calls}
        assert len(ids) == len(answered), "told twice at most, and then with the same id"


def test_a_refused_host_is_told_and_its_return_after_a_restart_too(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        agent = served.create(host="refused", intervals={**FAST, "heartbeat_s": 0.4})
        sound = dict(agent.headers)
        agent.headers["Authorization"] = "Bearer wrong"
        assert agent.refused("claim", agent.claim_body())[0] in {401, 403}
        receiver.wait(lambda one: one.taken("host.auth_failed"))
        served.kill()
        served = start(**hooked_to(receiver))
        same = Agent(served, agent.run_id, sound["Authorization"].removeprefix("Bearer "))
        same.claim()
        receiver.wait(lambda one: one.taken("host.recovered"))
        assert receiver.taken("host.recovered")[0]["data"]["alert"] == "auth_failed"
        assert len(receiver.taken("host.auth_failed")) == 1


def test_a_secret_that_others_may_read_or_that_is_none_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"

    def stderr(*words: str) -> str:
        assert main(["serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", *words]) in {1, 2}
        return capsys.readouterr().err

    assert "cannot be read" in stderr("--webhook-secret", str(secret))
    secret.write_text("whsec_" + "A" * 40)
    secret.chmod(0o644)
    assert "read by everybody" in stderr("--webhook-secret", str(secret))
    secret.chmod(0o600)
    secret.write_text("whsec_c2hvcnQ=")
    problem = stderr("--webhook-secret", str(secret))
    assert "24 to 64 bytes" in problem
    assert "c2hvcnQ" not in problem
    for url in ("ftp://a/b", "http://user:hunter2@a/b", "no url", "http://[::1"):
        problem = stderr("--webhook", url)
        assert "webhook" in problem
        assert "hunter2" not in problem


def test_a_result_that_is_refused_again_and_again_is_told(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        agent = served.create(host="odd", intervals=FAST)
        agent.claim()
        deadline = time.monotonic() + 20
        while not receiver.taken() and time.monotonic() < deadline:
            assert agent.send("result", {"stage": "Inventory", "passed": "perhaps"}).status_code == 422
            agent.call("heartbeat", {"activity": "running"})
            time.sleep(0.05)
        (event,) = receiver.taken("host.result_failed")
        assert "malformed" in event["data"]["reason"]
        agent.post("Inventory")
        receiver.wait(lambda one: one.taken("host.recovered"))
        assert [one["type"] for one in receiver.taken()][:2] == ["host.result_failed", "host.recovered"]

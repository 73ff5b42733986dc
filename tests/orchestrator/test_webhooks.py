"""Webhooks of a real server to a real receiver that fails, hangs, refuses and comes back."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.orchestrator.receivers import HANG, HANG_UP, Receiver, held, hooked_to, outbox_of, secret_of, until_empty
from tests.orchestrator.served import FAST, Served

Start = Callable[..., Served]


def _command(served: Served, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator", *words, "--data", str(served.data)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_a_held_and_a_completed_run_are_told_signed(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        agent = held(served)
        receiver.wait(lambda one: one.taken("run.held"))
        got = receiver.calls[-1]
        secret = secret_of(served.data)
        assert stat.S_IMODE((served.data / "webhook-secret").stat().st_mode) == 0o600
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
        assert got.is_signed_with(secret)
        assert not got.is_signed_with("whsec_" + "A" * 43 + "=")
        assert abs(int(got.timestamp) - time.time()) < 30
        assert re.fullmatch(r"evt_[0-9a-f]{32}", got.id)
        data = got.event["data"]
        assert (data["schema"], data["stage"], data["reason"]) == (1, "SMART", "fail")
        run = data["run"]
        assert (run["run_id"], run["host"], run["state"], run["previous_state"]) == (
            agent.run_id,
            "rack7-node3",
            "FailedHolding",
            "SMART",
        )
        assert (run["stages_passed"], run["stages"]) == (1, 2)
        served.order(agent.run_id, "retry_stage", stage="SMART")
        assert agent.call("heartbeat", {"activity": "waiting"})["cmd"] == "retry_stage"
        assert agent.post("SMART") == "Completed"
        receiver.wait(lambda one: one.taken("run.completed"))
        sequence = [event["data"]["sequence"] for event in receiver.taken()]
        assert sequence == sorted(sequence)
        assert [event["type"] for event in receiver.taken()] == ["run.held", "run.completed"]
        until_empty(served)
        assert served.end() == 0
        assert served.stderr() == ""


def test_every_end_of_a_run_is_told_and_a_retry_that_fails_too(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        again = held(served, "again")
        served.order(again.run_id, "retry_stage", stage="SMART")
        again.call("heartbeat", {"activity": "waiting"})
        assert again.post("SMART", "fail") == "FailedHolding"
        served.operator.post(f"/runs/{again.run_id}/release", json={})
        cancelled = served.create(host="cancelled")
        served.order(cancelled.run_id, "cancel_stage")
        aborted = served.create(host="aborted")
        served.order(aborted.run_id, "abort")
        receiver.wait(lambda one: len(one.taken()) == 5)
        told = [(event["data"]["run"]["host"], event["type"]) for event in receiver.taken()]
        assert told == [
            ("again", "run.held"),
            ("again", "run.held"),
            ("again", "run.released"),
            ("cancelled", "run.cancelled"),
            ("aborted", "run.aborted"),
        ]


def test_what_fails_is_tried_again_with_the_same_id_and_a_new_signature(start: Start) -> None:
    with Receiver(answers=[500, HANG_UP, 302, 429]) as receiver:
        served = start(**hooked_to(receiver))
        held(served)
        receiver.wait(lambda one: one.taken("run.held"))
        assert [one.answered for one in receiver.calls] == [500, HANG_UP, 302, 429, 200]
        assert len({one.id for one in receiver.calls}) == 1
        assert len({one.body for one in receiver.calls}) == 1
        assert len({one.timestamp for one in receiver.calls}) > 1, "the pauses grow to more than a second"
        assert all(one.is_signed_with(secret_of(served.data)) for one in receiver.calls)
        until_empty(served)
        errors = served.stderr()
        assert "answered HTTP 500" in errors
        assert "answered HTTP 302" in errors, "not followed"
        assert "hung up without an answer" in errors
        for hidden in ("who-knows", "/hook", secret_of(served.data)):
            assert hidden not in errors


def test_a_receiver_that_hangs_holds_up_neither_another_nor_a_heartbeat(start: Start) -> None:
    with Receiver(always=HANG) as hanging, Receiver() as sound:
        served = start(**hooked_to(hanging, sound))
        began = time.monotonic()
        agent = held(served)
        sound.wait(lambda one: one.taken("run.held"), 5)
        hanging.wait(lambda one: one.calls, 5)
        for _ in range(20):
            agent.call("heartbeat", {"activity": "waiting"})
        served.operator.post(f"/runs/{agent.run_id}/release", json={})
        sound.wait(lambda one: one.taken("run.released"), 5)
        assert time.monotonic() - began < 12, "less than the time that one attempt may take"
        assert len(hanging.calls) == 1
        assert {(one["type"], one["state"]) for one in outbox_of(served)["deliveries"]} == {
            ("run.held", "waiting"),
            ("run.released", "waiting"),
        }


def test_a_receiver_that_is_gone_gets_that_event_no_more(start: Start) -> None:
    with Receiver(answers=[410]) as receiver:
        served = start(**hooked_to(receiver))
        agent = held(served)
        receiver.wait(lambda one: one.calls)
        served.operator.post(f"/runs/{agent.run_id}/release", json={})
        receiver.wait(lambda one: one.taken("run.released"))
        time.sleep(1)
        assert [one.event["type"] for one in receiver.calls] == ["run.held", "run.released"]
        (failed,) = outbox_of(served)["deliveries"]
        assert (failed["type"], failed["state"], failed["attempts"]) == ("run.held", "failed", 1)
        assert "410" in failed["problem"]


def test_a_silent_host_is_told_by_the_server_and_its_return_too(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        agent = served.create(host="quiet", intervals=FAST)
        agent.claim()
        receiver.wait(lambda one: one.taken("host.stalled"))
        event = receiver.taken("host.stalled")[0]
        assert (event["data"]["run"]["host"], event["data"]["alert"]) == ("quiet", "stale")
        agent.call("heartbeat", {"activity": "running"})
        receiver.wait(lambda one: one.taken("host.recovered"))


def test_the_command_lists_what_waits_and_sends_a_ping(start: Start) -> None:
    with Receiver(always=500) as receiver:
        served = start(**hooked_to(receiver))
        held(served)
        receiver.wait(lambda one: one.calls)
        listed = json.loads(_command(served, "webhooks", "--json").stdout)
        assert [one["type"] for one in listed["deliveries"]] == ["run.held"]
        text = _command(served, "webhooks").stdout
        assert "run.held" in text
        assert "who-knows" not in text
        failed = _command(served, "webhooks", "test", receiver.url)
        assert (failed.returncode, "HTTP 500" in failed.stdout) == (1, True)
        receiver.always = 200
        done = _command(served, "webhooks", "test", receiver.url)
        assert (done.returncode, "HTTP 200" in done.stdout) == (0, True), done
        ping = next(one for one in receiver.calls if one.event["type"] == "ping" and one.answered == 200)
        assert ping.is_signed_with(secret_of(served.data))
        audit = served.operator.get("/audit").text
        assert "test webhook" in audit
        assert "who-knows" not in audit
        assert _command(served, "webhooks", "test", "ftp://somewhere").returncode == 1
        assert _command(served, "webhooks", "test").returncode == 2


def test_without_receivers_nothing_is_kept(start: Start) -> None:
    served = start()
    held(served)
    assert outbox_of(served) == {"receivers": [], "deliveries": []}
    assert "without --webhook" in _command(served, "webhooks").stdout


def test_two_secrets_sign_both_so_that_one_can_be_changed(start: Start, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    new, old = "whsec_" + "A" * 40, "whsec_" + "B" * 40
    secret.write_text(f"{new}\n{old}\n")
    secret.chmod(0o600)
    with Receiver() as receiver:
        options = hooked_to(receiver)
        served = start(**{**options, "arguments": (*options["arguments"], "--webhook-secret", str(secret))})
        held(served)
        receiver.wait(lambda one: one.taken())
        assert receiver.calls[0].is_signed_with(new)
        assert receiver.calls[0].is_signed_with(old)
        assert not (served.data / "webhook-secret").exists()


def test_a_result_that_was_refused_once_is_no_alert(start: Start) -> None:
    with Receiver() as receiver:
        served = start(**hooked_to(receiver))
        agent = served.create(stages=["SMART"], intervals={**FAST, "heartbeat_s": 3})
        agent.claim()
        assert agent.send("result", {"stage": "Inventory", "passed": "perhaps"}).status_code == 422
        time.sleep(1)  # the watch looks every quarter of a second; two heartbeats are six
        agent.post("Inventory")
        agent.post("SMART", "fail")
        receiver.wait(lambda one: one.taken("run.held"))
        assert [one["type"] for one in receiver.taken()] == ["run.held"]

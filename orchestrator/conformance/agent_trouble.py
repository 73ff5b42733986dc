"""Clauses of section 2 for an agent: trouble on the way, and what each status code means."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise

from orchestrator.conformance.agent_calls import calls_of
from orchestrator.conformance.agent_rig import Rig
from orchestrator.conformance.agent_scenes_trouble import ASKED_WAIT_S
from orchestrator.conformance.clause import Clause, NotTested, expect
from orchestrator.conformance.scripted import Call

BACKOFF_S, SEND_S = 30.0, 10.0


# --- section 2: trouble on the way ------------------------------------------------------------------------------------


def hello_is_optional(rig: Rig) -> None:
    expect(rig.server.of("hello") and rig.server.of("claim"), "after a rejected hello there is no claim")
    expect(len(rig.server.of("hello")) == 1, "a rejected hello was repeated")


def hello_limit(rig: Rig) -> None:
    first = calls_of(rig, "hello")[0].at
    expect(rig.server.of("claim"), f"hello was never answered, and no claim came: {rig.vain}")
    waited_s = rig.server.of("claim")[0].at - first
    expect(waited_s <= 30 + SEND_S + rig.subject.slack_s, f"the claim came {waited_s:.0f} s after the first hello")


def claim_retried(rig: Rig) -> None:
    expect("claimed" in rig.marks, f"a claim that failed on the way was not tried until it succeeded: {rig.vain}")
    _backed_off(rig, calls_of(rig, "claim")[:4])


def result_retried(rig: Rig) -> None:
    expect("posted" in rig.marks, f"a result that failed on the way was not posted until a 200: {rig.vain}")
    _backed_off(rig, calls_of(rig, "result")[:4])


def _backed_off(rig: Rig, calls: list[Call]) -> None:
    """Full jitter: each wait lies between 0 and 2, 4, 8 … 30 s."""
    for number, (one, two) in enumerate(pairwise(calls)):
        bound_s = min(BACKOFF_S, 2.0 * 2**number)
        waited_s = two.at - one.at
        expect(waited_s <= bound_s + 1.0 + rig.subject.slack_s, f"attempt {number + 2} came after {waited_s:.1f} s")


def result_id_kept(rig: Rig) -> None:
    calls = calls_of(rig, "result")
    if len(calls) < 2:
        raise NotTested("no result was posted again")
    ids = {call.body["result_id"] for call in calls}
    expect(len(ids) == 1, f"one execution was posted under {len(ids)} result_ids")
    uuid.UUID(ids.pop())
    expect(len({call.content for call in calls}) == 1, "what was posted again is not what was posted first")


def ids_ignored(rig: Rig) -> None:
    rig.reached("went on")
    claims, results = calls_of(rig, "claim"), calls_of(rig, "result")
    expect(len(results) == 1, f"the result was posted {len(results)} times, though the run had gone on")
    expect(len(claims) >= 2, "the agent did not claim again to see where the run stands")


def _wait_after(rig: Rig, verb: str, code: int) -> float:
    calls = calls_of(rig, verb)
    for one, two in pairwise(calls):
        if one.answered == code:
            return two.at - one.at
    raise NotTested(f"{verb} was not called again after {code}: {rig.vain}")


def waits_as_asked(verb: str, code: int) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        waited_s = _wait_after(rig, verb, code)
        expect(waited_s >= ASKED_WAIT_S, f"asked to wait {ASKED_WAIT_S} s, {verb} came again after {waited_s:.2f} s")

    return check


def call_limit(verb: str, limit_s: float) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        calls = calls_of(rig, verb)
        at = next((number for number, call in enumerate(calls) if call.answered is None), None)
        expect(at is not None and len(calls) > at + 1, f"an unanswered {verb} was waited for: {rig.vain}")
        waited_s = calls[(at or 0) + 1].at - calls[at or 0].at
        most_s = limit_s + 2.0 + rig.subject.slack_s
        expect(limit_s - 0.5 <= waited_s <= most_s, f"{verb} without an answer was given up after {waited_s:.1f} s")

    return check


def proxy_survived(rig: Rig) -> None:
    expect("survived" in rig.marks, f"a proxy's page ended the agent: exit {rig.exit_code}, {rig.vain}")


def proxy_lasts(rig: Rig) -> None:
    calls = calls_of(rig, "claim")
    expect(rig.exit_code == 3, f"404 without the envelope for 130 s: exit code {rig.exit_code}")
    lasted_s = calls[-1].at - calls[0].at
    expect(lasted_s >= 55.0, f"404 without the envelope was final after {lasted_s:.0f} s")


# --- section 2: status codes ------------------------------------------------------------------------------------------


def exits(code: int, verb: str = "claim") -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        calls = calls_of(rig, verb)
        expect(rig.exit_code == code, f"the exit code is {rig.exit_code}: {rig.vain}")
        expect(not rig.power_offs, f"the host was powered off: {rig.power_offs}")
        expect(len(calls) == 1, f"{verb} was repeated after a final answer: {len(calls)} calls")

    return check


def auth_failed(rig: Rig) -> None:
    rig.reached("ended")
    expect("auth_failed" in rig.stderr, f"standard error does not say auth_failed: {rig.stderr[-200:]}")


def body_logged(rig: Rig) -> None:
    rig.reached("ended")
    expect("refused with 422" in rig.stderr, "the body of the 422 is not in the log")


def not_followed(rig: Rig) -> None:
    count = rig.reached("followed")
    expect(count == 0, f"{count} bytes, the token among them, were sent where the redirection leads")


def rejected_parks(rig: Rig) -> None:
    expect("parked" in rig.marks, f"after a rejected result the agent does not park: {rig.vain}")
    expect("beats on" in rig.marks, f"parked, the heartbeat stopped: {rig.vain}")


def rejected_once(rig: Rig) -> None:
    if "beats on" not in rig.marks and "parked" not in rig.marks and len(calls_of(rig, "result")) < 2:
        raise NotTested(rig.vain)
    expect(len(calls_of(rig, "result")) == 1, f"a rejected result was posted {len(rig.server.of('result'))} times")


def killed_by_refusal(code: int) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        rig.reached("load")
        expect(rig.exit_code == code, f"the exit code is {rig.exit_code}: {rig.vain}")
        expect(not rig.power_offs, f"the host was powered off: {rig.power_offs}")
        expect(not rig.server.of("result"), "a result was posted")
        expect(not rig.marks.get("left"), f"left running: {rig.marks.get('left')}")

    return check


def _clauses() -> tuple[Clause[Rig], ...]:
    one = Clause
    asked = "{} waits at least as long as Retry-After asks"
    return (
        one("hello-optional", 2, "a failed hello is no obstacle", hello_is_optional, "trouble"),
        one("hello-limit", 2, "hello is tried for up to 30 s, then comes the claim", hello_limit, "hello_down"),
        one("claim-retried", 2, "a claim is retried through 500, a hang-up, garbage", claim_retried, "trouble"),
        one("result-retried", 2, "so is a result, within the bounds of the back-off", result_retried, "trouble"),
        one("result-id-kept", 2, "posted again it is the same result, with the same id", result_id_kept, "trouble"),
        one("older-server", 2, "without v1+ fields: claims again after a lost answer", ids_ignored, "older_server"),
        one("retry-after-claim", 2, asked.format("claim"), waits_as_asked("claim", 429), "slow_down"),
        one("retry-after-beat", 2, asked.format("heartbeat"), waits_as_asked("heartbeat", 429), "slow_down"),
        one("retry-after-date", 2, asked.format("result") + ", as a date", waits_as_asked("result", 503), "slow_down"),
        one("call-limit", 2, "a claim is given 10 s", call_limit("claim", 10.0), "hanging"),
        one("heartbeat-limit", 2, "a heartbeat is given 5 s", call_limit("heartbeat", 5.0), "hanging"),
        one("proxy-page", 2, "a final status without the envelope is trouble on the way", proxy_survived, "proxy"),
        one("proxy-page-lasts", 2, "and final once it has lasted 60 s", proxy_lasts, "proxy_lasts"),
        one("exit-401", 2, "401 to a claim: exit 3, host up", exits(3), "claim_401"),
        one("exit-403", 2, "403 to the hello: exit 3, host up", exits(3, "hello"), "refused_hello"),
        one("exit-404", 2, "404 to a claim: exit 3, host up", exits(3), "claim_404"),
        one("exit-409", 2, "409 to a claim: exit 3, host up", exits(3), "claim_409"),
        one("exit-410", 2, "410 to a claim: exit 0, host up", exits(0), "claim_410"),
        one("auth-failed", 2, "401 and 403 say auth_failed on standard error", auth_failed, "claim_401"),
        one("revoked-running", 2, "401 in mid-stage kills it: exit 3, no result", killed_by_refusal(3), "revoked"),
        one("over-running", 2, "410 in mid-stage kills it: exit 0, no result", killed_by_refusal(0), "over"),
        one("redirected-claim", 2, "a redirection of a claim: exit 3", exits(3), "redirected_claim"),
        one("not-followed", 2, "and it is not followed", not_followed, "redirected_claim"),
        one("rejected-claim", 2, "422 to a claim: exit 3, not repeated", exits(3), "rejected_claim"),
        one("rejected-logged", 2, "the body of a 422 is logged", body_logged, "rejected_claim"),
        one(
            "rejected-result", 2, "422 to a result: parks, and the heartbeat goes on", rejected_parks, "rejected_result"
        ),
        one("rejected-once", 2, "422 to a result: never posted again", rejected_once, "rejected_result"),
    )


CLAUSES = _clauses()

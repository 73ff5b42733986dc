"""Clauses of section 2 for an orchestrator: evidence, who is let in, status codes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import uuid

from orchestrator.conformance.clause import Clause, NotTested, broken, expect
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.server_calls import body_of
from orchestrator.conformance.speaker import Answer, Speaker, Unreachable, result_body

EVIDENCE_LIMIT_BYTES = 16 * 2**20
ALL_VERBS = ("hello", "claim", "heartbeat", "sensor", "log", "result", "hold")


# --- section 2: evidence ----------------------------------------------------------------------------------------------


def _evidence(agent: Speaker, content: bytes, digest: str | None = None) -> Answer:
    sha256 = hashlib.sha256(content).hexdigest() if digest is None else digest
    return agent.send(
        f"evidence/Inventory?result_id={uuid.uuid4()}",
        content=content,
        Content_Type="application/gzip",
        X_Content_SHA256=sha256,
    )


def _with_evidence(bench: Bench) -> Speaker:
    agent = bench.run()
    if "evidence" not in (agent.claim().get("features") or []):
        raise NotTested("the claim does not list the feature `evidence`")
    return agent


def evidence_once(bench: Bench) -> None:
    agent = _with_evidence(bench)
    content = gzip.compress(b"evidence" * 100)
    for attempt in (1, 2):
        answer = _evidence(agent, content)
        expect(answer.status == 200, f"evidence, sent for the {attempt}. time: {answer.shown}")
    kept = bench.seen(agent, "evidence")
    digests = {one["sha256"] for one in kept}
    expect(digests == {hashlib.sha256(content).hexdigest()}, f"kept evidence: {kept}")


def evidence_digest(bench: Bench) -> None:
    agent = _with_evidence(bench)
    answer = _evidence(agent, gzip.compress(b"x"), digest="0" * 64)
    expect(400 <= answer.status < 500 and answer.status not in {401, 403, 404, 409, 410}, answer.shown)
    expect(not bench.seen(agent, "evidence"), "evidence with a wrong digest was kept")


def evidence_limit(bench: Bench) -> None:
    agent = _with_evidence(bench)
    content = gzip.compress(os.urandom(EVIDENCE_LIMIT_BYTES), compresslevel=0)
    try:
        status = _evidence(agent, content).status
    except Unreachable:
        status = 413  # hung up in the middle of what is too large: that is a refusal, too
    expect(status != 200, f"{len(content)} bytes of evidence were taken")
    agent.beat()


def evidence_full(bench: Bench) -> None:
    agent = _with_evidence(bench)
    content = gzip.compress(os.urandom(EVIDENCE_LIMIT_BYTES - 2**16), compresslevel=0)
    answer = _evidence(agent, content)
    expect(answer.status == 200, f"{len(content)} bytes of evidence: {answer.shown}")


# --- section 2: status codes ------------------------------------------------------------------------------------------


def no_token(bench: Bench) -> None:
    _all_refused(bench, None, "without a token")


def wrong_token(bench: Bench) -> None:
    _all_refused(bench, "wrong-" + uuid.uuid4().hex, "with a wrong token")


def other_runs_token(bench: Bench) -> None:
    other = bench.claimed()
    _all_refused(bench, other.token, "with another run's token")


def _all_refused(bench: Bench, token: str | None, how: str) -> None:
    agent = bench.claimed()
    thief = agent.successor()
    thief.token = token
    for verb in ALL_VERBS:
        status = thief.send(verb, body_of(thief, verb)).status
        expect(status in {401, 403}, f"{verb} {how} was answered with {status}")
    status = _evidence(thief, gzip.compress(b"x")).status
    expect(status != 200, f"evidence {how} was taken")
    agent.beat()


def no_such_run(bench: Bench) -> None:
    agent = bench.claimed()
    nowhere = Speaker(agent.door, 2**40 + agent.run_id, agent.token)
    for verb in ALL_VERBS:
        status = nowhere.send(verb, body_of(nowhere, verb)).status
        expect(status == 404, f"{verb} for a run that is not there was answered with {status}")


def run_over(bench: Bench) -> None:
    agent = bench.ended()
    for verb in ("hello", "claim", "result", "hold"):
        status = agent.send(verb, body_of(agent, verb)).status
        expect(status == 410, f"{verb} in a run that is over was answered with {status}")


def malformed(bench: Bench) -> None:
    agent = bench.holding()
    cases: list[tuple[str, bytes]] = [(verb, b"{no json") for verb in ALL_VERBS]
    cases += [("claim", b"{}"), ("claim", b"[]"), ("result", b'{"stage": "SMART"}'), ("log", b'{"lines": 7}')]
    cases += [("sensor", b'{"samples": [{"kind": "x"}]}'), ("hold", b'{"ip": 7}')]
    for verb, content in cases:
        answer = agent.send(verb, content=content)
        good = 400 <= answer.status < 500 and answer.status not in {401, 403, 404, 409, 410, 429}
        expect(good, f"{verb} with the body {content[:40]!r}: {answer.shown}")
    agent.beat()


def strange_bodies(bench: Bench) -> None:
    """An agent repeats for ever what is answered with 5xx, and ends on a final status: neither fits a strange text."""
    agent = bench.holding()
    texts = [b"\\u0000", b"\\ud800", b"\xff\xfe", b"\\u001b[2J", "\u202e".encode(), b"x" * 100_000, b"/../../etc"]
    line = b'{"ts": "2026-11-21T09:30:00Z", "level": "info", "stage": "", "seq": %d, "text": "%s"}'
    cases = [("log", b'{"lines": [' + line % (number, text) + b"]}") for number, text in enumerate(texts, 1)]
    cases += [("sensor", b'{"samples": [{"kind": "%s", "key": "k", "value": 1, "unit": ""}]}' % text) for text in texts]
    numbers = [b"1e999", b"9" * 400, b"-9223372036854775809", b"NaN", b"0.1e-400"]
    cases += [("sensor", b'{"samples": [{"kind": "t", "key": "k", "value": %s, "unit": ""}]}' % one) for one in numbers]
    cases += [("log", b'{"lines": [' + line.replace(b"%d", one) % b"x" + b"]}") for one in numbers]
    cases += [("heartbeat", b'{"elapsed_s": %s, "dropped_log_lines": %s}' % (one, one)) for one in numbers]
    cases += [("heartbeat", b'{"activity": "%s", "stage": "%s"}' % (text, text)) for text in texts[:3]]
    cases += [("hold", b'{"ip": "%s"}' % text) for text in texts]
    cases += [("result", json.dumps(result_body("SMART", message=text)).encode()) for text in ("\0", "\ud800")]
    cases += [("claim", b"[" * 5000), ("result", b'{"inventory": ' + b'{"a":' * 5000)]
    for verb, content in cases:
        answer = agent.send(verb, content=content)
        good = 200 <= answer.status < 500 and answer.status not in {401, 403, 404, 409, 410}
        expect(good, f"{verb} with the body {content[:120]!r}: {answer.shown}")
    agent.beat()


def _refusals(bench: Bench) -> list[tuple[str, Speaker, Answer]]:
    agent = bench.claimed()
    no_one, nowhere = agent.successor(), Speaker(agent.door, 2**40 + agent.run_id, agent.token)
    no_one.token = "wrong"
    older = bench.claimed()
    older.successor().claim()
    over = bench.ended()
    refusals = [
        ("a wrong token", no_one, no_one.send("heartbeat", {})),
        ("no such run", nowhere, nowhere.send("heartbeat", {})),
        ("an older agent", older, older.send("heartbeat", {})),
        ("a run that is over", over, over.send("claim", over.claim_body())),
        ("no JSON", agent, agent.send("claim", content=b"{")),
    ]
    # That it is refused at all is a clause of its own.
    return [one for one in refusals if one[2].status != 200]


def error_envelope(bench: Bench) -> None:
    for what, _, answer in _refusals(bench):
        try:
            error = json.loads(answer.content)["error"]
            texts = (error["code"], error["message"], error["correlation_id"])
        except (ValueError, KeyError, TypeError):
            broken(f"{what}: the body is not the error envelope: {answer.shown}")
        expect(all(isinstance(text, str) for text in texts), f"{what}: {answer.shown}")


def error_correlation(bench: Bench) -> None:
    for what, agent, answer in _refusals(bench):
        try:
            seen = json.loads(answer.content)["error"]["correlation_id"]
        except (ValueError, KeyError, TypeError):
            raise NotTested("errors do not come in the envelope") from None
        expect(seen == agent.instance, f"{what}: correlation_id is {seen!r}, the call's was {agent.instance}")


CLAUSES = (
    Clause("evidence-once", 2, "evidence is kept; the same digest again is a no-op", evidence_once),
    Clause("evidence-digest", 2, "evidence that is not what its digest says is refused", evidence_digest),
    Clause("evidence-limit", 2, "evidence beyond 16 MiB is refused", evidence_limit),
    Clause("evidence-full", 2, "evidence of nearly 16 MiB is taken", evidence_full),
    Clause("no-token", 2, "every verb without a token gets 401 or 403", no_token),
    Clause("wrong-token", 2, "every verb with a wrong token gets 401 or 403", wrong_token),
    Clause("other-runs-token", 2, "the token of one run opens no other", other_runs_token),
    Clause("no-such-run", 2, "every verb for a run that is not there gets 404", no_such_run),
    Clause("run-over", 2, "calls in a run that is over get 410", run_over),
    Clause("malformed", 2, "a body that breaks the page gets a 4xx that is not final", malformed),
    Clause("strange-bodies", 2, "strange texts and numbers are taken or get a 4xx that is not final", strange_bodies),
    Clause("error-envelope", 2, "refusals carry the error envelope", error_envelope),
    Clause("error-correlation", 2, "the envelope names the call's correlation id", error_correlation),
)

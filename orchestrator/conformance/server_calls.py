"""Clauses of sections 1 and 2 for an orchestrator: trust, verbs, who is let in, status codes, batches, evidence."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.conformance.clause import Clause, NotTested, broken, expect
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.speaker import Answer, Speaker, Unreachable, new_mac, result_body

EVIDENCE_LIMIT_BYTES = 16 * 2**20
INTERVALS = ("heartbeat_interval_s", "sensor_interval_s", "log_interval_s")
STRANGE = {"zz_unknown": {"deep": [1, None]}}
ALL_VERBS = ("hello", "claim", "heartbeat", "sensor", "log", "result", "hold")


def body_of(agent: Speaker, verb: str) -> dict[str, Any]:
    """A good body of a verb."""
    return {
        "hello": agent.hello_body(),
        "claim": agent.claim_body(),
        "heartbeat": {"activity": "running", "dropped_log_lines": 0},
        "sensor": {"samples": [_sample()]},
        "log": {"lines": [_line(1)]},
        "result": result_body("Inventory"),
        "hold": {"ip": "192.0.2.7"},
    }[verb]


def _line(seq: int | None, text: str = "a line") -> dict[str, Any]:
    line = {"ts": "2026-11-21T09:30:00.101Z", "level": "info", "stage": "", "text": text}
    return line if seq is None else line | {"seq": seq}


def _sample(value: float = 61.5) -> dict[str, Any]:
    return {"kind": "temperature", "key": "cpu", "value": value, "unit": "C", "ts": "2026-11-21T09:30:05.250Z"}


# --- section 1 --------------------------------------------------------------------------------------------------------


def fingerprint(bench: Bench) -> None:
    if not bench.door.fingerprints:
        raise NotTested("no --tls-fpr was given")
    agent = bench.run()
    try:
        for _ in range(3):
            agent.send("hello", agent.hello_body())
    except Unreachable as problem:
        broken(str(problem))


# --- section 2: the verbs ---------------------------------------------------------------------------------------------


def hello(bench: Bench) -> None:
    agent = bench.run()
    agent.call("hello", agent.hello_body())
    expect(agent.claim()["current_state"] == "InventoryCheck", "a hello moved the run")


def claim_fields(bench: Bench) -> None:
    claim = bench.run().claim()
    stages = claim["stages"]
    expect(isinstance(stages, list) and all(isinstance(one, str) for one in stages), f"stages: {stages!r}")
    expect(isinstance(claim["current_state"], str), f"current_state: {claim['current_state']!r}")
    expect(isinstance(claim["non_destructive"], bool), f"non_destructive: {claim['non_destructive']!r}")
    expect(isinstance(claim["iperf_port"], int | None), f"iperf_port: {claim['iperf_port']!r}")
    for disk in claim["expected_disks"] or []:
        expect(isinstance(disk["serial"], str), f"expected_disks: {disk!r}")
    for name in INTERVALS:
        value = claim.get(name)
        expect(value is None or (isinstance(value, int | float) and value > 0), f"{name}: {value!r}")
    expect(isinstance(claim.get("parameters"), dict | None), f"parameters: {claim.get('parameters')!r}")
    expect(isinstance(claim.get("features"), list | None), f"features: {claim.get('features')!r}")


def heartbeat_idle(bench: Bench) -> None:
    reply = bench.claimed().beat()
    expect(reply["cmd"] == "", f"without an order cmd is {reply['cmd']!r}")
    expect(reply.get("override_flags") is None, f"without an order override_flags is {reply['override_flags']!r}")


def empty_answers(bench: Bench) -> None:
    agent = bench.claimed()
    agent.call("sensor", body_of(agent, "sensor"))
    agent.call("log", body_of(agent, "log"))


def unknown_fields(bench: Bench) -> None:
    agent = bench.holding()
    for verb in ("hello", "claim", "heartbeat", "hold"):
        answer = agent.send(verb, body_of(agent, verb) | STRANGE)
        expect(answer.status == 200, f"{verb} with an unknown field: {answer.shown}")
    batches: dict[str, dict[str, Any]] = {
        "sensor": {"samples": [_sample() | STRANGE]},
        "log": {"lines": [_line(1) | STRANGE]},
    }
    for verb, body in batches.items():
        answer = agent.send(verb, body | STRANGE)
        expect(answer.status == 200, f"{verb} with an unknown field: {answer.shown}")
    other = bench.claimed()
    body = result_body("Inventory")
    answer = other.send("result", body | STRANGE | {"summary": body["summary"] | STRANGE})
    expect(answer.status == 200, f"result with unknown fields: {answer.shown}")


def older_agent(bench: Bench) -> None:
    """Every field marked (v1+) may be absent."""
    agent = bench.run()
    plain = {name: agent.claim_body()[name] for name in ("ip", "mac", "instance_id", "agent_version")}
    agent.token = agent.call("claim", plain).get("token") or agent.token
    agent.call("heartbeat", {})
    agent.call("sensor", {"samples": [{name: value for name, value in _sample().items() if name != "ts"}]})
    agent.call("log", {"lines": [_line(None)]})
    body = result_body("Inventory")
    del body["result_id"], body["components"]
    expect(agent.call("result", body)["next_state"] == "SMART", "a result without result_id did not advance the run")


# --- section 2: claims ------------------------------------------------------------------------------------------------


def claim_again(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    for _ in range(4):
        again = agent.claim()
        expect(again["current_state"] == "SMART", f"a repeated claim moved the run to {again['current_state']}")
    expect(agent.post("SMART") == "CPUStress", "after repeated claims the run did not go on")


def newest_instance(bench: Bench) -> None:
    old = bench.claimed()
    new = old.successor()
    new.claim()
    for verb in ("claim", "heartbeat", "sensor", "log", "result", "hold"):
        status = old.send(verb, body_of(old, verb)).status
        expect(status == 409, f"{verb} of an older agent was answered with {status}")
    new.beat()


def other_host(bench: Bench) -> None:
    agent = bench.claimed()
    stranger = agent.successor()
    stranger.mac = new_mac()
    for verb in ("hello", "claim"):
        status = stranger.send(verb, body_of(stranger, verb)).status
        expect(status == 409 or (verb == "hello" and status == 200), f"{verb} of another host: {status}")
    agent.beat()


# --- section 2: results, lines, samples -------------------------------------------------------------------------------


def result_again(bench: Bench) -> None:
    agent = bench.claimed()
    first = result_body("Inventory")
    answer = agent.call("result", first)["next_state"]
    expect(agent.post("SMART") == "CPUStress", "the run did not reach CPUStress")
    again = agent.call("result", first)["next_state"]
    expect(again == answer == "SMART", f"the same result_id was answered with {answer} and then {again}")
    stands = agent.claim()["current_state"]
    expect(stands == "CPUStress", f"a repeated result moved the run to {stands}")


def result_race(bench: Bench) -> None:
    """An agent whose call ran out of time posts again while the first one may still be at work."""
    agent = bench.claimed()
    body = result_body("Inventory")
    with ThreadPoolExecutor(4) as pool:
        answers = [one.result() for one in [pool.submit(agent.call, "result", body) for _ in range(4)]]
    states = {one["next_state"] for one in answers}
    expect(states == {"SMART"}, f"one result, posted four times at once, was answered with {sorted(states)}")
    expect(agent.post("SMART") == "CPUStress", "and the run is not where it should be")


def result_not_twice(bench: Bench) -> None:
    """A result that is repeated while the retried stage stands must not stand for another execution."""
    agent = bench.claimed()
    agent.post("Inventory")
    failed = result_body("SMART", "fail")
    agent.call("result", failed)
    order = bench.order(agent, "retry_stage", "SMART")
    agent.beat(order.get("cmd_id"))
    agent.call("result", failed)
    answer = agent.post("SMART")
    expect(answer == "CPUStress", f"a repeated old result ended the retry: its own led to {answer}")


def _texts(bench: Bench, agent: Speaker) -> list[str]:
    return [line["text"] for line in bench.seen(agent, "log_lines")]


def log_once(bench: Bench) -> None:
    agent = bench.claimed()
    agent.call("log", {"lines": [_line(1, "one"), _line(2, "two")]})
    agent.call("log", {"lines": [_line(1, "one"), _line(2, "two"), _line(3, "three")]})
    texts = [text for text in _texts(bench, agent) if text in {"one", "two", "three"}]
    expect(sorted(texts) == ["one", "three", "two"], f"kept after a repeated batch: {texts}")


def log_by_instance(bench: Bench) -> None:
    first = bench.claimed()
    first.call("log", {"lines": [_line(1, "of the first")]})
    second = first.successor()
    second.claim()
    second.call("log", {"lines": [_line(1, "of the second")]})
    texts = set(_texts(bench, second))
    expect({"of the first", "of the second"} <= texts, f"kept of two agents' first lines: {sorted(texts)}")


def log_batch(bench: Bench) -> None:
    agent = bench.claimed()
    agent.call("log", {"lines": [_line(seq, f"{seq} " + "x" * 400) for seq in range(1, 601)]})
    count = len(_texts(bench, agent))
    expect(count >= 600, f"of a batch of 600 lines {count} were kept")


def samples_kept(bench: Bench) -> None:
    agent = bench.claimed()
    agent.call("sensor", {"samples": [_sample(11.5), _sample(22.5)]})
    values = [one["value"] for one in bench.seen(agent, "samples")]
    expect(values == [11.5, 22.5], f"kept of two samples: {values}")


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
    Clause("tls-fingerprint", 1, "every connection shows the certificate of the fingerprint", fingerprint),
    Clause("hello", 2, "hello before the claim is answered with an object and moves nothing", hello),
    Clause("claim-fields", 2, "the claim's answer has its fields, of their types", claim_fields),
    Clause("heartbeat-idle", 2, "a heartbeat without an order is answered with an empty cmd", heartbeat_idle),
    Clause("empty-answers", 2, "sensor and log are answered with an object", empty_answers),
    Clause("unknown-fields", 2, "unknown fields of requests are ignored", unknown_fields),
    Clause("older-agent", 2, "every field marked (v1+) may be absent", older_agent),
    Clause("claim-again", 2, "the host that holds the run may claim again, and nothing moves", claim_again),
    Clause("newest-instance", 2, "the newest instance wins; calls of an older one get 409", newest_instance),
    Clause("other-host", 2, "a claim by another host gets 409", other_host),
    Clause("result-again", 2, "the same result_id gets the same answer and advances nothing", result_again),
    Clause("result-race", 2, "also when it comes several times at once", result_race),
    Clause("result-not-twice", 2, "a repeated result_id does not stand for a later execution", result_not_twice),
    Clause("log-once", 2, "one copy of each (instance_id, seq) is kept", log_once),
    Clause("log-by-instance", 2, "seq counts for each instance by itself", log_by_instance),
    Clause("log-batch", 2, "a batch of 600 lines is taken and kept", log_batch),
    Clause("samples-kept", 2, "samples are kept as they were sent", samples_kept),
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

"""Clauses of sections 1 and 2 for an orchestrator: trust, verbs, claims, results, lines, samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.conformance.clause import Clause, NotTested, broken, expect
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.speaker import Speaker, Unreachable, new_mac, result_body

INTERVALS = ("heartbeat_interval_s", "sensor_interval_s", "log_interval_s")
STRANGE = {"zz_unknown": {"deep": [1, None]}}


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
)

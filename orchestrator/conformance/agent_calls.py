"""Clauses of sections 1 and 2 for an agent: trust, boot parameters, the form of its calls."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

from orchestrator.conformance.agent_rig import BETTER_TOKEN, INTERVAL_S, TOKEN, Rig
from orchestrator.conformance.clause import Clause, NotTested, expect
from orchestrator.conformance.scripted import Call

MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
LEVELS = {"info", "warn", "error"}
ACTIVITIES = {"running", "between", "holding", "parked", "completed"}
EVIDENCE_LIMIT_BYTES = 16 * 2**20


def calls_of(rig: Rig, verb: str) -> list[Call]:
    """The calls of a verb. Raises NotTested when there is none."""
    if not (calls := rig.server.of(verb)):
        raise NotTested(f"the agent never called {verb}: {rig.vain or rig.stderr[-200:]}")
    return calls


def lines_of(rig: Rig) -> list[dict[str, Any]]:
    """Every line of the log once, whatever its number."""
    lines = [line for call in rig.server.of("log") for line in call.body["lines"]]
    return list({(line["ts"], line["text"]): line for line in lines}.values())


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    expect("T" in text and moment.utcoffset() == timedelta(0), f"{text!r} is not RFC 3339 in UTC")
    return moment


# --- section 1 --------------------------------------------------------------------------------------------------------


def fingerprint_refused(rig: Rig) -> None:
    expect(rig.server.bytes_received == 0, f"{rig.server.bytes_received} bytes were sent to a wrong certificate")
    expect(rig.server.connections > 0, "the agent never connected")


def mismatch_retried(rig: Rig) -> None:
    if rig.server.bytes_received:
        raise NotTested("a mismatch is not refused at all")
    expect(rig.exit_code is None, f"after a mismatch the agent ended with {rig.exit_code}")
    expect(rig.server.connections >= 2, f"a mismatch was not retried: {rig.vain}")


def mismatch_told(rig: Rig) -> None:
    expect("fingerprint" in rig.stderr, "standard error does not say `fingerprint`")
    expect(rig.fingerprint in rig.stderr, "standard error does not tell the fingerprint that was seen")


def reconnect_refused(rig: Rig) -> None:
    count = rig.reached("robbed bytes")
    expect(count == 0, f"{count} bytes were sent to another certificate on a reconnect")


def rotation(rig: Rig) -> None:
    expect("completed" in rig.marks, f"with two fingerprints joined by a comma: {rig.vain} {rig.stderr[-300:]}")


def exits_with_usage(parameter: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        expect(rig.exit_code == 2, f"the exit code is {rig.exit_code}: {rig.vain}")
        lines = [line for line in rig.stderr.splitlines() if line.strip()]
        expect(len(lines) == 1 and parameter in lines[0], f"it does not say which parameter in one line: {lines[:3]}")
        expect(not rig.server.calls, "it called the orchestrator all the same")

    return check


def token_secret(rig: Rig) -> None:
    rig.reached("results")
    places = {"standard error": rig.stderr.encode()}
    places |= {f"a call of {call.verb}": call.content for call in rig.server.calls if call.verb != "evidence"}
    for call in rig.server.of("evidence"):
        places["the evidence"] = gzip.decompress(call.content)
    for token in (TOKEN, BETTER_TOKEN):
        for place, content in places.items():
            expect(token.encode() not in content, f"the token is in {place}")
        urls = [call.path for call in rig.server.calls if token in call.path]
        expect(not urls, f"the token is in the URL {urls[:1]}")


# --- section 2: the form ----------------------------------------------------------------------------------------------


def form_of_calls(rig: Rig) -> None:
    calls_of(rig, "claim")
    for call in rig.server.calls:
        path = call.path.partition("?")[0]
        want = f"/api/v1/runs/{rig.run_id}/{call.verb}"
        expect(call.method == "POST" and path.startswith(want), f"{call.method} {call.path}")
        kind = call.headers.get("content-type", "").partition(";")[0]
        expect(kind == ("application/gzip" if call.verb == "evidence" else "application/json"), f"{call.verb}: {kind}")
        if call.verb != "evidence":
            expect(isinstance(json.loads(call.content), dict), f"the body of {call.verb} is no JSON object")


def authorized(rig: Rig) -> None:
    calls_of(rig, "claim")
    for call in rig.server.calls:
        given = call.headers.get("authorization", "")
        expect(given in {f"Bearer {TOKEN}", f"Bearer {BETTER_TOKEN}"}, f"{call.verb} carries {given!r}")


def correlated(rig: Rig) -> None:
    instance = calls_of(rig, "claim")[0].body["instance_id"]
    uuid.UUID(instance)
    for call in rig.server.calls:
        seen = call.headers.get("x-correlation-id")
        expect(seen == instance, f"{call.verb}: X-Correlation-ID is {seen!r}, instance_id {instance}")


def hello_first(rig: Rig) -> None:
    verbs = [call.verb for call in rig.server.calls if call.verb != "log"]
    expect(verbs[:2] == ["hello", "claim"], f"the first calls are {verbs[:3]}")
    body = rig.server.of("hello")[0].body
    for name in ("agent_version", "mac", "ip", "instance_id"):
        expect(isinstance(body[name], str) and body[name], f"hello has {name} {body[name]!r}")


def claim_fields(rig: Rig) -> None:
    body = calls_of(rig, "claim")[0].body
    for name in ("ip", "mac", "instance_id", "agent_version", "kernel_boot_id", "arch"):
        expect(isinstance(body[name], str) and body[name], f"claim has {name} {body[name]!r}")
    expect(body["ip"] == "127.0.0.1", f"ip is {body['ip']}, the way to the orchestrator is from 127.0.0.1")
    expect("image_version" in body, "the claim lacks image_version")
    expect(MAC.fullmatch(body["mac"]), f"mac is {body['mac']!r}: not lower case with colons")


def heartbeat_fields(rig: Rig) -> None:
    for call in calls_of(rig, "heartbeat"):
        body = call.body
        expect(body["activity"] in ACTIVITIES, f"activity is {body['activity']!r}")
        progress = body.get("progress")
        expect(progress is None or 0 <= progress <= 1, f"progress is {progress!r}")
        expect(isinstance(body["dropped_log_lines"], int), f"dropped_log_lines is {body['dropped_log_lines']!r}")
        for name in ("stage", "elapsed_s", "eta_s", "acked_cmd_id", "ack_status"):
            expect(name in body, f"the heartbeat lacks {name}")


def sensor_fields(rig: Rig) -> None:
    for call in calls_of(rig, "sensor"):
        for sample in call.body["samples"]:
            expect({"kind", "key", "value", "unit", "ts"} <= set(sample), f"a sample has only {sorted(sample)}")
            expect(isinstance(sample["value"], int | float), f"a sample's value is {sample['value']!r}")
            _time(sample["ts"])


def log_fields(rig: Rig) -> None:
    for call in calls_of(rig, "log"):
        for line in call.body["lines"]:
            _time(line["ts"])
            expect(line["level"] in LEVELS, f"level is {line['level']!r}")
            expect(isinstance(line["stage"], str) and isinstance(line["text"], str), f"{line}")


def stage_lines(rig: Rig) -> None:
    for result in rig.reached("results"):
        tagged = [line for line in lines_of(rig) if line["stage"] == result["stage"]]
        expect(len(tagged) >= 2, f"{result['stage']} has {len(tagged)} lines of its own: start and end are wanted")


def seq_counts(rig: Rig) -> None:
    seen: set[int] = set()
    texts: dict[int, str] = {}
    for call in calls_of(rig, "log"):
        for line in call.body["lines"]:
            seq = line["seq"]
            expect(texts.setdefault(seq, line["text"]) == line["text"], f"two lines have the seq {seq}")
            seen.add(seq)
    expect(seen == set(range(1, len(seen) + 1)), f"seq does not count from 1 by one: {sorted(seen)[:20]}")


def lines_kept(rig: Rig) -> None:
    """A line is sent until a 200; what is sent again keeps its number."""
    rig.reached("posted")
    acked: set[int] = set()
    sent: set[int] = set()
    for call in calls_of(rig, "log"):
        numbers = {line["seq"] for line in call.body["lines"]}
        sent |= numbers
        acked |= numbers if call.answered == 200 else set()
    failed = [call for call in rig.server.of("log") if call.answered != 200]
    if not failed:
        raise NotTested("no answer to a log call was lost")
    expect(sent == acked, f"never answered with 200: the lines {sorted(sent - acked)}")


def token_replaced(rig: Rig) -> None:
    rig.reached("results")
    claimed = calls_of(rig, "claim")[0].at
    later = [call for call in rig.server.calls if call.at > claimed and call.verb != "claim"]
    wrong = [call.verb for call in later if call.headers.get("authorization") != f"Bearer {BETTER_TOKEN}"]
    expect(later and not wrong, f"after the claim gave a new token these calls carry the old one: {wrong[:5]}")


def token_kept(rig: Rig) -> None:
    if "resumed" not in rig.marks:
        raise NotTested(rig.vain)
    claims = calls_of(rig, "claim")
    given = claims[-1].headers["authorization"]
    expect(given == f"Bearer {BETTER_TOKEN}", "the agent that was started anew does not use the claim's token")


def evidence_sent(rig: Rig) -> None:
    results = {one["result_id"]: one["stage"] for one in rig.reached("results")}
    calls = calls_of(rig, "evidence")
    for call in calls:
        path, _, query = call.path.partition("?")
        result_id = query.partition("result_id=")[2]
        expect(results.get(result_id) == path.rsplit("/", 1)[1], f"evidence for no result: {call.path}")
        digest = hashlib.sha256(call.content).hexdigest()
        expect(call.headers.get("x-content-sha256") == digest, "X-Content-SHA256 is not the body's")
        expect(len(call.content) <= EVIDENCE_LIMIT_BYTES, f"{len(call.content)} bytes of evidence")
        tarfile.open(fileobj=BytesIO(call.content), mode="r:gz").close()
        posted = next(one.at for one in rig.server.of("result") if one.body["result_id"] == result_id)
        expect(call.at < posted, "evidence came after its result")


def features_unlisted(rig: Rig) -> None:
    calls_of(rig, "result")
    used = {call.verb for call in rig.server.calls} & {"evidence", "iperf_slot"}
    expect(not used, f"used though the claim lists no feature: {sorted(used)}")


def strange_fields(rig: Rig) -> None:
    expect("results" in rig.marks and "completed" in rig.marks, f"with unknown fields in every answer: {rig.vain}")


def heartbeat_rhythm(rig: Rig) -> None:
    rig.reached("results")
    times = [call.at for call in calls_of(rig, "heartbeat")]
    rate_s = (times[-1] - times[0]) / max(1, len(times) - 1)
    most_s = INTERVAL_S * 2 + rig.subject.slack_s
    expect(INTERVAL_S * 0.5 <= rate_s <= most_s, f"a heartbeat every {rate_s:.2f} s, asked for {INTERVAL_S}")


def evidence_optional(rig: Rig) -> None:
    if not rig.server.of("evidence"):
        raise NotTested(f"no evidence was sent: {rig.vain}")
    expect("completed" in rig.marks, f"evidence that is not taken keeps the result from being posted: {rig.vain}")


def null_lists(rig: Rig) -> None:
    calls_of(rig, "claim")
    expect("completed" in rig.marks, f"with null for `features` and `expected_disks`: {rig.vain} {rig.stderr[-300:]}")


def _clauses() -> tuple[Clause[Rig], ...]:
    one = Clause
    usage = "a malformed {} ends it with 2 and one line that names it"
    return (
        one("tls-refused", 1, "not a byte goes to a certificate that is not pinned", fingerprint_refused, "stranger"),
        one("tls-retried", 1, "a mismatch is retried", mismatch_retried, "stranger"),
        one("tls-told", 1, "it says `fingerprint`, and what it saw", mismatch_told, "stranger"),
        one("tls-reconnect", 1, "nor on a reconnect in mid-run", reconnect_refused, "swapped"),
        one("tls-rotation", 1, "several fingerprints by commas, colons, a slash after the URL", rotation, "rotation"),
        one("bad-run-id", 1, usage.format("run_id"), exits_with_usage("run_id"), "bad_run_id"),
        one("bad-fingerprint", 1, usage.format("tls_fpr"), exits_with_usage("tls_fpr"), "bad_fpr"),
        one(
            "fpr-beside-http", 1, "a fingerprint beside http:// is an error", exits_with_usage("tls_fpr"), "plain_http"
        ),
        one("token-secret", 1, "the token is in no log, body, URL or evidence", token_secret, "walk"),
        one("form-of-calls", 2, "POST, the path, JSON objects", form_of_calls, "walk"),
        one("authorized", 2, "every call carries the token as bearer", authorized, "walk"),
        one("correlated", 2, "every call carries the instance_id, a UUID, as X-Correlation-ID", correlated, "walk"),
        one("hello-first", 2, "hello, with its fields, then claim", hello_first, "walk"),
        one("claim-fields", 2, "the claim has all fields, those of v1+ too", claim_fields, "walk"),
        one("heartbeat-fields", 2, "the heartbeat has all fields", heartbeat_fields, "walk"),
        one("heartbeat-rhythm", 2, "it comes as often as the claim says", heartbeat_rhythm, "walk"),
        one("sensor-fields", 2, "samples have all fields", sensor_fields, "walk"),
        one("log-fields", 2, "lines have all fields, times in UTC", log_fields, "walk"),
        one("log-seq", 2, "seq counts by one from 1, one line each", seq_counts, "walk"),
        one("log-kept", 2, "lines are sent until a 200", lines_kept, "trouble"),
        one("stage-lines", 2, "every stage logs its start and its end, tagged", stage_lines, "walk"),
        one("token-replaced", 2, "the claim's token replaces the boot token", token_replaced, "walk"),
        one("token-kept", 2, "and is kept for a restarted agent", token_kept, "killed"),
        one(
            "evidence", 2, "evidence: a gzipped tar with digest and result_id, before the result", evidence_sent, "walk"
        ),
        one("evidence-optional", 2, "a failure of it is a warning", evidence_optional, "rejected_evidence"),
        one("features", 2, "a feature that is not listed is not used", features_unlisted, "trouble"),
        one("null-lists", 2, "null for `features` or `expected_disks` is no malformed claim", null_lists, "null_lists"),
        one("unknown-fields", 2, "unknown fields in answers are ignored", strange_fields, "walk"),
    )


CLAUSES = _clauses()

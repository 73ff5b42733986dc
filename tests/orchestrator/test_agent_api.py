"""Every verb against a real server over TLS: right calls, wrong calls, and who may call."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import uuid

import msgspec
import pytest

from stages.outcome import ReasonCode
from tests.orchestrator.making import MAC, result
from tests.orchestrator.served import FAST, Agent, Served
from tests.support.detection import detects

TWO = ["Inventory", "SMART"]


@pytest.fixture
def agent(served: Served) -> Agent:
    agent = served.create(intervals={"heartbeat_s": 60, "sensor_s": 5, "log_s": 2}, stages=["SMART", "Storage"])
    agent.claim()
    return agent


def test_a_whole_run(served: Served) -> None:
    agent = served.create(
        mac=MAC.upper(), profile="quick", parameters={"CPUStress": {"duration_s": 2}}, expected_disks=[{"serial": "A"}]
    )
    greeting = agent.call("hello", agent.hello())
    assert (greeting["current_state"], greeting["iperf_port"]) == ("InventoryCheck", served.info["iperf_port"])
    claim = agent.claim()
    assert claim["current_state"] == "InventoryCheck"
    assert claim["stages"] == ["Inventory", "SMART", "CPUStress", "Storage", "Network", "GPU", "PSU"]
    assert claim["parameters"]["CPUStress"]["duration_s"] == 2
    assert claim["parameters"]["Storage"]["duration_s"] == 30
    assert claim["expected_disks"] == [{"serial": "A", "size_gb": None}]
    assert claim["non_destructive"] is True
    assert claim["iperf_port"] == served.info["iperf_port"]
    assert claim["features"] == ["evidence", "iperf_slot"]
    assert (claim["heartbeat_interval_s"], claim["sensor_interval_s"], claim["log_interval_s"]) == (10, 5, 2)
    for stage, then in zip(claim["stages"], [*claim["stages"][1:], "Completed"], strict=True):
        assert agent.call("heartbeat", {"activity": "running", "stage": stage})["cmd"] == ""
        assert agent.post(stage) == then
    beat = agent.call("heartbeat", {"activity": "completed"})
    assert beat["cmd"] == "shutdown"
    agent.call("heartbeat", {"activity": "completed", "acked_cmd_id": beat["cmd_id"], "ack_status": "done"})
    view = served.run(agent.run_id)
    assert (view["state"], view["agent"]["activity"], view["stalled"]) == ("Completed", "completed", False)
    assert all(stage["valid"] and stage["summary"]["verdict"] == "pass" for stage in view["stages"])
    assert view["inventory"] == {"cpu": {"model": "X"}}
    assert view["directives"][0]["status"] == "done"


def test_a_token_opens_its_own_run_only(served: Served, agent: Agent) -> None:
    def code(token: str | None, run_id: int = agent.run_id) -> int:
        other = Agent(served, run_id, token or "x")
        if token is None:
            del other.headers["Authorization"]
        with_envelope, _ = other.refused("claim", other.claim_body())
        return with_envelope

    right = agent.headers["Authorization"].removeprefix("Bearer ")
    another = served.create()
    assert code(None) == 401
    assert code("wrong") == 403
    assert code(another.headers["Authorization"].removeprefix("Bearer ")) == 403
    assert code(right, run_id=10**9) == 404
    assert code("wrong", run_id=10**30) == 404
    assert right not in (served.data / "orchestrator.db-wal").read_bytes().decode(errors="replace")


def test_the_correlation_id_is_given_back_only_when_it_is_plain(agent: Agent) -> None:
    response = agent.send("nonsense", headers={"X-Correlation-ID": "<script>alert(1)</script>"})
    assert response.json()["error"]["correlation_id"] == ""


def test_wrong_paths_and_methods_are_refused_in_the_envelope(agent: Agent) -> None:
    assert agent.refused("nonsense") == (422, "unknown_verb")
    assert agent.refused("claim/more") == (404, "no_such_path")
    assert agent.refused("claim", method="GET") == (405, "wrong_method")


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"ip": 5}',
    b'{"ip": "1", "mac": "no", "instance_id": "a", "agent_version": "1"}',
    b'{"ip": "1", "mac": "52:54:00:12:34:56", "instance_id": "../a b", "agent_version": "1"}',
    b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_malformed_claims_are_refused(agent: Agent, body: bytes) -> None:
    assert agent.refused("claim", content=body) == (422, "malformed")


@pytest.mark.parametrize("verb", ["hello", "claim", "heartbeat", "sensor", "log", "result", "hold", "iperf_slot"])
def test_every_verb_refuses_what_is_no_json_and_what_is_too_large(agent: Agent, verb: str) -> None:
    assert agent.refused(verb, content=b"{]") == (422, "malformed")
    limit = {"sensor": 8 * 2**20, "log": 8 * 2**20, "result": 32 * 2**20}.get(verb, 64 * 2**10)
    assert agent.refused(verb, content=b" " * (limit + 1)) == (422, "too_large")
    assert agent.call("heartbeat")["cmd"] == ""


def test_unknown_fields_are_ignored(agent: Agent) -> None:
    assert agent.call("heartbeat", {"activity": "running", "moon": "full"})["cmd"] == ""
    assert agent.call("claim", {**agent.claim_body(), "moon": "full"})["current_state"] == "InventoryCheck"


def test_a_deeply_nested_inventory_is_refused_and_nothing_breaks(agent: Agent) -> None:
    body = json.loads(msgspec.json.encode(result("Inventory")))
    text = json.dumps(body).replace('{"cpu": {"model": "X"}}', '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}")
    assert agent.refused("result", content=text.encode()) == (422, "malformed")
    assert agent.post("Inventory") == "SMART"


def test_calls_before_a_claim(served: Served) -> None:
    agent = served.create()
    assert agent.call("log", {"lines": [_line(1)]}) == {}
    for verb, body in {"heartbeat": {}, "result": result("Inventory"), "hold": {"ip": "x"}}.items():
        assert agent.refused(verb, body) == (409, "not_claimed")


def test_another_host_and_an_older_agent_get_409(served: Served, agent: Agent) -> None:
    thief = agent.newer()
    other_mac = "52:54:00:99:99:99"
    assert thief.refused("hello", thief.hello(other_mac)) == (409, "other_host")
    assert thief.refused("claim", thief.claim_body(other_mac)) == (409, "other_host")
    assert thief.refused("heartbeat") == (409, "not_claimed")
    newer = agent.newer()
    assert newer.claim()["current_state"] == "InventoryCheck"
    bodies = {
        "claim": agent.claim_body(),
        "heartbeat": {},
        "sensor": {"samples": []},
        "log": {"lines": []},
        "result": result("Inventory"),
        "hold": {"ip": "x"},
        "iperf_slot": {"action": "acquire", "slot_id": "a"},
    }
    assert {verb: agent.refused(verb, body) for verb, body in bodies.items()} == dict.fromkeys(
        bodies, (409, "superseded")
    )
    assert newer.post("Inventory") == "SMART"


def test_a_result_whose_answer_was_lost_is_answered_again(served: Served, agent: Agent) -> None:
    result_id = str(uuid.uuid4())
    assert agent.post("Inventory", result_id=result_id) == "SMART"
    assert agent.post("Inventory", result_id=result_id) == "SMART"
    assert agent.post("SMART", "fail") == "FailedHolding"
    assert agent.post("Inventory", result_id=result_id) == "SMART"
    view = served.run(agent.run_id)
    assert view["state"] == "FailedHolding"
    assert [stage["attempts"] for stage in view["stages"]] == [1, 1, 0]


def test_the_servers_judgement_counts(served: Served, agent: Agent) -> None:
    assert agent.post("Inventory", "fail", passed=True) == "FailedHolding"
    assert not served.run(agent.run_id)["stages"][0]["valid"]


def _line(seq: int | None, text: str = "text") -> dict[str, object]:
    line = {"ts": "2026-11-21T09:00:00.000Z", "level": "info", "stage": "", "text": text}
    return line if seq is None else {**line, "seq": seq}


def test_one_copy_of_each_log_line_is_kept(served: Served, agent: Agent) -> None:
    agent.call("log", {"lines": [_line(1, "a"), _line(2, "b")]})
    agent.call("log", {"lines": [_line(2, "b"), _line(3, "zero \0 and \U0001f525")]})
    agent.call("log", {"lines": [_line(None, "v0"), _line(None, "v0")]})
    newer = agent.newer()
    newer.claim()
    newer.call("log", {"lines": [_line(1, "new")]})
    lines = served.operator.get(f"/runs/{agent.run_id}/logs").json()
    assert [line["text"] for line in lines] == ["a", "b", "zero \0 and \U0001f525", "v0", "v0", "new"]
    assert [line["instance_id"] for line in lines[-2:]] == [agent.instance, newer.instance]
    after = lines[2]["id"]
    page = served.operator.get(f"/runs/{agent.run_id}/logs", params={"after": after, "limit": 2}).json()
    assert [line["text"] for line in page] == ["v0", "v0"]
    assert served.run(agent.run_id)["last_log"]["text"] == "new"
    for seq in (0, -1, 2**70):
        assert agent.newer().refused("log", {"lines": [_line(seq)]})[0] == 422


def test_samples_are_kept_in_order_and_the_hottest_is_told(served: Served, agent: Agent) -> None:
    def sample(kind: str, key: str, value: float) -> dict[str, object]:
        return {"kind": kind, "key": key, "value": value, "unit": "C", "ts": "2026-11-21T09:00:00.000Z"}

    agent.call("sensor", {"samples": [sample("temperature", "core 0", 91)]})
    newest = {**sample("temperature", "core 0", 50), "ts": "2026-11-21T09:00:05.000Z"}
    agent.call("sensor", {"samples": [newest, sample("temperature", "nvme", 61), sample("throughput", "disk:A", 500)]})
    page = served.operator.get(f"/runs/{agent.run_id}/samples").json()
    assert [one["value"] for one in page["samples"]] == [91, 50, 61, 500]
    rest = served.operator.get(f"/runs/{agent.run_id}/samples", params={"after": page["last"]}).json()
    assert rest == {"samples": [], "last": page["last"]}
    hottest = served.run(agent.run_id)["hottest"]
    assert (hottest["key"], hottest["value"]) == ("nvme", 61)


def test_the_status_of_a_heartbeat_is_shown(served: Served, agent: Agent) -> None:
    body = {"activity": "running", "stage": "Inventory", "elapsed_s": 3, "progress": 0.5, "eta_s": 3.5}
    agent.call("heartbeat", {**body, "dropped_log_lines": 7})
    shown = served.run(agent.run_id)["agent"]
    assert {name: shown[name] for name in body} == body
    assert shown["dropped_log_lines"] == 7


def test_no_answer_waits_for_a_delayed_acknowledgement(agent: Agent) -> None:
    took = []
    for _ in range(20):
        started = time.perf_counter()
        agent.call("heartbeat")
        took.append(time.perf_counter() - started)
    assert min(took) < 0.035, "40 ms and more: the server's writes wait for TCP's delayed acknowledgement"


def test_a_hold_its_key_and_a_retry_with_a_wipe(served: Served) -> None:
    agent = served.create(stages=["Storage"], non_destructive=False)
    agent.claim()
    assert agent.refused("hold", {"ip": "127.0.0.1"}) == (422, "not_holding")
    assert served.operator.get(f"/runs/{agent.run_id}/hold-key").status_code == 404
    agent.post("Inventory")
    assert agent.post("Storage", "fail") == "FailedHolding"
    first = agent.call("hold", {"ip": "127.0.0.1"})
    assert agent.call("hold", {"ip": "127.0.0.1"}) == first, "one key a run"
    kind, blob, comment = first["authorized_key"].split(" ")
    assert (kind, comment, len(blob)) == ("ssh-ed25519", f"vetting-run-{agent.run_id}", 68)
    key = served.operator.get(f"/runs/{agent.run_id}/hold-key").json()
    assert key["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert (key["authorized_key"], key["expires_at"]) == (first["authorized_key"], first["expires_at"])
    assert served.run(agent.run_id)["hold"]["ip"] == "127.0.0.1"
    assert served.order(agent.run_id, "retry_stage", stage="Storage", wipe=True, serials=["A"]).status_code == 201
    beat = agent.call("heartbeat", {"activity": "holding"})
    assert (beat["cmd"], beat["stage"]) == ("retry_stage", "Storage")
    assert beat["override_flags"] == {"wipe": True, "serials": ["A"]}
    again = agent.call("heartbeat", {"activity": "holding"})
    assert again == beat
    agent.call("heartbeat", {"activity": "running", "acked_cmd_id": beat["cmd_id"], "ack_status": "done"})
    assert served.run(agent.run_id)["stages"][1]["state"] == "running"
    assert agent.post("Storage") == "Completed"


def test_a_cancelled_run_takes_the_last_words_of_its_agent_and_no_new_one(served: Served, agent: Agent) -> None:
    served.order(agent.run_id, "cancel_stage")
    beat = agent.call("heartbeat", {"activity": "running"})
    result_id = str(uuid.uuid4())
    assert agent.post("Inventory", "cancelled", result_id) == "Cancelled"
    assert agent.post("Inventory", "cancelled", result_id) == "Cancelled"
    acked = {"activity": "between", "acked_cmd_id": beat["cmd_id"], "ack_status": "done"}
    assert agent.call("heartbeat", acked)["cmd"] == ""
    assert agent.call("log", {"lines": [_line(1, "powering off")]}) == {}
    for verb, body in {
        "hello": agent.hello(),
        "claim": agent.claim_body(),
        "result": result("Inventory"),
        "hold": {"ip": "x"},
    }.items():
        assert agent.refused(verb, body) == (410, "run_over")
    assert served.run(agent.run_id)["directives"][0]["status"] == "done"


def test_a_released_run_lets_its_agent_go(served: Served, agent: Agent) -> None:
    assert served.operator.post(f"/runs/{agent.run_id}/release").json()["state"] == "Released"
    for verb, body in {"heartbeat": {}, "claim": agent.claim_body(), "sensor": {"samples": []}}.items():
        assert agent.refused(verb, body) == (410, "run_over")
    assert agent.call("log", {"lines": [_line(1, "told to stop")]}) == {}


def test_an_agent_that_does_not_name_its_instance_is_served(agent: Agent) -> None:
    del agent.headers["X-Correlation-ID"]
    assert agent.call("heartbeat")["cmd"] == ""
    assert agent.post("Inventory") == "SMART"


def _tar() -> bytes:
    return gzip.compress(b"evidence" * 1000)


def test_evidence_is_kept_once_and_comes_back_as_it_was(served: Served, agent: Agent) -> None:
    content = _tar()
    digest = {"X-Content-SHA256": hashlib.sha256(content).hexdigest(), "Content-Type": "application/gzip"}
    for _ in range(2):
        response = agent.send("evidence/SMART?result_id=r1", content=content, headers=digest)
        assert (response.status_code, response.json()) == (200, {})
    pieces = served.operator.get(f"/runs/{agent.run_id}/evidence").json()
    assert [(one["stage"], one["result_id"], one["size"]) for one in pieces] == [("SMART", "r1", len(content))]
    got = served.operator.get(f"/runs/{agent.run_id}/evidence/{pieces[0]['id']}")
    assert got.content == content
    assert served.operator.get(f"/runs/{agent.run_id}/evidence/999999").status_code == 404


@pytest.mark.parametrize(
    ("path", "content", "digest", "code"),
    [
        ("evidence/SMART?result_id=r1", _tar(), "0" * 64, "digest_mismatch"),
        ("evidence/SMART?result_id=r1", _tar(), "", "digest_mismatch"),
        ("evidence/SMART?result_id=r1", b"no gzip", None, "malformed"),
        ("evidence/SMART?result_id=../../x", _tar(), None, "malformed"),
        ("evidence/SMART", _tar(), None, "malformed"),
        ("evidence/PSU?result_id=r1", _tar(), None, "unknown_stage"),
        ("evidence/..%2F..%2Fetc?result_id=r1", _tar(), None, "no_such_path"),
        ("evidence/SMART?result_id=r1", b"\x1f\x8b" + bytes(16 * 2**20), None, "too_large"),
    ],
    ids=["other sum", "no sum", "no gzip", "path", "no result", "no such stage", "encoded path", "too large"],
)
def test_evidence_that_is_not_right_is_refused(
    served: Served, agent: Agent, path: str, content: bytes, digest: str | None, code: str
) -> None:
    sha256 = hashlib.sha256(content).hexdigest() if digest is None else digest
    assert agent.refused(path, content=content, headers={"X-Content-SHA256": sha256})[1] == code
    assert served.operator.get(f"/runs/{agent.run_id}/evidence").json() == []


def test_iperf_slots_go_round(served: Served) -> None:
    agents = [served.create() for _ in range(3)]
    for agent in agents:
        agent.claim()

    def ask(agent: Agent, action: str = "acquire") -> tuple[bool, int]:
        reply = agent.call("iperf_slot", {"action": action, "slot_id": "s"})
        assert reply["port"] == (served.info["iperf_port"] if reply["granted"] else None)
        return reply["granted"], reply["ahead"]

    assert [ask(agent) for agent in agents] == [(True, 0), (False, 1), (False, 2)]
    assert ask(agents[0]) == (True, 0), "asked again, it is kept"
    ask(agents[0], "release")
    assert ask(agents[2]) == (False, 1), "first come, first served"
    assert ask(agents[1]) == (True, 0)
    agents[1].post("Inventory", "fail")
    assert ask(agents[2]) == (True, 0), "a result gives up what the stage held"
    assert agents[0].refused("iperf_slot", {"action": "steal", "slot_id": "s"}) == (422, "malformed")
    ask(agents[2], "release")


@detects(
    ReasonCode.STALLED,
    "real orchestrator whose agent falls silent: told as the run's state and history, not as a finding",
)
def test_a_silent_host_stalls_and_is_heard_again(served: Served) -> None:
    agent = served.create(intervals=FAST)
    agent.claim()
    view = served.wait_for(agent.run_id, lambda run: run["stalled"])
    assert [event["kind"] for event in view["events"]][-1] == "stalled"
    agent.call("heartbeat")
    view = served.run(agent.run_id)
    assert [event["text"] for event in view["events"] if event["kind"] == "stalled"][1] == "the host is heard again"

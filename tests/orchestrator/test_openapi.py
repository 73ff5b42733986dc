"""The OpenAPI document: up to date, well-formed, and true of what a real server is sent and answers."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from orchestrator.openapi import OPERATIONS, document, document_text
from tests.orchestrator.making import result
from tests.orchestrator.served import Agent, Served

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests" / "fixtures" / "wire").glob("*.json"))


def check(schema: dict[str, Any], message: Any) -> None:
    whole = {**schema, "components": document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(message)


def operation(verb: str) -> dict[str, Any]:
    name = "evidence/{stage}" if verb == "evidence" else verb
    return dict(document()["paths"][f"/api/v1/runs/{{run_id}}/{name}"]["post"])


def request_schema(verb: str) -> dict[str, Any]:
    return dict(operation(verb)["requestBody"]["content"]["application/json"]["schema"])


def reply_schema(verb: str, status: int) -> dict[str, Any]:
    return dict(operation(verb)["responses"][str(status)]["content"]["application/json"]["schema"])


def test_the_copy_in_docs_is_this_document() -> None:
    assert (ROOT / "docs" / "openapi.json").read_text() == document_text()


def test_every_schema_is_a_schema_and_every_reference_leads_somewhere() -> None:
    whole = document()
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for found in json.dumps(whole).split('"$ref": "#/components/schemas/')[1:]:
        assert found.split('"')[0] in whole["components"]["schemas"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_golden_messages_are_what_it_describes(path: Path) -> None:
    verb, kind = path.stem.split("-")[:2]
    message = json.loads(path.read_text())
    if verb == "terminal":
        check({"$ref": "#/components/schemas/TerminalMessage"}, message)
    elif verb == "error":
        check(reply_schema("claim", 409), message)
    else:
        check(request_schema(verb) if kind == "request" else reply_schema(verb, 200), message)


def test_it_tells_bad_messages_from_good_ones() -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(request_schema("claim"), {"mac": "x"})
    with pytest.raises(jsonschema.ValidationError):
        check(reply_schema("result", 200), {"next_state": 5})


def test_real_traffic_is_what_it_describes(served: Served) -> None:
    agent = served.create(stages=["SMART"], intervals={"heartbeat_s": 60, "sensor_s": 5, "log_s": 2})
    served.seen.clear()
    _say_everything(served, agent)
    said = set()
    for response in served.seen:
        verb = response.request.url.path.split("/")[5]
        said.add((verb, response.status_code))
        _check_pair(verb, response)
    assert {verb for verb, status in said if status == 200} == {*(one.verb for one in OPERATIONS), "evidence"}
    assert {status for _, status in said} == {200, 403, 404, 409, 410, 422}


def _say_everything(served: Served, agent: Agent) -> None:
    agent.call("hello", agent.hello())
    agent.claim()
    agent.refused("claim", agent.claim_body("52:54:00:99:99:99"))
    agent.call("heartbeat", {"activity": "running", "stage": "Inventory", "progress": 0.5})
    agent.call("sensor", {"samples": [{"kind": "temperature", "key": "a", "value": 1, "unit": "C"}]})
    agent.call("log", {"lines": [{"ts": "now", "level": "info", "stage": "", "text": "x", "seq": 1}]})
    agent.call("iperf_slot", {"action": "acquire", "slot_id": "s"})
    agent.call("iperf_slot", {"action": "release", "slot_id": "s"})
    agent.call("result", result("Inventory"))
    content = gzip.compress(b"x")
    digest = {"X-Content-SHA256": hashlib.sha256(content).hexdigest()}
    assert agent.send("evidence/SMART?result_id=r", content=content, headers=digest).status_code == 200
    agent.call("result", result("SMART", "fail"))
    agent.refused("iperf_slot", {"action": "steal", "slot_id": "s"})
    agent.call("hold", {"ip": "127.0.0.1"})
    served.order(agent.run_id, "retry_stage")
    agent.call("heartbeat", {"activity": "holding"})
    Agent(served, agent.run_id, "wrong").send("heartbeat")
    Agent(served, 10**8, "wrong").send("heartbeat")
    served.operator.post(f"/runs/{agent.run_id}/release")
    agent.refused("heartbeat")


def _check_pair(verb: str, response: httpx.Response) -> None:
    if verb != "evidence":
        check(request_schema(verb), json.loads(response.request.content))
    check(reply_schema(verb, response.status_code), response.json())

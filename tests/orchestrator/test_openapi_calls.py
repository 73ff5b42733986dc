"""Calls made up from the OpenAPI documents, to a real server: none fails there, and each answer is what they say.

For each operation a few calls that its document allows and a few that it does not. Where a path names a run, a host or
a profile, most calls name one that exists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator import openapi, operator_openapi
from tests.orchestrator.served import Agent, Served, _unverified, serving
from tests.orchestrator.web.rig import held_on_storage

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 3
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
NOT_JSON = {"POST /operator/v1/hosts/import"}
ELSEWHERE = {
    "POST /operator/v1/webhooks/test",  # would call what was made up
    "GET /api/v1/runs/{run_id}/terminal/{session}",  # a WebSocket
    "POST /api/v1/runs/{run_id}/evidence/{stage}",  # takes an archive
}
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=settings.get_profile("default").phases[:3],  # no shrinking: what is found is found again by its name
)


def operations(document: dict[str, Any]) -> list[Any]:
    found = [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]
    return [one for one in found if one.label not in ELSEWHERE]


OPERATOR, AGENT = operations(operator_openapi.document()), operations(openapi.document())


@pytest.fixture(scope="module")
def peopled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Agent]]:
    """A server with a held run, a host and a profile."""
    with serving(tmp_path_factory.mktemp("calls") / "data") as served:
        agent = held_on_storage(served, "rack-1")
        assert served.operator.post("/hosts", json={"name": "rack-1", "macs": ["52:54:00:00:00:01"]}).is_success
        assert served.operator.post("/profiles/web", json={"text": "peers: warning\n"}).is_success
        yield served, agent


def known_names(path: str, run_id: int) -> dict[str, Any]:
    """What a call of this path should name, so that something is there."""
    name = "web" if "/profiles/" in path else "rack-1"
    return {"run_id": run_id, "name": name, "mac": "52:54:00:00:00:09", "evidence_id": 1, "stage": "Storage"}


def sent(client: httpx.Client, case: Any, known: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """The call as it was made up, with `known` names in its path."""
    names = {**case.path_parameters, **known} if known else dict(case.path_parameters)
    path = case.path
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe="").replace(".", "%2E"))
    given_headers = {str(name): value for name, value in (case.headers or {}).items() if is_sendable(value)}
    content = body_of(case)
    return client.request(
        case.method,
        path,
        params={name: value for name, value in (case.query or {}).items() if value is not None},
        content=content,
        headers={**given_headers, "Content-Type": case.media_type or "application/json", **headers},
    )


def is_sendable(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and value == value.strip()


def body_of(case: Any) -> bytes | None:
    if isinstance(case.body, bytes):
        return case.body
    if not isinstance(case.body, str | int | float | bool | list | dict | None):
        return None  # none was made up
    return case.body.encode() if case.media_type == "text/csv" and isinstance(case.body, str) else json_of(case.body)


def json_of(body: object) -> bytes:
    return json.dumps(body).encode()


def call_a_few(operation: Any, client: httpx.Client, run_id: int, headers: dict[str, str]) -> None:
    """Wrong calls only where there is a JSON body to be wrong: in a path every text is one."""
    modes = MODES if operation.label not in NOT_JSON and list(operation.body) else MODES[:1]
    for mode in modes:
        assert call_in(mode, operation, client, run_id, headers), f"nothing was called in mode {mode.value}"


def call_in(
    mode: GenerationMode, operation: Any, client: httpx.Client, run_id: int, headers: dict[str, str]
) -> list[int]:
    """How the calls were answered."""
    statuses: list[int] = []

    @FEW
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        known = {} if len(statuses) % 3 == 2 else known_names(operation.path, run_id)
        answer = sent(client, case, known, headers)
        statuses.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    call()
    return statuses


@pytest.mark.parametrize("operation", OPERATOR, ids=lambda one: one.label)
def test_the_operator_api_answers_as_its_document_says(operation: Any, peopled: tuple[Served, Agent]) -> None:
    served, agent = peopled
    transport = httpx.HTTPTransport(uds=served.info["operator_socket"])
    with httpx.Client(transport=transport, base_url="http://operator", timeout=60) as client:
        call_a_few(operation, client, agent.run_id, {})
    assert "Traceback" not in served.stderr()


@pytest.mark.parametrize("operation", AGENT, ids=lambda one: one.label)
def test_the_agent_api_answers_as_its_document_says(operation: Any, peopled: tuple[Served, Agent]) -> None:
    served, _ = peopled
    agent = served.create(host="fuzzed")
    agent.claim()
    with httpx.Client(base_url=served.url, verify=_unverified(), trust_env=False, timeout=60) as client:
        call_a_few(operation, client, agent.run_id, dict(agent.headers))
    assert "Traceback" not in served.stderr()


def test_every_endpoint_stands_in_the_document(peopled: tuple[Served, Agent]) -> None:
    from orchestrator.host_app import HostApi
    from orchestrator.operator_app import PREFIX, OperatorApi

    root = Path(__file__).parents[2]
    assert (root / "docs" / "operator-openapi.json").read_text() == operator_openapi.document_text()
    documented = {(one.method, PREFIX + one.path) for one in operator_openapi.OPERATIONS}
    served = OperatorApi(None, None, "", "", "", Path())  # type: ignore[arg-type]  # only its table is looked at
    assert {(method, path) for method, path, _ in served.endpoints()} <= documented
    assert {(method, path) for method, path, _ in HostApi(None).endpoints(PREFIX)} <= documented  # type: ignore[arg-type]

"""Bodies as they come from operators: what is misspelt anywhere in them is refused, by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.http_calls import decoded
from orchestrator.run_creation import RunRequest
from orchestrator.steps import Refusal
from vetting_agent.wire import HeartbeatRequest


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"stagess": []}, "stagess"),
        ({"intervals": {"heartbeat_interval_s": 5}}, "intervals.heartbeat_interval_s"),
        ({"expected_disks": [{"serial": "A"}, {"serial": "B", "size": 960}]}, "expected_disks[1].size"),
        ({"spec": {"cpu": {"modell": "Xeon"}}}, "modell"),
    ],
)
def test_an_unknown_field_is_refused_wherever_it_is(wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal, match="unknown field") as caught:
        decoded(RunRequest, json.dumps({"host": "h", **wrong}).encode())
    assert f"`{place}`" in caught.value.message


def test_what_is_known_is_taken() -> None:
    wanted = {
        "host": "h",
        "parameters": {"Storage": {"anything": 1}},
        "expected_disks": [{"serial": "A", "size_gb": 960.2}],
        "intervals": {"heartbeat_s": 5},
    }
    request = decoded(RunRequest, json.dumps(wanted).encode())
    assert request.expected_disks is not None
    assert request.expected_disks[0].size_gb == 960.2
    assert request.intervals is not None
    assert request.intervals.heartbeat_s == 5


def test_an_agent_of_a_later_version_may_say_more() -> None:
    assert decoded(HeartbeatRequest, b'{"activity": "holding", "later": {"more": 1}}').activity == "holding"

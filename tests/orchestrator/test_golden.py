"""Golden messages: what docs/protocol.md shows is what the types read and write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.results import judged_passed
from vetting_agent import wire

FOLDER = Path(__file__).parents[1] / "fixtures" / "wire"
FILES = sorted(FOLDER.glob("*.json"))
TYPES: dict[str, type[Any]] = {
    "hello-request": wire.HelloRequest,
    "hello-reply": wire.HelloReply,
    "claim-request": wire.ClaimRequest,
    "claim-reply": wire.Claim,
    "heartbeat-request": wire.HeartbeatRequest,
    "heartbeat-reply": wire.HeartbeatReply,
    "sensor-request": wire.SensorRequest,
    "sensor-reply": wire.Empty,
    "log-request": wire.LogRequest,
    "log-reply": wire.Empty,
    "result-request": wire.ResultRequest,
    "result-reply": wire.ResultReply,
    "hold-request": wire.HoldRequest,
    "hold-reply": wire.HoldReply,
    "iperf_slot-request": wire.IperfSlotRequest,
    "iperf_slot-reply": wire.IperfSlotReply,
    "evidence-reply": wire.Empty,
    "terminal-message": wire.TerminalMessage,
    "error-reply": wire.ErrorEnvelope,
}


def type_of(path: Path) -> type[Any]:
    return TYPES["-".join(path.stem.split("-")[:2])]


def decoded(name: str) -> Any:
    path = FOLDER / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=type_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_read_is_written_again(path: Path) -> None:
    golden = json.loads(path.read_text())
    written = json.loads(msgspec.json.encode(msgspec.json.decode(path.read_bytes(), type=type_of(path))))
    if path.stem.endswith("-v1"):  # without the fields that may be absent: written with their defaults
        written = (
            {name: written[name] for name in golden} if "lines" not in golden and "samples" not in golden else golden
        )
    assert written == golden


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_unknown_fields_are_ignored(path: Path) -> None:
    golden = json.loads(path.read_text())
    more = json.dumps({**golden, "moon": {"phase": "full"}})
    assert msgspec.json.decode(more, type=type_of(path)) == msgspec.json.decode(path.read_bytes(), type=type_of(path))


def test_every_verb_has_a_golden_request_and_reply() -> None:
    names = {path.stem for path in FILES}
    for verb in (*wire.VERBS, "iperf_slot"):
        assert {f"{verb}-request", f"{verb}-reply"} <= names


def test_full_messages_leave_no_field_out() -> None:
    for name in ("claim-request", "claim-reply", "heartbeat-request", "heartbeat-reply", "hold-reply"):
        golden = json.loads((FOLDER / f"{name}.json").read_text())
        assert set(golden) == set(TYPES[name].__struct_fields__)


def test_they_mean_what_they_say() -> None:
    assert judged_passed(decoded("result-request"))
    assert judged_passed(decoded("result-request-inventory"))
    assert not judged_passed(decoded("result-request-fail"))
    assert not judged_passed(decoded("result-request-cancelled"))
    assert not decoded("claim-reply").is_destructive
    assert decoded("claim-reply-v1").is_destructive


def test_the_page_shows_every_message_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    shown = dict(re.findall(r"<!-- wire: (\S+) -->\n```json\n(.*?)```", page, re.DOTALL))
    golden = {path.stem: path.read_text() for path in FILES if not path.stem.endswith("-v1")}
    assert shown == golden


def test_the_page_names_every_field_of_every_message() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    fields = {name for kind in TYPES.values() for name in kind.__struct_fields__}
    assert [name for name in sorted(fields) if f"`{name}`" not in page and f'"{name}"' not in page] == []

"""Stands between agent and orchestrator, tells of each moment of their talk, and remembers what was said."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.crash.plan import AFTER, BEFORE, IN_LOAD, LAST_WORDS
from tests.crash.subject import LOAD
from tests.walk.lossy import Lossy

PATIENCE_S = 5.0
"""So long a request waits for an orchestrator that is being started again, as one does in a queue of the network."""
AWAY = httpx.Response(502, content=b"<html>bad gateway")

Moment = Callable[[str, int, str], bool]
"""Verb, its number in this run, and BEFORE or AFTER; whether somebody was killed just then."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was handed on, and how it was answered."""

    verb: str
    instance: str
    body: dict[str, Any]
    status: int
    answer: dict[str, Any]


@dataclass(slots=True)
class Heard:
    """All of them, by any thread."""

    exchanges: list[Exchange] = field(default_factory=list)

    def answered(self, verb: str) -> list[Exchange]:
        return [one for one in list(self.exchanges) if one.verb == verb and one.status == 200]


class Relay(Lossy):
    """Loses nothing by itself."""

    def __init__(self, upstream: str, certificate: Path, key: Path, moment: Moment) -> None:
        super().__init__(upstream, certificate, key, share=0.0)
        self.heard = Heard()
        self._moment = moment
        self._numbers: Counter[str] = Counter()
        self._loaded: set[str] = set()
        self._counting = threading.Lock()

    def pass_on(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        verb = path.split("?")[0].split("/")[5]
        said = dict(parse_qsl(urlsplit(path).query)) if verb == "evidence" else _object(body)
        instance = next((text for name, text in headers.items() if name.lower() == "x-correlation-id"), "")
        moments = self._moments_of(verb, instance, said)
        self._tell(moments, BEFORE)
        answer = self._asked(path, headers, body)
        self.heard.exchanges.append(Exchange(verb, instance, said, answer.status_code, _object(answer.content)))
        return AWAY if self._tell(moments, AFTER) else answer  # what a dead orchestrator said is not handed back

    def _moments_of(self, verb: str, instance: str, said: dict[str, Any]) -> list[tuple[str, int]]:
        with self._counting:
            kinds = [verb]
            if verb == "heartbeat" and said.get("stage") == LOAD and instance not in self._loaded:
                self._loaded.add(instance)
                kinds.append(IN_LOAD)
            if str(said.get("acked_cmd_id", "")).endswith("shutdown"):
                kinds.append(LAST_WORDS)
            self._numbers.update(kinds)
            return [(kind, self._numbers[kind]) for kind in kinds]

    def _tell(self, moments: list[tuple[str, int]], phase: str) -> bool:
        killed = [self._moment(kind, number, phase) for kind, number in moments]
        return any(killed)

    def _asked(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """What cannot have arrived is tried again for a while; what may have arrived is not."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return super().pass_on(path, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if time.monotonic() > deadline:
                    return AWAY
                time.sleep(0.05)
            except (httpx.HTTPError, RuntimeError):  # RuntimeError: the play is over, and the client closed
                return AWAY


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

"""Server-sent events: each line once, in order, whatever breaks in between; filters; an end with the session."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tests.orchestrator.served import Agent, Served
from tests.orchestrator.web.rig import add_user, lines, logged_in, sensors


def events(client: httpx.Client, url: str, **headers: str) -> Iterator[tuple[str, str, Any]]:
    """(name, id, data) of each event."""
    with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                fields = {}
            else:
                fields = {}


def read_lines(client: httpx.Client, url: str, until: str, **headers: str) -> tuple[list[str], str]:
    """Texts of the log lines up to one, and the last id."""
    texts: list[str] = []
    for name, place, data in events(client, url, **headers):
        if name == "log":
            texts += [one[4] for one in data]
            if until in texts:
                return texts, place
    raise AssertionError(f"the stream ended after {texts[-3:]}")


def texts_of(first: int, last: int) -> list[str]:
    return [f"line {n}" for n in range(first, last + 1)]


def test_a_stream_goes_on_where_it_was(staffed: Served) -> None:
    agent = staffed.create(host="streamed")
    agent.claim()
    lines(agent, 1, 1200)
    with logged_in(staffed, "vera") as client:
        url = f"/runs/{agent.run_id}/stream"
        tail, _ = read_lines(client, f"{url}?tail=1", "line 1200")
        assert tail == texts_of(701, 1200)
        whole, place = read_lines(client, url, "line 1200")
        assert whole == texts_of(1, 1200)
        lines(agent, 1201, 300)
        more, _ = read_lines(client, url, "line 1500", **{"Last-Event-ID": place})
        assert more == texts_of(1201, 1500)
        assert read_lines(client, f"{url}?from={place}", "line 1500")[0] == more


def test_lines_arrive_as_they_come_and_only_those_that_were_asked_for(staffed: Served) -> None:
    agent = staffed.create(host="filtered")
    agent.claim()
    lines(agent, 1, 5, stage="SMART")
    lines(agent, 6, 5, stage="Storage", level="warn")
    lines(agent, 11, 5, stage="SMART", level="error")
    with logged_in(staffed, "vera") as client:
        url = f"/runs/{agent.run_id}/stream"
        assert read_lines(client, f"{url}?stage=SMART&levels=error", "line 15")[0] == texts_of(11, 15)
        assert read_lines(client, f"{url}?levels=warn,error", "line 15")[0] == texts_of(6, 15)
        late = threading.Timer(1.0, lines, (agent, 16, 1, "SMART", "error"))
        late.start()
        assert read_lines(client, f"{url}?stage=SMART&levels=error", "line 16")[0] == texts_of(11, 16)
        late.join()


def test_samples_and_parts_come_by_the_same_stream(staffed: Served) -> None:
    agent = staffed.create(host="sampled")
    agent.claim()
    sensors(agent, 50)
    with logged_in(staffed, "vera") as client:
        history = client.get(f"/runs/{agent.run_id}/samples").json()
        assert {one["kind"] for one in history["series"]} == {"temp", "power", "load"}
        assert sum(len(one["points"]) for one in history["series"]) == 60
        place = f"0.{history['last']}"
        agent.call("sensor", {"samples": [{"kind": "temp", "key": "x", "value": 91.0, "unit": "degC"}]})
        seen: dict[str, Any] = {}
        for name, _, data in events(client, f"/runs/{agent.run_id}/stream?from={place}"):
            seen[data["name"] if name == "part" else name] = data
            if {"samples", "beat", "now", "acts", "found", "files"} <= seen.keys():
                break
        assert [one[2:4] for one in seen["samples"]] == [["x", 91.0]]
        assert seen["beat"]["hot"] == 91.0
        assert "sampled" in seen["now"]["html"]


def test_the_fleet_tells_what_changed(staffed: Served) -> None:
    agent = staffed.create(host="changing")
    with logged_in(staffed, "vera") as client:
        stream = events(client, "/fleet/stream?version=")
        _, version, first = next(stream)
        assert "changing" in first["html"][str(agent.run_id)]
        agent.claim()
        agent.call("heartbeat", {"activity": "running", "progress": 0.25, "eta_s": 90})
        html, beats = {}, {}
        for _, place, delta in stream:
            version = place
            html |= delta["html"]
            beats |= delta["beats"]
            if str(agent.run_id) in beats and beats[str(agent.run_id)][1] == 0.25:
                break
        assert 'data-group="running"' in html[str(agent.run_id)]
        assert list(html) == [str(agent.run_id)], "nothing is sent that did not change"
        stream.close()
        agent.post("Inventory")
        _, _, delta = next(events(client, f"/fleet/stream?version={version}"))
        assert list(delta["html"]) == [str(agent.run_id)]


def test_a_new_server_goes_on_without_a_doubled_or_missing_line(start: Callable[..., Served]) -> None:
    served = start()
    add_user(served, "vera", "viewer")
    agent = served.create(host="killed")
    agent.claim()
    lines(agent, 1, 50)
    with logged_in(served, "vera") as client:
        cookies = dict(client.cookies)
        url = f"/runs/{agent.run_id}/stream"
        before, place = read_lines(client, url, "line 50")
        _, version, _ = next(events(client, "/fleet/stream?version="))
    served.kill()
    again = start()
    newer = agent.newer(again)
    newer.instance = agent.instance
    newer.headers = dict(agent.headers)
    lines(newer, 41, 30)
    with logged_in(again, "vera") as client:
        client.cookies.update(cookies)  # the old session outlives the server
        after, _ = read_lines(client, url, "line 70", **{"Last-Event-ID": place})
        assert before + after == texts_of(1, 70)
        _, _, delta = next(events(client, f"/fleet/stream?version={version}"))
        assert delta["html"], "a version of the old server means nothing: everything is told"


def test_the_server_ends_although_someone_watches(start: Callable[..., Served]) -> None:
    served = start()
    add_user(served, "vera", "viewer")
    agent: Agent = served.create(host="watched")
    with logged_in(served, "vera") as client:
        stream = events(client, f"/runs/{agent.run_id}/stream")
        next(stream)
        fleet = events(client, "/fleet/stream")
        next(fleet)
        assert served.end() == 0
        stream.close()
        fleet.close()
    assert served.stderr() == ""

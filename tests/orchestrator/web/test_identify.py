"""Lamps from the console and the command line: asked until the agent has answered, lit only then, by operators."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from tests.orchestrator.served import Agent, Served
from tests.orchestrator.web.rig import held_on_storage, logged_in

HTMX = {"HX-Request": "true"}
SDA = "S45NNE0M500001"


def answer(agent: Agent, status: str = "done", message: str | None = None) -> dict[str, object]:
    """The agent fetches an order and answers it."""
    order: dict[str, object] = agent.call("heartbeat", {"activity": "holding"})
    more = {"acked_cmd_id": order["cmd_id"], "ack_status": status, "ack_message": message}
    agent.call("heartbeat", {"activity": "holding", **more})
    return order


def test_a_lamp_is_lit_when_the_agent_says_so(staffed: Served) -> None:
    agent = held_on_storage(staffed, "rack-1")
    url = f"/runs/{agent.run_id}"
    with logged_in(staffed, "olaf") as client:
        assert "Light the lamp of this host" in client.get(url).text
        assert "Light the lamp of sda" in client.get(url).text
        told = client.post(f"{url}/identify", data={"target": f"disk:{SDA}", "on": "true"}, headers=HTMX)
        assert "asked, not yet acknowledged" in told.text
        page = client.get(url).text
        assert ("lamp lit" in page, "lamp on: asked, not yet acknowledged" in page) == (False, True)
        order = answer(agent)
        assert (order["cmd"], order["identify"]) == (
            "identify",
            {"target": f"disk:{SDA}", "on": True, "seconds": 900.0},
        )
        page = client.get(url).text
        assert ("lamp lit" in page, "Put out the lamp of sda" in page) == (True, True)
        client.post(f"{url}/identify", data={"target": "host", "on": "true"}, headers=HTMX)
        answer(agent, "refused", "no_bmc: <b>none</b>")
        page = client.get(url).text
        assert "lamp not switched" in page
        assert "no_bmc: &lt;b&gt;none&lt;/b&gt;" in page
        unknown = client.post(f"{url}/identify", data={"target": "disk:OTHER", "on": "true"}, headers=HTMX)
        assert (unknown.status_code, "no_such_disk" in unknown.text) == (422, True)
    acts = [one for one in staffed.operator.get("/audit").json() if one["subject"] == f"run {agent.run_id}"]
    assert [(one["author"], one["act"], one["outcome"]) for one in acts[:3]] == [
        ("olaf", "identify", "refused: no_such_disk"),
        ("olaf", "identify", "asked"),
        ("olaf", "identify", "asked"),
    ]
    assert acts[2]["detail"] == f"identify disk:{SDA} on"


def test_a_viewer_lights_nothing(staffed: Served) -> None:
    agent = held_on_storage(staffed, "rack-2")
    with logged_in(staffed, "vera") as client:
        assert "Light the lamp" not in client.get(f"/runs/{agent.run_id}").text
        told = client.post(f"/runs/{agent.run_id}/identify", data={"target": "host", "on": "true"}, headers=HTMX)
        assert told.status_code == 403
    assert staffed.run(agent.run_id)["directives"] == []


def command(staffed: Served, agent: Agent, *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "orchestrator", "identify", str(agent.run_id), "--data", str(staffed.data), "--json"]
    return subprocess.Popen([*argv, *more], stdout=subprocess.PIPE, text=True)


def test_the_command_waits_for_the_agents_word(staffed: Served) -> None:
    agent = held_on_storage(staffed, "rack-3")
    for status, message, code in [("done", None, 0), ("refused", "no_enclosure: none", 1)]:
        process = command(staffed, agent, "--disk", SDA, "--seconds", "60")
        try:
            deadline = time.monotonic() + 60
            while not staffed.run(agent.run_id)["directives"][-1:] or (
                staffed.run(agent.run_id)["directives"][-1]["status"] != "waiting"
            ):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            threading.Timer(0.3, answer, (agent, status, message)).start()
            printed = json.loads(process.communicate(timeout=60)[0])
        finally:
            process.kill()
        assert (process.returncode, printed["status"], printed["answer"]) == (code, status, message)
        assert printed["identify"] == {"target": f"disk:{SDA}", "on": True, "seconds": 60.0}
    process = command(staffed, agent, "--off", "--wait", "0")
    assert json.loads(process.communicate(timeout=60)[0])["status"] == "waiting"
    assert process.returncode == 1

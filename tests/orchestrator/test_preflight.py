"""The orchestrator's side of a preflight: a real server, scripted agents, and a real sshd in the held host's place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orchestrator.making import MAC
from tests.orchestrator.served import Agent, Served
from tests.support.preflights import BOUND_S, PATIENT_S, SHORT_S, assert_failed, orchestrator_preflight, state_of
from tests.support.ssh_server import ssh_server

SELDOM = {"heartbeat_s": 600.0, "sensor_s": 5.0, "log_s": 2.0}
OFTEN = {"heartbeat_s": 0.2, "sensor_s": 5.0, "log_s": 2.0}
SQUASHFS = "filesystem.squashfs"


def looked(served: Served, agent: Agent, hop_s: float = PATIENT_S) -> dict[str, Any]:
    """The report, without the command around it."""
    headers = {"X-Correlation-ID": str(uuid.uuid4())}
    answer = served.operator.get(
        f"/runs/{agent.run_id}/preflight?hop_limit={hop_s:.0f}", headers=headers, timeout=BOUND_S
    )
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    assert report["correlation_id"] == headers["X-Correlation-ID"]
    return report


def claimed(served: Served, **wanted: Any) -> Agent:
    agent = served.create(**({"intervals": SELDOM, "stages": ["SMART"]} | wanted))
    agent.claim()
    agent.call("heartbeat", {"activity": "between"})
    return agent


# --- the server, the image, the claim ---------------------------------------------------------------------------------


def test_no_server(tmp_path: Path) -> None:
    assert_failed(orchestrator_preflight(tmp_path, 1), "server", "orchestrator_unreachable")


def test_no_such_run(served: Served) -> None:
    report = orchestrator_preflight(served.data, 987654)
    assert (report["failed_hop"], report["signal"]) == ("claim", "run_not_found")


def test_nobody_has_called(served: Served) -> None:
    assert "no host has called" in assert_failed(looked(served, served.create()), "claim", "run_not_claimed")


def test_a_host_that_said_hello_and_no_more(served: Served) -> None:
    agent = served.create()
    agent.call("hello", agent.hello())
    seen = assert_failed(looked(served, agent), "claim", "run_not_claimed")
    assert MAC in seen
    assert agent.instance in seen


def test_a_run_that_is_over(served: Served) -> None:
    agent = claimed(served)
    served.operator.post(f"/runs/{agent.run_id}/release")
    assert "Released" in assert_failed(looked(served, agent), "claim", "run_not_active")


def image(folder: Path) -> Path:
    folder.mkdir()
    template = "#!ipxe\nkernel @BASE@/vmlinuz @PARAMETERS@ @EXTRA@\ninitrd @BASE@/initrd\nboot\n"
    (folder / "boot.ipxe").write_text(template)
    for name in ("vmlinuz", "initrd", SQUASHFS):
        (folder / name).write_bytes(os.urandom(4096))
    return folder


def test_the_image_is_fetched_as_a_boot_loader_does(tmp_path: Path, start: Callable[..., Served]) -> None:
    folder = image(tmp_path / "image")
    served = start(arguments=["--image", str(folder), "--boot-listen", "127.0.0.1:0"])
    agent = claimed(served)
    before = served.run(agent.run_id)
    report = looked(served, agent)
    assert report["ok"], report
    status, detail = state_of(report, "image")
    assert status == "ok"
    assert all(name in detail for name in ("boot.ipxe", "vmlinuz", "initrd", SQUASHFS))
    assert served.run(agent.run_id)["events"] == before["events"], "no token was made for it"
    for name in ("initrd", SQUASHFS):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(b"")
        assert name in assert_failed(looked(served, agent), "image", "boot_image_not_served")
        (folder / name).write_bytes(whole)
    (folder / "vmlinuz").unlink()
    assert "vmlinuz" in assert_failed(looked(served, agent), "image", "boot_image_not_served")


# --- heartbeat and results --------------------------------------------------------------------------------------------


def test_all_is_well(served: Served) -> None:
    agent = claimed(served)
    report = orchestrator_preflight(served.data, agent.run_id)
    assert report["ok"], report
    assert "between" in state_of(report, "heartbeat")[1]
    assert [state_of(report, hop)[0] for hop in ("image", "result", "hold_port", "hold_key", "terminal")] == [
        "not_applicable"
    ] * 5
    agent.post("Inventory")
    assert "Inventory" in state_of(looked(served, agent), "result")[1]


def test_a_host_that_went_silent(served: Served) -> None:
    agent = claimed(served, intervals=OFTEN)
    served.wait_for(agent.run_id, lambda view: view["stalled"])
    assert agent.instance in assert_failed(looked(served, agent), "heartbeat", "node_agent_heartbeat_stale")
    agent.call("heartbeat", {"activity": "between"})
    served.wait_for(agent.run_id, lambda view: not view["stalled"])


def test_a_host_whose_token_was_revoked(served: Served) -> None:
    agent = claimed(served, intervals=OFTEN)
    served.operator.post(f"/runs/{agent.run_id}/token")
    served.wait_for(agent.run_id, lambda view: view["stalled"])
    agent.refused("heartbeat", {})
    assert agent.instance in assert_failed(looked(served, agent), "heartbeat", "node_agent_auth_failed")


def test_a_result_that_breaks_the_protocol(served: Served) -> None:
    agent = claimed(served)
    assert agent.refused("result", {"stage": "Inventory"})[0] == 422
    seen = assert_failed(looked(served, agent), "result", "node_task_result_post_failed")
    assert agent.instance in seen
    agent.post("Inventory")
    assert looked(served, agent)["ok"]


# --- the hold ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def address() -> str:
    """A loopback address of this test's own, so that port 22 is free there."""
    return f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.22"


def held(served: Served, address: str, *, asked: bool = True) -> tuple[Agent, str]:
    """An agent whose run is held, and the line that its host should put into authorized_keys."""
    agent = claimed(served)
    agent.post("Inventory", "fail")
    agent.call("heartbeat", {"activity": "holding"})
    line = agent.call("hold", {"ip": address})["authorized_key"] if asked else ""
    return agent, line


def test_a_hold_without_its_key(served: Served, address: str) -> None:
    agent, _ = held(served, address, asked=False)
    assert_failed(looked(served, agent), "hold_port", "hold_not_open")


def test_a_host_without_ssh(served: Served, address: str) -> None:
    agent, _ = held(served, address)
    seen = assert_failed(looked(served, agent), "hold_port", "node_ops_ssh_failed")
    assert f"{address} port 22: Connection refused" in seen
    assert state_of(looked(served, agent), "heartbeat")[0] == "ok"


@pytest.mark.root
def test_a_host_that_lets_the_key_in(served: Served, address: str, tmp_path: Path) -> None:
    agent, line = held(served, address)
    keys = tmp_path / "authorized_keys"
    keys.write_text(line + "\n")
    with ssh_server(tmp_path / "sshd", keys, address, 22):
        report = looked(served, agent)
        assert report["ok"], report
        assert "SSH-2.0" in state_of(report, "hold_port")[1]
        assert f"root@{address} lets it in" in state_of(report, "hold_key")[1]
        assert state_of(report, "terminal") == ("ok", "one can be opened")
        audit = served.operator.get("/audit").json()
        mine = [one for one in audit if one["correlation_id"] == report["correlation_id"]]
        assert [(one["act"], one["subject"]) for one in mine] == [("preflight", f"run {agent.run_id}")]
        keys.write_text("")
        seen = assert_failed(looked(served, agent), "hold_key", "hold_key_rejected")
        assert "Permission denied" in seen


@pytest.mark.root
def test_the_last_terminal_failed(start: Callable[..., Served], address: str, tmp_path: Path) -> None:
    served = start()  # its log will have a warning
    agent, line = held(served, address)
    keys = tmp_path / "authorized_keys"
    keys.write_text(line + "\n")
    failure = {"code": "terminal_public_route_missing", "detail": "no such page"}
    with ssh_server(tmp_path / "sshd", keys, address, 22):
        assert served.operator.post(f"/runs/{agent.run_id}/terminal/failures", json=failure).status_code == 200
        assert_failed(looked(served, agent), "terminal", "terminal_public_route_missing")


@pytest.mark.root
def test_something_else_at_the_port(served: Served, address: str) -> None:
    import socket

    agent, _ = held(served, address)
    with socket.create_server((address, 22)):  # takes the connection and says nothing
        assert_failed(looked(served, agent, SHORT_S), "hold_port", "node_ops_ssh_failed")


def test_a_viewers_token_may_not_try_the_key(served: Served) -> None:
    agent = served.create()
    made = {
        role: served.operator.post("/tokens", json={"name": role, "role": role}).json()
        for role in ("viewer", "operator")
    }
    console = served.info["console_url"].rstrip("/")
    answers = {}
    for role, token in made.items():
        with httpx.Client(base_url=console, verify=False, trust_env=False) as client:
            headers = {"Authorization": f"Bearer {token['secret']}"}
            answers[role] = client.get(f"/operator/v1/runs/{agent.run_id}/preflight", headers=headers).status_code
    assert answers == {"viewer": 403, "operator": 200}

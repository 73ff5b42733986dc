"""The whole of it in a real browser: a host vetted, failed, held, entered, repaired, retried and completed.

Server, agent, shell and browser are real. The fault is a program that stands before stress-ng on the agent's PATH and
says that an answer was wrong; the repair, typed into the browser's terminal, is to take it away.
VETTING_PICTURES=DIR keeps a picture of each scene.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import chromium, tab_of
from tests.terminal.rig import end, started
from tests.terminal.test_page import LIMIT_MS, add_users, log_in, see, type_line, wait_state
from tests.walk.rig import Agent, Orchestrator, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.root]
BROKEN = "#!/bin/sh\necho 'stress-ng: fail:  [1] matrix: data error detected' >&2\nexit 2\n"
WINDOW = {"width": 1280, "height": 900}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("VETTING_PICTURES") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Orchestrator, Agent]]:
    """A server, and a host whose stress-ng is broken."""
    server = started(tmp_path / "o", "--terminal-timeout", "60")
    parameters = {"CPUStress": {"duration_s": 8}}
    calm = {"heartbeat_s": 2.0, "sensor_s": 1.0, "log_s": 0.5}
    created = server.create_run(["Inventory", "CPUStress"], parameters=parameters, host="rack7-node3", intervals=calm)
    agent = Agent(tmp_path / "agent", server.url, server.fingerprint, created)
    agent.stand_ins.mkdir(parents=True)
    agent.environment["HOME"] = str(agent.folder)
    (agent.stand_ins / "stress-ng").write_text(BROKEN)
    (agent.stand_ins / "stress-ng").chmod(0o755)
    try:
        add_users(server)
        yield server, agent
    finally:
        end(agent)
        server.stop()


def state_of(server: Orchestrator, run_id: int) -> str:
    return str(server.run(run_id)["state"])


def cpu_stress(server: Orchestrator, run_id: int) -> dict[str, Any]:
    return next(one for one in server.run(run_id)["stages"] if one["stage"] == "CPUStress")


def shot(page: Page, pictures: Path, name: str) -> None:
    page.screenshot(path=pictures / f"{name}.png")


def repair(page: Page, broken: Path, pictures: Path) -> None:
    """In the terminal: look at the fault, take it away, leave."""
    wait_state(page, "ready")
    type_line(page, f"cd {broken.parent} && ./stress-ng")
    see(page, "data error detected")
    type_line(page, "rm stress-ng; command -v stress-ng; echo rep$((0))ired")
    see(page, "rep0ired")
    shot(page, pictures, "show-3-terminal")
    type_line(page, "exit")
    wait_state(page, "ended")


def test_vetted_failed_held_entered_repaired_retried_completed(
    scene: tuple[Orchestrator, Agent], browser: Browser, pictures: Path
) -> None:
    server, agent = scene
    run_id, console = int(agent.run["run_id"]), server.facts["console_url"]
    with tab_of(browser, viewport=WINDOW) as tab:
        page = tab.page
        log_in(page, console)
        tab.complaints.clear()
        page.goto(f"{console}runs/{run_id}")
        expect(page.locator("#part-now")).to_contain_text("rack7-node3")
        shot(page, pictures, "show-1-waiting")
        agent.start()
        wait_for(lambda: state_of(server, run_id) == "FailedHolding", "the hold", 120)
        expect(page.get_by_text("Held for you")).to_be_visible(timeout=LIMIT_MS)
        expect(page.locator("#ssh-line")).to_be_visible(timeout=LIMIT_MS)
        assert cpu_stress(server, run_id)["passed"] is False
        shot(page, pictures, "show-2-held")
        with page.context.expect_page() as opened:
            page.locator("#open-terminal").click()
        repair(opened.value, agent.stand_ins / "stress-ng", pictures)
        opened.value.close()
        assert not (agent.stand_ins / "stress-ng").exists()
        retried_and_completed(page, server, run_id, pictures)
        assert tab.complaints == []
    assert wait_for(lambda: agent.power_log, "the power-off", 60) == ["systemctl poweroff"]
    assert agent.wait() == 0
    assert not agent.keys.exists() or agent.keys.read_text() == ""
    stages = [one["stage"] for one in server.operator("GET", f"/runs/{run_id}/evidence")]
    assert "Terminal" in stages


def retried_and_completed(page: Page, server: Orchestrator, run_id: int, pictures: Path) -> None:
    """From the page that has been open all along."""
    page.locator("#retry-stage").select_option("CPUStress")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("asked, not yet acknowledged", timeout=LIMIT_MS)
    wait_for(lambda: cpu_stress(server, run_id)["attempts"] == 2, "the retry", 120)
    expect(page.locator("#log")).to_contain_text("retrying CPUStress on the operator's word", timeout=LIMIT_MS)
    shot(page, pictures, "show-4-retried")
    wait_for(lambda: state_of(server, run_id) == "Completed", "the end", 180)
    expect(page.locator("#part-now")).to_contain_text("Completed", timeout=LIMIT_MS)
    expect(page.get_by_text("Held for you")).to_have_count(0, timeout=LIMIT_MS)
    stage = cpu_stress(server, run_id)
    assert (stage["passed"], stage["attempts"]) == (True, 2)
    shot(page, pictures, "show-5-completed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one

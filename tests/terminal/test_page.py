"""The terminal's page in a real browser: a shell to work in, and each failure shown by its name in time."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.orchestrator.served import Served, serving
from tests.support.browser import Tab, chromium, tab_of
from tests.support.tls_proxy import TlsProxy
from tests.terminal.conftest import Hold
from tests.terminal.rig import evidence_of
from tests.terminal.test_failures import as_orchestrator, assert_told_alike, ordered, silent_host
from tests.terminal.test_terminal import SILENCE_S, silences_of
from tests.walk.rig import Orchestrator, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.root]
PASSWORD = "correct horse battery"
LIMIT_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def add_users(orchestrator: Orchestrator) -> None:
    for name in ("operator", "viewer"):
        orchestrator.operator("POST", "/users", {"name": name, "role": name, "password": PASSWORD})


@pytest.fixture(scope="module")
def users(orchestrator: Orchestrator) -> None:
    add_users(orchestrator)


def log_in(page: Page, console: str, name: str = "operator") -> None:
    page.goto(f"{console}login")
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.click("main button")
    page.wait_for_load_state()


def terminal_of(tab: Tab, console: str, run_id: int) -> Page:
    """The run's terminal page, its operator logged in."""
    log_in(tab.page, console)
    tab.complaints.clear()
    tab.page.goto(f"{console}runs/{run_id}/terminal")
    return tab.page


def wait_state(page: Page, state: str) -> None:
    page.wait_for_selector(f"#terminal[data-state={state}]", timeout=LIMIT_MS)


def see(page: Page, pattern: str) -> None:
    """Until the screen shows it. (Playwright's own waiting for a condition is forbidden by the page's policy.)"""
    screen = ".xterm-rows"
    wait_for(lambda: re.search(pattern, page.inner_text(screen).replace("\u00a0", " ")), f"{pattern!r} on the screen")


def type_line(page: Page, text: str) -> None:
    page.keyboard.type(text + "\n")


def failure(page: Page) -> dict[str, str]:
    """What the failure's panel says."""
    wait_state(page, "failed")
    parts = {one.get_attribute("data-part") or "": one.inner_text() for one in page.query_selector_all("[data-part]")}
    assert all(parts.values()), parts
    assert page.is_visible("#terminal-failure")
    assert page.is_visible("#terminal-connect")
    return parts


def test_an_operator_works_resizes_leaves_and_comes_again(hold: Hold, users: None, browser: Browser) -> None:
    console = hold.orchestrator.facts["console_url"]
    with tab_of(browser) as tab:
        page = terminal_of(tab, console, hold.run_id)
        wait_state(page, "ready")
        times = [one.inner_text() for one in page.query_selector_all("#terminal-ladder i")]
        assert all(re.fullmatch(r"\d+\.\d\d s", text) for text in times), times
        type_line(page, "echo a$((41+1))b; tput cols; printf '\\033[38;2;9;99;9mgr\\033[0meen\\n'")
        see(page, "a42b")
        see(page, "green")
        page.set_viewport_size({"width": 700, "height": 600})
        type_line(page, "clear; echo wide=$(tput cols)=")
        see(page, r"wide=\d{2}=")
        type_line(page, "exit 3")
        wait_state(page, "ended")
        assert "status 3" in page.inner_text("#terminal-state")
        page.click("#terminal-connect")
        wait_state(page, "ready")
        page.reload()
        wait_state(page, "ready")
        type_line(page, "echo ag$((0))in")
        see(page, "ag0in")
        assert tab.complaints == []


def test_a_flood_on_the_screen_stops_no_heartbeat_and_can_be_interrupted(
    hold: Hold, users: None, browser: Browser
) -> None:
    console = hold.orchestrator.facts["console_url"]
    with tab_of(browser) as tab:
        page = terminal_of(tab, console, hold.run_id)
        wait_state(page, "ready")
        type_line(page, "yes flooded")
        see(page, "flooded")
        silences = silences_of(hold, 6.0)
        page.keyboard.press("Control+c")
        type_line(page, "clear; echo aft$((1))r")
        see(page, "aft1r")
        assert tab.complaints == []
    assert hold.orchestrator.run(hold.run_id)["stalled"] is False
    assert max(silences) < SILENCE_S, silences


def test_a_logout_ends_the_terminal(hold: Hold, users: None, browser: Browser) -> None:
    console = hold.orchestrator.facts["console_url"]
    with tab_of(browser) as tab:
        page = terminal_of(tab, console, hold.run_id)
        wait_state(page, "ready")
        other = page.context.new_page()
        other.goto(f"{console}password")
        other.click("form[action='/logout'] button")
        wait_state(page, "ended")
        assert "logged out" in page.inner_text("#terminal-state")


def test_one_who_may_only_look_gets_no_terminal(hold: Hold, users: None, browser: Browser) -> None:
    console = hold.orchestrator.facts["console_url"]
    with tab_of(browser) as tab:
        log_in(tab.page, console, "viewer")
        answer = tab.page.goto(f"{console}runs/{hold.run_id}/terminal")
        assert answer is not None
        assert answer.status == 403
        refused: Any = tab.page.evaluate(
            """async (address) => {
                const headers = {Accept: "application/json"};
                const answer = await fetch(address, {method: "POST", body: "{}", headers});
                return [answer.status, (await answer.json()).error.code];
            }""",
            f"/runs/{hold.run_id}/terminal",
        )
        assert refused == [403, "not_allowed"]
        closed: Any = tab.page.evaluate(
            """() => new Promise((done) => {
                const socket = new WebSocket(`wss://${location.host}/terminal/socket`);
                socket.onopen = () => done("open");
                socket.onclose = () => done("closed");
            })"""
        )
        assert closed == "closed"
    with tab_of(browser) as tab:
        answer = tab.page.goto(f"{console}runs/{hold.run_id}/terminal")
        assert "/login" in tab.page.url


def test_no_hold_no_token(orchestrator: Orchestrator, users: None, browser: Browser) -> None:
    run_id = orchestrator.create_run(["Inventory"])["run_id"]
    with tab_of(browser) as tab:
        page = terminal_of(tab, orchestrator.facts["console_url"], run_id)
        told = failure(page)
        assert told["code"] == "terminal_token_mint_failed"
        assert "FailedHolding" in told["detail"]
    assert_told_alike(orchestrator, run_id, told["correlation_id"], told["code"])


BLOCKED = {
    "terminal_public_route_missing": lambda path, upgrade: 404 if path.startswith("/terminal/health") else None,
    "terminal_gateway_upgrade_failed": lambda path, upgrade: 403 if upgrade else None,
}


@pytest.mark.parametrize("code", BLOCKED)
def test_a_proxy_in_the_way(hold: Hold, users: None, browser: Browser, code: str) -> None:
    server = hold.orchestrator
    with TlsProxy(server.facts["console_url"], server.data, BLOCKED[code]) as proxy, tab_of(browser) as tab:
        page = terminal_of(tab, f"{proxy.url}/", hold.run_id)
        told = failure(page)
        assert told["code"] == code
        assert "proxy" in told["next_action"]
        correlation = told["correlation_id"]
        facts = assert_told_alike(server, hold.run_id, correlation, code)
        assert "seen by the page" in facts["reason"]


@pytest.mark.parametrize(
    ("status", "code"), [("refused", "terminal_open_without_stream"), (None, "terminal_node_stream_timeout")]
)
def test_a_host_that_opens_no_stream(tmp_path: Path, browser: Browser, status: str | None, code: str) -> None:
    with serving(tmp_path / "o", arguments=["--terminal-timeout", "1"]) as served, tab_of(browser) as tab:
        server, agent = as_orchestrator(served), silent_host(served)
        add_users(server)
        answering = threading.Thread(target=answer, args=(served, agent, status))
        page = terminal_of(tab, served.info["console_url"], agent.run_id)
        answering.start()
        told = failure(page)
        answering.join()
        assert told["code"] == code
        assert page.inner_text("#terminal-ladder [data-step=node_stream] i") == "failed"
        assert_told_alike(server, agent.run_id, told["correlation_id"], code)


def answer(_served: Served, agent: Any, status: str | None) -> None:
    order = ordered(agent)
    if status is not None:
        agent.call("heartbeat", {"activity": "holding", "acked_cmd_id": order["cmd_id"], "ack_status": status})


def test_the_page_is_calm_in_the_dark_and_on_a_telephone(hold: Hold, users: None, browser: Browser) -> None:
    console = hold.orchestrator.facts["console_url"]
    with tab_of(browser, color_scheme="dark", viewport={"width": 390, "height": 800}) as tab:
        page = terminal_of(tab, console, hold.run_id)
        wait_state(page, "ready")
        type_line(page, "echo d$((4))rk")
        see(page, "d4rk")
        page.screenshot(path=str(hold.agent.folder / "dark.png"))
        background = page.evaluate("getComputedStyle(document.getElementById('terminal-screen')).backgroundColor")
        assert background == "rgb(11, 15, 20)"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.complaints == []
    ended = wait_for(lambda: _pieces(hold), "the evidence")
    facts, _ = evidence_of(hold.orchestrator, hold.run_id, ended[-1]["result_id"])
    assert facts["operator"] == "operator"


def _pieces(hold: Hold) -> list[dict[str, Any]]:
    pieces = hold.orchestrator.operator("GET", f"/runs/{hold.run_id}/evidence")
    return [one for one in pieces if one["stage"] == "Terminal"]

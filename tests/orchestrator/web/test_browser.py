"""The flows as people walk them, in a real Chromium over real HTTPS. No page may break its Content-Security-Policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.orchestrator.served import Served
from tests.orchestrator.web.rig import (
    INVENTORY,
    add_user,
    console_url,
    fill,
    fleet,
    held_on_storage,
    keep_picture,
    lines,
    log_in,
    logged_in,
    result,
    said,
    sensors,
    watched,
)

pytestmark = pytest.mark.slow
SDA, SDB = "S45NNE0M500001", "S45NNE0M500002"
PATIENCE_MS = 30_000


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    expect.set_options(timeout=PATIENCE_MS)
    with watched(browser) as one:
        one.set_default_timeout(PATIENCE_MS)
        yield one


def opened(context: BrowserContext, served: Served, name: str, path: str = "/") -> Page:
    page = context.new_page()
    log_in(page, served, name, path)
    return page


def shown_lines(page: Page) -> list[str]:
    return page.locator("#log li span").all_text_contents()


def test_a_live_run_survives_the_servers_death(start: Callable[..., Served], context: BrowserContext) -> None:
    served = start(arguments=("--console", "127.0.0.1:0"))
    add_user(served, "vera", "viewer")
    agent = served.create(host="live")
    agent.claim()
    lines(agent, 1, 30)
    sensors(agent, 60)
    page = opened(context, served, "vera", f"/runs/{agent.run_id}")
    expect(page.locator("#log li")).to_have_count(30)
    expect(page.locator(".chart canvas")).to_have_count(3)
    lines(agent, 31, 5, level="error")
    expect(page.get_by_text("line 35", exact=True)).to_be_visible()
    agent.call("heartbeat", {"activity": "running", "stage": "Inventory", "progress": 0.42, "eta_s": 120})
    expect(page.locator("[data-beat=eta]")).to_have_text("2 min")
    assert agent.post("Inventory", inventory=INVENTORY) == "SMART"
    expect(page.locator(".timeline [aria-current]")).to_contain_text("SMART")
    expect(page.locator(".disk")).to_have_count(3)
    keep_picture(page, "live")

    listen, console = f"127.0.0.1:{served.port}", console_url(served).removeprefix("https://")
    served.kill()
    expect(page.locator("#connection")).to_be_visible()
    again = start(listen=listen, arguments=("--console", console))
    expect(page.locator("#connection")).to_be_hidden()
    newer = agent.newer(again)
    newer.instance, newer.headers = agent.instance, dict(agent.headers)
    lines(newer, 31, 20)  # five of them a second time: the agent did not get its answer
    expect(page.get_by_text("line 50", exact=True)).to_be_visible()
    assert shown_lines(page) == [f"line {n}" for n in range(1, 51)]

    page.get_by_label("info").uncheck()
    expect(page.locator("#log li")).to_have_count(5)
    page.get_by_label("info").check()
    page.locator("#log-stage").select_option("GPU")
    expect(page.get_by_text("No lines.")).to_be_visible()
    page.close()


def test_word_of_an_order_goes_away_and_what_became_of_it_stays(staffed: Served, context: BrowserContext) -> None:
    agent = held_on_storage(staffed, "passing-notice")
    page = opened(context, staffed, "olaf", f"/runs/{agent.run_id}")
    page.clock.install()
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("asked, not yet acknowledged")
    page.clock.run_for(16_000)
    expect(page.locator("#notices")).to_be_empty()
    expect(page.locator(".pending")).to_contain_text("asked, not yet acknowledged")
    page.close()


def test_the_wipe_takes_a_tick_and_the_serial_number(staffed: Served, context: BrowserContext) -> None:
    agent = held_on_storage(staffed, "wipe-flow")
    page = opened(context, staffed, "olaf", f"/runs/{agent.run_id}")
    page.get_by_role("button", name="Retry with wipe").click()
    panel, go = page.locator(".wipe"), page.get_by_role("button", name="Destroy the data and retry")
    expect(panel).to_contain_text("sda holds an ext4 filesystem")
    expect(go).to_be_disabled()
    panel.get_by_role("checkbox").first.check()
    expect(go).to_be_disabled()
    panel.locator("[data-typed]").first.fill(SDB)
    expect(go).to_be_disabled()
    panel.locator("[data-typed]").first.fill(SDA)
    panel.scroll_into_view_if_needed()
    keep_picture(page, "wipe")
    go.click()
    expect(page.locator(".pending")).to_contain_text("asked, not yet acknowledged by the agent")
    expect(panel).to_have_count(0)
    assert staffed.run(agent.run_id)["state"] == "FailedHolding"

    order = agent.call("heartbeat", {"activity": "holding"})
    assert order["override_flags"] == {"wipe": True, "serials": [SDA]}
    expect(page.locator(".pending")).to_contain_text("handed out")
    agent.call("heartbeat", {"activity": "running", "acked_cmd_id": order["cmd_id"], "ack_status": "done"})
    expect(page.locator(".pending")).to_have_count(0)
    expect(page.locator(".timeline [aria-current]")).to_contain_text("Storage")
    agent.call("result", result("Storage", said("pass", "3 of 3 disks are sound")))
    expect(page.locator(".banner-state")).to_contain_text("Completed")
    page.close()


def test_a_finding_is_waived_in_the_page(staffed: Served, context: BrowserContext) -> None:
    agent = held_on_storage(staffed, "waive-flow")
    page = opened(context, staffed, "olaf", f"/runs/{agent.run_id}")
    expect(page.get_by_role("button", name="Waive…")).to_have_count(1)
    page.get_by_role("button", name="Waive…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("disk_slow")
    dialog.get_by_label("Reason").fill("Known slow model, storage team agrees")
    keep_picture(page, "waive")
    dialog.get_by_role("button", name="Waive").click()
    expect(page.locator(".waiver")).to_contain_text("olaf")
    expect(page.locator(".waiver")).to_contain_text("storage team agrees")
    expect(dialog).to_be_hidden()
    page.close()


def test_many_hosts_are_found_chosen_and_acted_on(staffed: Served, context: BrowserContext) -> None:
    runs = fleet(staffed, 24)
    page = opened(context, staffed, "olaf")
    rows = page.locator("#hosts tbody tr:visible")
    page.get_by_role("searchbox").fill("rack1-node1")
    expect(rows).to_have_count(11)
    page.get_by_role("searchbox").fill("rack1 storage")
    page.get_by_role("searchbox").fill("")
    page.locator(".groups [data-group=holding]").click()
    held = page.locator("#hosts tbody tr[data-group=holding]").count()
    assert held >= 2
    expect(rows).to_have_count(held)
    page.get_by_label("Choose all that are shown").check()
    expect(page.locator("#chosen")).to_have_text(str(held))
    page.locator("#act").select_option("retry_stage")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#notices")).to_contain_text("asked, not yet acknowledged")
    expect(page.locator(".asked").first).to_contain_text("Retry: asked, not yet acknowledged")
    assert staffed.run(runs[1]["run_id"])["directives"][0]["status"] == "waiting"
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.close()


def test_a_thousand_hosts_come_in_handfuls(
    tmp_path: Path, start: Callable[..., Served], context: BrowserContext
) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    with ThreadPoolExecutor(1) as beside:  # Playwright's own loop runs in this thread
        beside.submit(asyncio.run, fill(tmp_path / "data" / "orchestrator.db", 1000)).result()
    served = start()
    add_user(served, "olaf", "operator")
    with logged_in(served, "olaf") as client:
        assert len(client.get("/").content) < 150_000
        assert client.get("/?all=1").text.count('<tr id="r') == 1000
    page = opened(context, served, "olaf")
    expect(page.locator("[data-count=all]")).to_have_text("1000")
    expect(page.locator("#hosts tbody tr")).to_have_count(1000)
    page.get_by_role("searchbox").fill("rack25-node40")
    expect(page.locator("#hosts tbody tr:visible")).to_have_count(1)
    page.close()


def test_a_viewer_is_shown_no_act(staffed: Served, context: BrowserContext) -> None:
    agent = held_on_storage(staffed, "viewer-flow")
    page = opened(context, staffed, "vera", f"/runs/{agent.run_id}")
    expect(page.locator("#part-now")).to_contain_text("viewer-flow")
    expect(page.locator("main button")).to_have_count(0)
    page.goto(console_url(staffed) + "/")
    expect(page.locator("#bulk")).to_have_count(0)
    page.goto(console_url(staffed) + "/access")
    expect(page.get_by_role("alert")).to_contain_text("needs the role admin")
    page.close()


def test_another_sites_form_does_nothing(staffed: Served, context: BrowserContext) -> None:
    agent = held_on_storage(staffed, "csrf-flow")
    page = opened(context, staffed, "olaf")
    evil = context.new_page()
    target = f"{console_url(staffed)}/runs/{agent.run_id}/release"
    evil.set_content(f'<form method="post" action="{target}"><button>Win</button></form>')
    evil.get_by_role("button").click()
    evil.wait_for_url(target)
    assert staffed.run(agent.run_id)["state"] == "FailedHolding"
    evil.close()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hangs_over_on_a_phone(staffed: Served, browser: Browser, scheme: str) -> None:
    agent = held_on_storage(staffed, f"phone-{scheme}")
    with watched(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = opened(context, staffed, "ada")
        for path in ("/", f"/runs/{agent.run_id}", "/audit", "/access", "/password"):
            page.goto(console_url(staffed) + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            unnamed = page.evaluate(
                "[...document.querySelectorAll('button, input, select, textarea, a')].filter((one) =>"
                " one.type !== 'hidden' && !one.textContent.trim() && !one.labels?.length && !one.ariaLabel"
                " && !one.querySelector('img') && !one.closest('.uplot')).map((one) => one.outerHTML)"
            )
            assert unnamed == [], path
        page.close()

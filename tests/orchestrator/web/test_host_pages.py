"""Hosts, import, approval, profiles and siblings in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from orchestrator.run_creation import RunRequest
from orchestrator.web.run_form import offered, run_request
from tests.orchestrator.fleet import mac_of, saved_profile, vetted
from tests.orchestrator.served import Served, serving
from tests.orchestrator.web.rig import console_url, held_on_storage, log_in, logged_in, watched
from vetting_agent.wire import ExpectedDisk

pytestmark = pytest.mark.slow
TWICE = f"name,mac\nimp1,{mac_of(801)}\nimp2,{mac_of(801)}\n"
GOOD = f"name,mac,note\nimp1,{mac_of(801)},<b>one</b>\nimp2,{mac_of(802)},two\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With boot services: who asks there stands in the queue."""
    folder = tmp_path_factory.mktemp("image")
    for name in ("boot.ipxe", "vmlinuz", "initrd"):
        (folder / name).write_text("#!ipxe @BASE@ @PARAMETERS@ @EXTRA@")
    words = ("--image", str(folder), "--boot-listen", "127.0.0.1:0")
    with serving(tmp_path_factory.mktemp("orchestrator") / "data", arguments=words) as server:
        yield server
        assert server.end() == 0
        assert server.stderr() == ""


@pytest.fixture(scope="module", autouse=True)
def patience() -> None:
    expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go, to be looked at."""
    folder = Path(os.environ.get("VETTING_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_host_is_added_a_file_imported_and_both_are_seen(staffed: Served, browser: Browser, pictures: Path) -> None:
    with watched(browser) as context:
        page = context.new_page()
        log_in(page, staffed, "olaf", "/hosts")
        added = page.locator("form[action='/hosts']")
        added.get_by_label("Name").fill("byhand")
        added.get_by_label("MAC addresses").fill("5254.00aa.0320")
        added.get_by_role("button", name="Add").click()
        expect(page.get_by_role("link", name="byhand")).to_be_visible()
        page.get_by_role("link", name="Import a file").click()
        page.get_by_label("A file").set_input_files(
            {"name": "hosts.csv", "mimeType": "text/csv", "buffer": TWICE.encode("utf-8-sig")}
        )
        expect(page.get_by_label("Its text")).to_have_value(TWICE)
        page.get_by_role("button", name="Show what would change").click()
        expect(page.get_by_role("alert")).to_contain_text("line 3, column 2")
        expect(page.get_by_role("alert")).to_contain_text("imp1 on line 2")
        page.screenshot(path=pictures / "hosts-import-mistakes.png", full_page=True)
        page.get_by_label("Its text").fill(GOOD)
        page.get_by_role("button", name="Show what would change").click()
        expect(page.get_by_text("2 created, 0 changed, 0 unchanged")).to_be_visible()
        page.screenshot(path=pictures / "hosts-import.png", full_page=True)
        page.get_by_role("button", name="Import", exact=True).click()
        page.wait_for_url(console_url(staffed) + "/hosts")
        expect(page.get_by_text("<b>one</b>")).to_be_visible()
        page.get_by_role("link", name="imp2").click()
        page.get_by_role("button", name="Vet at its next boot").click()
        page.wait_for_url("**/runs/*")


def test_a_run_is_made_by_the_form(staffed: Served, browser: Browser, pictures: Path) -> None:
    held_on_storage(staffed, "formed")
    staffed.operator.post("/hosts", json={"name": "formed", "macs": [mac_of(815)]}).raise_for_status()
    with watched(browser) as context:
        page = context.new_page()
        log_in(page, staffed, "olaf", "/hosts/formed")
        page.get_by_text("Another run than its profile says").click()
        page.get_by_label("Test profile").select_option("burnin")
        page.get_by_label("GPU").uncheck()
        page.get_by_label("go on with the other stages").check()
        page.get_by_label("S45NNE0M500002").check()
        page.screenshot(path=pictures / "host-new-run.png", full_page=True)
        page.get_by_role("button", name="Vet so at its next boot").click()
        page.wait_for_url("**/runs/*")
    run = staffed.run(int(page.url.rsplit("/", 1)[1]))
    assert (run["profile"], run["non_destructive"]) == ("burnin", False)
    assert [stage["stage"] for stage in run["stages"]] == [
        "Inventory",
        "SMART",
        "CPUStress",
        "Storage",
        "Network",
        "PSU",
    ]


def test_a_form_that_makes_no_sense_makes_no_run(staffed: Served) -> None:
    held_on_storage(staffed, "sense")
    staffed.operator.post("/hosts", json={"name": "sense", "macs": [mac_of(816)]}).raise_for_status()
    before = len(staffed.operator.get("/runs").json())
    with logged_in(staffed, "olaf") as client:
        for form, code in (
            ({"write": "NOSUCH"}, "unknown_disk"),
            ({"stage": "SMART", "write": "S45NNE0M500002"}, "writing_without_storage"),
            ({"stage": "Nonsense"}, "unknown_stage"),
            ({"profile": "slow"}, "malformed"),
        ):
            answer = client.post("/hosts/sense/run", data=form, headers={"HX-Request": "true"})
            assert (answer.status_code, code in answer.text) == (422, True), (form, answer.text)
    assert len(staffed.operator.get("/runs").json()) == before


def test_only_what_is_ticked_may_be_written() -> None:
    disks = offered({"disks": [{"serial": serial, "size_gb": 960.2} for serial in ("A", "B")]})
    assert run_request("h", {"continue": ["on"]}, disks).on_failure == "continue"
    asked = run_request("h", {"write": ["B"], "stay_on": ["on"]}, disks)
    assert (asked.non_destructive, asked.expected_disks) == (False, [ExpectedDisk(serial="B", size_gb=960.2)])
    assert (asked.on_failure, asked.shutdown_when_completed) == ("hold", False)
    plain = run_request("h", {}, disks)
    assert plain == RunRequest(host="h"), "the button alone"


def test_only_disks_that_can_be_told_apart_are_offered() -> None:
    disks = [
        {"serial": "A", "size_gb": 960.2, "model": "M", "name": "sda"},
        {"serial": "B", "size_gb": 1.0},
        {"serial": "B", "size_gb": 1.0},
        {"serial": None, "size_gb": 1.0},
        {"serial": "C", "size_gb": None},
        "nonsense",
    ]
    assert [one.serial for one in offered({"disks": disks})] == ["A"]
    assert offered({"disks": "nonsense"}) == offered({}) == ()


def test_a_waiting_host_is_approved(staffed: Served, browser: Browser, pictures: Path) -> None:
    staffed.operator.put("/unknown-hosts", json={"policy": "queue"})
    with httpx.Client(base_url=staffed.info["boot_url"], trust_env=False) as loader:
        assert "waits for approval" in loader.get("/boot.ipxe", params={"mac": mac_of(811)}).text
        assert "waits for approval" in loader.get("/boot.ipxe", params={"mac": mac_of(812)}).text
    with watched(browser) as context:
        page = context.new_page()
        log_in(page, staffed, "olaf", "/hosts")
        row = page.get_by_role("row").filter(has_text=mac_of(811))
        page.screenshot(path=pictures / "hosts.png", full_page=True)
        row.get_by_label(f"Name for {mac_of(811)}").fill("approved")
        row.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("link", name="approved")).to_be_visible()
        page.get_by_role("row").filter(has_text=mac_of(812)).get_by_role("button", name="Reject").click()
        expect(page.get_by_role("row").filter(has_text=mac_of(812))).to_contain_text("rejected")
    assert any(run["host"] == "approved" for run in staffed.operator.get("/runs").json())


def test_a_profile_is_learnt_edited_with_its_mistakes_shown_and_its_fleet_seen(
    staffed: Served, browser: Browser, pictures: Path
) -> None:
    good, _ = vetted(staffed, 820)
    with watched(browser, color_scheme="dark") as context:
        page = context.new_page()
        log_in(page, staffed, "olaf", "/profiles")
        learning = page.locator("form").filter(has=page.get_by_role("button", name="Learn"))
        learning.get_by_label("Name").fill("rack-a")
        learning.get_by_label("From the run that passed").select_option(str(good.run_id))
        learning.get_by_role("button", name="Learn").click()
        editor = page.get_by_label("YAML")
        expect(editor).to_have_value(re.compile("each disk has its own"))
        sound = editor.input_value()
        editor.fill(sound.replace("peers: warning", "peers: loud\ncolour: red"))
        page.get_by_role("button", name="Save as the next version").click()
        expect(page.get_by_role("alert")).to_contain_text("2 mistakes")
        expect(page.get_by_role("alert")).to_contain_text("peers: loud")
        page.screenshot(path=pictures / "profile-mistakes.png", full_page=True)
        editor.fill(sound + "# strict\n")
        page.get_by_label("Why").fill("as agreed")
        page.get_by_role("button", name="Save as the next version").click()
        expect(page.get_by_role("heading", name="version 2")).to_be_visible()
        editor.fill(sound.replace("peers: warning", "peers: 'off'"))
        page.get_by_role("button", name="Save as the next version").click()
        expect(page.get_by_text("~ peers: warning -> off")).to_be_visible()
        page.screenshot(path=pictures / "profile.png", full_page=True)


def test_the_slow_one_stands_out_in_the_chart(staffed: Served, browser: Browser, pictures: Path) -> None:
    saved_profile(staffed, "fleet")
    for number in range(830, 839):
        vetted(staffed, number, hardware="fleet")
    vetted(staffed, 839, speed=0.4, hardware="fleet")
    with watched(browser, viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        log_in(page, staffed, "vera", "/profiles/fleet")
        expect(page.get_by_text("far off: node839")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it fits a phone"
        page.screenshot(path=pictures / "baselines-phone.png", full_page=True)
        expect(page.get_by_role("button", name="Save as the next version")).to_have_count(0)
    with watched(browser) as context:
        page = context.new_page()
        log_in(page, staffed, "vera", "/profiles/fleet")
        page.screenshot(path=pictures / "baselines.png", full_page=True)


def test_a_viewer_only_looks(staffed: Served) -> None:
    with logged_in(staffed, "vera") as client:
        for path in ("/hosts", "/profiles"):
            assert client.get(path).status_code == 200
        for path in (
            "/hosts",
            "/hosts/import",
            "/hosts/policy",
            "/hosts/x",
            "/hosts/queue/x",
            "/profiles/x",
            "/profiles",
        ):
            assert client.post(path, data={"name": "x"}).status_code == 403, path
        assert client.get("/hosts/import").status_code == 403
        assert client.get("/hosts/none").status_code == 404
        assert client.get("/profiles/none").status_code == 404


def test_every_act_is_in_the_audit_log(staffed: Served) -> None:
    with logged_in(staffed, "olaf") as client:
        assert client.post("/hosts", data={"name": "noted", "macs": mac_of(850)}).status_code == 303
        assert client.post("/hosts", data={"name": "noted"}).status_code == 409
        text = client.get("/audit").text
    assert "add host" in text
    assert "host_exists" in text

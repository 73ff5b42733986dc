"""Acts on a run from the console: asked and acknowledged, the wipe's two keys, waivers, the key of a hold."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from orchestrator.run_record import Run
from orchestrator.steps import Refusal
from orchestrator.waivers import active_for, is_waivable, new_waiver
from stages.outcome import INCONCLUSIVE, ReasonCode
from tests.orchestrator.making import MAC, START
from tests.orchestrator.served import Agent, Served
from tests.orchestrator.web.rig import finding, held_on_storage, logged_in, result, said

SDA, SDB = "S45NNE0M500001", "S45NNE0M500002"
HTMX = {"HX-Request": "true"}


def ticket_of(client: httpx.Client, agent: Agent) -> str:
    """The first key."""
    answer = client.post(f"/runs/{agent.run_id}/wipe", headers=HTMX)
    assert answer.status_code == 200, answer.text
    for word in (SDA, "SAMSUNG MZ7LH960HAJR-00005", "960 GB", "sda holds an ext4 filesystem"):
        assert word in answer.text
    found = re.search(r"/wipe/([\w-]+)", answer.text)
    assert found is not None
    return found[1]


def turn(client: httpx.Client, agent: Agent, ticket: str, form: dict[str, str]) -> httpx.Response:
    return client.post(f"/runs/{agent.run_id}/wipe/{ticket}", data=form, headers=HTMX)


def test_an_order_is_asked_until_the_agent_says_that_it_was_done(staffed: Served) -> None:
    agent = held_on_storage(staffed, "asked")
    with logged_in(staffed, "olaf") as client:
        url = f"/runs/{agent.run_id}"
        answer = client.post(f"{url}/order", data={"cmd": "retry_stage", "stage": "Storage"}, headers=HTMX)
        assert "asked, not yet acknowledged" in answer.text
        assert "asked, not yet acknowledged" in client.get(url).text
        order = agent.call("heartbeat", {"activity": "holding"})
        assert order["cmd"] == "retry_stage"
        assert "handed out" in client.get(url).text
        agent.call("heartbeat", {"activity": "holding", "acked_cmd_id": order["cmd_id"], "ack_status": "refused"})
        page = client.get(url).text
        assert "asked, not yet acknowledged" not in page
        assert 'fail">refused' in page
    entry = next(one for one in staffed.operator.get("/audit").json() if one["subject"] == f"run {agent.run_id}")
    assert (entry["author"], entry["act"], entry["outcome"]) == ("olaf", "retry_stage", "asked")
    assert entry["correlation_id"] == answer.headers["x-correlation-id"]


def test_a_wipe_takes_both_keys_once(staffed: Served) -> None:
    agent = held_on_storage(staffed, "wiped")
    with logged_in(staffed, "olaf") as client:
        ticket = ticket_of(client, agent)
        for form, code in [
            ({}, "no_disk"),
            ({"serial": SDA}, "wrong_serial"),
            ({"serial": SDA, f"typed:{SDA}": SDB}, "wrong_serial"),
            ({"serial": "OTHER", "typed:OTHER": "OTHER"}, "not_shown"),
        ]:
            answer = turn(client, agent, ticket, form)
            assert (answer.status_code, code in answer.text) == (422, True), answer.text
        assert staffed.run(agent.run_id)["directives"] == []
        form = {"serial": SDA, f"typed:{SDA}": SDA}
        assert "asked, not yet acknowledged" in turn(client, agent, ticket, form).text
        order = agent.call("heartbeat", {"activity": "holding"})
        assert (order["cmd"], order["stage"]) == ("retry_stage", "Storage")
        assert order["override_flags"] == {"wipe": True, "serials": [SDA]}
        agent.call("heartbeat", {"activity": "holding", "acked_cmd_id": order["cmd_id"], "ack_status": "refused"})
        assert "no_ticket" in turn(client, agent, ticket, form).text
    outcomes = [
        one["outcome"] for one in staffed.operator.get("/audit").json() if one["subject"] == f"run {agent.run_id}"
    ]
    assert outcomes[:3] == ["refused: no_ticket", "asked", "refused: not_shown"]


def test_a_ticket_is_one_persons_for_one_run(staffed: Served) -> None:
    agent, other = held_on_storage(staffed, "ticket-1"), held_on_storage(staffed, "ticket-2")
    form = {"serial": SDA, f"typed:{SDA}": SDA}
    with logged_in(staffed, "olaf") as olaf, logged_in(staffed, "ada") as ada:
        ticket = ticket_of(olaf, agent)
        assert "no_ticket" in turn(ada, agent, ticket, form).text
        assert "no_ticket" in turn(olaf, other, ticket, form).text
        newer = ticket_of(olaf, agent)
        assert "no_ticket" in turn(olaf, agent, ticket, form).text
        assert turn(olaf, agent, newer, form).status_code == 200


def test_a_non_destructive_run_is_never_wiped(staffed: Served) -> None:
    agent = held_on_storage(staffed, "kept", destructive=False)
    with logged_in(staffed, "olaf") as client:
        assert "Retry with wipe" not in client.get(f"/runs/{agent.run_id}").text
        assert "non_destructive" in client.post(f"/runs/{agent.run_id}/wipe", headers=HTMX).text


def storage_again(agent: Agent, *findings: tuple[str, str]) -> str:
    """Another Storage result, with these errors."""
    found = [finding(code, component, f"{component}: {code}") for code, component in findings]
    return str(agent.call("result", result("Storage", said("fail", "not well", *found)))["next_state"])


def test_a_waiver_lets_one_finding_of_one_disk_pass_and_stays_visible(staffed: Served) -> None:
    agent = held_on_storage(staffed, "waived")
    url, slow, data = (
        f"/runs/{agent.run_id}",
        ("disk_slow", f"disk:{SDB}"),
        ("wipe_refused_data_present", f"disk:{SDA}"),
    )
    form = {"code": slow[0], "component": slow[1], "reason": "Known slow model, accepted by storage team", "days": "30"}
    with logged_in(staffed, "olaf") as client:
        for change, code in [
            ({"reason": "no"}, "no_reason"),
            ({"days": "400"}, "bad_expiry"),
            ({"component": "disk:OTHER"}, "no_such_finding"),
            ({"code": data[0], "component": data[1]}, "not_waivable"),
        ]:
            assert code in client.post(f"{url}/waive", data={**form, **change}, headers=HTMX).text
        assert client.post(f"{url}/waive", data=form, headers=HTMX).status_code == 200
        assert staffed.run(agent.run_id)["state"] == "FailedHolding", "a waiver changes no result that is there"

        staffed.order(agent.run_id, "retry_stage", stage="Storage")
        agent.call("heartbeat", {"activity": "holding"})
        assert storage_again(agent, slow, data) == "FailedHolding", "another error is not waived with it"
        staffed.order(agent.run_id, "retry_stage", stage="Storage")
        agent.call("heartbeat", {"activity": "holding"})
        assert storage_again(agent, slow) == "Completed"
        page = client.get(url).text
        assert "passed, waived" in page
        assert "accepted by storage team" in page
        assert "by <b>olaf</b>" in page
        stage = next(one for one in staffed.run(agent.run_id)["stages"] if one["stage"] == "Storage")
        assert (stage["valid"], stage["waived"]) == (True, [f"disk_slow disk:{SDB}"])

        key = re.search(r'waive/end" hx-vals=\'(.*?)\'', page)
        assert key is not None
        waiver = httpx.Response(200, content=key[1]).json()["key"]
        assert client.post(f"{url}/waive/end", data={"key": waiver}, headers=HTMX).status_code == 200
        assert "waiver ended by olaf" in client.get(url).text


def test_what_was_not_tested_or_answers_wrongly_is_never_waivable() -> None:
    for code in INCONCLUSIVE:
        assert not is_waivable(code.value), code
    for name in ("cpu_miscompute", "disk_verify_mismatch", "disk_io_error", "disk_lost", "thermal_critical", "made_up"):
        assert not is_waivable(name), name
    assert all(not is_waivable(code.value) for code in ReasonCode if code.value.startswith(("wipe_", "spec_")))


def test_a_waiver_counts_for_its_host_until_its_day() -> None:
    run = Run(run_id=1, host="h", token_hash="x", created_at=START, stages=("SMART",), mac=MAC)
    waiver = new_waiver(run, "disk_worn", "disk:A", "to be replaced in May", 1, author="olaf", now=START)
    assert active_for(run, [waiver], START) == {("disk_worn", "disk:A")}
    assert active_for(run, [waiver], waiver.expires_at) == frozenset()
    other = Run(run_id=2, host="h2", token_hash="x", created_at=START, stages=("SMART",), mac="52:54:00:00:00:01")
    assert active_for(other, [waiver], START) == frozenset()
    with pytest.raises(Refusal):
        new_waiver(run, "disk_worn", "disk:A", "x", 1, author="olaf", now=START)


def test_the_hold_key_is_handed_out_once(staffed: Served) -> None:
    agent = held_on_storage(staffed, "held")
    with logged_in(staffed, "olaf") as client, logged_in(staffed, "ada") as other:
        page = client.get(f"/runs/{agent.run_id}").text
        assert "root@10.20.0.17" in page
        assert "PRIVATE KEY" not in page
        answer = client.post(f"/runs/{agent.run_id}/key")
        assert "OPENSSH PRIVATE KEY" in answer.text
        assert f"vetting-run-{agent.run_id}.key" in answer.headers["content-disposition"]
        assert "key_taken" in other.post(f"/runs/{agent.run_id}/key").text
        assert "olaf took the key" in other.get(f"/runs/{agent.run_id}").text
    assert staffed.operator.get(f"/runs/{agent.run_id}/hold-key").status_code == 200


def test_a_run_is_made_again_with_the_same_settings(staffed: Served) -> None:
    agent = held_on_storage(staffed, "again")
    with logged_in(staffed, "olaf") as client:
        answer = client.post(f"/runs/{agent.run_id}/again", headers=HTMX).text
        made = re.search(r"vetting\.run_id=(\d+) vetting\.token=(\S+)", answer)
        assert made is not None
        newer = Agent(staffed, int(made[1]), made[2])
        claim = newer.claim()
        assert (claim["stages"], claim["non_destructive"]) == (["Inventory", "SMART", "Storage"], False)
        assert made[2] not in client.get(f"/runs/{made[1]}").text
        assert f'href="/runs/{made[1]}"' in client.get("/").text
        assert f'href="/runs/{agent.run_id}"' not in client.get("/").text, "each host stands there once"


def test_many_at_once_and_each_ones_refusal_is_told(staffed: Served) -> None:
    held, waiting = held_on_storage(staffed, "bulk-1"), staffed.create(host="bulk-2")
    with logged_in(staffed, "olaf") as client:
        form = {"act": "retry_stage", "run": [str(held.run_id), str(waiting.run_id), "999999"]}
        answer = client.post("/fleet/act", data=form, headers=HTMX).text
        assert "1 of 3 asked, not yet acknowledged" in " ".join(answer.split())
        assert "2 refused" in answer
        assert client.post("/fleet/act", data={"act": "release"}, headers=HTMX).status_code == 422


def test_evidence_and_log_are_downloaded(staffed: Served) -> None:
    agent = held_on_storage(staffed, "files")
    agent.call("log", {"lines": [{"ts": START, "level": "warn", "stage": "SMART", "text": "hot \u202e", "seq": 1}]})
    with logged_in(staffed, "vera") as client:
        page = client.get(f"/runs/{agent.run_id}").text
        link = re.search(r"/runs/\d+/evidence/\d+", page)
        assert link is not None
        answer = client.get(link[0])
        assert answer.content.startswith(b"\x1f\x8b")
        assert "-Storage.tar.gz" in answer.headers["content-disposition"]
        assert "hot" in client.get(f"/runs/{agent.run_id}/log.txt").text
        assert client.get(f"/runs/{agent.run_id}/evidence/9999").status_code == 404
        assert "4 weak" in page
        assert page.count("<rect class=") == 3 * 48


def test_each_form_of_the_report_is_downloaded(staffed: Served) -> None:
    agent = held_on_storage(staffed, "reports")
    with logged_in(staffed, "vera") as client:
        page = client.get(f"/runs/{agent.run_id}").text
        links = dict(re.findall(r'href="(/operator/v1/runs/\d+/report\?form=\w+)" download="run-\d+\.([\w.]+)"', page))
        assert set(links.values()) == {"html", "json", "signed.json", "junit.xml", "ocp.jsonl", "csv"}
        for link, suffix in links.items():
            answer = client.get(link)
            assert answer.status_code == 200, link
            assert f".{suffix}" in answer.headers["content-disposition"]


def test_what_changed_between_two_runs_of_a_host(staffed: Served) -> None:
    older, newer = held_on_storage(staffed, "drifts"), held_on_storage(staffed, "drifts")
    staffed.order(newer.run_id, "retry_stage", stage="Storage")
    newer.call("heartbeat", {"activity": "holding"})
    newer.call("result", result("Storage", said("pass", "3 disks read")))
    with logged_in(staffed, "vera") as client:
        assert f"/runs/{newer.run_id}/since/{older.run_id}" in client.get(f"/runs/{newer.run_id}").text
        page = client.get(f"/runs/{newer.run_id}/since/{older.run_id}").text
        assert f'between <a href="/runs/{older.run_id}">' in page
        assert "These are two hosts" not in page
        assert re.search(r'<th scope="row">Storage</th><td>verdict</td>.*<td class="wide">fail</td>', page)
        assert "wipe_refused_data_present" in page
        swapped = client.get(f"/runs/{older.run_id}/since/{newer.run_id}").text
        assert swapped.count("<tr>") == page.count("<tr>"), "the older run comes first, however it is asked"
        other = held_on_storage(staffed, "another")
        page = client.get(f"/runs/{other.run_id}/since/{older.run_id}").text
        assert "These are two hosts: drifts and another" in page
        for wrong in ("99999", "x", "9" * 40, "-1"):
            assert client.get(f"/runs/{newer.run_id}/since/{wrong}").status_code == 404


def test_liveness_is_told_with_its_reason(staffed: Served) -> None:
    intervals = {"heartbeat_s": 0.2, "sensor_s": 1, "log_s": 1}
    agent = staffed.create(host="quiet", intervals=intervals)
    with logged_in(staffed, "vera") as client:
        url = f"/runs/{agent.run_id}"
        assert "live unknown" in client.get(url).text
        agent.claim()
        assert "live healthy" in client.get(url).text
        assert agent.send("result", {"nonsense": 1}).status_code == 422
        page = client.get(url).text
        assert "live result_failed" in page
        assert "malformed" in page
        assert agent.instance in page
        staffed.wait_for(agent.run_id, lambda view: view["stalled"])
        assert "live stale" in client.get(url).text
        fleet = client.get("/").text
        row = fleet[fleet.index(f'id="r{agent.run_id}"') :][:400]
        assert 'data-group="alert"' in row
        agent.headers["Authorization"] = "Bearer wrong"
        assert agent.send("heartbeat").status_code == 403
        deadline = time.monotonic() + 5
        while "live auth_failed" not in client.get(url).text:
            assert time.monotonic() < deadline
            time.sleep(0.1)

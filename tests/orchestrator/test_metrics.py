"""The server's metrics, as a scraper reads them from a real server."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.orchestrator.served import Served

Sample = dict[tuple[str, str], float]


def scraped(served: Served) -> dict[str, Sample]:
    """{metric: {(run, state): value}}"""
    answer = served.operator.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, Sample] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.labels.get("run", ""), sample.labels.get("state", ""))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def test_each_live_run_is_told_and_every_run_is_counted(served: Served) -> None:
    agent = served.create(stages=["SMART"])
    silent = served.create()
    agent.claim()
    agent.call("heartbeat", {"elapsed_s": 1.0, "activity": "stage", "progress": 0.25, "stage": "Inventory"})
    metrics = scraped(served)
    run, other = str(agent.run_id), str(silent.run_id)
    assert metrics["vetting_runs"][("", "InventoryCheck")] >= 2
    assert metrics["vetting_run_stage_progress_ratio"][(run, "InventoryCheck")] == 0.25
    assert 0 <= metrics["vetting_run_heartbeat_age_seconds"][(run, "InventoryCheck")] < 20
    assert (other, "InventoryCheck") not in metrics["vetting_run_heartbeat_age_seconds"]
    assert metrics["vetting_run_stages"][(run, "InventoryCheck")] == 2
    assert metrics["process_resident_memory_bytes"][("", "")] > 0


def test_a_held_run_is_told_and_a_completed_one_is_only_counted(served: Served) -> None:
    held, done = served.create(stages=["SMART"]), served.create(stages=["SMART"])
    for agent, verdict in ((held, "fail"), (done, "pass")):
        agent.claim()
        agent.post("Inventory")
        agent.post("SMART", verdict)
    metrics = scraped(served)
    assert metrics["vetting_run_held"][(str(held.run_id), "FailedHolding")] == 1
    assert metrics["vetting_run_stages_passed"][(str(held.run_id), "FailedHolding")] == 1
    assert metrics["vetting_runs"][("", "Completed")] >= 1
    assert str(done.run_id) not in {run for run, _ in metrics["vetting_run_held"]}


@pytest.mark.parametrize("name", ['a"b', "line\nbreak", "back\\slash", "ünïcode"])
def test_no_name_of_a_host_breaks_the_page(served: Served, name: str) -> None:
    served.create(host=name)
    text = served.operator.get("/metrics").text
    hosts = {sample.labels.get("host") for one in text_string_to_metric_families(text) for sample in one.samples}
    assert name in hosts


def test_no_secret_is_told(served: Served) -> None:
    agent = served.create()
    agent.claim()
    text = served.operator.get("/metrics").text
    assert agent.headers["Authorization"].removeprefix("Bearer ") not in text

"""Hosts, profiles and the queue over the operator's API and from the command line, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.fleet import mac_of, passed, saved_profile, vetted
from tests.orchestrator.served import Agent, Served
from tests.orchestrator.test_cli import typed

PROFILE = "test_profile: quick\nstages: [SMART]\nparameters:\n  SMART: {self_test: none}\nspec:\n  cpu: {sockets: 2}\n"


def refused(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_host_is_added_changed_and_removed(served: Served) -> None:
    api = served.operator
    made = api.post("/hosts", json={"name": "a1", "macs": ["5254.0000.0101", "52-54-00-00-01-02"], "labels": ["x=1"]})
    assert made.status_code == 201
    assert made.json()["macs"] == ["52:54:00:00:01:01", "52:54:00:00:01:02"]
    assert refused(api.post("/hosts", json={"name": "a1"})) == (409, "host_exists")
    assert refused(api.post("/hosts", json={"name": "a2", "macs": ["52:54:00:00:01:02"]})) == (409, "mac_taken")
    assert refused(api.post("/hosts", json={"name": "a2", "macs": ["x"]})) == (422, "malformed")
    assert refused(api.post("/hosts", json={"name": "a/2"})) == (422, "malformed")
    assert refused(api.post("/hosts", json={"name": "a2", "profile": "none"})) == (422, "no_such_profile")
    edited = api.patch("/hosts/a1", json={"macs": ["52:54:00:00:01:03"], "note": "moved"}).json()
    assert (edited["macs"], edited["labels"], edited["note"]) == (["52:54:00:00:01:03"], ["x=1"], "moved")
    assert api.post("/hosts", json={"name": "a2", "macs": ["52:54:00:00:01:02"]}).status_code == 201
    assert api.delete("/hosts/a1").status_code == 200
    assert refused(api.get("/hosts/a1")) == (404, "no_such_host")
    assert api.post("/hosts", json={"name": "a3", "macs": ["52:54:00:00:01:03"]}).status_code == 201


def test_a_run_takes_what_the_hosts_profile_says(served: Served) -> None:
    assert saved_profile(served, "small", PROFILE).json()["version"] == 1
    macs = ["52:54:00:00:02:01", "52:54:00:00:02:02"]
    assert served.operator.post("/hosts", json={"name": "b1", "macs": macs, "profile": "small"}).status_code == 201
    agent = served.create(host="b1")
    assert agent.refused("claim", agent.claim_body("52:54:00:00:02:03")) == (409, "other_host")
    claim = agent.claim(macs[1])
    assert claim["stages"] == ["Inventory", "SMART"]
    assert claim["parameters"] == {"SMART": {"self_test": "none"}}
    agent.post("Inventory")
    view = served.run(agent.run_id)
    assert view["spec_diff"] == ["cpu sockets: expected 2, found nothing readable"]
    assert view["profile"] == "quick"
    # the run's own word is stronger, and another host's address is refused
    own = served.create(host="b1", stages=["PSU"], parameters={"PSU": {"duration_s": 7}}, profile="standard")
    assert own.claim(macs[0])["parameters"] == {"PSU": {"duration_s": 7}}
    plain = served.create(host="b1", hardware="", stages=["SMART"])
    assert plain.claim(macs[0])["parameters"] == {"SMART": {"self_test": "short"}}
    for wanted in ({"host": "b2", "mac": macs[0]}, {"host": "b1", "mac": mac_of(9)}):
        assert refused(served.operator.post("/runs", json=wanted)) == (422, "other_host")
    assert refused(served.operator.post("/runs", json={"host": "b1", "hardware": "no"})) == (404, "no_such_profile")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"SMART": {"nonsense": 1}}, "SMART has no parameter 'nonsense'"),
        ({"SMART": {"self_test": "long"}}, "must be one of"),
        ({"CPUStress": {"duration_s": "1"}, "SMART": {"x": 1}}, "SMART has no parameter 'x'"),
        ({"CPUStress": {"duration_s": -5}}, "at least"),
    ],
)
def test_wrong_parameters_are_refused_when_a_run_is_created(
    served: Served, parameters: dict[str, Any], words: str
) -> None:
    response = served.operator.post("/runs", json={"host": "h", "parameters": parameters})
    assert refused(response) == (422, "bad_parameter")
    assert words in response.json()["error"]["message"]


def test_a_file_of_hosts_is_taken_whole_or_not_at_all(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "hosts.csv"
    file.write_text(f"name;mac;note\nc1;{mac_of(301)};one\nc2;{mac_of(301)};two\n")
    text = typed(served, "host", "import", str(file), exit_code=1)
    assert f"{file}: line 3, column 2: {mac_of(301)} is that of c1 on line 2" in text
    assert "c1" not in typed(served, "host", "list")
    file.write_bytes(f"\ufeffname;mac;note\nc1;{mac_of(301)};one\nc2;{mac_of(302)};two\n".encode())
    assert "2 created, 0 changed, 0 unchanged (a dry run" in typed(served, "host", "import", str(file), "--dry-run")
    assert "c1" not in typed(served, "host", "list")
    assert "2 created" in typed(served, "host", "import", str(file))
    file.write_text(f"name,mac\nc1,{mac_of(302)}\nc2,{mac_of(301)}\n")  # cables swapped
    text = typed(served, "host", "import", str(file))
    assert f"macs: {mac_of(301)} -> {mac_of(302)}" in text
    assert "0 created, 2 changed" in text
    listed = json.loads(typed(served, "host", "list", "--json"))
    assert {one["name"]: one["macs"] for one in listed if one["name"][0] == "c"} == {
        "c1": [mac_of(302)],
        "c2": [mac_of(301)],
    }
    file.write_bytes(b"x" * (4 * 2**20 + 1))
    assert "more than" in typed(served, "host", "import", str(file), exit_code=1)


def test_a_profile_is_learnt_edited_compared_and_used(served: Served, tmp_path: Path) -> None:
    agent, state = vetted(served, 401)
    assert state == "Completed"
    text = typed(served, "profile", "learn", "learnt", str(agent.run_id))
    assert "stages:" in text
    assert "each disk has its own" in text
    file = tmp_path / "profile.yaml"
    shown = typed(served, "profile", "show", "learnt")
    file.write_text(shown + "peers: loud\nfoo: 1\n")
    wrong = typed(served, "profile", "save", "learnt", str(file), exit_code=1)
    lines = shown.count("\n")
    assert f"{file}:{lines + 1}: " in wrong
    assert f"{file}:{lines + 2}: foo: There is no such field" in wrong
    file.write_text(shown.replace("peers: warning", "peers: error"))
    assert "sound" in typed(served, "profile", "save", "learnt", str(file), "--check")
    assert "version 2" in typed(served, "profile", "save", "learnt", str(file), "--note", "strict")
    assert "version 2" in typed(served, "profile", "save", "learnt", str(file)), "the same text is no new version"
    assert "~ peers: warning -> error" in typed(served, "profile", "diff", "learnt")
    assert "+" not in typed(served, "profile", "diff", "learnt", "2", "2").partition("\n")[2]
    assert "peers: warning" in typed(served, "profile", "show", "learnt", "--version", "1")
    assert "no difference" in typed(served, "profile", "diff", "learnt", "--host", "node401")
    late = {"text": shown, "base": 1}
    assert refused(served.operator.post("/profiles/learnt", json=late)) == (409, "profile_changed")
    typed(served, "host", "add", "node402", "--mac", mac_of(402), "--profile", "learnt")
    next_agent, state = vetted(served, 402, mac=None, stages=None)
    assert state == "Completed", "the sibling of a good host passes its profile"
    assert "1" in typed(served, "profile", "list")
    assert [one["version"] for one in served.operator.get("/profiles/learnt/versions").json()] == [2, 1]
    held = served.create(host="node402")
    held.claim(mac_of(402))
    request = passed("Inventory", 402, inventory=True)
    assert request.inventory is not None
    request.inventory["disks"].pop()
    assert held.call("result", request)["next_state"] == "FailedHolding"
    assert "disks: expected" in typed(served, "profile", "diff", "learnt", "--host", "node402")
    assert next_agent.run_id < held.run_id


def test_a_profile_is_removed_when_nothing_goes_by_it(served: Served) -> None:
    api = served.operator
    for text in ("peers: warning\n", "peers: error\n"):
        assert api.post("/profiles/old", json={"text": text}).is_success
    assert api.post("/hosts", json={"name": "by-old", "profile": "old"}).is_success
    run = served.create(host="by-old", stages=["SMART"])
    answer = api.delete("/profiles/old")
    assert refused(answer) == (409, "profile_in_use")
    assert f"run {run.run_id}; host by-old" in answer.json()["error"]["message"]
    assert api.delete("/hosts/by-old").is_success
    assert refused(api.delete("/profiles/old")) == (409, "profile_in_use")
    assert api.post(f"/runs/{run.run_id}/release").is_success
    assert api.put("/unknown-hosts", json={"policy": "accept", "profile": "old"}).is_success
    assert "unknown hosts" in api.delete("/profiles/old").json()["error"]["message"]
    assert api.put("/unknown-hosts", json={"policy": "refuse"}).is_success
    assert api.delete("/profiles/old").is_success
    assert refused(api.get("/profiles/old")) == (404, "no_such_profile")
    assert refused(api.delete("/profiles/old")) == (404, "no_such_profile")
    told = [one["outcome"] for one in api.get("/audit").json() if one["act"] == "remove profile"]
    assert told == ["refused: no_such_profile", "done", *["refused: profile_in_use"] * 3]


def test_a_removed_profiles_versions_never_come_again(served: Served) -> None:
    api = served.operator
    api.post("/profiles/twice", json={"text": "peers: warning\n"})
    api.delete("/profiles/twice")
    made = api.post("/profiles/twice", json={"text": "peers: off\n", "base": 0}).json()
    assert made["version"] == 2
    assert [one["version"] for one in api.get("/profiles/twice/versions").json()] == [2]
    assert api.delete("/profiles/twice").is_success
    assert api.post("/profiles/twice", json={"text": "peers: off\n"}).json()["version"] == 3


def test_profiles_that_cannot_be_kept_or_found(served: Served) -> None:
    api = served.operator
    assert refused(saved_profile(served, "b ad")) == (422, "malformed")
    assert refused(saved_profile(served, "bad", "a: 1\nb: 2\n")) == (422, "bad_profile")
    assert saved_profile(served, "bad", "a: 1\nb: 2\n").json()["error"]["message"].count("\n") == 1
    assert refused(api.get("/profiles/none")) == (404, "no_such_profile")
    assert refused(api.get("/profiles/none/baselines")) == (404, "no_such_profile")
    assert refused(api.post("/profiles/x/learn", json={"run_id": 999999})) == (404, "no_such_run")
    assert refused(api.post("/profiles/x/learn", json={"run_id": served.create().run_id})) == (422, "not_passed")
    assert api.post("/profiles/check", json={"text": "peers: 1"}).json()["problems"][0]["line"] == 1
    assert refused(api.get("/profiles/none/diff?old=x")) == (422, "malformed")


def test_what_was_written_is_there_after_a_restart(start: Any) -> None:
    first: Served = start()
    saved_profile(first, "p", PROFILE)
    first.operator.post("/hosts", json={"name": "h1", "macs": [mac_of(1)], "profile": "p"})
    first.operator.put("/unknown-hosts", json={"policy": "accept", "profile": "p"})
    first.kill()
    second: Served = start()
    assert second.operator.get("/hosts/h1").json()["profile"] == "p"
    assert second.operator.get("/unknown-hosts").json() == {"policy": "accept", "profile": "p"}
    agent: Agent = second.create(host="h1")
    assert agent.claim(mac_of(1))["stages"] == ["Inventory", "SMART"]

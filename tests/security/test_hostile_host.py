"""A host that speaks the protocol and means harm: what its words and uploads can do to the server and to people."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.evidence import LIMIT_BYTES
from tests.orchestrator.served import Agent, Served, serving
from tests.orchestrator.web.rig import add_user, finding, logged_in, measured, result, said
from tests.security.words import HOSTILE, assert_tame_page, assert_tame_text, steering

COMMANDS = (
    *(["run", "show"], ["run", "watch"], ["evidence"]),
    *(["report", "--form", "junit"], ["report", "--form", "csv"], ["report", "--form", "ocp"]),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("orchestrator") / "data") as server:
        add_user(server, "ada", "admin")
        yield server


@pytest.fixture(scope="module")
def liar(served: Served) -> Agent:
    """A host whose every word is hostile, held by a failure of its own telling."""
    agent = served.create(host="rack1-node1", stages=["SMART"])
    agent.call("claim", {**agent.claim_body(), "agent_version": HOSTILE, "ip": "10.0.0.7", "arch": HOSTILE})
    line = {"ts": "2026-11-21T09:00:00.000Z", "level": "warn", "stage": HOSTILE, "text": HOSTILE, "seq": 1}
    agent.call("log", {"lines": [line, {**line, "ts": HOSTILE, "seq": 2}]})
    agent.call("sensor", {"samples": [{"kind": "temp", "key": HOSTILE, "value": 99.0, "unit": HOSTILE}]})
    disk = {"name": HOSTILE, "serial": HOSTILE, "model": HOSTILE, "size_gb": 1.0, "firmware": HOSTILE}
    inventory = {
        "system": {"vendor": HOSTILE, "serial": HOSTILE},
        "disks": [disk],
        "notes": [HOSTILE],
        HOSTILE: HOSTILE,
    }
    parts = ["cpu:0", f"disk:{HOSTILE}"]
    agent.call("result", result("Inventory", said("pass", HOSTILE), inventory=inventory, components=parts))
    bad = finding("disk_io_error", f"disk:{HOSTILE}", HOSTILE, evidence=HOSTILE)
    strange = finding(HOSTILE, HOSTILE, HOSTILE)
    figures = (measured(HOSTILE, HOSTILE, 1.0, HOSTILE, 2.0),)
    agent.call("result", result("SMART", said("fail", HOSTILE, bad, strange, measurements=figures), components=parts))
    agent.call("hold", {"ip": "10.0.0.7"})
    agent.call("heartbeat", {"activity": "holding", "stage": HOSTILE})
    return agent


def printed(served: Served, *words: str) -> str:
    """What a command of the operator writes to both its outputs, as a process."""
    argv = [sys.executable, "-m", "orchestrator", *words, "--data", str(served.data)]
    done = subprocess.run(argv, capture_output=True, timeout=60)
    assert done.returncode in {0, 1}, done.stderr
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_lets_a_hosts_words_steer_the_terminal(served: Served, liar: Agent, words: list[str]) -> None:
    text = printed(served, *words, str(liar.run_id))
    assert len(text) > 20
    assert_tame_text(text.replace("\r\n", "\n") if "csv" in words else text, " ".join(words))


@pytest.mark.parametrize("words", [["run", "show"], ["run", "watch"]], ids=" ".join)
def test_json_for_programs_keeps_the_words_and_steers_nothing(served: Served, liar: Agent, words: list[str]) -> None:
    text = printed(served, *words, str(liar.run_id), "--json")
    assert steering(text) == set()
    whole = [json.loads(text)] if words == ["run", "show"] else [json.loads(line) for line in text.splitlines()]
    assert HOSTILE in str_values(whole)


def str_values(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(str_values, value.values()))
    if isinstance(value, list):
        return set().union(*map(str_values, value))
    return {value} if isinstance(value, str) else set()


def test_no_list_lets_a_hosts_words_steer_the_terminal(served: Served, liar: Agent) -> None:
    for words in (["run", "list"], ["host", "list"], ["audit"], ["preflight", str(liar.run_id)]):
        assert_tame_text(printed(served, *words), " ".join(words))


def test_no_page_takes_a_hosts_words_for_markup(served: Served, liar: Agent) -> None:
    with logged_in(served, "ada") as browser:
        for path in ("/", f"/runs/{liar.run_id}", "/hosts", "/audit"):
            answer = browser.get(path)
            assert answer.status_code == 200, (path, answer.text)
            assert answer.headers["content-type"].startswith("text/html")
            assert_tame_page(answer.text, path)
    assert_tame_page(printed(served, "report", str(liar.run_id)), "the report")


def test_the_servers_own_log_is_tame(served: Served, liar: Agent) -> None:
    liar.send("heartbeat", {"activity": "holding"}, headers={"X-Correlation-ID": "a\x1b[2Jb".replace("\x1b", "%1b")})
    assert_tame_text(served.stderr(), "the server's log")


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """A gzip-compressed tar of (name, type, link's aim)."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, kind, aim in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, aim
            tar.addfile(info)
    return gzip.compress(plain.getvalue())


def upload(agent: Agent, content: bytes, result_id: str = "e1", stage: str = "SMART") -> httpx.Response:
    headers = {"X-Content-SHA256": hashlib.sha256(content).hexdigest()}
    return agent.send(f"evidence/{stage}?result_id={result_id}", content=content, headers=headers)


def test_an_archive_that_points_out_of_its_folder_is_kept_as_it_is_and_never_unpacked(
    served: Served, tmp_path: Path
) -> None:
    agent = served.create(stages=["SMART"])
    agent.claim()
    aims = (("../../../escaped", tarfile.REGTYPE, ""), ("/escaped", tarfile.REGTYPE, ""))
    content = archive(*aims, ("SMART/zones.json", tarfile.SYMTYPE, "/etc/passwd"), ("out", tarfile.SYMTYPE, "../.."))
    before = {path for path in served.data.parent.rglob("*") if "evidence" not in path.parts}
    assert upload(agent, content).status_code == 200
    printed(served, "evidence", str(agent.run_id), "--download", str(tmp_path / "out"))
    printed(served, "report", str(agent.run_id), "--form", "html", "--out", str(tmp_path / "page.html"))
    (kept,) = (tmp_path / "out").iterdir()
    assert kept.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"out", "page.html"}
    assert "root:" not in (tmp_path / "page.html").read_text()
    files = {path for path in served.data.parent.rglob("*") if "evidence" not in path.parts}
    assert {path for path in files - before if "orchestrator.db" not in path.name} == set()
    assert not Path("/escaped").exists()


def test_a_run_cannot_fill_the_servers_disk_with_evidence(served: Served) -> None:
    agent, other = served.create(stages=["SMART"]), served.create(stages=["SMART"])
    for one in (agent, other):
        one.claim()
    assert upload(agent, archive(("a", tarfile.REGTYPE, ""))).status_code == 200
    folder = served.data / "evidence" / str(agent.run_id)
    with (folder / f"{'0' * 64}.tar.gz").open("wb") as sparse:
        sparse.truncate(LIMIT_BYTES)  # as if it had sent that much; takes no room
    answer = upload(agent, archive(("b", tarfile.REGTYPE, "")), "e2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_large")
    assert upload(other, archive(("b", tarfile.REGTYPE, ""))).status_code == 200
    assert len(list(folder.iterdir())) == 2


def test_a_host_reads_and_writes_no_other_run(served: Served) -> None:
    mine, others = served.create(stages=["SMART"]), served.create(stages=["SMART"])
    for one in (mine, others):
        one.claim()
    before = served.run(others.run_id)
    intruder = Agent(served, others.run_id, mine.headers["Authorization"].removeprefix("Bearer "))
    bodies = {"hello": intruder.hello(), "claim": intruder.claim_body(), "hold": {"ip": "10.0.0.7"}}
    for verb in ("hello", "claim", "heartbeat", "sensor", "log", "result", "hold", "iperf_slot"):
        answer = intruder.send(verb, bodies.get(verb, {}))
        assert answer.status_code in {401, 403}, (verb, answer.text)
        assert others.headers["Authorization"].removeprefix("Bearer ") not in answer.text
    assert upload(intruder, archive(("a", tarfile.REGTYPE, ""))).status_code in {401, 403}
    after = served.run(others.run_id)
    assert {k: v for k, v in after.items() if k != "events"} == {k: v for k, v in before.items() if k != "events"}


STRANGE_INVENTORIES = {
    "facts missing": {"disks": [{}, {"serial": "A"}], "nics": [{}], "cpu": {}, "memory": {"dimms": [{}]}, "system": {}},
    "of other kinds": {"disks": "none", "nics": 7, "cpu": [], "memory": "much", "system": ["x"], "notes": {"a": 1}},
    "lists of no facts": {"disks": ["x", None, 7], "nics": ["x"], "memory": {"dimms": ["x", None]}, "notes": [1, {}]},
    "figures of other kinds": {
        "disks": [{"serial": 7, "model": [1], "size_gb": "big", "name": None, "rotational": "no", "transport": 3}],
        "nics": [{"speed_mbps": "fast", "link": [], "mac": 1}],
        "memory": {"total_gib": "x", "dimms": [{"size": 1, "slot": []}]},
        "cpu": {"model": [], "sockets": {}},
        "gpus": 5,
        "psus": "x",
    },
}


@pytest.mark.parametrize("kind", STRANGE_INVENTORIES)
def test_no_inventory_hides_its_run_from_the_operator(served: Served, kind: str) -> None:
    agent = served.create(host=f"strange {kind}", stages=["SMART"])
    agent.claim()
    inventory = STRANGE_INVENTORIES[kind]
    agent.send("result", result("Inventory", said("pass", "read"), inventory=inventory, components=["disk:A"]))
    agent.send("heartbeat", {"activity": "running"})
    with logged_in(served, "ada") as browser:
        for path in ("/", f"/runs/{agent.run_id}", "/hosts"):
            assert browser.get(path).status_code == 200, served.stderr()[-1500:]
    assert "strange" in printed(served, "run", "show", str(agent.run_id))
    assert printed(served, "report", str(agent.run_id)).startswith("<!doctype html>")


@pytest.mark.parametrize(
    "ip", ["10.0.0.1; touch owned", "-oProxyCommand=touch owned", "$(id)", "fe80::1%`id`", "name", "x\n"]
)
def test_the_address_of_a_held_host_is_an_address(served: Served, ip: str) -> None:
    """It stands in the line that people copy into a shell, and goes to ssh."""
    agent = served.create(stages=["SMART"])
    agent.claim()
    agent.post("Inventory", "fail")
    assert agent.refused("hold", {"ip": ip}) == (422, "malformed")
    assert served.run(agent.run_id)["hold"] is None
    agent.call("hold", {"ip": "fe80::1%eth0"})
    assert served.run(agent.run_id)["hold"]["ip"] == "fe80::1%eth0"


@pytest.mark.parametrize(
    "key", ["", "SHA256:short", "MD5:" + "a" * 43, "SHA256:" + "A" * 42 + "<", "SHA256:" + "A" * 44]
)
def test_the_host_key_of_a_held_host_is_a_fingerprint(served: Served, key: str) -> None:
    agent = served.create(stages=["SMART"])
    agent.claim()
    agent.post("Inventory", "fail")
    assert agent.refused("hold", {"ip": "10.0.0.7", "ssh_host_key": key}) == (422, "malformed")
    assert served.run(agent.run_id)["hold"] is None


def test_the_host_key_of_a_held_host_is_shown_to_who_is_to_come(served: Served) -> None:
    agent = served.create(host="shown", stages=["SMART"])
    agent.claim()
    agent.post("Inventory", "fail")
    key = "SHA256:" + "Ab+/" * 10 + "xyz"
    agent.call("hold", {"ip": "10.0.0.7", "ssh_host_key": key})
    assert served.run(agent.run_id)["hold"]["ssh_host_key"] == key
    assert key in printed(served, "run", "show", str(agent.run_id))
    with logged_in(served, "ada") as browser:
        assert key in browser.get(f"/runs/{agent.run_id}").text

"""The command line, as an operator types it, against a real server."""

from __future__ import annotations

import contextlib
import io
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from tests.orchestrator.served import Agent, Served


def typed(served: Served | Path, *words: str, exit_code: int = 0) -> str:
    """What the command printed: stdout when it is to succeed, stderr when not."""
    data = served.data if isinstance(served, Served) else served
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "--data", str(data)])
    assert code == exit_code, err.getvalue()
    return (out if exit_code == 0 else err).getvalue()


def as_json(served: Served, *words: str) -> Any:
    return json.loads(typed(served, *words, "--json"))


def created(served: Served, *words: str) -> Agent:
    answer = as_json(served, "run", "create", "--host", "rack1-node7", *words)
    return Agent(served, answer["run_id"], answer["token"])


def test_a_run_is_created_and_shown(served: Served, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"cpu": {"sockets": 2}}')
    text = typed(
        served,
        *("run", "create", "--host", "rack1-node7", "--mac", "52-54-00-12-34-56", "--profile", "quick"),
        *("--stages", "SMART,CPUStress", "--set", "CPUStress.duration_s=5", "--expect-disk", "A=960"),
        *("--destructive", "--spec", str(spec)),
    )
    cmdline = dict(part.split("=", 1) for part in text.splitlines()[-1].split(" "))
    assert cmdline["vetting.orchestrator"] == served.url
    assert cmdline["vetting.tls_fpr"] == served.info["fingerprint"]
    assert cmdline["vetting.mac"] == "52:54:00:12:34:56"
    agent = Agent(served, int(cmdline["vetting.run_id"]), cmdline["vetting.token"])
    claim = agent.claim()
    assert claim["stages"] == ["Inventory", "SMART", "CPUStress"]
    assert claim["parameters"]["CPUStress"]["duration_s"] == 5
    assert (claim["non_destructive"], claim["expected_disks"]) == (False, [{"serial": "A", "size_gb": 960}])
    agent.post("Inventory")
    shown = typed(served, "run", "show", str(agent.run_id))
    assert "FailedHolding" in shown
    assert "cpu sockets: expected 2, found nothing readable" in shown
    assert "DESTRUCTIVE" in shown
    assert cmdline["vetting.token"] not in shown
    assert "rack1-node7" in typed(served, "run", "list")
    assert as_json(served, "run", "show", str(agent.run_id))["state"] == "FailedHolding"
    assert agent.run_id in [run["run_id"] for run in as_json(served, "run", "list")]


def test_a_held_run_is_watched_opened_retried_and_ended(served: Served, tmp_path: Path) -> None:
    agent = created(served, "--stages", "Storage", "--destructive")
    run = str(agent.run_id)
    agent.claim()
    agent.post("Inventory")
    agent.call("log", {"lines": [{"ts": "t", "level": "warn", "stage": "Storage", "text": "disk A: data", "seq": 1}]})
    agent.post("Storage", "fail")
    seen = typed(served, "run", "watch", run, exit_code=1)
    assert seen == ""
    agent.call("hold", {"ip": "10.0.0.17"})
    key = tmp_path / "key"
    assert "valid until" in typed(served, "hold-key", run, "--out", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, text=True, check=True).stdout
    assert public.split()[:2] == as_json(served, "hold-key", run)["authorized_key"].split()[:2]
    assert f"ssh -i key root@{'10.0.0.17'}" in typed(served, "run", "show", run)
    text = typed(served, "run", "retry", run, "Storage", "--wipe", "--serial", "A")
    assert text == "retry_stage Storage wiping A: waiting\n"
    assert agent.call("heartbeat")["override_flags"] == {"wipe": True, "serials": ["A"]}
    assert "no result yet" in typed(served, "run", "retry", run, exit_code=1)
    assert agent.post("Storage") == "Completed"
    assert "Completed" in typed(served, "run", "watch", run)
    assert "is let go" in typed(served, "run", "release", run)


def test_watching_shows_history_and_log(served: Served) -> None:
    agent = created(served, "--stages", "SMART", "--leave-on")
    agent.claim()
    agent.post("Inventory")
    agent.call("log", {"lines": [{"ts": "t", "level": "warn", "stage": "SMART", "text": "disk A is warm", "seq": 1}]})
    agent.post("SMART")
    text = typed(served, "run", "watch", str(agent.run_id))
    assert "t warn  [SMART] disk A is warm" in text
    assert "----- state: Reporting -> Completed" in text
    lines = [json.loads(line) for line in typed(served, "run", "watch", str(agent.run_id), "--json").splitlines()]
    assert {"kind", "level"} == {name for line in lines for name in line} & {"kind", "level"}


@pytest.mark.parametrize(("act", "state"), [("cancel", "Cancelled"), ("abort", "Aborted")])
def test_a_run_that_nobody_claimed_ends_at_once(served: Served, act: str, state: str) -> None:
    agent = created(served)
    assert "done" in typed(served, "run", act, str(agent.run_id))
    assert as_json(served, "run", "show", str(agent.run_id))["state"] == state


def test_evidence_is_listed_and_downloaded(served: Served, tmp_path: Path) -> None:
    import gzip
    import hashlib

    agent = created(served)
    agent.claim()
    assert "no evidence yet" in typed(served, "evidence", str(agent.run_id))
    content = gzip.compress(b"x")
    digest = hashlib.sha256(content).hexdigest()
    agent.send("evidence/SMART?result_id=r", content=content, headers={"X-Content-SHA256": digest})
    assert digest in typed(served, "evidence", str(agent.run_id), "--download", str(tmp_path / "got"))
    assert [file.read_bytes() for file in (tmp_path / "got").iterdir()] == [content]


def test_errors_are_clear(served: Served, tmp_path: Path) -> None:
    assert "no vetting-orchestrator serves" in typed(tmp_path, "run", "list", exit_code=2)
    assert "There is no run 999999" in typed(served, "run", "show", "999999", exit_code=1)
    run = str(created(served).run_id)
    assert "No host has claimed" in typed(served, "run", "shutdown", run, exit_code=1)
    assert "retried in FailedHolding only" in typed(served, "run", "retry", run, "SMART", exit_code=1)
    assert "no hold key" in typed(served, "hold-key", run, exit_code=1)
    create = ("run", "create", "--host", "h")
    assert "no such stage: Nope" in typed(served, *create, "--stages", "Nope", exit_code=1)
    assert "not a MAC address" in typed(served, *create, "--mac", "zz", exit_code=1)
    assert "--set takes" in typed(served, *create, "--set", "x", exit_code=2)
    assert "--spec" in typed(served, *create, "--spec", str(tmp_path / "none"), exit_code=2)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"cpu": {"corez": 1}}')
    assert "corez" in typed(served, *create, "--spec", str(wrong), exit_code=1)


def test_a_server_that_was_killed_is_told_from_none(start: Callable[..., Served]) -> None:
    server = start()
    server.kill()
    assert "does not answer" in typed(server.data, "run", "list", exit_code=2)


def test_it_is_a_program_of_its_own(served: Served) -> None:
    argv = [sys.executable, "-m", "orchestrator"]
    done = subprocess.run(
        [*argv, "run", "list", "--data", str(served.data)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("RUN", "No runs yet"))
    wrong = subprocess.run([*argv, "run", "frobnicate"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_wrong_addresses_are_told(tmp_path: Path) -> None:
    said = typed(tmp_path, "serve", "--listen", "nonsense", exit_code=2)
    assert said == "--listen must be HOST:PORT, not 'nonsense'\n"
    assert "HOST:PORT" in typed(tmp_path, "serve", "--listen", "127.0.0.1:99999", exit_code=2)
    assert "cannot listen on 203.0.113.1" in typed(tmp_path, "serve", "--listen", "203.0.113.1:0", exit_code=1)

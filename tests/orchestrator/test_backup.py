"""Backup and restore: a live server's folder, elsewhere with the same runs, evidence and reports; or a clear no."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backup import make_backup
from orchestrator.restore import RestoreFailed, restore
from tests.orchestrator.receivers import Receiver, held, hooked_to, outbox_of, secret_of
from tests.orchestrator.reports.test_report_commands import archive, send
from tests.orchestrator.served import FAST, Agent, Served, serving

Start = Callable[..., Served]


def _command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *map(str, words)], capture_output=True, text=True, timeout=120
    )


def _vetted(served: Served) -> Agent:
    """A completed run with evidence, samples and a log."""
    agent = served.create(host="vetted", stages=["Storage"])
    agent.claim()
    agent.post("Inventory")
    for number in range(5):
        send(agent, archive(notes_txt=random.Random(number).randbytes(20_000)))
    sample = {"kind": "temp", "key": "cpu", "value": 61.5, "unit": "C"}
    agent.call("sensor", {"samples": [sample]})
    agent.call("log", {"lines": [{"ts": "t", "level": "info", "stage": "", "text": "kept", "seq": 1}]})
    agent.post("Storage")
    return agent


def _told(served: Served, run_id: int) -> dict[str, object]:
    """All that operators can have of a run."""
    one = f"/runs/{run_id}"
    pieces = served.operator.get(f"{one}/evidence").json()
    paths = ("", "/logs", "/samples", "/report?form=csv")
    told: dict[str, object] = {path: served.operator.get(one + path).content for path in paths}
    contents = [served.operator.get(f"{one}/evidence/{piece['id']}").content for piece in pieces]
    told |= {"pieces": pieces, "contents": [hashlib.sha256(one).hexdigest() for one in contents]}
    envelope = served.operator.get(f"{one}/report?form=signed").json()
    report = json.loads(base64.b64decode(envelope["payload"]))
    del report["generated_at"]
    key = served.operator.get("/report-key").text
    return {**told, "report": report, "key": (key, envelope["signatures"][0]["keyid"])}


class _Beating(threading.Thread):
    """Heartbeats and log lines of one host, as fast as it can, until told."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent, self.calls, self.over = agent, 0, threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.calls += 1
            self.agent.call("heartbeat", {"activity": "running", "progress": 0.5})
            line = {"ts": "t", "level": "info", "stage": "", "text": f"line {self.calls}", "seq": self.calls}
            self.agent.call("log", {"lines": [line]})


def test_a_live_server_is_restored_elsewhere_with_all_that_it_told(start: Start, tmp_path: Path) -> None:
    served = start()
    vetted = _vetted(served)
    before = _told(served, vetted.run_id)
    live = served.create(host="live", stages=["SMART"], intervals=FAST)
    live.claim()
    beating = _Beating(live)
    beating.start()
    try:
        done = _command("backup", tmp_path / "backup.tar", "--data", served.data, "--json")
        calls = beating.calls
    finally:
        beating.over.set()
        beating.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert calls > 5, "heartbeats came in meanwhile"
    assert stat.S_IMODE((tmp_path / "backup.tar").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"backup.tar", "data", "data.stderr"}
    fingerprint = served.info["fingerprint"]
    served.kill()

    done = _command("restore", tmp_path / "backup.tar", "--data", tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "2 runs" in done.stdout
    with serving(tmp_path / "elsewhere") as again:
        assert again.info["fingerprint"] == fingerprint, "hosts pin it"
        after = _told(again, vetted.run_id)
        assert after.keys() == before.keys()
        for what, said in before.items():
            assert after[what] == said, what
        lines = [one["text"] for one in again.operator.get(f"/runs/{live.run_id}/logs?limit=10000").json()]
        assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
        assert live.newer(again).claim()["current_state"] == "InventoryCheck"
        assert again.end() == 0


def test_backup_and_restore_need_no_server(start: Start, tmp_path: Path) -> None:
    served = start()
    agent = _vetted(served)
    before = _told(served, agent.run_id)
    assert served.end() == 0
    assert _command("backup", tmp_path / "b.tar", "--data", served.data).returncode == 0
    refused = _command("backup", tmp_path / "b.tar", "--data", served.data)
    assert (refused.returncode, "overwrites nothing" in refused.stderr) == (1, True)
    (tmp_path / "there").mkdir()
    assert _command("restore", tmp_path / "b.tar", "--data", tmp_path / "there").returncode == 0
    refused = _command("restore", tmp_path / "b.tar", "--data", tmp_path / "there")
    assert (refused.returncode, "not an empty folder" in refused.stderr) == (1, True)
    assert "no orchestrator.db" in _command("backup", tmp_path / "c.tar", "--data", tmp_path).stderr
    for path in (tmp_path / "there").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    with serving(tmp_path / "there") as again:
        assert _told(again, agent.run_id) == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one vetted run, and nobody who serves it."""
    data = tmp_path_factory.mktemp("orchestrator") / "data"
    with serving(data) as served:
        _vetted(served)
    return data


def _same(one: Path, other: Path) -> bool:
    return all(
        (other / path.relative_to(one)).read_bytes() == path.read_bytes() for path in one.rglob("*") if path.is_file()
    )


def _refused(backup: Path, data: Path) -> str:
    with pytest.raises(RestoreFailed) as caught:
        restore(backup, data)
    assert not data.exists(), "nothing is left behind"
    return str(caught.value)


def test_a_backup_that_is_cut_off_anywhere_is_refused(folder: Path, tmp_path: Path) -> None:
    backup, short = tmp_path / "b.tar", tmp_path / "short.tar"
    make_backup(folder, backup)
    content = backup.read_bytes()
    with tarfile.open(backup) as tar:
        ends = [member.offset_data + (member.size + 511) // 512 * 512 for member in tar]
    for length in {0, 1, 511, 512, *ends[:-1], *(end - 700 for end in ends), len(content) // 2}:
        short.write_bytes(content[:length])
        assert "cut off" in _refused(short, tmp_path / "there"), length


def test_a_backup_that_is_altered_anywhere_is_refused_or_gives_the_same(folder: Path, tmp_path: Path) -> None:
    backup, altered = tmp_path / "b.tar", tmp_path / "altered.tar"
    make_backup(folder, backup)
    restore(backup, tmp_path / "sound")
    content, chance, refused = bytearray(backup.read_bytes()), random.Random(7), 0
    for number in range(60):
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        altered.write_bytes(content)
        content[:] = backup.read_bytes()
        there = tmp_path / f"there{number}"
        try:
            restore(altered, there)
        except RestoreFailed:
            refused += 1
            assert not there.exists()
        else:
            assert _same(tmp_path / "sound", there), place
    assert refused > 40


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "evidence/1/../../escaped", "lock", "a/b", ".hidden"])
def test_a_name_that_no_backup_has_is_never_written(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    assert "a backup has no" in _refused(tmp_path / "b.tar", tmp_path / "there")
    assert not (tmp_path / "escaped").exists()


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        member = tarfile.TarInfo("webhook-secret")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    assert "a backup has no" in _refused(tmp_path / "b.tar", tmp_path / "there")


def test_what_is_no_backup_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("hello")
    done = _command("restore", tmp_path / "b.tar", "--data", tmp_path / "there")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cut off or altered" in done.stderr
    assert "No such file" in _command("restore", tmp_path / "none.tar", "--data", tmp_path / "there").stderr
    assert not (tmp_path / "there").exists()


def test_evidence_that_was_damaged_before_is_told_and_the_rest_is_kept(folder: Path, tmp_path: Path) -> None:
    restore_from = tmp_path / "whole.tar"
    make_backup(folder, restore_from)
    restore(restore_from, tmp_path / "data")
    first, second, *_ = sorted((tmp_path / "data" / "evidence").rglob("*.tar.gz"))
    first.unlink()
    second.write_bytes(b"other")
    done = _command("backup", tmp_path / "b.tar", "--data", tmp_path / "data", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["damaged"]) == 2
    assert first.name in done.stderr
    assert len(restore(tmp_path / "b.tar", tmp_path / "there").damaged) == 2


def test_a_newer_database_is_refused(folder: Path, tmp_path: Path) -> None:
    make_backup(folder, tmp_path / "a.tar")
    restore(tmp_path / "a.tar", tmp_path / "data")
    with sqlite3.connect(tmp_path / "data" / "orchestrator.db") as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    make_backup(tmp_path / "data", tmp_path / "b.tar")
    assert "newer program" in _refused(tmp_path / "b.tar", tmp_path / "there")


def test_what_was_not_delivered_is_sent_by_the_restored_server_under_its_id(start: Start, tmp_path: Path) -> None:
    receiver = Receiver()
    with receiver:
        pass  # nobody listens there yet
    served = start(**hooked_to(receiver))
    held(served)
    (waiting,) = outbox_of(served)["deliveries"]
    assert _command("backup", tmp_path / "b.tar", "--data", served.data).returncode == 0
    served.kill()
    restore(tmp_path / "b.tar", tmp_path / "there")
    with receiver, serving(tmp_path / "there", **hooked_to(receiver)):
        receiver.wait(lambda one: one.taken("run.held"))
        assert receiver.calls[0].id == waiting["id"]
        assert receiver.calls[0].is_signed_with(secret_of(served.data)), "with the old server's secret"

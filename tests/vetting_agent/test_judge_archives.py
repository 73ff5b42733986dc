"""`vetting-agent judge ARCHIVE`: evidence as it was sent, and archives that mean harm."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import conclusion
from tests.support.evidence_runs import inventory_in, smart_in
from vetting_agent import evidence, judge_sources
from vetting_agent.__main__ import main

PASS, FAIL, UNKNOWN = 0, 1, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "run-7"
    inventory_in(folder / "01-Inventory")
    smart_in(folder / "02-SMART", tmp_path_factory.mktemp("smart"), "ata-healthy-hdd")
    return folder


@pytest.fixture
def archive(run: Path, tmp_path: Path) -> Path:
    """The SMART stage as it is sent to the orchestrator."""
    path = tmp_path / "evidence.tar.gz"
    path.write_bytes(evidence.pack(run / "02-SMART").archive)
    return path


def judged(path: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main(["judge", "--json", str(path)])
    return code, json.loads(capfd.readouterr().out)


def message(summary: dict[str, Any]) -> str:
    return " ".join(finding["message"] for finding in summary["findings"])


def test_an_archive_gives_what_its_folder_gives(run: Path, archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert judged(archive, capfd) == judged(run / "02-SMART", capfd)
    assert judged(archive, capfd)[0] == PASS


def test_an_archive_of_a_whole_run(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(run, "run-7")
    code, summaries = judged(path, capfd)
    assert (code, [one["stage"] for one in summaries]) == (PASS, ["Inventory", "SMART"])


def test_what_was_left_out_is_said(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package = evidence.pack(run / "02-SMART", limit_bytes=2000)
    assert conclusion.READINGS in package.left_out
    path = tmp_path / "small.tar.gz"
    path.write_bytes(package.archive)
    code, summary = judged(path, capfd)
    assert code == UNKNOWN
    assert f"02-SMART/{conclusion.READINGS}: it was left out of the archive" in message(summary)


def test_an_archive_that_is_cut_off_or_damaged_never_passes(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = archive.read_bytes()
    broken = tmp_path / "broken.tar.gz"
    for at in range(0, len(whole), len(whole) // 40):
        broken.write_bytes(whole[:at])
        assert judged(broken, capfd)[0] == UNKNOWN, at
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        code, summary = judged(broken, capfd)
        # The header's time and system are no part of what was packed.
        assert code == UNKNOWN or at < 10, (at, summary)


Add = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"{}", target: str = "") -> Add:
    def add(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        entry.size = len(content) if kind == tarfile.REGTYPE else 0
        tar.addfile(entry, io.BytesIO(content))

    return add


HOSTILE: dict[str, tuple[Add, str]] = {
    "climbs": (member("../../etc/cron.d/x"), "reaches out"),
    "climbs from a stage": (member("02-SMART/../../x"), "reaches out"),
    "absolute": (member("/etc/passwd"), "reaches out"),
    "link": (member("02-SMART/x", tarfile.SYMTYPE, target="/etc/passwd"), "neither a file nor a folder"),
    "hard link": (member("02-SMART/x", tarfile.LNKTYPE, target="02-SMART/readings.json"), "neither"),
    "device": (member("02-SMART/x", tarfile.CHRTYPE), "neither"),
    "fifo": (member("02-SMART/readings.json", tarfile.FIFOTYPE), "neither"),
    "twice": (member("02-SMART/readings.json"), "twice"),
    "twice in other words": (member("./02-SMART/readings.json"), "twice"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_means_harm_is_refused(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    add, why = HOSTILE[kind]
    path = tmp_path / "hostile.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(run / "02-SMART", "02-SMART")
        add(tar)
    before = sorted(tmp_path.rglob("*"))
    code, summary = judged(path, capfd)
    assert code == UNKNOWN
    assert "refused" in message(summary)
    assert why in message(summary)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bomb.tar.gz"
    entry = tarfile.TarInfo("02-SMART/readings.json")
    entry.size = 8 << 30
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(entry.tobuf())
        for _ in range(judge_sources.ARCHIVE_LIMIT_BYTES // 2**20 + 1):
            packed.write(bytes(2**20))
    code, summary = judged(path, capfd)
    assert code == UNKNOWN
    assert "unpacks to more than" in message(summary)


def test_an_archive_of_very_many_members_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_sources, "MEMBERS_LIMIT", 50)
    path = tmp_path / "many.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(60):
            member(f"02-SMART/{number}")(tar)
    code, summary = judged(path, capfd)
    assert (code, "more than 50 members" in message(summary)) == (UNKNOWN, True)


def test_an_empty_or_foreign_archive_never_passes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member("readme.txt")(tar)
    assert judged(path, capfd)[0] == UNKNOWN
    with tarfile.open(path, "w:gz") as tar:
        member("02-SMART/tools/x")(tar)
    assert judged(path, capfd)[0] == UNKNOWN
    shutil.copy(__file__, path)
    assert judged(path, capfd)[0] == UNKNOWN

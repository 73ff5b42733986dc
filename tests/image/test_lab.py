"""The frame of the lab, without a machine: what counts as right, what is played again, what is laid over the image."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from image.lab import overlay, play, record, table
from image.lab.row import PASSES, Expect, Group, Row, fails, held, warns
from image.lab.rows import ROWS
from image.lab.scene import RELAXED, Scene, WrongTurn
from stages import STAGES
from stages.options import parse_options
from stages.outcome import Finding, ReasonCode, error, info, warning
from tests.support.run_views import done, found, run_view

SLOW = Expect("FailedHolding", "Storage", "disk_slow", "disk:A")


SLOW_A = error(ReasonCode.DISK_SLOW, "disk:A", "")
SLOW_B = error(ReasonCode.DISK_SLOW, "disk:B", "")
WARNED = warning(ReasonCode.DISK_SLOW, "disk:A", "")
LOST = error(ReasonCode.DISK_LOST, "disk:A", "")
TOLD = info(ReasonCode.DISK_LOST, "disk:A", "")


@pytest.mark.parametrize(
    ("expect", "state", "findings", "word"),
    [
        (SLOW, "FailedHolding", [SLOW_A], None),
        (SLOW, "Completed", [SLOW_A], "the run is Completed"),
        (SLOW, "FailedHolding", [], "no finding"),
        (SLOW, "FailedHolding", [SLOW_B], "no finding"),
        (SLOW, "FailedHolding", [WARNED], "no finding"),
        (SLOW, "FailedHolding", [SLOW_A, LOST], "does not explain: disk_lost"),
        (SLOW, "FailedHolding", [SLOW_A, TOLD], None),
        (fails("Storage", "disk_slow", also=("disk_lost",)), "FailedHolding", [SLOW_A], None),
        (warns("Storage", "disk_slow"), "Completed", [WARNED], None),
        (PASSES, "Completed", [], None),
        (PASSES, "FailedHolding", [SLOW_A], "the run is FailedHolding"),
        (held("host_rebooted"), "FailedHolding", [error(ReasonCode.HOST_REBOOTED, "host", "")], "no finding: run"),
    ],
)
def test_a_row_is_right_only_with_the_state_the_finding_and_nothing_else(
    expect: Expect, state: str, findings: list[Finding], word: str | None
) -> None:
    view = run_view([done("Storage", found(*findings))], state=state)
    trouble = play.difference(expect, view)
    assert (trouble is None) if word is None else (trouble is not None and word in trouble)


def test_a_finding_of_the_run_itself_is_looked_for_there() -> None:
    told = {"reason_code": "host_rebooted", "severity": "error", "component": "host", "message": "", "evidence": ""}
    view = run_view([], state="FailedHolding", run_findings=[told])
    assert play.difference(held("host_rebooted"), view) is None
    assert play.difference(held("spec_mismatch"), view) is not None


# --- a story that goes wrong ------------------------------------------------------------------------------------------


def _goes_astray(scene: Scene) -> None:
    raise WrongTurn("the fault did not take hold")


def _crashes(scene: Scene) -> None:
    raise KeyError("x")


def _never_boots(scene: Scene) -> None:
    return


@pytest.mark.parametrize(
    ("tell", "word"), [(_goes_astray, "did not take hold"), (_crashes, "KeyError"), (_never_boots, "Refused")]
)
def test_a_story_that_goes_wrong_makes_its_row_wrong(tell: object, word: str, tmp_path: Path) -> None:
    row = Row("x", "G", "a fault", PASSES, tell)
    result = play.play(row, tmp_path, "sum", tmp_path / "results", "tcg")
    assert result.trouble is not None
    assert word in result.trouble
    assert play.known(row, "sum", tmp_path / "results") is None


STORIES = (("one", _goes_astray), ("another", _crashes), ("a third", _never_boots))


def result_of(row: Row, **changed: Any) -> play.Result:
    facts: dict[str, Any] = {"row": row.name, "version": row.version, "image": "sum", "trouble": None}
    facts |= {"state": "Completed", "found": [], "wall_s": 1.0, "cpu_s": 1.0, "marks": {}}
    return play.Result(**{**facts, **changed})


def test_only_a_right_result_of_this_row_and_this_image_is_kept(tmp_path: Path) -> None:
    row = Row("x", "G", "a fault", PASSES, _never_boots)
    (tmp_path / "x").mkdir()

    def kept(**changed: object) -> bool:
        (tmp_path / "x" / "result.json").write_bytes(msgspec.json.encode(result_of(row, **changed)))
        return play.known(row, "sum", tmp_path) is not None

    assert kept()
    assert not kept(image="another")
    assert not kept(version="older")
    assert not kept(trouble="wrong")


def test_the_record_stands_in_for_a_row_that_was_not_played_here(tmp_path: Path) -> None:
    group = Group("Disks")
    right, wrong, changed = (group.row(fault, PASSES)(tell) for fault, tell in STORIES)
    path = tmp_path / "lab.json"
    assert record.read(path) == {}
    record.write(path, [result_of(right), None, result_of(wrong, trouble="lost"), result_of(changed, version="older")])
    recorded = record.read(path)
    shown = [(row, record.last(row, tmp_path, recorded)) for row in (right, wrong, changed)]
    assert [result and result.is_right for _, result in shown] == [True, False, None]
    (tmp_path / "sbom.spdx.json").write_text('{"packages": [{"versionInfo": "7"}]}')
    page = table.document(shown, tmp_path, "another")
    assert "1 of 3 rows are right" in page
    assert page.count(" † |") == 2
    assert page.count("| **not right** |") == page.count("| not played |") == 1


def test_a_row_that_went_wrong_here_is_not_covered_up_by_the_record(tmp_path: Path) -> None:
    row = Row("x", "G", "a fault", PASSES, _goes_astray)
    play.play(row, tmp_path, "sum", tmp_path, "tcg")
    last = record.last(row, tmp_path, {"x": result_of(row)})
    assert last is not None
    assert not last.is_right


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text('[{"row": 3}]')
    with pytest.raises(record.BadRecord, match=r"lab\.json is no record of the lab"):
        record.read(tmp_path / "lab.json")


def test_another_story_is_another_version() -> None:
    versions = {Row("x", "G", "f", PASSES, tell).version for tell in (_goes_astray, _crashes)}
    assert len(versions | {Row("x", "G", "f", SLOW, _crashes).version}) == 3


# --- the rows ---------------------------------------------------------------------------------------------------------


def test_each_row_has_a_name_of_its_own_and_a_known_stage_and_code() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    stages = {stage.name for stage in STAGES}
    for row in ROWS:
        codes = {row.expect.code, *row.expect.also} - {None}
        assert codes <= {code.value for code in ReasonCode}, row.name
        assert row.expect.stage is None or row.expect.stage in stages, row.name


def test_what_is_relaxed_exists() -> None:
    for stage in STAGES:
        parse_options(stage.options, stage.name, dict(RELAXED.get(stage.name, {})))
    assert set(RELAXED) <= {stage.name for stage in STAGES}


def test_the_table_tells_a_row_that_was_not_played(tmp_path: Path) -> None:
    (tmp_path / "sbom.spdx.json").write_text('{"packages": [{"versionInfo": "7"}]}')
    group = Group("Disks")
    row = group.row("it is slow", SLOW, stand_in=True)(_never_boots)
    page = table.document([(row, None)], tmp_path, "0" * 16)
    assert "Image 7: 0 of 1 rows are right" in page
    assert "| -never-boots | ◇ it is slow | FailedHolding; Storage: `disk_slow`, `disk:A` | not played |  |" in page


# --- what is laid over the image --------------------------------------------------------------------------------------


def test_the_second_initrd_holds_the_door_the_script_and_the_tools(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"x" * 700)
    tools = {"fio": "#!/bin/sh\nexit 1\n", "/etc/made-up": "text\n"}
    made = overlay.initrd(tmp_path / "base", tmp_path, "modprobe i2c-stub\n", tools)
    whole = made.read_bytes()
    assert whole[:700] == b"x" * 700
    (tmp_path / "out").mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=whole[1024:], cwd=tmp_path / "out", check=True)
    root = tmp_path / "out" / "overlay"
    assert (root / "usr/local/sbin/fio").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/made-up").stat().st_mode & 0o777 == 0o644
    assert (root / "usr/local/lib/lab/before").read_text() == "modprobe i2c-stub\n"
    wants = root / "etc/systemd/system/vetting-agent.service.wants"
    assert {path.name for path in wants.iterdir()} == set(overlay.UNITS)
    assert all(path.resolve().is_file() for path in wants.iterdir())


def test_a_story_without_the_door_cannot_use_it(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(WrongTurn, match="without the door"):
        Scene(tmp_path, tmp_path, "tcg", stack).sh("true")

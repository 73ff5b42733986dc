"""`vetting-agent judge EVIDENCE`: the verdict of a live run again, and never a pass from evidence that is not whole."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import conclusion, inventory, smart
from stages.outcome import ReasonCode, error
from tests.support.evidence_runs import inventory_in, smart_in
from tests.support.replay import recorded_host
from vetting_agent.__main__ import main
from vetting_agent.judge_evidence import Foreign, decoded

PASS, FAIL, USAGE, UNKNOWN = 0, 1, 2, 4
FILES = (
    conclusion.OPTIONS,
    conclusion.READINGS,
    conclusion.ENDINGS,
    conclusion.BEFORE,
    conclusion.AFTER,
    conclusion.OUTCOME,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything passed."""
    folder = tmp_path_factory.mktemp("recorded") / "run-7"
    assert inventory_in(folder / "01-Inventory").passed
    outcome = smart_in(
        folder / "02-SMART",
        tmp_path_factory.mktemp("smart"),
        "ata-healthy-hdd",
        "scsi-megaraid-healthy",
        "nvme-old-smartctl",
    )
    assert outcome.passed, outcome.findings
    (folder / "boot.json").write_text("{}")
    return folder


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run-7"))


@pytest.fixture(scope="module")
def bad_smart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One execution of SMART that failed."""
    folder = tmp_path_factory.mktemp("bad") / "02-SMART"
    outcome = smart_in(folder, tmp_path_factory.mktemp("smart"), "ata-healthy-hdd", "nvme-critical-warning")
    assert not outcome.passed
    return folder


Judge = Callable[..., tuple[int, Any]]


@pytest.fixture
def judged(capfd: pytest.CaptureFixture[str]) -> Judge:
    """Runs `vetting-agent judge ... --json`: its exit code and what it printed."""

    def call(*words: object) -> tuple[int, Any]:
        capfd.readouterr()
        code = main(["judge", "--json", *map(str, words)])
        return code, json.loads(capfd.readouterr().out or "null")

    return call


def errors(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["reason_code"], one["component"]) for one in summary["findings"] if one["severity"] == "error"]


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document)))


def test_a_whole_run_gives_the_outcomes_that_it_gave(run: Path, judged: Judge) -> None:
    code, summaries = judged(run)
    assert (code, [one["stage"] for one in summaries]) == (PASS, ["Inventory", "SMART"])
    for summary, folder in zip(summaries, ("01-Inventory", "02-SMART"), strict=True):
        recorded = json.loads((run / folder / "outcome.json").read_text())
        for name in ("verdict", "headline", "findings", "measurements", "coverage", "duration_s", "tool_versions"):
            assert summary[name] == recorded[name], name


def test_a_failed_stage_fails_again_alone_and_in_its_run(run: Path, bad_smart: Path, judged: Judge) -> None:
    code, summary = judged(bad_smart)
    assert code == FAIL
    assert errors(summary) == [("nvme_critical_warning", "disk:NVME-WARNING-1")]
    shutil.copytree(bad_smart, run / "03-SMART")  # the newest execution counts
    code, summaries = judged(run)
    assert (code, [one["verdict"] for one in summaries]) == (FAIL, ["pass", "fail"])


def test_the_newest_execution_counts(run: Path, bad_smart: Path, judged: Judge) -> None:
    (run / "02-SMART").rename(run / "11-SMART")
    shutil.copytree(bad_smart, run / "09-SMART")
    assert judged(run)[0] == PASS


def test_people_read_the_verdict_and_what_is_absent(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(run)]) == PASS
    text = capfd.readouterr().out
    assert "Disk health and self-test (02-SMART)" in text
    assert "Overall: PASS" in text
    assert "No evidence here of: CPUStress, Storage, Network, GPU, PSU" in text
    assert "DIFFERS" not in text


@pytest.mark.parametrize("stage", ["01-Inventory", "02-SMART"])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_never_passes(run: Path, judged: Judge, stage: str, name: str) -> None:
    (run / stage / name).unlink()
    code, summary = judged(run / stage)
    assert code == UNKNOWN
    assert errors(summary) == [("output_unreadable", f"{stage}/{name}")]
    assert "missing" in summary["findings"][-1]["message"] or any(
        "missing" in f["message"] for f in summary["findings"]
    )


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def content(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


BROKEN: dict[str, Callable[[Path], object]] = {
    "half": half,
    "empty": content(""),
    "object": content("{}"),
    "list of another kind": content("[1]"),
    "null": content("null"),
    "number": content("1e999"),
    "not a number": content("NaN"),
    "text": content('"pass"'),
    "deep": content("[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00{}"),
    "link": link,
    "fifo": fifo,
    "folder": folder,
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_never_passes(run: Path, judged: Judge, name: str, how: str) -> None:
    BROKEN[how](run / "02-SMART" / name)
    code, summary = judged(run / "02-SMART")
    assert code == UNKNOWN
    assert ("output_unreadable", f"02-SMART/{name}") in errors(summary)


@pytest.mark.parametrize("name", [conclusion.READINGS, conclusion.OPTIONS])
def test_a_file_of_another_stage_never_passes(run: Path, judged: Judge, name: str) -> None:
    shutil.copy(run / "01-Inventory" / name, run / "02-SMART" / name)
    code, summary = judged(run / "02-SMART")
    assert code == UNKNOWN
    assert ("output_unreadable", f"02-SMART/{name}") in errors(summary)


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        # A field less would be read with its default.
        (conclusion.READINGS, lambda old: without(old, "problems"), "problems"),
        (conclusion.READINGS, lambda old: {**old, "more": 1}, "more"),
        (conclusion.READINGS, lambda old: {**old, "cases": [without(one, "test") for one in old["cases"]]}, "test"),
        (conclusion.READINGS, lambda old: {**old, "cases": old["cases"][:-1]}, "lacks what outcome.json says"),
        (conclusion.READINGS, lambda old: {**old, "cases": []}, "same options"),
        (conclusion.BEFORE, lambda old: {**old, "uptime_s": 9e9}, "another boot"),
        (conclusion.AFTER, lambda old: without(old, "memory"), "memory"),
        (conclusion.OPTIONS, lambda old: without(old, "poll_s"), "poll_s"),
        (conclusion.OPTIONS, lambda old: {**old, "poll_s": "soon"}, "poll_s"),
        (conclusion.OUTCOME, lambda old: {**old, "verdict": "fail"}, "its own findings"),
    ],
)
def test_a_changed_file_never_passes(
    run: Path, judged: Judge, name: str, change: Callable[[Any], Any], why: str
) -> None:
    edit(run / "02-SMART" / name, change)
    code, summary = judged(run / "02-SMART")
    assert code == UNKNOWN
    assert any(code == "output_unreadable" for code, _ in errors(summary))
    assert why in " ".join(finding["message"] for finding in summary["findings"])


def test_a_failure_that_was_edited_away_never_passes(bad_smart: Path, tmp_path: Path, judged: Judge) -> None:
    copied = Path(shutil.copytree(bad_smart, tmp_path / "02-SMART"))
    edit(copied / conclusion.READINGS, lambda old: {**old, "cases": old["cases"][:1]})
    code, summary = judged(copied)
    assert code == UNKNOWN
    assert "with the same options" in summary["findings"][-1]["message"]


def test_counters_that_rose_are_charged(run: Path, judged: Judge, capfd: pytest.CaptureFixture[str]) -> None:
    edit(
        run / "02-SMART" / conclusion.BEFORE,
        # A machine that is up: the made one, at 0 seconds, is taken for a reading that failed as a whole.
        lambda old: {**old, "uptime_s": 60.0, "memory": {"DIMM_A1": {"corrected": 0, "uncorrected": 0}}},
    )
    edit(
        run / "02-SMART" / conclusion.AFTER,
        lambda old: {**old, "uptime_s": 61.0, "memory": {"DIMM_A1": {"corrected": 0, "uncorrected": 1}}},
    )
    code, summary = judged(run / "02-SMART")
    assert (code, errors(summary)) == (FAIL, [("ecc_uncorrected", "dimm:DIMM_A1")])
    assert main(["judge", str(run / "02-SMART")]) == FAIL
    text = capfd.readouterr().out
    assert "DIFFERS from outcome.json, which says PASS" in text
    assert "only now: error ecc_uncorrected dimm:DIMM_A1" in text


@pytest.mark.parametrize(
    ("reason", "verdict"), [(ReasonCode.CANCELLED, "cancelled"), (ReasonCode.STAGE_CRASHED, "unknown")]
)
def test_a_stage_that_was_ended_early_is_what_ended_it(
    run: Path, judged: Judge, reason: ReasonCode, verdict: str
) -> None:
    stage = run / "02-SMART"
    (stage / conclusion.READINGS).unlink()
    (stage / conclusion.AFTER).unlink()
    conclusion.write(stage, conclusion.ENDINGS, [error(reason, "SMART", "it ended")])
    code, summary = judged(stage)
    assert (code, summary["verdict"]) == (UNKNOWN, verdict)
    assert (reason.value, "SMART") in errors(summary)


def test_a_stage_that_never_began_fails_again(tmp_path: Path, judged: Judge) -> None:
    inventory_in(tmp_path / "01-Inventory", {"nonsense": 1})
    assert [path.name for path in (tmp_path / "01-Inventory").glob("*.json")] == [conclusion.OUTCOME]
    code, summary = judged(tmp_path / "01-Inventory")
    assert (code, errors(summary)) == (FAIL, [("bad_parameter", "Inventory")])


def test_thresholds_can_be_set(run: Path, judged: Judge) -> None:
    """The NVMe disk has used 1 % of its rated endurance."""
    code, summaries = judged(run, "--set", "SMART.wear_failed_percent=0.5", "--set", "smart.wear_warning_percent=0")
    assert (code, [one["verdict"] for one in summaries]) == (FAIL, ["pass", "fail"])
    assert errors(summaries[1])[0][0] == "nvme_worn"


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "SMART.nothing=1"],
        ["--set", "SMART.poll_s=soon"],
        ["--set", "SMART.poll_s"],
        ["--set", "poll_s=1"],
        ["--set", "Smartish.poll_s=1"],
        ["--set", "PSU.interval_s=1"],
        ["--set", "SMART.poll_s=0"],
    ],
)
def test_wrong_usage(run: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["judge", str(run), *words]) == USAGE
    assert capfd.readouterr().err.startswith("vetting-agent judge: ")


def test_neither_or_both_kinds_of_evidence_is_wrong_usage(run: Path) -> None:
    assert main(["judge"]) == USAGE
    assert main(["judge", str(run), "--smart", "x.json"]) == USAGE


@pytest.mark.parametrize("name", ["run-8", "03-CPUStress", "04-Nonsense", "SMART"])
def test_an_empty_folder_never_passes(tmp_path: Path, judged: Judge, name: str) -> None:
    (tmp_path / name).mkdir()
    assert judged(tmp_path / name)[0] == UNKNOWN


def test_what_is_not_there_or_no_evidence_never_passes(tmp_path: Path, judged: Judge) -> None:
    assert judged(tmp_path / "nowhere")[0] == UNKNOWN
    assert judged("/dev/null")[0] == UNKNOWN
    (tmp_path / "file").write_text("{}")
    code, summary = judged(tmp_path / "file")
    assert (code, summary["verdict"]) == (UNKNOWN, "unknown")
    assert "file" in summary["findings"][0]["message"]


@pytest.mark.parametrize("make", [folder, fifo, link])
def test_a_stage_that_is_no_folder_never_passes(run: Path, judged: Judge, make: Callable[[Path], None]) -> None:
    if make is link:
        link(run / "02-SMART")
    else:
        (run / "03-PSU").touch()
        make(run / "03-PSU")
    assert judged(run)[0] == UNKNOWN


def test_an_unknown_stage_among_known_ones_never_passes(run: Path, judged: Judge) -> None:
    shutil.copytree(run / "02-SMART", run / "03-Smartish")
    code, summaries = judged(run)
    assert (code, summaries[-1]["verdict"]) == (UNKNOWN, "unknown")


def test_bytes_that_flip_never_crash_it(run: Path, judged: Judge) -> None:
    dice = random.Random(7)
    for _ in range(150):
        path = run / "02-SMART" / dice.choice(FILES)
        whole = path.read_bytes()
        broken = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        path.write_bytes(broken)
        code, summary = judged(run / "02-SMART")
        assert code in {PASS, FAIL, UNKNOWN}
        assert code == {"pass": PASS, "fail": FAIL}.get(summary["verdict"], UNKNOWN)
        path.write_bytes(whole)


def test_numbers_of_any_size_survive() -> None:
    text = json.dumps({"huge": 2**80, "small": -(2**70), "half": 0.5})
    assert decoded(text.encode(), dict[str, float | int])["huge"] == 2**80
    with pytest.raises(Foreign, match="`cases`"):
        decoded(b'{"problems": [], "expected_serials": []}', smart.Readings)


async def test_the_readings_of_a_real_inventory_survive(tmp_path: Path) -> None:
    from tests.support.judging import outcome_of
    from tests.support.stage_context import stage_context

    context, _ = stage_context(tmp_path, recorded_host("huawei-arm"))
    outcome_of(inventory.STAGE, await inventory.run(context, inventory.Options()), inventory.Options())

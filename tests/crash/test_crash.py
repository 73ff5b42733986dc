"""A few runs with kills at the moments that hurt, and that each check at the end can fail."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash import checks
from tests.crash.checks import Line
from tests.crash.page import page_of
from tests.crash.plan import (
    AFTER,
    AGENT,
    BEFORE,
    BOTH,
    LAST_WORDS,
    MOST_AGENT_KILLS,
    ORCHESTRATOR,
    SCRIPTS,
    Kill,
    Plan,
    plan_of,
)
from tests.crash.play import of_home
from tests.crash.relay import Exchange
from tests.crash.subject import LOAD
from tests.crash.verdict import Verdict, played
from tests.walk.rig import Orchestrator, wait_for
from vetting_agent.evidence import pack

# httpx leaves the socket of an operator's call open that found the server killed.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
SCRIPT = {one.name: one for one in SCRIPTS}
INSTANCE = "i"


class Forgetful(Orchestrator):
    program = ("tests.crash.forgetful",)


def plan(script: str, *kills: Kill) -> Plan:
    return Plan(0, 0, SCRIPT[script], kills)


@pytest.mark.root
@pytest.mark.slow
def test_an_agent_killed_after_its_last_words_is_not_let_go_on(tmp_path: Path) -> None:
    """The order to power off was acknowledged, the power never went off, and the unit starts the agent again."""
    verdict = played(plan("shutdown", Kill(AGENT, LAST_WORDS, 1, AFTER)), tmp_path / "play")
    assert verdict.complaints == (), verdict.diary
    assert verdict.agent_kills == 1


@pytest.mark.root
@pytest.mark.slow
def test_both_killed_with_a_result_on_the_way_and_the_answer_to_the_retry_lost(tmp_path: Path) -> None:
    kills = (Kill(BOTH, "result", 2, BEFORE), Kill(ORCHESTRATOR, "result", 3, AFTER), Kill(AGENT, "hold", 1, AFTER))
    verdict = played(plan("retry", *kills), tmp_path / "play")
    assert verdict.complaints == (), verdict.diary
    assert verdict.done, "nobody was killed"


@pytest.mark.root
@pytest.mark.slow
def test_an_orchestrator_that_counts_a_result_twice_is_found(tmp_path: Path) -> None:
    """Broken on purpose: the answer to a result is lost with the orchestrator, and the agent posts it again."""
    lost = Kill(ORCHESTRATOR, "result", 2, AFTER)
    verdict = played(plan("pass", lost), tmp_path / "play", serve=Forgetful)
    assert any("was answered, but is not kept" in one for one in verdict.complaints), verdict
    assert any("results of" in one for one in verdict.complaints), verdict


def test_a_plan_is_the_same_every_time_and_stays_below_the_crash_loop() -> None:
    plans = [plan_of(7, index) for index in range(500)]
    assert plans == [plan_of(7, index) for index in range(500)]
    assert {one.script.name for one in plans} == set(SCRIPT)
    for one in plans:
        agents = sum(kill.victim != ORCHESTRATOR for kill in one.kills)
        assert agents == 3 if one.script.loops else agents <= MOST_AGENT_KILLS
    assert any(kill.victim == BOTH for one in plans for kill in one.kills)


def lines(*seqs: int, text: str = "text") -> list[Line]:
    return [Line(INSTANCE, seq, f"t{seq}", text) for seq in seqs]


def test_lines_that_are_missing_doubled_disordered_or_forgotten_are_found() -> None:
    said = Exchange("log", INSTANCE, {"lines": [{"seq": 3}]}, 200, {})
    assert [*checks.of_lines(lines(1, 2, 3), [said])] == []
    assert "missing" in next(checks.of_lines(lines(1, 3), []))
    assert "twice" in next(checks.of_lines(lines(1, 2, 2), []))
    assert "order" in next(checks.of_lines(lines(2, 1), []))
    assert "answered" in next(checks.of_lines(lines(1, 2), [said]))
    announced = Line(
        INSTANCE, 4, "t4", "2 log lines were dropped, 2 in all: the orchestrator did not take them in time"
    )
    assert [*checks.of_lines([*lines(1), announced], [])] == []


def test_the_table_of_a_preflight_is_for_who_stands_there_and_not_for_the_log() -> None:
    table = ["t2 warn  Preflight of the agent, run 1", "t2 warn    hello  FAILED", "t2 warn  ", "t2 warn  Signal  x"]
    said = [["t1 info  text", *table, "t2 warn  preflight: hello: x", "t3 info  text"]]
    kept = [*lines(1), *lines(2, text="preflight: hello: x"), *lines(3)]
    assert [*checks.of_sayings(kept, said, True)] == []
    assert "said" in next(checks.of_sayings(lines(1, 2, 3), said, False)), "the line below it is"


def test_a_log_that_is_not_what_was_said_is_found() -> None:
    said = [["t1 info  text", "t2 info  text", "t3 info  text"]]
    assert [*checks.of_sayings(lines(1, 2, 3), said, True)] == []
    assert [*checks.of_sayings(lines(1, 2), said, False)] == []
    assert "to itself" in next(checks.of_sayings(lines(1, 2), said, True))
    assert "said" in next(checks.of_sayings([*lines(1), *lines(2, text="other")], said, False))
    assert "nobody" in next(checks.of_sayings(lines(2), said, False))
    late = [
        *said,
        ["t4 info  text", "t4 info  run_over: hello was answered with HTTP 410: run_over: Run 1 is Cancelled"],
    ]
    assert [*checks.of_sayings(lines(1, 2, 3), late, True)] == []


def test_results_and_answers_that_do_not_fit_are_found() -> None:
    passed = [(stage, True) for stage in checks.STAGES]
    assert [*checks.of_results(SCRIPT["pass"], passed)] == []
    assert [*checks.of_results(SCRIPT["pass"], passed[:-1])]
    assert [*checks.of_results(SCRIPT["pass"], [*passed, passed[0]])]
    assert [*checks.of_results(SCRIPT["retry"], passed)]
    assert [*checks.of_results(SCRIPT["cancel"], [passed[0], (LOAD, False)])] == []
    answer = Exchange("result", INSTANCE, {"result_id": "r"}, 200, {"next_state": "PSU"})
    assert [*checks.of_answers([answer, answer], ["r"])] == []
    assert [*checks.of_answers([answer, replace(answer, answer={"next_state": "GPU"})], ["r"])]
    assert [*checks.of_answers([answer], [])]


def test_an_end_that_is_not_the_scripts_is_found() -> None:
    done = {"state": "Completed", "directives": []}
    assert [*checks.of_end(SCRIPT["pass"], done, 0, ["systemctl poweroff"])] == []
    assert [*checks.of_end(SCRIPT["pass"], done | {"state": "PSU"}, 0, ["systemctl poweroff"])]
    assert [*checks.of_end(SCRIPT["pass"], done, 3, ["systemctl poweroff"])]
    assert [*checks.of_end(SCRIPT["pass"], done, 0, [])]
    assert [*checks.of_end(SCRIPT["abort"], {"state": "Aborted", "directives": []}, 0, ["systemctl poweroff"])]
    waiting = {"state": "Aborted", "directives": [{"cmd": "abort", "status": "waiting"}]}
    assert [*checks.of_end(SCRIPT["abort"], waiting, 0, [])]


def test_evidence_that_is_gone_damaged_or_anothers_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "01-PSU"
    folder.mkdir()
    (folder / "outcome.json").write_text("{}")
    package = pack(folder)
    kept = tmp_path / f"{package.digest}.tar.gz"
    kept.write_bytes(package.archive)
    row, result = ("PSU", "r", package.digest), ("PSU", "r")
    assert [*checks.of_evidence(tmp_path, [row], [result], [])] == []
    assert [*checks.of_evidence(tmp_path, [("GPU", "r", package.digest)], [], [])]
    assert [*checks.of_evidence(tmp_path, [], [result], [])]
    stayed = lines(1, text="the evidence of PSU was not sent and stays in /x: not done within 30 s")
    assert [*checks.of_evidence(tmp_path, [], [result], stayed)] == []
    half = package.archive[:-20]
    digest = hashlib.sha256(half).hexdigest()
    (tmp_path / f"{digest}.tar.gz").write_bytes(half)
    assert [*checks.of_evidence(tmp_path, [("PSU", "r", digest)], [], [])]
    kept.write_bytes(half)
    assert [*checks.of_evidence(tmp_path, [row], [], [])]
    kept.unlink()
    assert [*checks.of_evidence(tmp_path, [row], [], [])]


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        database.execute("CREATE TABLE b (a INTEGER REFERENCES a)")
        assert [*checks.of_database(tmp_path / "db")] == []
        database.execute("INSERT INTO b VALUES (7)")
        database.commit()
    assert "belongs to nothing" in next(checks.of_database(tmp_path / "db"))


@pytest.fixture
def left_over(tmp_path: Path) -> Iterator[Path]:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "HOME": str(tmp_path)})
    try:
        yield tmp_path
    finally:
        process.kill()
        process.wait()


def test_what_is_left_running_is_found_by_its_home(left_over: Path) -> None:
    assert wait_for(lambda: of_home(str(left_over)), "the process")[0].endswith("sleep 60")
    assert of_home(str(left_over / "other")) == []


def test_the_page_names_what_failed() -> None:
    good = Verdict(plan("pass"), 3.0, (), 1, 1, 0, 0.1, 50, 3, (Kill(AGENT, "result", 1),))
    page = page_of([good, replace(good, complaints=("a line is lost",))], 60.0, 1, 300)
    assert "2 runs of 300 asked for, 1 failed" in page
    assert "Run `0:0` failed: a line is lost" in page
    assert "| before result | 2 |" in page


def test_the_command_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.crash", "--help"], capture_output=True, text=True, timeout=60)
    assert "SEED:INDEX" in done.stdout

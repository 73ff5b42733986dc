"""Plays one run and judges it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import checks
from tests.crash.checks import Line
from tests.crash.plan import AGENT, ORCHESTRATOR, Kill, Plan
from tests.crash.play import Play, PlayFailed, of_home, staged
from tests.walk.rig import Orchestrator, wait_for


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one run. `complaints` empty: all as it must be."""

    plan: Plan
    seconds: float
    complaints: tuple[str, ...]
    agent_kills: int
    orchestrator_kills: int
    not_reached: int
    """Kills whose moment never came."""
    gone_s: float
    """The longest that something which a killed agent had started lived on."""
    lines: int
    results: int
    done: tuple[Kill, ...]
    diary: tuple[str, ...] = field(default=(), repr=False)


def played(plan: Plan, folder: Path, serve: Callable[[Path], Orchestrator] = Orchestrator) -> Verdict:
    """The verdict on one run; its folder stays when there are complaints."""
    began = time.monotonic()
    complaints: list[str] = []
    view: dict[str, Any] = {}
    with staged(plan, folder, serve=serve) as play:
        try:
            play.operate()
            play.over.set()
            with play.server_lock, play.agent_lock:  # a kill that is at work is waited for
                view = wait_for(play.view, "the orchestrator", 120)
        except (PlayFailed, AssertionError) as problem:
            complaints.append(str(problem))
    facts = _Facts.of(folder / "data" / "orchestrator.db")
    if view:
        complaints += [*_complaints(play, view, facts)]
    left = [one for home in sorted(play.agent.folder.glob("home-*")) for one in of_home(str(home))]
    complaints += [f"still running: {one}" for one in [*play.left, *left]]
    if not complaints:
        shutil.rmtree(folder)
    return Verdict(
        plan,
        time.monotonic() - began,
        tuple(complaints),
        sum(kill.victim != ORCHESTRATOR for kill in play.done),
        sum(kill.victim != AGENT for kill in play.done),
        len(plan.kills) - len(play.done),
        max(play.gone_s, default=0.0),
        len(facts.lines),
        len(facts.results),
        tuple(play.done),
        tuple(play.diary),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database holds once its server has ended."""

    path: Path
    lines: list[Line]
    results: list[tuple[str, str, bool]]
    """Stage, result_id, passed."""
    evidence: list[tuple[str, str, str]]

    @classmethod
    def of(cls, path: Path) -> _Facts:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT stage, result_id, body FROM results ORDER BY received_at").fetchall()
            return cls(
                path,
                [Line(*row) for row in database.execute("SELECT instance_id, seq, ts, text FROM logs ORDER BY id")],
                [(stage, result_id, bool(json.loads(body)["passed"])) for stage, result_id, body in rows],
                database.execute("SELECT stage, result_id, sha256 FROM evidence").fetchall(),
            )


def _complaints(play: Play, view: dict[str, Any], facts: _Facts) -> Iterator[str]:
    script, exchanges = play.plan.script, list(play.relay.heard.exchanges)
    posted = [(stage, result_id) for stage, result_id, _ in facts.results if not result_id.startswith("orchestrator-")]
    yield from checks.of_database(facts.path)
    yield from checks.of_end(script, view, play.exit_code, play.agent.power_log)
    yield from checks.of_results(script, [(stage, passed) for stage, _, passed in facts.results])
    yield from checks.of_answers(exchanges, [result_id for _, result_id, _ in facts.results])
    yield from checks.of_lines(facts.lines, exchanges)
    yield from checks.of_sayings(facts.lines, play.agent.sayings(), play.exit_code == 0)
    folder = facts.path.parent / "evidence" / str(play.run_id)
    yield from checks.of_evidence(folder, facts.evidence, posted, facts.lines)
    keys = play.agent.keys
    if play.exit_code == 0 and keys.exists() and keys.read_text():
        yield f"the hold key is still there: {keys.read_text()!r}"

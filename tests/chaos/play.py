"""Plays a row, and looks afterwards whether anything was lost, doubled or left behind."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.net import Net
from tests.chaos.row import Row
from tests.chaos.scene import NotRight, Scene
from tests.walk.rig import wait_for

STATES_AT_REST = {"FailedHolding"}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a row; `trouble` empty: as it says."""

    row: str
    trouble: str
    state: str
    found: str
    clear_s: float | None
    recovery_s: float | None
    wall_s: float
    correlation: str
    """Where the message is found again under the agent's instance id; empty: nowhere."""


def play(row: Row, folder: Path, patience: float = 1.0) -> Result:
    """In a folder and in namespaces of its own; never raises for what the row does.

    `patience`: a factor for its limits, on a machine that is busy with other things.
    """
    folder.mkdir(parents=True)
    began, trouble, state, correlation = time.monotonic(), "", "", ""
    with Net() as net:
        scene = Scene(row, folder, net, patience)
        try:
            row.tell(scene)
            state = _end_of(scene)
            correlation = _correlation(scene)
            trouble = "; ".join(_wrong(scene, state))
        except Exception as problem:
            (folder / "trouble").write_text(traceback.format_exc())
            trouble = f"{type(problem).__name__}: {problem}"[:600]
        finally:
            scene.end()
        trouble = trouble or "; ".join(_wrong_database(folder))
    wall_s = time.monotonic() - began
    return Result(row.name, trouble, state, scene.found, scene.clear_s, scene.recovery_s, wall_s, correlation)


def _end_of(scene: Scene) -> str:
    """Wait for the run's end, and for that of its agent where it ends."""
    if scene.clear_s is None:
        raise NotRight("the story never waited for its message")
    end = scene.row.end
    try:
        wait_for(lambda: scene.view["state"] == end, f"the run {end}", scene.left_s())
    except AssertionError as problem:
        raise NotRight(f"{problem}; it stands at {scene.view['state']}") from None
    if end not in STATES_AT_REST:
        last = scene.last or scene.agents[-1]
        code = last.wait(60)
        if code != 0:
            raise NotRight(f"the last agent ended with {code}")
    return str(scene.view["state"])


def _correlation(scene: Scene) -> str:
    if scene.correlation:
        return scene.correlation
    view = scene.view
    words = re.compile(scene.row.words.text)
    wanted = {line["instance_id"] for line in scene.server.logs(scene.run_id) if words.search(line["text"])}
    if wanted:
        return f"log of the run, instance {sorted(wanted)[0][:8]}…"
    instance = str(view["agent"]["instance_id"])
    if any(instance in one["text"] for one in view["events"] if words.search(one["text"])):
        return f"history of the run, instance {instance[:8]}…"
    return ""


def _wrong(scene: Scene, state: str) -> Iterator[str]:
    """All that is not as it should be."""
    row, view = scene.row, scene.view
    if state != row.end:
        yield f"the run ended {state}, not {row.end}"
    if (most := max(stage["attempts"] for stage in view["stages"])) != row.stage_runs:
        yield f"a stage has {most} results, not {row.stage_runs}"
    by_instance: dict[str, list[int]] = {}
    for line in scene.server.logs(scene.run_id):
        by_instance.setdefault(line["instance_id"], []).append(line["seq"])
    for instance, numbers in by_instance.items():
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"log lines of {instance} are lost, doubled or out of order"
    for agent in scene.agents:
        if agent.run["token"] in agent.errors:
            yield "the token stands in the agent's log"
        if agent.process is not None and agent.process.poll() is not None and agent.descendants():
            yield "processes are left of an agent that has ended"
        if "Traceback" in agent.errors:
            yield "the agent has a traceback in its log"
    if "Traceback" in scene.server.errors:
        yield "the server has a traceback in its log"


def _wrong_database(folder: Path) -> Iterator[str]:
    """As the server left it, its last writes included."""
    path = folder / "o" / "orchestrator.db"
    if not path.exists():
        yield "there is no database"
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        if (said := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            yield f"the database is damaged: {said}"

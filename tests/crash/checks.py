"""What must hold at the end of a run, however often whom was killed: each check gives its complaints in words."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sqlite3
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.plan import Script
from tests.crash.relay import Exchange
from tests.crash.subject import LOAD

STAGES = ("Inventory", LOAD, "PSU")
DROPPED = re.compile(r"(\d+) log lines were dropped, \d+ in all")
STAYED = re.compile(r"the evidence of (\w+) was not sent and stays")
LAST_WORDS = ("powering off", "the power-off", "systemctl", "heartbeat")
"""What an agent says after its log was sent for the last time."""
NEVER_IN = ("run_over: hello was answered", "run_over: claim was answered")
"""What it says when its claim comes too late: it has nobody to tell."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log as the database has it."""

    instance: str
    seq: int
    ts: str
    text: str


def of_database(path: Path) -> Iterator[str]:
    """The file itself."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (said,) in database.execute("PRAGMA integrity_check"):
            if said != "ok":
                yield f"the database is damaged: {said}"
        for row in database.execute("PRAGMA foreign_key_check"):
            yield f"the database has a row that belongs to nothing: {row}"


def of_end(script: Script, view: Mapping[str, Any], exit_code: int | None, power_log: Sequence[str]) -> Iterator[str]:
    """The state of the run, the end of the agent, and the power."""
    if view["state"] != script.ends_in:
        yield f"the run ended as {view['state']}, not as {script.ends_in}"
    if exit_code not in {0, -9}:
        yield f"the agent ended with {exit_code}"
    waiting = [one["cmd"] for one in view["directives"] if one["status"] == "waiting"]
    if waiting and script.ends_in != "Completed":
        yield f"orders were left open: {waiting}"
    off = script.name in {"pass", "retry", "shutdown", "crash loop"}
    if off and not power_log:
        yield "the host was not powered off"
    if script.name == "abort" and power_log:
        yield "the host was powered off, though it was to stay up"


def of_results(script: Script, rows: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """`rows`: stage and `passed` of each result that was kept. Every execution that counts is there once."""
    wanted = Counter({(stage, True): 1 for stage in STAGES})
    if script.breaks or script.loops:
        wanted[(LOAD, False)] += 1
    if script.order:
        wanted = Counter({("Inventory", True): 1})
    seen = Counter(rows)
    if script.order == "cancel_stage":
        seen[(LOAD, False)] -= min(1, seen[(LOAD, False)])  # there is one unless its agent was killed in between
    for what in {*wanted, *seen}:
        if wanted[what] != seen[what]:
            yield f"results of {what}: {seen[what]}, not {wanted[what]}"


def of_answers(exchanges: Iterable[Exchange], kept: Sequence[str]) -> Iterator[str]:
    """A result is answered alike however often it is posted, and what was answered is kept."""
    answers: dict[str, set[str]] = {}
    for one in exchanges:
        if one.verb == "result" and one.status == 200:
            answers.setdefault(str(one.body["result_id"]), set()).add(str(one.answer.get("next_state")))
    for result_id, states in answers.items():
        if len(states) > 1:
            yield f"result {result_id} was answered with {sorted(states)}"
        if result_id not in kept:
            yield f"result {result_id} was answered, but is not kept"


def of_lines(lines: Sequence[Line], exchanges: Iterable[Exchange]) -> Iterator[str]:
    """Each line once and in order, gaps as announced, and every one that was answered is there."""
    by_instance: dict[str, list[Line]] = {}
    for line in lines:
        by_instance.setdefault(line.instance, []).append(line)
    for instance, own in by_instance.items():
        seqs = [line.seq for line in own]
        if len(set(seqs)) < len(seqs):
            yield f"{instance}: a line is there twice"
        if seqs != sorted(seqs):
            yield f"{instance}: lines are out of order"
        announced = sum(int(match[1]) for line in own if (match := DROPPED.search(line.text)))
        missing = max(seqs) - len(set(seqs))
        if missing > announced:
            yield f"{instance}: {missing} lines are missing, and {announced} were announced"
    known = {(line.instance, line.seq) for line in lines}
    for one in exchanges:
        if one.verb == "log" and one.status == 200:
            lost = [line["seq"] for line in one.body["lines"] if (one.instance, line["seq"]) not in known]
            if lost:
                yield f"{one.instance}: lines {lost} were answered, but are not kept"


def of_sayings(lines: Sequence[Line], sayings: Sequence[Sequence[str]], ended_well: bool) -> Iterator[str]:
    """The log is what the agents said, from the first word on; all of it where the last one ended well."""
    sayings = [[*_for_the_log(said)] for said in sayings]
    said_by_start = {said[0].split(" ")[0]: said for said in sayings if said}
    by_instance: dict[str, list[Line]] = {}
    for line in lines:
        by_instance.setdefault(line.instance, []).append(line)
    for instance, own in by_instance.items():
        said = said_by_start.get(own[0].ts)
        if said is None:
            yield f"{instance}: nobody said its first line, {own[0].text!r}"
            continue
        for line in own:
            spoken = said[line.seq - 1] if line.seq <= len(said) else ""
            if not (spoken.startswith(line.ts) and spoken.endswith(line.text)):
                yield f"{instance}: line {line.seq} is {line.text!r}, and the agent said {spoken!r}"
                break
    if ended_well and sayings and sayings[-1] and not any(word in one for one in sayings[-1] for word in NEVER_IN):
        last = [line for line in lines if line.ts == sayings[-1][0].split(" ")[0] and line.seq == 1]
        kept = max((line.seq for line in lines if last and line.instance == last[0].instance), default=0)
        unsent = [one for one in sayings[-1][kept:] if not any(word in one for word in LAST_WORDS)]
        if unsent:
            yield f"the agent that ended well kept {len(unsent)} lines to itself: {unsent[0]!r}"


def _for_the_log(said: Sequence[str]) -> Iterator[str]:
    """Without the tables of preflights: these are for a person at the machine, and the log gets the line below them."""
    is_table = False
    for line in said:
        text = " ".join(line.split(maxsplit=2)[2:])
        is_table = text.startswith("Preflight of the agent") or (is_table and not text.startswith("preflight: "))
        if not is_table:
            yield line


def of_evidence(
    folder: Path, evidence: Sequence[tuple[str, str, str]], results: Sequence[tuple[str, str]], lines: Sequence[Line]
) -> Iterator[str]:
    """`evidence`: stage, result_id and digest of each; `results`: stage and result_id of those that agents posted.

    Evidence that could not be sent in its 30 s stays on the host; the log says so.
    """
    for stage, result_id, digest in evidence:
        path = folder / f"{digest}.tar.gz"
        if not path.exists():
            yield f"the evidence of {stage} {result_id} is not there"
            continue
        yield from _of_archive(path.read_bytes(), stage, digest)
    proven = {(stage, result_id) for stage, result_id, _ in evidence}
    stayed = {match[1] for line in lines if (match := STAYED.match(line.text))}
    missing = [one for one in results if one not in proven and one[0] not in stayed]
    yield from (f"the result {one} has no evidence" for one in missing)


def _of_archive(content: bytes, stage: str, digest: str) -> Iterator[str]:
    if hashlib.sha256(content).hexdigest() != digest:
        yield f"an archive of {stage} is not what its name says"
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            names = archive.getnames()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as problem:
        yield f"an archive of {stage} cannot be read: {problem}"
        return
    if not names or any(name.split("/")[0].partition("-")[2] != stage for name in names):
        yield f"an archive of {stage} holds {names}"

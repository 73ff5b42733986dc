"""Makes cases by Hypothesis and puts them to a parser; keeps what breaks it.

    python -m tests.fuzz.drive [PARSER…]        VETTING_FUZZ_CASES (100,000 in all) VETTING_FUZZ_SEED (a day's own)
                                                VETTING_FUZZ_JOBS (processes; one for each CPU)

A broken case is written to tests/fuzz/cases/PARSER/, where tests/fuzz/test_fuzz.py replays it for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import JSON_KINDS, TEXT_KINDS, Mutant, Recording, Step, mutate
from tests.fuzz.parser import PASS, READ, Broken, Parser, check
from tests.fuzz.table import PARSERS

CASES = Path(__file__).with_name("cases")
ALL_CASES = 105_000
COSTLY_EVERY = 40
_WIDE = st.integers(0, 2**32 - 1)


@dataclass
class Tally:
    """What came of the cases of one parser."""

    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    broken: str = ""

    @property
    def cases(self) -> int:
        return self.ends.total()


def steps_of(parser: Parser) -> st.SearchStrategy[list[Step]]:
    """A few steps. JSON is changed within its form three times of four: broken JSON is refused by all alike."""
    as_text = _some([*TEXT_KINDS, "mix"], "long_line")
    if not parser.is_json:
        return as_text
    as_json = _some(JSON_KINDS, "json_deep")
    return st.integers(0, 3).flatmap(lambda which: as_json if which else as_text)


def _some(kinds: Sequence[str], seldom: str) -> st.SearchStrategy[list[Step]]:
    """One to four steps of these kinds, and now and then one that makes a megabyte."""
    kind = st.sampled_from([*list(kinds) * (COSTLY_EVERY // len(kinds) + 1), seldom])
    return st.lists(st.tuples(kind, _WIDE, _WIDE), min_size=1, max_size=4)


def strangers(recordings: Sequence[Recording]) -> list[Recording]:
    """What may be mixed in: other output of the same tool, and of others."""
    return [*recordings, *_foreign()]


@cache
def _foreign() -> tuple[Recording, ...]:
    return tuple(parser.recordings()[0] for parser in PARSERS if not parser.name.startswith("machine"))


def fuzz(parser: Parser, cases: int, number: int, *, keep: bool = True) -> Tally:
    """Put `cases` mutants to the parser; its first break is shrunk, kept in `cases/`, and named in the tally."""
    tally = Tally()
    recordings = graded(parser)
    others = strangers(recordings)
    last: list[Mutant] = []

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.sampled_from(recordings), steps_of(parser))
    def one(recording: Recording, steps: list[Step]) -> None:
        mutant = mutate(recording, steps, others)
        last[:] = [mutant]
        tally.ends[check(parser, mutant)] += 1

    started = time.monotonic()
    try:
        one()
    except Broken as problem:
        tally.broken = str(problem)
        if keep:
            tally.broken += f" -- kept as {keep_case(parser, last[0], str(problem))}"
    tally.seconds = time.monotonic() - started
    return tally


def graded(parser: Parser) -> list[Recording]:
    """The recordings, those marked sick that the parser does not pass as they are."""
    found = []
    for recording in parser.recordings():
        end = check(parser, Mutant(replace(recording, sick=False), recording.data, False))
        found.append(replace(recording, sick=end not in {PASS, READ, "not_applicable", "passed"}))
    return found


def keep_case(parser: Parser, mutant: Mutant, why: str) -> Path:
    """Write the mutant where the tests replay it."""
    name = hashlib.sha256(mutant.data + mutant.recording.name.encode()).hexdigest()[:12]
    path = CASES / parser.name / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "why": why,
        "recording": mutant.recording.name,
        "only_lost": mutant.only_lost,
        "steps": mutant.steps,
        "data": mutant.data.decode("latin-1"),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path.relative_to(CASES.parent)


def kept_cases(parser: Parser) -> list[tuple[str, Mutant]]:
    """All that once broke this parser."""
    known = {recording.name: recording for recording in graded(parser)}
    found = []
    for path in sorted((CASES / parser.name).glob("*.json")):
        case = json.loads(path.read_text())
        steps = tuple((kind, place, choice) for kind, place, choice in case["steps"])
        mutant = Mutant(known[case["recording"]], case["data"].encode("latin-1"), case["only_lost"], steps)
        found.append((path.name, mutant))
    return found


def shares(cases: int, parsers: Sequence[Parser] = PARSERS) -> dict[str, int]:
    """How many of `cases` each parser gets."""
    whole = sum(parser.share for parser in parsers)
    return {parser.name: max(1, -(-cases * parser.share // whole)) for parser in parsers}


def main(names: Sequence[str]) -> int:
    """Run them all; 1 when something broke."""
    cases = int(os.environ.get("VETTING_FUZZ_CASES", ALL_CASES))
    number = int(os.environ.get("VETTING_FUZZ_SEED", f"{datetime.now(UTC):%Y%m%d}"))
    jobs = int(os.environ.get("VETTING_FUZZ_JOBS", os.cpu_count() or 1))
    parsers = sorted((one for one in PARSERS if not names or one.name in names), key=lambda one: -one.share)
    print(f"VETTING_FUZZ_SEED={number} VETTING_FUZZ_CASES={cases} VETTING_FUZZ_JOBS={jobs}", flush=True)
    started = time.monotonic()
    tallies = list(_tallies(parsers, shares(cases, parsers), number, jobs))
    whole, broken = sum(tally.cases for tally in tallies), sum(bool(tally.broken) for tally in tallies)
    print(f"{whole} cases in {time.monotonic() - started:.0f} s, {broken} of {len(parsers)} parsers broken")
    return 1 if broken else 0


def _tallies(parsers: Sequence[Parser], each: Mapping[str, int], number: int, jobs: int) -> Iterator[Tally]:
    """What came of each parser, each in one of `jobs` processes, told as it comes."""
    # Processes that are forked run no exit handlers: what they leave lies in a folder that goes with this one.
    with tempfile.TemporaryDirectory(prefix="vetting-fuzz-") as tempfile.tempdir:
        _foreign()
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            running = {pool.submit(_by_name, one.name, each[one.name], number): one.name for one in parsers}
            for done in as_completed(running):
                _tell(running[done], done.result())
                yield done.result()
    tempfile.tempdir = None


def _by_name(name: str, cases: int, number: int) -> Tally:
    return fuzz(next(parser for parser in PARSERS if parser.name == name), cases, number)


def _tell(name: str, tally: Tally) -> None:
    ends = ", ".join(f"{count} {end}" for end, count in tally.ends.most_common(5))
    print(f"{name:24}{tally.cases:8} cases{tally.seconds:8.1f} s   {ends}", flush=True)
    if tally.broken:
        print(f"  BROKEN: {tally.broken}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

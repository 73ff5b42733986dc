"""Kills agents and orchestrators in the middle of runs, and looks whether anything was lost or doubled.

    python -m tests.crash [--runs 300] [--seed N] [--jobs 1] [--minutes M] [--examples 1500] [--write FILE]
    python -m tests.crash --replay SEED:INDEX

Before the runs the model (machine.py) is put through `--examples` sequences of its own. A run that fails is named by
its seed and index, and its folder stays; `--replay` plays it again and tells its diary.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tests.crash.page import page_of
from tests.crash.plan import Plan, plan_of
from tests.crash.verdict import Verdict, played

SEED = 20261121


def main(argv: list[str] | None = None) -> int:
    """Exit 0 when no run failed."""
    arguments = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    if arguments.replay:
        seed, _, index = arguments.replay.partition(":")
        plans = [plan_of(int(seed), int(index))]
    else:
        plans = [plan_of(arguments.seed, index) for index in range(arguments.runs)]
    if not arguments.replay and arguments.examples:
        deep(arguments.examples)
    began, verdicts = time.monotonic(), []
    for verdict in _played(plans, folder, arguments.jobs, began + 60 * arguments.minutes):
        verdicts.append(verdict)
        _tell(verdict, folder, whole=bool(arguments.replay))
    failed = [one for one in verdicts if one.complaints]
    took = time.monotonic() - began
    print(f"{len(verdicts)} runs in {took:.0f} s, {len(failed)} failed")
    if arguments.write:
        page = page_of(verdicts, took, arguments.jobs, len(plans), 0 if arguments.replay else arguments.examples)
        Path(arguments.write).write_text(page)
    return 1 if failed else 0


def deep(examples: int) -> None:
    """So many sequences of the model. Raises what the first that fails raises, told as its shortest form."""
    from hypothesis import HealthCheck, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.crash.machine import RunOnAWire

    began = time.monotonic()
    checks = list(HealthCheck)
    how = settings(max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(RunOnAWire, settings=settings(how, database=None, print_blob=False))
    print(f"{examples} sequences of the model in {time.monotonic() - began:.0f} s: none fails, none is stuck")


def _played(plans: list[Plan], folder: Path, jobs: int, until: float) -> Iterator[Verdict]:
    """Verdicts as they come; no run begins after `until`."""
    waiting, running = list(plans), set[Future[Verdict]]()
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until:
                plan = waiting.pop(0)
                running.add(pool.submit(played, plan, folder / str(plan.index)))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (one.result() for one in done)


def _tell(verdict: Verdict, folder: Path, *, whole: bool) -> None:
    plan = verdict.plan
    word, kills = "FAILED" if verdict.complaints else "ok", "; ".join(map(str, plan.kills))
    print(f"{word} {plan.name} {plan.script.name}, {verdict.seconds:.1f} s: {kills}")
    for complaint in verdict.complaints:
        print(f"    {complaint}")
    if verdict.complaints:
        print(f"    see {folder / str(plan.index)}, or: python -m tests.crash --replay {plan.name}")
    if whole or verdict.complaints:
        print("\n".join(f"    | {line}" for line in verdict.diary))
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no run after so long")
    parser.add_argument("--examples", type=int, default=1500, help="sequences of the model; 0: none")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="play this run alone")
    parser.add_argument("--write", metavar="FILE", help="write the table of results")
    return parser


if __name__ == "__main__":
    sys.exit(main())

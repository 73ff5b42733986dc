"""The page that says what a series of runs showed."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.crash.plan import SCRIPTS
from tests.crash.verdict import Verdict

HEAD = """# Killed in the middle

Written by `make crash`. Each run is a real orchestrator and a real agent as processes, with real TLS between them, that
walk Inventory, a short real load (in the place of CPUStress: a tenth of the time, one process that burns and one that
has left its session) and PSU. Agent, orchestrator or both get SIGKILL at moments drawn from a seed and counted in what
passes between them: "before the second result is handed on", "after the answer to the first claim, which is never
handed back". Who was killed is started again at once. `python -m tests.crash --replay SEED:INDEX` plays one run again.

What is looked at when a run is over:

* the state of the run is the one that its script ends in without kills; the agent ended well; the host was powered off,
  or was not, as the script says; no hold key is left;
* each execution that counts left one result, and the same result was always answered alike;
* of each agent process the log is what it said, from its first line on, each line once and in order, gaps only as
  announced; all lines that were answered are there, and all lines at all of the last process;
* what a killed agent had started is gone (found by the HOME that each process gets for itself);
* the database passes `PRAGMA integrity_check` and `foreign_key_check`;
* every archive of evidence is what its digest says, can be read, and belongs to its stage; each result has one, unless
  the log says that it could not be sent within its 30 s.

The pauses between an agent's attempts are 0.2 to 1 s here and not 2 to 30 s.
"""
TAIL = """
That these checks can fail is shown by `tests/crash/test_crash.py`: an orchestrator that forgets which results it has
answered, one that keeps a log line twice, and facts with one fault each.

`tests/crash/machine.py` is the other half: Hypothesis puts calls, losses, late and doubled calls, crashes, reboots,
silence and orders in any order before the orchestrator's service over a real database, and an honest agent and operator
must bring each run to an end from wherever that leads.
"""


def page_of(verdicts: Sequence[Verdict], took_s: float, jobs: int, asked: int, examples: int = 0) -> str:
    """Markdown."""
    failed = [one for one in verdicts if one.complaints]
    seeds = sorted({one.plan.seed for one in verdicts})
    times = [one.seconds for one in verdicts] or [0.0]
    head = (
        f"**{len(verdicts)} runs of {asked} asked for, {len(failed)} failed** (seed {', '.join(map(str, seeds))}; "
        f"{took_s / 60:.0f} min with {jobs} at a time on {os.cpu_count()} CPUs, load {os.getloadavg()[1]:.0f}; "
        f"median {statistics.median(times):.0f} s a run)."
    )
    gone = max((one.gone_s for one in verdicts), default=0.0)
    agents, orchestrators = (sum(getattr(one, f"{who}_kills") for one in verdicts) for who in ("agent", "orchestrator"))
    figures = (
        f"{agents} agents and {orchestrators} orchestrators were killed; "
        f"{sum(one.not_reached for one in verdicts)} more kills were planned for moments that never came. "
        f"{sum(one.results for one in verdicts)} results and {sum(one.lines for one in verdicts)} log lines were "
        f"looked at. The last process that a killed agent had started was gone after {gone:.1f} s at most."
    )
    parts = [HEAD, head, figures, *_tables(verdicts), *_failures(failed)]
    said = f"\n{examples} sequences were put to it in this run, and none failed.\n" if examples else ""
    return "\n\n".join(part.strip() for part in parts) + "\n" + TAIL + said


def _tables(verdicts: Sequence[Verdict]) -> Iterable[str]:
    rows = ["| script | ends in | runs | failed | agents killed | orchestrators killed |", "|---|---|---|---|---|---|"]
    for script in SCRIPTS:
        own = [one for one in verdicts if one.plan.script.name == script.name]
        kills = f"{sum(one.agent_kills for one in own)} | {sum(one.orchestrator_kills for one in own)}"
        bad = sum(bool(one.complaints) for one in own)
        rows.append(f"| {script.name} | {script.ends_in} | {len(own)} | {bad} | {kills} |")
    yield "\n".join(rows)
    moments = Counter(f"{kill.phase} {kill.verb}" for one in verdicts for kill in one.done)
    rows = ["| killed | times |", "|---|---|", *(f"| {what} | {count} |" for what, count in sorted(moments.items()))]
    yield "\n".join(rows)


def _failures(failed: Sequence[Verdict]) -> Iterable[str]:
    for one in failed:
        yield f"Run `{one.plan.name}` failed: " + "; ".join(one.complaints)

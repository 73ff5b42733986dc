"""Known answers: what each CPU computes, alone and with all others, held against the right answer and its neighbours.

stress-ng compares a CPU's work with work of the same CPU, so that one that is wrong every time agrees with itself; and
many of its stressors check nothing. Here each CPU gives digests (`compute_child.py`), which are compared with answers
recorded on other machines and with what the other CPUs say.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probes.cpu import CpuPlace
from probes.json_paths import count, dig, parsed
from probes.tools import ToolError
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import StageContext

CHILD = Path(__file__).with_name("compute_child.py")
FREEZE_S = 20.0
"""So long after its time a worker may still be busy: machines whose CPUs are shared are slow, not frozen."""
AGAIN_S = 1.0
MOST_AGAIN = 16
CRASHES = frozenset({"signal 4", "signal 5", "signal 7", "signal 8", "signal 11"})
"""SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: what a wrong result does to a program. Not SIGKILL, which others send."""

RIGHT: Mapping[str, tuple[str, str]] = {
    "integer": ("0:6a678306b43cfd50", "1:1363cd9e739ce79f"),
    "big_integer": ("0:e37ccd118a7f78b8", "1:050b039a9cef4724"),
    "floating": ("0:2122cd49a87e82fa", "1:152e6b01c419aa1b"),
    "moves": ("0:3bf0f55abbfcbcde", "1:e0efb655147f6598"),
    "hashes": ("0:5ff1707a57961066", "1:b871825425f00470"),
    "compression": ("0:b337c4090ed22b83", "1:947227e5c3dbfc85"),
}
"""The answers for both inputs, recorded with CPython 3.11 on an AMD EPYC; they depend on no version and no maker.
`functions` and `packed` have none: the C library and the compressors may differ."""


INPUTS = frozenset({"0", "1"})
"""The names of the inputs, with which each answer begins."""


@dataclass(frozen=True, slots=True)
class CpuAnswers:
    """What one CPU said: how it ended ("ok"), and by task each answer with how often it came."""

    cpu: int
    rounds: int
    ended: str
    answers: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswersReading:
    """All that the CPUs said: each alone, all together, and those that were suspect once more, alone."""

    alone: tuple[CpuAnswers, ...] = ()
    together: tuple[CpuAnswers, ...] = ()
    again: tuple[CpuAnswers, ...] = ()
    problems: tuple[Finding, ...] = ()


async def measure(
    context: StageContext, cpus: Sequence[int], alone_s: float, together_s: float, freeze_s: float = FREEZE_S
) -> AnswersReading:
    """Ask all CPUs, and the suspects twice."""
    problems: list[Finding] = []

    async def ask(mode: str, asked: Sequence[int], seconds: float) -> tuple[CpuAnswers, ...]:
        if not asked:
            return ()
        try:
            return await _ask(context, mode, asked, seconds, freeze_s)
        except ToolError as problem:
            problems.append(tool_finding(problem, "cpu"))
        except ValueError as problem:
            text = f"The known-answer test ({mode}) printed what cannot be read: {problem}"
            problems.append(error(ReasonCode.OUTPUT_UNREADABLE, "cpu", text))
        return ()

    context.info(f"known answers on all {len(cpus)} CPUs together, then on each alone")
    together = await ask("together", cpus, together_s)
    alone = await ask("alone", cpus, alone_s)
    suspects = sorted(suspect_cpus((*alone, *together)))[:MOST_AGAIN]
    if suspects:
        context.error(f"known answers: CPU {', '.join(map(str, suspects))} failed; each is tried once more, alone")
        context.plan.set(context.plan.planned_s + len(suspects) * (AGAIN_S + freeze_s))
    again = await ask("alone", suspects, AGAIN_S * len(suspects))
    return AnswersReading(alone, together, again, tuple(problems))


async def _ask(
    context: StageContext, mode: str, cpus: Sequence[int], seconds: float, freeze_s: float
) -> tuple[CpuAnswers, ...]:
    listed = ",".join(map(str, cpus))
    argv = (sys.executable, "-I", "-S", "-B", str(CHILD), mode, f"{seconds:g}", f"{freeze_s:g}", listed)
    limit_s = 2 * seconds + 10 + freeze_s + 30
    result = await context.host.tools.run(*argv, timeout_s=limit_s, load=True)
    return parse(result.stdout)


def parse(text: str) -> tuple[CpuAnswers, ...]:
    """The child's lines. Raises ValueError."""
    return tuple(_line(parsed(line)) for line in text.splitlines())


def _line(said: object) -> CpuAnswers:
    cpu, rounds, ended, answers = (dig(said, name) for name in ("cpu", "rounds", "ended", "answers"))
    if count(cpu) is None or count(rounds) is None or not isinstance(ended, str) or not isinstance(answers, dict):
        raise ValueError(f"no answers of a CPU: {said!r:.200}")
    for task, given in answers.items():
        if not isinstance(given, dict) or not all(_seed(one) in INPUTS and count(given[one]) for one in given):
            raise ValueError(f"no answers to {task!r:.40}: {given!r:.200}")
    return CpuAnswers(cpu, rounds, ended, answers)


# --- judge -----------------------------------------------------------------------------------------------------------


def cpus_tested(answers: Iterable[CpuAnswers]) -> set[int]:
    """The CPUs that came to their end with at least one round of every task that has a recorded answer."""
    return {
        one.cpu for one in answers if one.ended == "ok" and one.rounds > 0 and all(one.answers.get(t) for t in RIGHT)
    }


def suspect_cpus(answers: Sequence[CpuAnswers]) -> set[int]:
    """CPUs with a wrong answer, and those whose worker crashed or froze."""
    return set(wrong_answers(answers)) | {one.cpu for one in answers if one.ended in {*CRASHES, "frozen"}}


def wrong_answers(answers: Sequence[CpuAnswers]) -> dict[int, dict[str, int]]:
    """By CPU and task, how many answers were wrong."""
    right = _right(answers)
    found: dict[int, dict[str, int]] = {}
    for one in answers:
        for task, given in one.answers.items():
            wrong = sum(n for answer, n in given.items() if right.get((task, _seed(answer)), answer) != answer)
            if wrong:
                of_cpu = found.setdefault(one.cpu, {})
                of_cpu[task] = of_cpu.get(task, 0) + wrong
    return found


def _seed(answer: str) -> str:
    return answer.partition(":")[0]


def _right(answers: Sequence[CpuAnswers]) -> dict[tuple[str, str], str]:
    """The right answer by (task, input): the recorded one, else what more than half of the CPUs say at all times.

    A CPU that contradicts itself has no vote; where all do, what was said most often is taken for right. Where all of
    several CPUs agree on another answer than the recorded one, that is software, not all CPUs alike: no answer is
    right then, and none wrong (`disputed` tells of it).
    """
    right: dict[tuple[str, str], str] = {}
    for (task, seed), by_cpu in _said(answers).items():
        votes = Counter(next(iter(given)) for given in by_cpu.values() if len(given) == 1)
        recorded = next((a for a in RIGHT.get(task, ()) if _seed(a) == seed), None)
        if recorded is not None:
            if recorded in votes or len(votes) != 1 or votes.total() == 1 or votes.total() < len(by_cpu):
                right[task, seed] = recorded
        elif not votes:
            right[task, seed] = sum(by_cpu.values(), Counter()).most_common(1)[0][0]
        elif 2 * votes.most_common(1)[0][1] > votes.total():
            right[task, seed] = votes.most_common(1)[0][0]
    return right


def _said(answers: Iterable[CpuAnswers]) -> dict[tuple[str, str], dict[int, Counter[str]]]:
    """By (task, input): what each CPU answered, and how often."""
    found: dict[tuple[str, str], dict[int, Counter[str]]] = {}
    for one in answers:
        for task, given in one.answers.items():
            for answer, times in given.items():
                by_cpu = found.setdefault((task, _seed(answer)), {})
                by_cpu.setdefault(one.cpu, Counter())[answer] += times
    return found


def disputed(answers: Sequence[CpuAnswers]) -> list[str]:
    """Tasks for which no answer can be told to be right."""
    right = _right(answers)
    return sorted({task for task, seed in _said(answers) if (task, seed) not in right})


def findings(reading: AnswersReading, places: Mapping[int, CpuPlace]) -> Iterator[Finding]:
    """What the answers say of each CPU (pure); what was not tested is told by `cpus_tested`, not here."""
    yield from reading.problems
    asked = (*reading.alone, *reading.together)
    wrong = wrong_answers((*asked, *reading.again))
    for cpu in sorted(wrong):
        yield _miscompute(cpu, wrong[cpu], reading, places)
    for cpu in sorted({one.cpu for one in asked if one.ended != "ok"} - set(wrong)):
        yield _not_ended(cpu, reading, places)
    if tasks := disputed(asked):
        disagree = _disagree(asked)
        why = "the CPUs disagree and none is in the majority" if disagree else "all CPUs give the same other one"
        code = ReasonCode.CPU_MISCOMPUTE if disagree else ReasonCode.OUTPUT_UNREADABLE
        yield error(code, "cpu", f"No right answer is known for: {', '.join(tasks)} ({why})")


def _disagree(answers: Sequence[CpuAnswers]) -> bool:
    right = _right(answers)
    undecided = (by_cpu for key, by_cpu in _said(answers).items() if key not in right)
    return any(len({answer for given in by_cpu.values() for answer in given}) > 1 for by_cpu in undecided)


def _miscompute(cpu: int, tasks: Mapping[str, int], reading: AnswersReading, places: Mapping[int, CpuPlace]) -> Finding:
    rounds = sum(one.rounds for one in (*reading.alone, *reading.together, *reading.again) if one.cpu == cpu)
    again = [one for one in reading.again if one.cpu == cpu]
    if not again:
        repeated = "it was not tried again"
    elif cpu in wrong_answers((*reading.alone, *reading.together, *again)) and _wrong_alone(again[0], reading):
        repeated = "wrong again when run alone once more"
    else:
        repeated = "right when run alone once more, so the fault comes and goes"
    listed = ", ".join(f"{task} {count}×" for task, count in sorted(tasks.items()))
    text = f"CPU {cpu} ({places.get(cpu, 'place unknown')}) computed wrong answers: {listed}; {repeated}"
    return error(ReasonCode.CPU_MISCOMPUTE, f"cpu:{cpu}", text, f"{rounds} rounds; {_quoted(cpu, tasks, reading)}")


def _wrong_alone(one: CpuAnswers, reading: AnswersReading) -> bool:
    right = _right((*reading.alone, *reading.together))
    return one.ended != "ok" or any(
        right.get((task, _seed(answer)), answer) != answer for task, given in one.answers.items() for answer in given
    )


def _quoted(cpu: int, tasks: Mapping[str, int], reading: AnswersReading) -> str:
    task = min(tasks)
    phases = (*reading.alone, *reading.together, *reading.again)
    given = {answer for one in phases if one.cpu == cpu for answer in one.answers.get(task, {})}
    return f"{task}: {', '.join(sorted(given)[:4])}; right: {', '.join(RIGHT.get(task, ('what the other CPUs say',)))}"


def _not_ended(cpu: int, reading: AnswersReading, places: Mapping[int, CpuPlace]) -> Finding:
    asked = (*reading.alone, *reading.together)
    ends = [one.ended for one in asked if one.cpu == cpu and one.ended != "ok"]
    repeated = [one.ended for one in reading.again if one.cpu == cpu and one.ended != "ok"]
    others = any(one.ended == "ok" for one in asked if one.cpu != cpu)
    where = f"CPU {cpu} ({places.get(cpu, 'place unknown')})"
    if ends[0] in CRASHES and CRASHES & set(repeated) and others:
        text = f"The same program crashes on {where} each time ({ends[0]}, then {repeated[0]}) and runs on other CPUs"
        return error(ReasonCode.CPU_MISCOMPUTE, f"cpu:{cpu}", text)
    after = f", and when tried again: {repeated[0]}" if repeated else ""
    text = f"The known-answer test on {where} did not come to its end: {ends[0]}{after}"
    return error(ReasonCode.TOOL_FAILED, f"cpu:{cpu}", text)

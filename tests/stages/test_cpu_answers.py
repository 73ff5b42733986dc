"""Known answers: real CPUs are right, and one that lies, crashes or freezes is named."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from probes.cpu import CpuPlace
from probes.host import Host
from stages import cpu_answers
from stages.cpu_answers import RIGHT, AnswersReading, CpuAnswers, cpus_tested, findings, measure, wrong_answers
from stages.outcome import Finding, Outcome, ReasonCode, Verdict
from tests.support import lying_cpu
from tests.support.detection import detects
from tests.support.lying_cpu import LyingTools
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

needs_two = pytest.mark.skipif(os.sched_getaffinity(0) < {0, 1}, reason="needs CPUs 0 and 1")
PLACES = {1: CpuPlace(0, 5, "6/106/6", "0xd0003a5", "0x1a2b3c4d5e6f7081")}


def verdict(found: list[Finding]) -> Verdict:
    return Outcome("", tuple(found)).verdict


async def asked(tmp_path: Path, stand_ins: StandIns, fault: str | None, *, freeze_s: float = 20.0) -> AnswersReading:
    tools = stand_ins.tools()
    runner = LyingTools(tools, lying_cpu.faulty(tmp_path, fault)) if fault is not None else tools
    context, _ = stage_context(tmp_path / "evidence", Host(tools=runner))
    return await measure(context, (0, 1), 0.2, 0.1, freeze_s)


def judged(reading: AnswersReading) -> list[Finding]:
    return list(findings(reading, PLACES))


# --- real processes on real CPUs -------------------------------------------------------------------------------------


async def test_the_cpus_of_this_machine_are_right(tmp_path: Path, stand_ins: StandIns) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    context, _ = stage_context(tmp_path / "evidence", Host(tools=stand_ins.tools()))
    reading = await measure(context, cpus, 0.2, 0.1)
    assert judged(reading) == []
    assert cpus_tested(reading.alone) == cpus_tested(reading.together) == set(cpus)
    assert reading.again == ()
    assert {"functions", "packed", *RIGHT} == set(reading.alone[0].answers)


@detects(
    ReasonCode.CPU_MISCOMPUTE, "real workers of which the one on CPU 1 lies in integer, hash or compression answers"
)
@needs_two
@pytest.mark.parametrize("task", ["integer", "hashes", "compression"])
async def test_a_cpu_that_is_always_wrong_is_named(task: str, tmp_path: Path, stand_ins: StandIns) -> None:
    reading = await asked(tmp_path, stand_ins, lying_cpu.WRONG.format(task=task))
    (finding,) = judged(reading)
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu:1")
    assert f"{task} " in finding.message
    assert "wrong again when run alone" in finding.message
    assert "package 0, core 5, microcode 0xd0003a5, PPIN 0x1a2b3c4d5e6f7081" in finding.message
    assert RIGHT[task][0] in finding.evidence


@needs_two
async def test_one_wrong_answer_is_enough(tmp_path: Path, stand_ins: StandIns) -> None:
    reading = await asked(tmp_path, stand_ins, lying_cpu.ONCE.format(marker=str(tmp_path / "lied")))
    (finding,) = judged(reading)
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu:1")
    assert "hashes 1×" in finding.message
    assert "comes and goes" in finding.message


@needs_two
async def test_answers_that_are_ever_other_are_bounded(tmp_path: Path, stand_ins: StandIns) -> None:
    reading = await asked(tmp_path, stand_ins, lying_cpu.EVER_OTHER)
    assert [(one.reason_code, one.component) for one in judged(reading)] == [(ReasonCode.CPU_MISCOMPUTE, "cpu:1")]
    assert max(len(given) for one in reading.alone for given in one.answers.values()) <= 10


@needs_two
async def test_a_worker_without_memory_is_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    found = judged(await asked(tmp_path, stand_ins, lying_cpu.NO_MEMORY))
    assert [(one.reason_code, one.component) for one in found] == [(ReasonCode.TOOL_FAILED, "cpu:1")]


@needs_two
async def test_a_cpu_on_which_the_program_crashes_each_time_fails(tmp_path: Path, stand_ins: StandIns) -> None:
    reading = await asked(tmp_path, stand_ins, lying_cpu.CRASH)
    (finding,) = judged(reading)
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu:1")
    assert cpus_tested(reading.alone) == {0}


@needs_two
async def test_a_killed_worker_is_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    """Others send SIGKILL, the kernel that is out of memory first of all."""
    found = judged(await asked(tmp_path, stand_ins, lying_cpu.KILLED))
    assert [(one.reason_code, one.component) for one in found] == [(ReasonCode.TOOL_FAILED, "cpu:1")]
    assert verdict(found) is Verdict.UNKNOWN


@needs_two
async def test_a_worker_that_freezes_is_ended_and_unknown(tmp_path: Path, stand_ins: StandIns) -> None:
    found = judged(await asked(tmp_path, stand_ins, lying_cpu.FREEZE, freeze_s=1.0))
    assert [(one.reason_code, one.component) for one in found] == [(ReasonCode.TOOL_FAILED, "cpu:1")]
    assert "frozen" in found[0].message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("print('hello')\n", ReasonCode.OUTPUT_UNREADABLE),
        ("print('[]')\n", ReasonCode.OUTPUT_UNREADABLE),
        ("print('{\"cpu\": 1}')\n", ReasonCode.OUTPUT_UNREADABLE),
        ("import os; os.abort()\n", ReasonCode.TOOL_FAILED),
        ("import sys; sys.exit(3)\n", ReasonCode.TOOL_FAILED),
    ],
)
async def test_a_child_that_does_not_do_its_work_is_unknown(
    body: str, code: ReasonCode, tmp_path: Path, stand_ins: StandIns
) -> None:
    script = tmp_path / "child.py"
    script.write_text(body)
    context, _ = stage_context(tmp_path / "evidence", Host(tools=LyingTools(stand_ins.tools(), script)))
    reading = await measure(context, (0,), 0.1, 0.1)
    found = judged(reading)
    assert {one.reason_code for one in found} == {code}
    assert verdict(found) is Verdict.UNKNOWN
    assert cpus_tested(reading.alone) == set()


async def test_a_cpu_that_we_may_not_use_is_not_tested(tmp_path: Path, stand_ins: StandIns) -> None:
    context, _ = stage_context(tmp_path / "evidence", Host(tools=stand_ins.tools()))
    reading = await measure(context, (0, 1023), 0.1, 0.1)
    assert cpus_tested(reading.alone) == {0}
    assert [(one.reason_code, one.component) for one in judged(reading)] == [(ReasonCode.TOOL_FAILED, "cpu:1023")]


# --- who is right ----------------------------------------------------------------------------------------------------


def said(cpu: int, **changed: dict[str, int]) -> CpuAnswers:
    given = {task: dict.fromkeys(answers, 5) for task, answers in RIGHT.items()}
    return CpuAnswers(cpu, 10, "ok", {**given, "functions": {"0:aa": 5}, **changed})


def test_the_majority_is_right_where_nothing_is_recorded() -> None:
    answers = [said(0), said(1, functions={"0:bb": 5}), said(2)]
    assert wrong_answers(answers) == {1: {"functions": 5}}


def test_two_cpus_that_disagree_fail_without_a_name() -> None:
    (finding,) = judged(AnswersReading(alone=(said(0), said(1, functions={"0:bb": 5}))))
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu")


def test_a_cpu_that_contradicts_itself_is_wrong() -> None:
    assert wrong_answers([said(0), said(1, functions={"0:aa": 4, "0:bb": 1})]) == {1: {"functions": 1}}


def test_the_only_cpu_contradicts_itself() -> None:
    assert wrong_answers([said(0, functions={"0:aa": 4, "0:bb": 1})]) == {0: {"functions": 1}}


def test_a_cpu_without_a_right_answer_beside_one_that_contradicts_itself() -> None:
    torn = said(1, integer={"0:x": 1, RIGHT["integer"][0]: 1})
    assert wrong_answers([said(0, integer={"0:y": 5}), torn]) == {0: {"integer": 5}, 1: {"integer": 1}}


def test_another_answer_of_all_cpus_is_software_and_no_wrong_cpu() -> None:
    """For instance a Python that was built without a hash."""
    other = {"0:AttributeError: blake2s": 5, "1:AttributeError: blake2s": 5}
    found = judged(AnswersReading(alone=(said(0, hashes=other), said(1, hashes=other))))
    assert [(one.reason_code, one.component) for one in found] == [(ReasonCode.OUTPUT_UNREADABLE, "cpu")]
    assert verdict(found) is Verdict.UNKNOWN


def test_the_only_cpu_is_held_against_what_is_recorded() -> None:
    (finding,) = judged(AnswersReading(alone=(said(0, integer={"0:ffff": 5}),)))
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu:0")


def test_missing_tasks_are_not_tested() -> None:
    assert cpus_tested([replace(said(0), answers={"integer": {"0:x": 1}})]) == set()
    assert cpus_tested([said(1), replace(said(2), rounds=0), replace(said(3), ended="frozen")]) == {1}


def test_most_again_bounds_the_second_look() -> None:
    assert cpu_answers.MOST_AGAIN * cpu_answers.AGAIN_S <= 60

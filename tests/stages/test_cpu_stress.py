"""CPUStress: the plan, the judge on recordings, stand-ins that lie, and the real tools."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import psutil
import pytest

from probes.counters import Counters, Throttle, throttled_fraction
from probes.cpu import CpuPlace
from probes.host import Host
from probes.kernel_log import KernelLog
from probes.load import CpuTime, busy_share
from stages import cpu_answers, cpu_speed, cpu_stress, psu_samples
from stages.cpu_answers import AnswersReading, CpuAnswers
from stages.cpu_opendcdiag import DcdiagReading
from stages.cpu_stress_judge import (
    SatReport,
    StressNgReport,
    cpu_findings,
    physical_addresses,
    sat_findings,
    sat_report,
    stress_ng_report,
    throttle_findings,
    untested,
    vm_findings,
)
from stages.cpu_stress_outcome import judge
from stages.cpu_stress_plan import ClockRange, CpuReading, Machine, MemoryReading, Options, Readings, make_plan
from stages.outcome import Finding, Outcome, ReasonCode, Severity, Verdict, cancelled_outcome
from stages.runner import StageRun
from stages.stage import RunFacts
from tests.support import lying_cpu
from tests.support.detection import detects, spares
from tests.support.lying_cpu import LyingTools
from tests.support.recordings import result, text
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

GIB = 2**30
MIB = 2**20
TWO = Machine((0, 1), (0, 1), 8 * GIB, "AMD EPYC 7502 32-Core Processor")


def codes(findings: list[Finding] | tuple[Finding, ...]) -> list[tuple[ReasonCode, str]]:
    return [(finding.reason_code, finding.component) for finding in findings]


# --- plan ------------------------------------------------------------------------------------------------------------


def test_the_time_is_shared_between_cpu_and_memory() -> None:
    plan = make_plan(TWO, Options(duration_s=120), 1.0)
    assert plan.memory_s == 60
    assert (plan.together_s, plan.alone_s) == (6.0, 12.0)
    assert sum(phase.seconds for phase in plan.phases) == 41  # whole seconds each
    assert [phase.stressor for phase in plan.phases] == ["cpu", "vecshuf", "hash", "vecmath", "vecfp", "zlib", "cache"]


def test_the_quick_profile_takes_no_longer_than_its_minute() -> None:
    small = make_plan(replace(TWO, available_bytes=GIB), Options(duration_s=60), 0.5)
    assert small.memory_s + small.alone_s + small.together_s + sum(phase.seconds for phase in small.phases) <= 61
    assert small.seconds < 72


def test_the_reserve_is_the_larger_of_two() -> None:
    assert make_plan(TWO, Options(), 1.0).memory_mib == 8 * 1024 - 512
    large = replace(TWO, available_bytes=1024 * GIB)
    assert make_plan(large, Options(), 1.0).memory_mib == int(1024 * 1024 * 0.98)


def test_a_workstation_lends_half_of_its_memory() -> None:
    plan = make_plan(TWO, Options(), 0.5)
    assert (plan.memory_mib, plan.allowed_share) == (4096, 0.5)
    small = replace(TWO, available_bytes=600 * MIB)
    assert make_plan(small, Options(), 0.5).memory_mib == 300


def test_a_small_machine_is_tested_by_half_and_not_left_out() -> None:
    plan = make_plan(replace(TWO, available_bytes=440 * MIB), Options(), 1.0)
    assert (plan.memory_mib, plan.allowed_share) == (220, 0.5)
    kept = Options(memory_reserve_fraction=0.75)
    assert make_plan(replace(TWO, available_bytes=440 * MIB), kept, 1.0).memory_mib == 110


def test_no_memory_to_spare_is_no_plan_for_memory() -> None:
    assert make_plan(replace(TWO, available_bytes=0), Options(), 1.0).memory_mib == 0


# --- stress-ng ------------------------------------------------------------------------------------------------------


def report(case: str, stressor: str = "cpu", asked_s: float = 2.0, duration_s: float = 2.1) -> StressNgReport:
    metrics = Path(__file__).parents[1] / "fixtures" / "tools" / "stress-ng" / f"{case}.yaml"
    return stress_ng_report(
        result("stress-ng", case, duration_s=duration_s),
        metrics.read_text() if metrics.exists() else None,
        stressor,
        asked_s,
    )


@pytest.mark.parametrize("case", ["pass-0.15", "pass-0.19"])
def test_a_real_pass(case: str) -> None:
    good = report(case)
    assert good.operations
    assert list(cpu_findings(good, {})) == []


@pytest.mark.parametrize("case", ["miscompute-0.15", "miscompute-0.19"])
def test_a_real_miscompute_names_the_cpus_that_fail_alone(case: str) -> None:
    bad = report(case)
    assert codes(list(cpu_findings(bad, {0: report("pass-0.15"), 1: bad}))) == [(ReasonCode.CPU_MISCOMPUTE, "cpu:1")]
    (unknown,) = cpu_findings(bad, {0: report("pass-0.15"), 1: report("pass-0.19")})
    assert (unknown.reason_code, unknown.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu")
    assert "did not come again" in unknown.message
    assert "drand48 error detected" in unknown.evidence


def test_a_killed_worker_is_no_miscompute() -> None:
    """Its bookkeeping is spoilt then, which stress-ng reports with the same word as a wrong result."""
    crashed = report("crashed-0.15", asked_s=3.0)
    assert not crashed.miscomputed
    assert codes(list(cpu_findings(crashed, {}))) == [(ReasonCode.TOOL_FAILED, "cpu")]


def test_a_skipped_stressor_is_not_tested() -> None:
    skipped = report("skipped")
    assert skipped.exit_code == 0
    assert codes(list(cpu_findings(skipped, {}))) == [(ReasonCode.OUTPUT_UNREADABLE, "cpu")]


def test_another_stressors_figures_do_not_count() -> None:
    assert untested(report("pass-0.15", stressor="vecmath")) is not None


@pytest.mark.parametrize(("asked_s", "duration_s"), [(10.0, 10.0), (2.0, 0.1)])
def test_a_run_that_was_too_short_is_not_tested(asked_s: float, duration_s: float) -> None:
    short = report("pass-0.15", asked_s=asked_s, duration_s=duration_s)
    assert codes(list(cpu_findings(short, {}))) == [(ReasonCode.OUTPUT_UNREADABLE, "cpu")]


def test_wrong_arguments_are_a_failed_tool() -> None:
    assert codes(list(cpu_findings(report("bad-taskset-0.15"), {}))) == [(ReasonCode.TOOL_FAILED, "cpu")]


def test_bit_errors_of_the_vm_test() -> None:
    assert codes(list(vm_findings(report("vm-bit-errors", "vm")))) == [(ReasonCode.MEMORY_MISCOMPUTE, "memory")]
    assert list(vm_findings(report("vm-0.15", "vm"))) == []


# --- stressapptest ---------------------------------------------------------------------------------------------------


def sat(case: str, duration_s: float = 5.0) -> SatReport:
    return sat_report(result("stressapptest", case, duration_s=duration_s), 3.0)


@pytest.mark.parametrize(
    ("case", "mib", "version"), [("pass", 64, "1.0.6_autoconf"), ("pass-1.0.11", 11498, "1.0.11_autoconf")]
)
def test_a_real_memory_pass(case: str, mib: int, version: str) -> None:
    good = sat(case)
    assert (good.started_mib, good.version) == (mib, version)
    assert list(sat_findings(good, mib)) == []


@pytest.mark.parametrize("case", ["miscompare", "miscompare-1.0.11"])
def test_real_miscompares_name_the_cpus_that_saw_them(case: str) -> None:
    (finding,) = sat_findings(sat(case), 64)
    assert (finding.reason_code, finding.component) == (ReasonCode.MEMORY_MISCOMPUTE, "memory")
    assert "seen by CPU 0, 1" in finding.message
    assert "miscompare on CPU 1" in finding.evidence


def test_a_dimm_that_is_known_is_named() -> None:
    recorded = result("stressapptest", "miscompare")
    known = replace(recorded, stdout=recorded.stdout.replace(":DIMM Unknown)", ":DIMM_B2)", 1))
    assert [finding.component for finding in sat_findings(sat_report(known, 3.0), 64)] == ["dimm:DIMM_B2"]


def test_a_physical_address_is_believed_only_where_it_fits_the_virtual_one() -> None:
    """1.0.6 shifts it by flags that today's kernels keep where the page size once was."""
    assert physical_addresses(sat("miscompare-1.0.11").miscompares)[0] == "0x1cbf46705"
    assert physical_addresses(sat("miscompare").miscompares) == ()
    assert physical_addresses(["miscompare on CPU 0(<-0) at 0x7f(0x:DIMM Unknown)"]) == ()


def test_the_module_at_the_address_is_named() -> None:
    bad = sat("miscompare-1.0.11")
    (finding,) = sat_findings(bad, 64, {"0x1cbf46705": ("P1_DIMMA1",), "0x2f76ad70c": ("P1_DIMMA1",)})
    assert finding.component == "dimm:P1_DIMMA1"
    assert "by the firmware's table: hold it against EDAC" in finding.message
    (finding,) = sat_findings(bad, 64, {"0x1cbf46705": ("A1", "B1")})
    assert finding.component == "memory"
    assert "0x1cbf46705, spread over A1, B1" in finding.message
    (finding,) = sat_findings(bad, 64, {"0x1cbf46705": ()})
    assert finding.component == "memory"


def test_one_miscompare_fails_whatever_the_status_says() -> None:
    recorded = result("stressapptest", "miscompare")
    passed = recorded.stdout.replace("FAIL - test discovered HW problems", "PASS")
    lying = replace(recorded, exit_code=0, stdout=passed)
    assert codes(list(sat_findings(sat_report(lying, 3.0), 64))) == [(ReasonCode.MEMORY_MISCOMPUTE, "memory")]


@pytest.mark.parametrize(("case", "code"), [("no-memory", ReasonCode.TOOL_FAILED), ("usage", ReasonCode.TOOL_FAILED)])
def test_a_run_without_a_verdict_is_unknown(case: str, code: ReasonCode) -> None:
    assert codes(list(sat_findings(sat(case), 64))) == [(code, "memory")]


@pytest.mark.parametrize("stdout", ["", "Status: PASS - please verify no corrected errors\n", "garbage\n"])
def test_a_bare_pass_is_not_believed(stdout: str) -> None:
    bare = replace(result("stressapptest", "pass"), stdout=stdout)
    assert codes(list(sat_findings(sat_report(bare, 3.0), 64))) == [(ReasonCode.OUTPUT_UNREADABLE, "memory")]


def test_a_pass_over_less_memory_or_time_is_not_believed() -> None:
    assert codes(list(sat_findings(sat("pass"), 4096))) == [(ReasonCode.OUTPUT_UNREADABLE, "memory")]
    assert codes(list(sat_findings(sat("pass", 0.2), 64))) == [(ReasonCode.OUTPUT_UNREADABLE, "memory")]


# --- judge -----------------------------------------------------------------------------------------------------------

PLAN = make_plan(TWO, Options(), 1.0)
GOOD_SAT = replace(sat("pass"), started_mib=PLAN.memory_mib, completed_mib=1e6)


def right(cpu: int) -> CpuAnswers:
    """A sound CPU."""
    given = {task: dict.fromkeys(answers, 5) for task, answers in cpu_answers.RIGHT.items()}
    return CpuAnswers(cpu, 10, "ok", {**given, "functions": {"0:f0": 5, "1:f1": 5}})


GOOD = Readings(
    machine=TWO,
    plan=PLAN,
    cpu=tuple(CpuReading(replace(report("pass-0.15"), stressor=phase.stressor)) for phase in PLAN.phases),
    answers=AnswersReading((right(0), right(1)), (right(0), right(1))),
    busy={0: 1.0, 1: 0.98},
    memory=MemoryReading(sat=GOOD_SAT, taken_bytes=PLAN.memory_mib * MIB),
    throttled={},
    speeds={0: 1000.0, 1: 1000.0},
    checked=tuple(phase.stressor for phase in PLAN.phases),
)


COUNTERS = Counters(uptime_s=100.0)


def judged(reading: Readings, options: Options = Options()) -> Outcome:  # noqa: B008
    """Judged twice: as read, and from its JSON."""
    outcome = judge(reading, options)
    text = json.dumps(asdict(reading))
    assert judge(msgspec.json.decode(text, type=cpu_stress.Readings, strict=False), options) == outcome
    return outcome


def test_a_sound_machine_passes_and_says_what_was_tested() -> None:
    outcome = judged(GOOD)
    assert outcome.verdict is Verdict.PASS, outcome.findings
    assert outcome.coverage == {"cpu": 1.0, "cpu_alone": 1.0, "memory": 0.9375}


@detects(ReasonCode.COVERAGE_LOW, "readings of a CPU that was idle for 90 % of the load")
def test_a_cpu_that_the_load_did_not_reach_is_not_tested() -> None:
    outcome = judged(replace(GOOD, busy={0: 1.0, 1: 0.1}))
    assert codes(outcome.errors) == [(ReasonCode.COVERAGE_LOW, "cpu")]
    assert outcome.coverage["cpu"] == 0.5
    assert judged(replace(GOOD, busy={})).verdict is Verdict.UNKNOWN


def test_cpus_not_tested_alone_leave_it_unknown_below_the_floor_of_the_profile() -> None:
    half = replace(GOOD, answers=AnswersReading((right(0),), (right(0), right(1))))
    outcome = judged(half)
    assert codes(outcome.errors) == [(ReasonCode.COVERAGE_LOW, "cpu")]
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.coverage["cpu_alone"] == 0.5
    assert judged(half, Options(alone_coverage_floor=0.5)).verdict is Verdict.PASS
    assert judged(replace(GOOD, answers=AnswersReading()), Options(alone_coverage_floor=0.0)).verdict is Verdict.UNKNOWN


def test_a_cpu_without_answers_while_all_worked_is_not_tested() -> None:
    outcome = judged(replace(GOOD, answers=AnswersReading((right(0), right(1)), (right(0),))))
    assert codes(outcome.errors) == [(ReasonCode.COVERAGE_LOW, "cpu")]


def test_what_this_stress_ng_does_not_check_is_told() -> None:
    unchecked = replace(GOOD, checked=tuple(set(GOOD.checked or ()) - {"cpu"}))
    (finding,) = (one for one in judged(unchecked).findings if "check" in one.message)
    assert finding.severity is Severity.INFO
    assert finding.message.endswith("does not check the results of: cpu; they were load only")
    assert not [one for one in judged(GOOD).findings if "check" in one.message]
    assert [one.severity for one in judged(replace(GOOD, checked=None)).findings if "check" in one.message] == [
        Severity.INFO
    ]


def test_a_load_without_a_reading_is_not_tested() -> None:
    outcome = judged(replace(GOOD, cpu=GOOD.cpu[1:]))
    assert codes(outcome.errors) == [(ReasonCode.COVERAGE_LOW, "cpu")]
    assert "no reading of these loads: cpu" in outcome.message
    planned = replace(GOOD, plan=replace(PLAN, dcdiag_s=10.0))
    assert codes(judged(planned).errors) == [(ReasonCode.COVERAGE_LOW, "cpu")]
    assert judged(replace(planned, opendcdiag=DcdiagReading("pass", 0, passed=9))).verdict is Verdict.PASS


def test_memory_of_which_nothing_was_tested_never_passes_whatever_the_floor() -> None:
    outcome = judged(replace(GOOD, memory=MemoryReading()), Options(memory_coverage_floor=0.0))
    assert codes(outcome.errors) == [(ReasonCode.COVERAGE_LOW, "memory")]


def test_speeds_that_could_not_be_measured_are_told() -> None:
    for speeds, component in (({0: 1000.0}, "cpu:1"), ({}, "cpu")):
        outcome = judged(replace(GOOD, speeds=speeds))
        told = [one for one in outcome.findings if one.severity is Severity.WARNING]
        assert [(one.reason_code, one.component) for one in told] == [(ReasonCode.TOOL_FAILED, component)]


def test_throttle_counters_that_could_not_be_read_are_no_machine_without_them() -> None:
    read = replace(COUNTERS, throttle={"0": Throttle(1, 500), "1": Throttle(1, 500)})
    later = replace(read, uptime_s=200.0)
    unread = Counters(kernel_log=KernelLog(unreadable="a read hangs"), unreadable=("a read hangs",))
    assert cpu_stress._throttle_unread(read, later) == ""
    assert cpu_stress._throttle_unread(COUNTERS, replace(COUNTERS, uptime_s=200.0)) == "", "it has none"
    assert cpu_stress._throttle_unread(read, unread) == "a read hangs"
    assert cpu_stress._throttle_unread(unread, later) == "a read hangs"
    gone = replace(later, throttle={"0": Throttle(1, 500)})
    assert cpu_stress._throttle_unread(read, gone) == "those of CPU 1 were read once only"
    outcome = judged(replace(GOOD, throttle_unread="a read hangs"))
    assert codes(outcome.errors) == [(ReasonCode.OUTPUT_UNREADABLE, "cpu")]
    assert "does not count" not in " ".join(one.message for one in outcome.findings)


def test_matrix_units_that_nobody_tested_are_told() -> None:
    amx = replace(GOOD, machine=replace(TWO, has_amx=True))
    assert [one.message for one in judged(amx).findings if "AMX" in one.message]
    passed = DcdiagReading("pass", 0, passed=9)
    assert not [one for one in judged(replace(amx, opendcdiag=passed)).findings if "AMX" in one.message]
    failed = replace(amx, opendcdiag=DcdiagReading("fail", 1, 8, ("amx_gemm",)))
    assert codes(judged(failed).errors) == [(ReasonCode.CPU_MISCOMPUTE, "cpu")]


def test_opendcdiag_gets_its_part_of_the_time() -> None:
    plan = make_plan(replace(TWO, has_opendcdiag=True), Options(duration_s=120), 1.0)
    assert round(plan.dcdiag_s, 1) == 12.6
    assert sum(phase.seconds for phase in plan.phases) + plan.dcdiag_s + plan.alone_s + plan.together_s <= 61


@detects(ReasonCode.CPU_SLOW, "readings of a machine whose CPUs stay at their lowest clock under load: a warning")
@spares(ReasonCode.CPU_SLOW, "readings of a machine at 2.4 GHz under load")
def test_a_whole_machine_held_at_its_lowest_clock_is_told() -> None:
    clocks = {0: ClockRange(800_000, 3_500_000, "powersave"), 1: ClockRange(800_000, 3_500_000, "powersave")}
    held = replace(GOOD, machine=replace(TWO, clocks=clocks), peak_khz={0: 800_000, 1: 801_000})
    (finding,) = (one for one in judged(held).findings if one.reason_code is ReasonCode.CPU_SLOW)
    assert finding.severity is Severity.WARNING
    assert "CPU 0, 1 stayed at the lowest clock" in finding.message
    for sound in (replace(held, peak_khz={0: 2_400_000, 1: 2_400_000}), replace(held, machine=TWO), GOOD):
        assert ReasonCode.CPU_SLOW not in {one.reason_code for one in judged(sound).findings}
    fixed = {0: ClockRange(2_000_000, 2_100_000)}
    assert cpu_speed.clock_findings({0: 2_000_000}, fixed) == []


def test_different_microcode_on_cpus_of_one_kind_is_told() -> None:
    places = {
        0: CpuPlace(0, 0, "6/106/6", "0xd000390", None),
        1: CpuPlace(0, 1, "6/106/6", "0xd000390", None),
        2: CpuPlace(1, 0, "6/106/6", "0xd0003a5", None),
    }
    (finding,) = cpu_speed.microcode_findings(places)
    assert (finding.reason_code, finding.component) == (ReasonCode.MICROCODE_MISMATCH, "cpu:2")
    places[2] = replace(places[2], signature="6/106/7")
    assert cpu_speed.microcode_findings(places) == []
    assert cpu_speed.microcode_findings({0: CpuPlace(None, None, "?/?/?", "0x1", None)} | places) == []


@detects(ReasonCode.CPU_SLOW, "readings of a CPU at 70 % of the speed of its like: a warning")
@spares(ReasonCode.CPU_SLOW, "readings of four CPUs of one speed")
def test_a_slow_cpu_shows_in_the_outcome() -> None:
    even = replace(GOOD, speeds={0: 100.0, 1: 101.0, 2: 99.0, 3: 100.0})
    outcome = judged(replace(even, speeds={**even.speeds, 2: 70.0}, slow={2: 0.7}))
    assert told(outcome) == [(ReasonCode.CPU_SLOW, Severity.WARNING, "cpu:2")]
    assert told(judged(even)) == []


@detects(ReasonCode.MICROCODE_MISMATCH, "readings of three CPUs of one kind, one with another microcode: a warning")
@spares(ReasonCode.MICROCODE_MISMATCH, "readings of CPUs with one microcode, and of one of another kind beside them")
def test_different_microcode_shows_in_the_outcome() -> None:
    places = {number: CpuPlace(0, number, "6/106/6", "0xd000390", None) for number in range(3)}
    alike = replace(GOOD, machine=replace(TWO, places=places))
    other = replace(places[2], microcode="0xd0003a5")
    mixed = replace(alike, machine=replace(TWO, places={**places, 2: other}))
    assert told(judged(mixed)) == [(ReasonCode.MICROCODE_MISMATCH, Severity.WARNING, "cpu:2")]
    assert told(judged(alike)) == []
    assert told(judged(replace(mixed, machine=replace(TWO, places={**places, 2: replace(other, signature="x")})))) == []


def told(outcome: Outcome) -> list[tuple[ReasonCode, Severity, str]]:
    """Warnings and errors."""
    found = [one for one in outcome.findings if one.severity is not Severity.INFO]
    return [(one.reason_code, one.severity, one.component) for one in found]


def test_one_thread_of_each_core_goes_first() -> None:
    places = {number: CpuPlace(number % 4 // 2, number % 2, "", None, None) for number in range(8)}
    machine = Machine(tuple(range(8)), tuple(range(8)), 0, "", places)
    assert cpu_stress.alone_order(machine) == tuple(range(8))
    paired = {number: CpuPlace(0, number // 2, "", None, None) for number in range(6)}
    assert cpu_stress.alone_order(replace(machine, usable=tuple(range(6)), places=paired)) == (0, 2, 4, 1, 3, 5)
    assert cpu_stress.alone_order(replace(machine, places={}, usable=(3, 1))) == (1, 3)


def test_memory_that_nobody_took_was_not_tested() -> None:
    outcome = judged(replace(GOOD, memory=replace(GOOD.memory, taken_bytes=100 * MIB)))
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.coverage["memory"] == 0


def test_no_memory_test_at_all_is_low_coverage() -> None:
    assert codes(judged(replace(GOOD, memory=MemoryReading())).errors) == [(ReasonCode.COVERAGE_LOW, "memory")]


def test_half_the_memory_by_permission_is_told_and_does_not_fail() -> None:
    plan = make_plan(TWO, Options(), 0.5)
    memory = MemoryReading(sat=replace(GOOD_SAT, started_mib=plan.memory_mib), taken_bytes=plan.memory_mib * MIB)
    outcome = judged(replace(GOOD, plan=plan, memory=memory))
    assert outcome.verdict is Verdict.PASS
    assert outcome.coverage["memory"] == 0.5
    assert any("50%" in finding.message for finding in outcome.findings)


@detects(ReasonCode.THERMAL_THROTTLED, "readings of an EPYC that is held back by heat for 20 % of the load")
@spares(ReasonCode.THERMAL_THROTTLED, "readings of a Xeon that is held back for 4 %")
@pytest.mark.parametrize(
    ("model", "time_ms", "severity"),
    [
        ("AMD EPYC 7502", 20_000, Severity.ERROR),
        ("Intel(R) Core(TM) i7-8565U", 20_000, Severity.WARNING),
        ("Intel(R) Xeon(R) Gold 6230", 4_000, None),
    ],
)
def test_heat_fails_servers_and_warns_others(model: str, time_ms: int, severity: Severity | None) -> None:
    before = Counters(throttle={"0": Throttle(1, 500), "1": Throttle(0, 0)})
    after = Counters(throttle={"0": Throttle(1, 500 + time_ms), "1": Throttle(0, 0)})
    throttled = throttled_fraction(before, after, 100.0)
    outcome = judged(replace(GOOD, throttled=throttled, machine=replace(TWO, model=model)))
    found = [f for f in outcome.findings if f.reason_code is ReasonCode.THERMAL_THROTTLED]
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all(finding.component == "cpu:0" for finding in found)


def test_a_machine_that_does_not_count_heat_is_not_judged() -> None:
    (finding,), measurements = throttle_findings({}, 0.05, "AMD EPYC")
    assert finding.severity is Severity.INFO
    assert measurements == []


def test_slow_cpus_are_those_below_their_like() -> None:
    speeds = {0: 100.0, 1: 101.0, 2: 70.0, 3: 50.0, 4: 51.0}
    kinds = {0: 5000, 1: 5000, 2: 5000, 3: 2000, 4: 2000}
    assert cpu_speed.slow(speeds, kinds, 0.8) == {2: 0.7}
    (finding,) = cpu_speed.findings(speeds, {2: 0.7}, 0.8)
    assert (finding.reason_code, finding.severity, finding.component) == (
        ReasonCode.CPU_SLOW,
        Severity.WARNING,
        "cpu:2",
    )


def test_busy_share_counts_stolen_time_as_work() -> None:
    assert busy_share({0: CpuTime(100, 50)}, {0: CpuTime(200, 125), 1: CpuTime(9, 9)}) == {0: 0.75}


# --- whole runs with stand-ins ---------------------------------------------------------------------------------------

PARSE = """
import re, time
def value(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
if "--version" in sys.argv: print("stress-ng, version 0.15.06 (gcc 12.2.0)"); sys.exit(0)
if "--verifiable" in sys.argv: print("Verification enabled by --verify option:\\ncpu hash"); sys.exit(0)
"""
ONLY_CPU_1 = (
    PARSE
    + """
cpus = {int(value("--taskset"))} if "--taskset" in sys.argv else os.sched_getaffinity(0)
if 1 in cpus and "--cpu" in sys.argv and "--verify" in sys.argv:
    print("stress-ng: fail:  [7] cpu: sqrt error detected on sqrt(2)"); sys.exit(2)
"""
)
SAT = """
import time
mib = sys.argv[sys.argv.index("-M") + 1]
time.sleep(float(sys.argv[sys.argv.index("-s") + 1]))
print(f"Stats: SAT revision 1.0.6_autoconf, 64 bit binary\\nStats: Starting SAT, {mib}M, 1 seconds")
print("Stats: Completed: 9999.00M in 1.00s 9999.00MB/s, with 0 hardware incidents, 0 errors")
print("Status: PASS - please verify no corrected errors")
"""


async def outcome_of(
    tmp_path: Path, stand_ins: StandIns, *, fraction: float = 0.01, duration_s: float = 2.0
) -> Outcome:
    host = Host(tools=stand_ins.tools())
    context, _ = stage_context(tmp_path / "evidence", host, facts=RunFacts(memory_fraction=fraction))
    return judged(await cpu_stress.run(context, Options(duration_s=duration_s)), Options(duration_s=duration_s))


@detects(ReasonCode.OUTPUT_UNREADABLE, "stand-in stress-ng and stressapptest that only claim success")
async def test_a_tool_that_only_says_it_was_successful(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("stress-ng", "stress-ng: info:  [1] successful run completed in 2.00s\n")
    only_stand_ins.says("stressapptest", "Status: PASS - please verify no corrected errors\n")
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert outcome.verdict is Verdict.UNKNOWN
    assert codes(outcome.errors).count((ReasonCode.OUTPUT_UNREADABLE, "cpu")) == 7
    assert (ReasonCode.OUTPUT_UNREADABLE, "memory") in codes(outcome.errors)


# A worker's clock starts late where the machine stood still: what it counts is less than what it was asked for.
STOOD_STILL = (
    PARSE
    + """
stressor = next(word[2:] for word in sys.argv if word in {{"--cpu", "--hash", "--vecshuf", "--vecmath", "--vecfp",
                "--zlib", "--cache"}})
seconds = float(value("--timeout")[:-1])
runs = open({runs!r}, "a+"); runs.write(stressor + "\\n"); runs.seek(0)
stood_still = stressor == "zlib" and runs.read().split().count("zlib") <= {times}
if stood_still and {wrong}: print("stress-ng: fail:  [7] zlib: differs")
time.sleep(0.0 if stood_still else seconds)
open(value("--yaml"), "w").write(
    f"- stressor: {{stressor}}\\n  bogo-ops: 9\\n  wall-clock-time: {{0.5 if stood_still else seconds}}\\n")
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "wrong", "asked_s", "found"),
    [
        (1, False, 5, []),
        (2, False, 5, [ReasonCode.OUTPUT_UNREADABLE]),
        (1, True, 1, [ReasonCode.CPU_MISCOMPUTE]),
    ],
)
async def test_a_short_run_that_ended_early_is_given_one_longer_one(
    times: int, wrong: bool, asked_s: float, found: list[ReasonCode], tmp_path: Path, only_stand_ins: StandIns
) -> None:
    runs = str(tmp_path / "runs")
    only_stand_ins.python("stress-ng", STOOD_STILL.format(runs=runs, times=times, wrong=wrong))
    only_stand_ins.python("stressapptest", SAT)
    context, _ = stage_context(
        tmp_path / "evidence", Host(tools=only_stand_ins.tools()), facts=RunFacts(memory_fraction=0.01)
    )
    readings = await cpu_stress.run(context, Options(duration_s=2.0))
    reports = {one.report.stressor: one.report for one in readings.cpu if one.report}
    assert reports["zlib"].asked_s == asked_s
    assert all(one.asked_s == 1 for name, one in reports.items() if name != "zlib")
    kept = {path.name: "wall-clock-time: 0.5" in path.read_text() for path in context.evidence.glob("*zlib*.yaml")}
    assert kept["stress-ng-zlib.yaml"], "what the first run counted is evidence"
    assert ("stress-ng-zlib-again.yaml" in kept) is (asked_s == 5)
    zlib = next(one for one in readings.cpu if one.report is reports["zlib"])
    assert [one.reason_code for one in cpu_findings(reports["zlib"], zlib.pinned)] == found


@detects(ReasonCode.CPU_MISCOMPUTE, "stand-in stress-ng that miscomputes on CPU 1")
@pytest.mark.skipif(os.sched_getaffinity(0) < {0, 1}, reason="needs CPUs 0 and 1")
async def test_the_cpu_that_miscomputes_is_named(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.python("stress-ng", ONLY_CPU_1)
    only_stand_ins.python("stressapptest", SAT)
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert outcome.verdict is Verdict.FAIL
    assert [f.component for f in outcome.errors if f.reason_code is ReasonCode.CPU_MISCOMPUTE] == ["cpu:1"]
    pinned = [call for call in only_stand_ins.calls("stress-ng") if "--taskset" in call and "--verify" in call]
    assert [call[call.index("--taskset") + 1] for call in pinned] == [
        str(cpu) for cpu in sorted(os.sched_getaffinity(0))
    ]


GOOD_STRESS_NG = (
    PARSE
    + """
stressor = next(word[2:] for word in sys.argv if word.startswith("--") and word[2:] in {"cpu", "hash", "vecshuf",
                "vecmath", "vecfp", "zlib", "cache"})
seconds = float(value("--timeout")[:-1])
end = time.monotonic() + seconds
for cpu in os.sched_getaffinity(0):
    if os.fork() == 0:
        while time.monotonic() < end: pass
        os._exit(0)
while time.monotonic() < end: time.sleep(0.05)
yaml = f"- stressor: {stressor}\\n  bogo-ops: 100\\n  wall-clock-time: {seconds}\\n"
open(value("--yaml"), "w").write(yaml + "  bogo-ops-per-second-usr-sys-time: 50.0\\n")
"""
)


@detects(ReasonCode.CPU_MISCOMPUTE, "whole stage with a worker on CPU 1 that lies; judged again from its evidence")
@pytest.mark.slow
@pytest.mark.skipif(os.sched_getaffinity(0) < {0, 1}, reason="needs CPUs 0 and 1")
async def test_a_cpu_that_agrees_with_itself_is_found_and_judged_again_from_the_evidence(
    tmp_path: Path, only_stand_ins: StandIns
) -> None:
    """stress-ng sees nothing; the known answers do, through the whole run and again from readings.json alone."""
    only_stand_ins.python("stress-ng", GOOD_STRESS_NG)
    only_stand_ins.python("stressapptest", SAT)
    script = lying_cpu.faulty(tmp_path, lying_cpu.WRONG.format(task="floating"))
    host = Host(tools=LyingTools(only_stand_ins.tools(), script))
    context, _ = stage_context(tmp_path / "evidence", host, facts=RunFacts(memory_fraction=0.01))
    options = Options(duration_s=4.0)
    outcome = await StageRun(cpu_stress.STAGE, {"duration_s": 4.0}, context).run()
    assert outcome.verdict is Verdict.FAIL
    assert [one.component for one in outcome.errors if one.reason_code is ReasonCode.CPU_MISCOMPUTE] == ["cpu:1"]
    text_of_readings = (context.evidence / "readings.json").read_bytes()
    again = judge(msgspec.json.decode(text_of_readings, type=cpu_stress.Readings, strict=False), options)
    assert again.errors[0] == outcome.errors[0]
    assert again.coverage == outcome.coverage


async def test_a_memory_miscompare_fails(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("stress-ng", exit_code=1)
    only_stand_ins.says("stressapptest", text("stressapptest", "miscompare.out"), exit_code=1)
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert outcome.verdict is Verdict.FAIL
    assert (ReasonCode.MEMORY_MISCOMPUTE, "memory") in codes(outcome.errors)


@detects(
    ReasonCode.MEMORY_MISCOMPUTE,
    "stand-in stressapptest that plays miscompares, over recorded SMBIOS tables: the DIMM is named",
)
async def test_a_memory_miscompare_names_the_module(tmp_path: Path, only_stand_ins: StandIns) -> None:
    root = tmp_path / "root"
    (root / "sys/firmware/dmi").mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text("MemAvailable:    8000000 kB\n")
    only_stand_ins.says("stress-ng", exit_code=1)
    only_stand_ins.says("stressapptest", text("stressapptest", "miscompare-1.0.11.out"), exit_code=1)
    only_stand_ins.says("dmidecode", text("dmidecode", "supermicro-two-socket-mapped.out"))
    context, _ = stage_context(tmp_path / "evidence", Host(root=root, tools=only_stand_ins.tools()))
    outcome = judged(await cpu_stress.run(context, Options(duration_s=2.0)))
    assert (ReasonCode.MEMORY_MISCOMPUTE, "dimm:P1_DIMMA1") in codes(outcome.errors)
    assert only_stand_ins.calls("dmidecode") == [["dmidecode", "--type", "17,20"]]


async def test_a_crash_is_unknown(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.python("stress-ng", "os.kill(os.getpid(), 11)\n")
    only_stand_ins.python("stressapptest", "os.kill(os.getpid(), 9)\n")
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert outcome.verdict is Verdict.UNKNOWN
    assert {(ReasonCode.TOOL_FAILED, "cpu"), (ReasonCode.TOOL_FAILED, "memory")} <= set(codes(outcome.errors))


@detects(ReasonCode.TOOL_MISSING, "machine without stress-ng and stressapptest")
async def test_without_tools_nothing_passes(tmp_path: Path, only_stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert outcome.verdict is Verdict.UNKNOWN
    assert {(ReasonCode.TOOL_MISSING, "cpu"), (ReasonCode.TOOL_MISSING, "memory")} <= set(codes(outcome.errors))


@detects(ReasonCode.CANCELLED, "real processes of a load that is cancelled")
async def test_a_cancel_reaches_every_grandchild(tmp_path: Path, only_stand_ins: StandIns) -> None:
    pids = tmp_path / "pids"
    only_stand_ins.python(
        "stress-ng",
        "import time\n"
        "if '--version' in sys.argv or '--verifiable' in sys.argv: sys.exit(0)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        f"        open({str(pids)!r}, 'a').write('x')\n"
        "        time.sleep(600)\n"
        "time.sleep(600)\n",
    )
    context, listener = stage_context(tmp_path / "evidence", Host(tools=only_stand_ins.tools()))
    run = StageRun(cpu_stress.STAGE, {"duration_s": 60.0}, context)
    before = set(psutil.Process().children(recursive=True))
    task = asyncio.create_task(run.run())
    while not (pids.exists() and len(pids.read_text()) == 3):
        await asyncio.sleep(0.02)
        assert not task.done()
    load = set(psutil.Process().children(recursive=True)) - before
    assert len(load) >= 4
    started = time.monotonic()
    run.interrupt(cancelled_outcome().findings[0])
    outcome = await task
    assert time.monotonic() - started < 2.0
    assert outcome.verdict is Verdict.CANCELLED
    assert psutil.wait_procs(list(load), timeout=1)[1] == []
    assert listener.fractions


async def test_the_supplies_are_sampled_during_the_load(tmp_path: Path, only_stand_ins: StandIns) -> None:
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    (root / "dev" / "ipmi0").touch()
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text("MemAvailable:    8000000 kB\n")
    only_stand_ins.python(
        "ipmitool",
        "import pathlib\n"
        "if 'dump' in sys.argv: pathlib.Path(sys.argv[-1]).touch()\n"
        f"elif 'sel' not in sys.argv: sys.stdout.write({text('ipmitool', 'hpe-ilo2-sdr.out')!r})\n",
    )
    only_stand_ins.says("stress-ng", "")
    left = tmp_path / "evidence" / psu_samples.FILE_NAME
    only_stand_ins.python("stressapptest", f"import time\nwhile not os.path.exists({str(left)!r}): time.sleep(0.02)\n")
    context, listener = stage_context(tmp_path / "evidence", Host(root=root, tools=only_stand_ins.tools()))
    await cpu_stress.STAGE.run(context, Options(duration_s=2.0))
    samples = psu_samples.earlier(context.evidence)
    assert samples is not None
    assert [psu.watts for psu in samples.readings[0].supplies] == [0.0, 95.0]
    assert ("power", "psu:Power Supply 2", 95.0, "W") in listener.samples


# --- the real tools --------------------------------------------------------------------------------------------------


@spares(ReasonCode.CPU_MISCOMPUTE, "real stress-ng and known answers on the CPUs of this machine")
@spares(ReasonCode.MEMORY_MISCOMPUTE, "real stressapptest on the memory of this machine")
@spares(ReasonCode.TOOL_MISSING, "real stress-ng and stressapptest, installed")
@spares(ReasonCode.TOOL_FAILED, "real stress-ng and stressapptest")
@spares(ReasonCode.COVERAGE_LOW, "real load on every CPU of this machine and the memory that was allowed")
@pytest.mark.slow
@pytest.mark.root
async def test_the_real_tools_pass_this_machine(tmp_path: Path, stand_ins: StandIns) -> None:
    outcome = await outcome_of(tmp_path, stand_ins, duration_s=6.0)
    assert outcome.verdict is Verdict.PASS, outcome.errors
    assert outcome.coverage["cpu"] == 1.0
    assert set(outcome.tool_versions) == {"stress-ng", "stressapptest"}
    names = {figure.name for figure in outcome.measurements}
    assert {"bogo_ops_cpu", "bogo_ops_vecmath", "memory_copy", "memory_tested"} <= names


@pytest.mark.slow
@pytest.mark.root
async def test_stress_ng_takes_the_place_of_stressapptest(tmp_path: Path, only_stand_ins: StandIns) -> None:
    real = shutil.which("stress-ng")
    assert real is not None
    (only_stand_ins.folder / "stress-ng").symlink_to(real)
    outcome = await outcome_of(tmp_path, only_stand_ins, duration_s=4.0)
    assert outcome.verdict is Verdict.PASS, outcome.errors
    tested = next(figure for figure in outcome.measurements if figure.name == "memory_tested")
    assert tested.value > 50


# By where the process may run, not by where it runs this moment: that would be a matter of luck on a busy machine.
WRONG_ON_CPU_1 = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
static int lies(void) { cpu_set_t may; return sched_getaffinity(0, sizeof may, &may) == 0 && CPU_ISSET(1, &may); }
double drand48(void) { double right = ((double (*)(void))dlsym(RTLD_NEXT, "drand48"))();
  return lies() ? right * 2 + 0.5 : right; }
long lrand48(void) { long right = ((long (*)(void))dlsym(RTLD_NEXT, "lrand48"))();
  return lies() ? right / 2 + 5 : right; }
"""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to build the fault")
@pytest.mark.skipif(os.sched_getaffinity(0) < {0, 1}, reason="needs CPUs 0 and 1")
async def test_the_real_stress_ng_finds_a_cpu_that_computes_wrong(tmp_path: Path, only_stand_ins: StandIns) -> None:
    """CPU 1 is made to miscompute under it, by a library that gives wrong numbers there and right ones elsewhere."""
    (tmp_path / "wrong.c").write_text(WRONG_ON_CPU_1)
    library = tmp_path / "wrong.so"
    await asyncio.to_thread(
        subprocess.run, ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "wrong.c"), "-ldl"], check=True
    )
    only_stand_ins.python(
        "stress-ng",
        "arguments = ['rand48' if word == 'all' else word for word in sys.argv[1:]]\n"
        f"os.environ['LD_PRELOAD'] = {str(library)!r}\n"
        f"os.execv({shutil.which('stress-ng')!r}, ['stress-ng', *arguments])\n",
    )
    only_stand_ins.python("stressapptest", SAT)
    outcome = await outcome_of(tmp_path, only_stand_ins)
    assert [f.component for f in outcome.errors if f.reason_code is ReasonCode.CPU_MISCOMPUTE] == ["cpu:1"]

"""Entries for what loads print: stress-ng, stressapptest and iperf3."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from probes.json_paths import dig
from probes.links import LinkCounters, Port
from stages import cpu_stress_judge, iperf
from stages.network_judge import Limits, judge_port
from stages.network_readings import FlowReading, PortReading
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import Parser, verdict_of
from tests.fuzz.subjects_disk import document, recorded, result
from tests.support import recordings

# --- stress-ng: its YAML is mutated, then what it prints -------------------------------------------------------------


def _stress_ng_pairs(mutated: str, fixed: str) -> tuple[Recording, ...]:
    """Recordings whose file `mutated` is mutated while `fixed` stays, for cases that have both."""
    folder = recordings.FOLDER / "stress-ng"
    found = []
    for path in sorted(folder.glob("*.yaml")):
        texts = {kind: _text(folder / f"{path.stem}.{kind}") for kind in ("out", "err", "yaml")}
        stressor = re.search(r"stressor: (\w+)", texts["yaml"])
        exit_code = int((folder / f"{path.stem}.exit").read_text())
        extra = texts | {"stressor": stressor[1] if stressor else "cpu"}
        data = texts[mutated].encode() or texts["err" if mutated == "out" else mutated].encode()
        found.append(Recording(path.stem, data, exit_code, extra=extra))
    return tuple(found)


def _text(path: Any) -> str:
    return path.read_text() if path.exists() else ""


def _stress_ng(metrics_mutated: bool) -> Callable[[Mutant], str]:
    def read(mutant: Mutant) -> str:
        extra = mutant.recording.extra or {}
        metrics = mutant.text if metrics_mutated else extra["yaml"]
        said = result(mutant, "stress-ng", duration_s=1.5)
        if metrics_mutated:
            said = replace(said, stdout=extra["out"], stderr=extra["err"])
        report = cpu_stress_judge.stress_ng_report(said, metrics, extra["stressor"], 1.0)
        if extra["stressor"] == "vm":
            return verdict_of(list(cpu_stress_judge.vm_findings(report)))
        return verdict_of(list(cpu_stress_judge.cpu_findings(report, {0: report})))

    return read


def _stress_ng_facts(mutant: Mutant) -> bool:
    """Both figures stand there as numbers."""
    return all(re.search(rf"\b{name}: *\d", mutant.text) for name in ("bogo-ops", "wall-clock-time"))


# --- stressapptest ---------------------------------------------------------------------------------------------------


def _sat(mutant: Mutant) -> str:
    asked_s, planned = (30.0, 11000) if mutant.recording.name == "pass-1.0.11" else (3.0, 64)
    report = cpu_stress_judge.sat_report(result(mutant, "stressapptest", duration_s=70.0), asked_s)
    return verdict_of(list(cpu_stress_judge.sat_findings(report, planned)))


def _sat_facts(mutant: Mutant) -> bool:
    return all(re.search(words, mutant.text) for words in (r"Starting SAT, \d", r"Completed: [\d.]", r"Status: PASS"))


# --- iperf3 ----------------------------------------------------------------------------------------------------------

PORT = Port("eth0", "nic:00:11:22:33:44:55", frozenset({"00:11:22:33:44:55"}), "ixgbe", False, True, 10_000, "full")
COUNTERS = LinkCounters(0, 0, 0, 0, 0, 0)
LIMITS = Limits(0.001, None, 0.001, 0.001, 0.001)


def _iperf(mutant: Mutant) -> str:
    flow = iperf.flow_of(iperf._parse(result(mutant, "python")))
    figures = (flow.mbps, float(flow.bytes_moved), flow.packets, flow.own_cpu, flow.peer_cpu)
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures), f"no figures: {flow}"
    assert flow.retransmits is None or flow.retransmits >= 0, f"no count: {flow}"
    reading = PortReading(
        PORT,
        needed=True,
        before=COUNTERS,
        after=COUNTERS,
        watched_s=10.0,
        flows={way: FlowReading(flow, 2, flow.bytes_moved) for way in ("send", "receive")},
    )
    json.dumps([one.value for one in judge_port(reading, LIMITS)[1]], allow_nan=False)
    return verdict_of(judge_port(reading, LIMITS)[0])


def _iperf_facts(mutant: Mutant) -> bool:
    end = dig(document(mutant), "report", "end")
    return all(dig(end, "sum_received", name) for name in ("bytes", "bits_per_second"))


ENTRIES = (
    Parser(
        "stress-ng-metrics",
        ("stages/cpu_stress_judge.py",),
        lambda: _stress_ng_pairs("yaml", "out"),
        _stress_ng(True),
        facts=_stress_ng_facts,
        share=2,
    ),
    Parser(
        "stress-ng-messages",
        ("stages/cpu_stress_judge.py",),
        lambda: _stress_ng_pairs("out", "yaml"),
        _stress_ng(False),
        share=2,
    ),
    Parser(
        "stressapptest",
        ("stages/cpu_stress_judge.py",),
        lambda: recorded("stressapptest"),
        _sat,
        facts=_sat_facts,
        share=3,
    ),
    Parser(
        "iperf3",
        ("stages/iperf.py", "stages/network_judge.py"),
        lambda: recorded("iperf3"),
        _iperf,
        (iperf.IperfUnreadable, iperf.IperfUnavailable),
        _iperf_facts,
        is_json=True,
        share=3,
    ),
)

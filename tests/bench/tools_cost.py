"""What the agent's own work takes from its tools: its CPU time, and their throughput with and without it."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.fakes import Fake
from tests.bench.processes import children_cpu_s, cpu_s, memory_mib, running

THROUGH = Path(__file__).with_name("through.py")
STAGE_S = 20.0
TOOL_S = 6


@dataclass
class Cost:
    """CPU shares (percent) and throughput ratios, one of each a pair."""

    tool: str
    shares: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def share_text(self) -> str:
        return _text(self.shares, "{:.2f} %")

    def ratio_text(self) -> str:
        return _text(self.ratios, "{:.3f}")


def _text(values: list[float], form: str) -> str:
    if not values:
        return "-"
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def stress_ng(pairs: int, command: Callable[[str, Path], list[str]], note: Callable[[str, float], None]) -> Cost:
    """CPUStress by the real agent, then the same stress-ng alone."""
    cost = Cost("stress-ng")
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            share, record = _stage(Path(folder), command, note)
            cost.shares.append(share)
            under = _bogo_ops((record.with_suffix(".out").read_text(), _optional(record.with_suffix(".err"))))
            argv = list(json.loads(record.read_text())["argv"])
            if "--yaml" in argv:
                argv[argv.index("--yaml") + 1] = str(Path(folder) / "alone.yaml")
            alone = subprocess.run(["nice", "-n", "10", *argv], capture_output=True, text=True, cwd=folder)
            cost.ratios.append(under / _bogo_ops((alone.stdout, alone.stderr)))
    return cost


def _stage(
    scratch: Path, command: Callable[[str, Path], list[str]], note: Callable[[str, float], None]
) -> tuple[float, Path]:
    """(percent of the tools' CPU time that the agent took, the record of its first stress-ng run)."""
    fake = Fake(stage="CPUStress", parameters={"CPUStress": {"duration_s": STAGE_S, "memory_coverage_floor": 0.0}})
    with fake, running(command(fake.url, scratch), scratch / "log", scratch) as (process, _):
        fake.wait_for("claim", 60)
        before = cpu_s(process.pid)
        time.sleep(STAGE_S / 2)
        rss, pss = memory_mib(process.pid)
        note("stage_rss", rss)
        note("stage_pss", pss)
        fake.wait_for("result", STAGE_S * 4)
        own_s, tools_s = cpu_s(process.pid) - before, children_cpu_s(process.pid)
    records = sorted((scratch / "evidence").rglob("*stress-ng.json"))
    loads = [one for one in records if "--cpu" in json.loads(one.read_text())["argv"]]
    return 100 * own_s / tools_s, loads[0]


def _optional(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _bogo_ops(texts: tuple[str, ...]) -> float:
    """Bogo-ops a second of real time, from --metrics-brief."""
    found = re.search(r"\] cpu\s+\d+\s+[\d.]+\s+[\d.]+\s+[\d.]+\s+([\d.]+)", "\n".join(texts))
    if found is None:
        raise RuntimeError(f"no metrics in what stress-ng said: {texts!r}"[:500])
    return float(found[1])


def fio(pairs: int, python: Path) -> Cost:
    """Direct sequential reads of a file."""
    cost = Cost("fio")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        name = str(Path(folder) / "data")
        job = ["fio", "--name=read", f"--filename={name}", "--size=256m", "--rw=read", "--bs=1m", "--direct=1"]
        job += ["--ioengine=psync", f"--runtime={TOOL_S}", "--time_based", "--output-format=json"]
        subprocess.run([*job, "--create_only=1"], check=True, capture_output=True)
        for _ in range(pairs):
            answer = _through(python, job)
            alone = subprocess.run(["nice", "-n", "10", *job], check=True, capture_output=True, text=True).stdout
            cost.shares.append(100 * answer["own_s"] / answer["children_s"])
            cost.ratios.append(_fio_rate(answer["stdout"]) / _fio_rate(alone))
    return cost


def _fio_rate(text: str) -> float:
    return float(json.loads(text[text.index("{") :])["jobs"][0]["read"]["bw_bytes"])


def iperf3(pairs: int, python: Path) -> Cost:
    """A client test over loopback, by the agent's client and by the iperf3 program."""
    cost = Cost("iperf3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen(["iperf3", "-s", "-p", port, "-B", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        for _ in range(pairs):
            answer = _through(python, ["iperf3-client", "127.0.0.1", port, str(TOOL_S)])
            argv = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", str(TOOL_S), "-J"]
            alone = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
            cost.shares.append(100 * answer["own_s"] / answer["children_s"])
            cost.ratios.append(answer["mbps"] * 1e6 / json.loads(alone)["end"]["sum_received"]["bits_per_second"])
    finally:
        server.kill()
        server.wait()
    return cost


def _through(python: Path, argv: list[str]) -> dict[str, Any]:
    done = subprocess.run([str(python), "-I", str(THROUGH), *argv], check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer

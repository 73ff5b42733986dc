"""What the agent costs, beside ironic-python-agent on the same machine in the same run; and what the server takes.

    python tests/bench/bench.py [--write docs/bench.md] [--runs 5] [--pairs 3] [--cache DIR]
    python tests/bench/bench.py --only server|page [--write docs/bench.md]   this section alone, the rest stays

Each agent sits in an environment of its own under the cache folder, with nothing else installed; they are made
on the first call. All traffic is on loopback, nothing is written to a disk but temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import disks_at_once, fleet_page, server_load, tools_cost
from tests.bench.fakes import Fake
from tests.bench.processes import cpu_s, memory_mib, running
from tests.bench.sections import with_section

ROOT = Path(__file__).parents[2]
SETTLE_S = 3.0
IDLE_S = 20.0
PACKAGES = ("probes", "stages", "vetting_agent", "orchestrator")

OUR_INVENTORY = """
import asyncio, dataclasses, json, time
from probes import inventory
from probes.host import Host
host = Host(); started = time.perf_counter()
found = asyncio.run(inventory.collect(host)); took = time.perf_counter() - started
print(json.dumps({"s": took, "data": dataclasses.asdict(found)}, default=str))
"""
THEIR_INVENTORY = """
import json, sys, time
from oslo_config import cfg
from ironic_python_agent import config, encoding, hardware
cfg.CONF([])
manager = hardware.GenericHardwareManager(); started = time.perf_counter()
found = manager.list_hardware_info(); took = time.perf_counter() - started
print(json.dumps({"s": took, "data": json.loads(encoding.RESTJSONEncoder().encode(found))}))
"""


@dataclass
class Figures:
    """Samples of one agent, by name of the figure."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def text(self, name: str, form: str) -> str:
        """Median, with the lowest and the highest where there are several."""
        values = self.samples.get(name)
        if not values:
            return "-"
        middle = form.format(statistics.median(values))
        if len(values) == 1 or min(values) == max(values):
            return middle
        return f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def environment(folder: Path, install: Callable[[Path], Sequence[str]]) -> Path:
    """The interpreter of an environment with one thing installed; made unless it is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        with tempfile.TemporaryDirectory() as scratch:
            command = [str(python), "-m", "pip", "install", "--quiet", *install(Path(scratch))]
            subprocess.run(command, check=True)
    return python


def _copied_source(scratch: Path) -> Sequence[str]:
    """The project's own files, copied: pip builds in the tree that it is given."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, scratch / name)
    return [str(scratch)]


def distributions(python: Path) -> int:
    """Installed distributions, without pip and setuptools."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return sum(entry["name"].lower() not in {"pip", "setuptools", "wheel"} for entry in json.loads(listed.stdout))


def our_command(python: Path, url: str, scratch: Path) -> list[str]:
    """`vetting-agent run` that never touches this host's power or keys."""
    token = scratch / "token"
    token.write_text("bench-token\n")
    options = {
        "--orchestrator": url,
        "--run-id": "1",
        "--token-file": str(token),
        "--evidence": str(scratch / "evidence"),
        "--state-dir": str(scratch / "state"),
        "--memory-fraction": "0.1",
    }
    pairs = [word for pair in options.items() for word in pair]
    return [str(python.with_name("vetting-agent")), "run", *pairs, "--no-power", "--no-hold"]


def their_command(python: Path, url: str, _scratch: Path) -> list[str]:
    """ironic-python-agent against the same server, listening on loopback only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = ["--listen_host=127.0.0.1", f"--listen_port={port}", "--advertise_host=127.0.0.1"]
    return [str(python.with_name("ironic-python-agent")), f"--api_url={url}", *ours, "--lookup_timeout=60"]


def give_lshw(cache: Path) -> str:
    """ironic-python-agent does not start without lshw; where that is missing, a stand-in answers at once."""
    if shutil.which("lshw"):
        return "Its lshw is the real one."
    script = cache / "stand-ins" / "lshw"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        '#!/bin/sh\necho \'{"id": "host", "product": "p", "vendor": "v", "serial": "s", "children": []}\'\n'
    )
    script.chmod(0o755)
    os.environ["PATH"] += f":{script.parent}"
    return "There is no lshw here: ironic-python-agent was given a stand-in that answers at once."


def start_and_idle(figures: Figures, command: Callable[[str, Path], list[str]], *, idle: bool) -> None:
    """One start: how long to the first claim, and what it weighs and burns when it has nothing to do."""
    with tempfile.TemporaryDirectory() as folder, Fake() as fake:
        scratch = Path(folder)
        with running(command(fake.url, scratch), scratch / "log", scratch) as (process, started):
            try:
                figures.add("start", fake.wait_for("claim", 60) - started)
            except TimeoutError:
                sys.stderr.write((scratch / "log").read_text()[-2000:])
                raise
            if not idle:
                return
            time.sleep(SETTLE_S)
            before = cpu_s(process.pid)
            time.sleep(IDLE_S)
            figures.add("idle_cpu", 100 * (cpu_s(process.pid) - before) / IDLE_S)
            rss, pss = memory_mib(process.pid)
            figures.add("rss", rss)
            figures.add("pss", pss)


def inventory(figures: Figures, python: Path, program: str) -> None:
    """One inventory in a process that has its imports done."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([str(python), "-I", "-c", program], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    answer = json.loads(done.stdout.splitlines()[-1])
    figures.add("inventory", answer["s"])
    figures.samples["fields"] = [float(leaves(answer["data"]))]


def leaves(data: object) -> int:
    """Values that say something: not null, not empty. A list of words (CPU flags) is one; notes are none."""
    if isinstance(data, dict):
        return sum(leaves(value) for key, value in data.items() if key not in {"notes", "failed"})
    if isinstance(data, list) and any(isinstance(value, dict | list) for value in data):
        return sum(leaves(value) for value in data)
    return int(data not in (None, "", []))


ROWS = (
    ("start to first claim, s", "start", "{:.2f}", "≤ 0.45"),
    ("RSS idle, MiB", "rss", "{:.1f}", "≤ 36"),
    ("PSS idle, MiB", "pss", "{:.1f}", ""),
    ("RSS in CPUStress, MiB", "stage_rss", "{:.1f}", ""),
    ("PSS in CPUStress, MiB", "stage_pss", "{:.1f}", ""),
    ("CPU idle, %", "idle_cpu", "{:.3f}", "≤ 0.1"),
    ("inventory, s", "inventory", "{:.3f}", "no slower than theirs"),
    ("inventory, values", "fields", "{:.0f}", "≥ 2 × theirs"),
    ("distributions installed", "distributions", "{:.0f}", "≤ 20"),
)


PAGE = """# What the agent costs

Written by `make bench`; run it on your own machine. Medians, with the lowest and the highest.

{machine}. {runs} runs, both agents in turn. {remark}

| | vetting-agent | ironic-python-agent | to reach |
|---|---|---|---|
{rows}

Both run from an environment of their own against the same HTTP server on loopback. A claim is, for
ironic-python-agent, its lookup. RSS, PSS and CPU are those of the agent's process alone; idle, ours sends a heartbeat
every 10 s, theirs one in minutes. An inventory is timed after the imports; its values are those neither null nor empty.

## What it takes from the tools

| tool | the agent's CPU time ÷ the tool's | throughput under the agent ÷ alone |
|---|---|---|
{costs}

{disks}

Goal: at most 1 % CPU. stress-ng is run by the real agent in CPUStress, with its heartbeat, sensors and log going on,
and alone with the same arguments; fio and iperf3 by the agent's tool runner and its iperf3 client, and alone. Pairs in
turn; the spread of the ratio is that of the machine.
"""


def disks_text(pairs: int) -> str:
    """How eight disks compare with one."""
    ratios = []
    try:
        ratios = [disks_at_once.ratio() for _ in range(pairs)]
    except RuntimeError as problem:
        return f"Eight disks beside one: not measured here ({problem})."
    figures = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return (
        f"Storage over {disks_at_once.MANY} disks takes {figures} times as long as over one: loop devices of\n"
        f"{disks_at_once.SIZE // 2**20} MiB, each throttled by the kernel to {disks_at_once.BYTES_PER_S // 10**6} MB/s "
        "and read as a whole."
    )


def page(ours: Figures, theirs: Figures, costs: Sequence[tools_cost.Cost], disks: str, remark: str, runs: int) -> str:
    """docs/bench.md."""
    rows = [
        f"| {title} | {ours.text(name, form)} | {theirs.text(name, form)} | {goal} |"
        for title, name, form, goal in ROWS
    ]
    costs_rows = [f"| {cost.tool} | {cost.share_text()} | {cost.ratio_text()} |" for cost in costs]
    return PAGE.format(
        machine=f"{machine_text()}, load average at the end {os.getloadavg()[0]:.1f}",
        runs=runs,
        remark=remark,
        rows="\n".join(rows),
        costs="\n".join(costs_rows),
        disks=disks,
    )


def machine_text() -> str:
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release().partition('-')[0]}"
    return f"{machine}, Python {platform.python_version()}"


def add_server(page_text: str, args: argparse.Namespace) -> str:
    """The page with the server's section measured anew; its picture is written beside the page."""
    sizes = tuple(int(size) for size in args.sizes.split(","))
    found = server_load.measure(args.server_s, args.rhythm_s, sizes)
    if args.write is not None:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        server_load.write_chart(found, args.write.parent)
    return with_section(page_text, "server", server_load.text_of(found, machine_text()))


def add_page(page_text: str) -> str:
    """The page with the section of the fleet's page measured anew."""
    return with_section(page_text, "fleet page", fleet_page.section())


def tell(text: str, to: Path | None) -> int:
    """Print the page, and write it where it belongs."""
    sys.stdout.write(text)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; print the page or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", metavar="FILE", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=3, help="pairs of a tool under the agent and alone")
    parser.add_argument("--cache", type=Path, default=ROOT / ".venv" / "bench")
    parser.add_argument("--fresh", action="store_true", help="install this project again first")
    parser.add_argument("--only", choices=("server", "page"), help="measure this section alone")
    parser.add_argument("--server-s", type=float, default=15.0, help="seconds of each of the server's measurements")
    parser.add_argument("--rhythm-s", type=float, default=300.0, help="seconds of 2,000 hosts at their real rhythm")
    parser.add_argument("--sizes", default=",".join(map(str, server_load.SIZES)), help="of the chart, in hosts")
    args = parser.parse_args(argv)
    if args.only:
        old = args.write.read_text() if args.write is not None and args.write.exists() else ""
        return tell(add_server(old, args) if args.only == "server" else add_page(old), args.write)
    if args.fresh:
        shutil.rmtree(args.cache / "agent", ignore_errors=True)
    our_python = environment(args.cache / "agent", _copied_source)
    their_python = environment(args.cache / "ipa", lambda _: ["ironic-python-agent"])
    remark = f"{_version(their_python)} {give_lshw(args.cache)}"
    ours, theirs = Figures(), Figures()
    ours.add("distributions", distributions(our_python))
    theirs.add("distributions", distributions(their_python))
    for number in range(args.runs):
        idle = number < 3
        start_and_idle(ours, lambda url, scratch: our_command(our_python, url, scratch), idle=idle)
        start_and_idle(theirs, lambda url, scratch: their_command(their_python, url, scratch), idle=idle)
        inventory(ours, our_python, OUR_INVENTORY)
        inventory(theirs, their_python, THEIR_INVENTORY)
    costs = [
        tools_cost.stress_ng(args.pairs, lambda url, scratch: our_command(our_python, url, scratch), ours.add),
        tools_cost.fio(args.pairs, our_python),
        tools_cost.iperf3(args.pairs, our_python),
    ]
    text = page(ours, theirs, costs, disks_text(args.pairs), remark, args.runs)
    return tell(add_page(add_server(text, args)), args.write)


def _version(their_python: Path) -> str:
    shown = subprocess.run(
        [str(their_python), "-m", "pip", "show", "ironic-python-agent"], check=True, capture_output=True, text=True
    )
    found = re.search(r"^Version: (.*)$", shown.stdout, re.MULTILINE)
    return f"ironic-python-agent {found[1] if found else '?'}."


if __name__ == "__main__":
    sys.exit(main())

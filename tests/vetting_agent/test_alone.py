"""`inventory` and `stage` on their own: real processes, their exit codes, and what they leave running (nothing)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from probes.inventory import Inventory
from stages import STAGES
from stages.outcome import Outcome, ReasonCode, error, warning
from tests.support.replay import HOSTS
from tests.support.trees import copy_of, plant
from vetting_agent import alone, alone_text
from vetting_agent.wire import Summary

# The command line as it is put together in `__main__`, with stages of the test's own after the real ones.
PROGRAM = """
import argparse, asyncio, sys
import stages
from dataclasses import dataclass
from stages.outcome import Outcome, ReasonCode, error
from stages.stage import Stage
from vetting_agent import alone

@dataclass(frozen=True, slots=True)
class Options:
    verdict: str = "pass"
    seconds: int = 600

async def judged(context, options):
    context.info("one \\x1b[2J line")
    assert (context.facts.non_destructive, context.facts.allow_destructive) == (True, False)
    assert context.facts.expected_disks is None and context.facts.memory_fraction == 0.5
    async with context.iperf.lease() as peer:
        assert peer is None
    codes = {"fail": ReasonCode.CPU_SLOW, "unknown": ReasonCode.TOOL_FAILED}
    code = codes.get(options.verdict)
    return Outcome("judged", (error(code, "disk:A\\x1b[2J", "no \\x07 good"),) if code else ())

async def sleeping(context, options):
    text = f"setsid sleep {options.seconds} & sleep {options.seconds}"
    await context.host.tools.run("bash", "-c", text, timeout_s=900)
    return Outcome("slept")

def stage(name, run):
    return Stage(name=name, state=name, title=name, options=Options, planned_s=lambda _: 900.0, run=run,
                 readings=Outcome, judge=lambda said, _: said)

stages.STAGES = (*stages.STAGES, stage("Judged", judged), stage("Sleeping", sleeping))
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(required=True)
alone.add_arguments_inventory(commands.add_parser("inventory"))
alone.add_arguments_stage(commands.add_parser("stage"))
sys.exit(alone.main(parser.parse_args()))
"""


def argv(*arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(*arguments), capture_output=True, text=True, timeout=120, check=False)


def stage(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call("stage", *arguments, "--evidence", str(tmp_path / "evidence"))


def test_the_inventory_of_this_machine_as_json() -> None:
    done = call("inventory", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == (4 if found["failed"] else 0)
    assert found["cpu"]["logical_cores"] == os.cpu_count()
    assert found.keys() >= {"system", "cpu", "memory", "disks", "nics", "gpus", "psus", "bmc", "tpm", "boot", "notes"}


def test_the_inventory_of_a_recorded_machine_for_a_person() -> None:
    done = call("inventory", "--root", str(HOSTS / "dell-xeon"))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "System"
    assert "  sda      14090C05022B  MTFDDAK256MAM-1K12  250.059 GB  sata       08TH      0000:00:1f.2" in lines
    assert "  product  DCS8000Z" in lines
    assert any("DIMM_A1" in line for line in lines)  # from the recorded dmidecode


def test_a_root_that_is_no_machine_is_wrong_usage(tmp_path: Path) -> None:
    done = call("inventory", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no recorded machine" in done.stderr


def test_hardware_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    root = plant(copy_of("virtual-machine", tmp_path), {"sys/class/dmi/id/sys_vendor": "Evil\x1b[2J\x9b\u202e Corp"})
    done = call("inventory", "--root", str(root))
    assert "\x1b" not in done.stdout
    assert "Evil\\x1b[2J\\x9b\\u202e Corp" in done.stdout


def test_an_unknown_stage_lists_the_stages(tmp_path: Path) -> None:
    done = stage(tmp_path, "Nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    for one in STAGES:
        assert one.name in done.stderr
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize("setting", ["colour=red", "seconds=many", "seconds", "=1", "section_limit_s=-1"])
def test_a_parameter_that_the_stage_cannot_take_is_wrong_usage(tmp_path: Path, setting: str) -> None:
    done = stage(tmp_path, "Inventory" if "limit" in setting else "Judged", "--set", setting)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("unknown", 4)])
def test_the_exit_code_tells_the_verdict(tmp_path: Path, verdict: str, code: int) -> None:
    done = stage(tmp_path, "judged", "--json", "--set", f"Judged.verdict={verdict}")
    assert done.returncode == code, done.stderr
    summary = msgspec.json.decode(done.stdout, type=Summary, strict=True)
    assert summary.verdict == verdict
    fields = json.loads(done.stdout).keys()
    assert fields == {"verdict", "headline", "findings", "measurements", "coverage", "duration_s", "tool_versions"}


def test_findings_and_log_lines_are_made_safe_to_show(tmp_path: Path) -> None:
    done = stage(tmp_path, "Judged", "--set", "verdict=fail")
    assert "\x1b" not in done.stdout + done.stderr
    assert "ERROR    disk:A\\x1b[2J  [cpu_slow]" in done.stdout
    assert "no \\x07 good" in done.stdout
    assert "one \\x1b[2J line" in done.stderr
    assert "Verdict: FAIL after" in done.stdout


def test_the_inventory_stage_leaves_its_evidence_each_time_in_a_new_folder(tmp_path: Path) -> None:
    for number in ("01", "02"):
        done = stage(tmp_path, "Inventory", "--json")
        folder = tmp_path / "evidence" / f"{number}-Inventory"
        assert json.loads((folder / "outcome.json").read_text())["verdict"] == json.loads(done.stdout)["verdict"]
        assert (folder / "inventory.json").exists()
        assert f"Evidence: {folder}" in done.stderr


def test_evidence_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file")
    done = stage(tmp_path, "Judged")
    assert done.returncode == 2
    assert "evidence folder cannot be made" in done.stderr


def sleepers(seconds: int) -> list[psutil.Process]:
    wanted = ["sleep", str(seconds)]
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == wanted]


def wait_for(count: int, seconds: int, limit_s: float) -> int:
    deadline = time.monotonic() + limit_s
    while len(sleepers(seconds)) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(sleepers(seconds))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_kills_the_stage_and_all_it_started(tmp_path: Path, number: signal.Signals) -> None:
    seconds = 100_000 + os.getpid() + number  # so that no other test's sleepers are counted
    arguments = ("stage", "Sleeping", "--set", f"seconds={seconds}", "--evidence", str(tmp_path / "evidence"))
    running = subprocess.Popen(argv(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_for(2, seconds, 30.0) == 2
        running.send_signal(number)
        stdout, stderr = running.communicate(timeout=20)
    finally:
        running.kill()
    assert (running.returncode, stdout) == (130, "")
    assert "Interrupted" in stderr
    assert wait_for(0, seconds, 2.0) == 0


def test_the_arguments_import_nothing_heavy() -> None:
    code = "import sys; from vetting_agent import alone; print({'stages', 'probes', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_destruction_is_not_on_offer() -> None:
    parser = argparse.ArgumentParser()
    alone.add_arguments_stage(parser)
    assert "destructive" not in parser.format_help()


def test_a_table_is_aligned_and_shows_what_is_not_known() -> None:
    assert alone_text.table([("name", "size"), ("sda", None), ("nvme0n1", 5)]) == [
        "  name     size",
        "  sda      -",
        "  nvme0n1  5",
    ]


def test_an_outcome_in_text() -> None:
    findings = (
        error(ReasonCode.DISK_MISSING, "disk:A", "Expected disk A is not there"),
        warning(ReasonCode.PCIE_LINK_DEGRADED, "pci:0", "narrow"),
    )
    outcome = Outcome("one disk is missing", findings, coverage={"disks": 1.0, "disk:A": 0.0}, duration_s=1.25)
    assert alone_text.outcome("Inventory", outcome).splitlines() == [
        "Inventory",
        "  one disk is missing",
        "",
        "Findings",
        "  ERROR    disk:A  [disk_missing]",
        "           Expected disk A is not there",
        "  warning  pci:0  [pcie_link_degraded]",
        "           narrow",
        "",
        "Tested",
        "  disks   100%",
        "  disk:A  0%",
        "",
        "Verdict: FAIL after 1.2 s: Expected disk A is not there",
    ]


def sections(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith(" ")]


def test_a_machine_of_which_nothing_was_read_in_text() -> None:
    nothing = Inventory(*[None] * 11, notes=("cpu: gone",), failed=())
    text = alone_text.inventory(nothing).splitlines()
    assert sections(text) == [
        *("System", "Boot", "CPU", "Memory", "Disks", "NICs", "GPUs", "PSUs", "BMC", "TPM", "PCI", "Notes"),
    ]
    assert text[-1] == "  cpu: gone"

"""`vet` as a person runs it: a real orchestrator, a real agent, and stand-in tools first on the PATH.

The laws shown here: it never powers off, touches no key of root's, arms no hold, writes to no disk, takes at most
half of the free memory; and whatever ends it, nothing of it is left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from stages import STAGES
from tests.support.stand_ins import StandIns
from vetting_agent import vet
from vetting_agent.operator_client import Listening, operator_client

RECORDED = Path(__file__).parents[1] / "fixtures" / "tools"
POWER = ("systemctl", "shutdown", "poweroff", "halt", "reboot", "init", "telinit")
LIMIT_S = 90.0
GONE_S = 3.0

STRESS_NG = """
import shutil
if "--yaml" in sys.argv:
    shutil.copy({yaml!r}, sys.argv[sys.argv.index("--yaml") + 1])
sys.stdout.write({out!r})
sys.exit({code})
"""
# Besides itself it leaves a grandchild in a session of its own, which only a namespace or a subreaper finds.
ENDLESS = """
import subprocess, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {mark!r}], start_new_session=True)
open({mark!r}, "w").close()
time.sleep(600)
"""


class Vet:
    """One `vet` as a process, its PATH, HOME and TMPDIR ours."""

    def __init__(self, folder: Path, stand_ins: StandIns) -> None:
        self.folder = folder
        self.reports = folder / "reports"
        self.home = folder / "home"
        self.scratch = folder / "t"
        for made in (self.home / ".ssh", self.scratch):
            made.mkdir(parents=True)
        self._path = stand_ins.path
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "vetting_agent", "vet", "--report", str(self.reports), *arguments]
        environment = {**os.environ, "PATH": self._path, "HOME": str(self.home), "TMPDIR": str(self.scratch)}
        self.process = subprocess.Popen(
            argv, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        """Its exit code and what it printed."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, output

    def run(self, *arguments: str) -> tuple[int, str]:
        self.start(*arguments)
        return self.finish()

    def report(self) -> dict[str, Any]:
        """report.json of the only run."""
        (path,) = self.reports.glob("*/report.json")
        return dict(json.loads(path.read_text()))

    def left(self) -> list[str]:
        """Processes that are there because of it, itself apart."""
        mine = self.process.pid if self.process else 0
        return [line for pid, line in _command_lines() if str(self.folder) in line and pid not in {mine, os.getpid()}]


def _command_lines() -> Iterator[tuple[int, str]]:
    for process in psutil.process_iter():
        try:
            yield process.pid, " ".join(process.cmdline())
        except psutil.Error:
            continue


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {limit_s} s in vain for: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def vetting(tmp_path: Path, stand_ins: StandIns) -> Iterator[Vet]:
    for name in POWER:
        stand_ins.says(name)
    started = Vet(tmp_path, stand_ins)
    yield started
    process = started.process
    if process is not None and process.poll() is None:
        process.kill()
    if process is not None:
        process.communicate()
    wait_for(lambda: not started.left(), "the processes of vet to be gone", GONE_S)


def says_of(stand_ins: StandIns, case: str) -> None:
    """A stress-ng that prints what a real one once printed; `case` is the name of the recording."""
    recorded = RECORDED / "stress-ng"
    code = int((recorded / f"{case}.exit").read_text())
    out = (recorded / f"{case}.out").read_text()
    stand_ins.python("stress-ng", STRESS_NG.format(yaml=str(recorded / f"{case}.yaml"), out=out, code=code))


def endless_load(stand_ins: StandIns, mark: Path) -> None:
    stand_ins.python("stress-ng", ENDLESS.format(mark=str(mark)))


def keys_of_root() -> list[tuple[str, int, int]]:
    folder = Path("/root/.ssh")
    try:
        return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.iterdir()))
    except OSError:
        return []


@pytest.mark.slow
def test_a_lying_cpu_fails_the_whole_walk_and_nothing_else_happens(vetting: Vet, stand_ins: StandIns) -> None:
    says_of(stand_ins, "miscompute-0.19")
    for name in ("stressapptest", "fio", "mkfs", "wipefs", "dd", "hdparm", "sg_format"):
        stand_ins.says(name, exit_code=1)
    keys, free = keys_of_root(), psutil.virtual_memory().available
    code, output = vetting.run("--set", "CPUStress.duration_s=2", "--set", "Network.duration_s=1")

    assert code == 1, output
    report = vetting.report()
    assert report["verdict"] == "fail"
    verdicts = {stage["stage"]: stage["verdict"] for stage in report["stages"]}
    assert verdicts["CPUStress"] == "fail"
    assert set(verdicts.values()) <= {"pass", "fail", "unknown", "not_applicable"}, "the walk went on to its end"
    assert "cpu_miscompute" in output
    assert "CPUStress" in output.splitlines()[-1] or "CPUStress" in output.splitlines()[-2]

    assert [call for name in POWER for call in stand_ins.calls(name)] == [], "it must never power off"
    assert keys_of_root() == keys
    assert list((vetting.home / ".ssh").iterdir()) == []
    run = report["run"]
    assert run["state"] == "FailedHolding"
    assert not (run["hold"] or {}).get("requested"), "it must arm no hold"
    assert run["non_destructive"] is True
    writes = [call for call in stand_ins.calls() if call[0] in {"mkfs", "wipefs", "dd", "hdparm", "sg_format"}]
    assert writes == []
    assert [call for call in stand_ins.calls("fio") if any("write" in word for word in call)] == []
    asked = [int(call[call.index("-M") + 1]) for call in stand_ins.calls("stressapptest") if "-M" in call]
    assert asked
    assert max(asked) * 2**20 <= 0.55 * free, "half of the free memory, and some slack for what others took since"


def test_a_selection_is_named_as_such(vetting: Vet) -> None:
    code, output = vetting.run("--stages", "inventory", "--exit-zero")
    report = vetting.report()
    assert (code, report["whole"]) == (0, False)
    assert "of the selected stages" in output.lower()
    assert {stage["verdict"] for stage in report["stages"][1:]} == {"not_selected"}
    assert "SMART, CPUStress, Storage, Network, GPU, PSU: not selected" in output
    for file in ("report.html", "run.log", "evidence", "agent.log", "orchestrator.log"):
        assert next(vetting.reports.glob(f"*/{file}")).exists()
    assert "\x1b" not in output, "colours are for terminals"
    assert list(vetting.scratch.iterdir()) == [], "the throw-away database and the token must be gone"


def test_json_goes_alone_to_standard_output(vetting: Vet) -> None:
    argv = [sys.executable, "-m", "vetting_agent", "vet", "--report", str(vetting.reports), "--stages", "PSU", "--json"]
    environment = {**os.environ, "TMPDIR": str(vetting.scratch)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert json.loads(done.stdout)["format"] == "vetting-report/1"
    assert json.loads(done.stdout)["exit_code"] == done.returncode
    assert "PSU: started" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    vetting: Vet, stand_ins: StandIns, tmp_path: Path, number: signal.Signals
) -> None:
    mark = tmp_path / "loaded"
    endless_load(stand_ins, mark)
    process = vetting.start("--stages", "CPUStress")
    wait_for(mark.exists, "the load to run")
    process.send_signal(number)
    code, output = vetting.finish()
    assert code == 130, output
    assert vetting.left() == []
    assert list(vetting.scratch.iterdir()) == []
    assert vetting.report()["verdict"] == "interrupted"
    assert "INTERRUPTED" in output


def test_a_second_interruption_ends_it_at_once(vetting: Vet, stand_ins: StandIns, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    endless_load(stand_ins, mark)
    process = vetting.start("--stages", "CPUStress")
    wait_for(mark.exists, "the load to run")
    agent = find_child(vetting, "agent")
    agent.suspend()  # an agent that does not end when it is asked to
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=3.0) == 130
    wait_for(lambda: not vetting.left(), "everything to be gone", GONE_S)
    assert list(vetting.scratch.iterdir()) == []


def test_nothing_outlives_a_killed_vet(vetting: Vet, stand_ins: StandIns, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    endless_load(stand_ins, mark)
    process = vetting.start("--stages", "CPUStress")
    wait_for(mark.exists, "the load to run")
    process.kill()
    process.wait()
    wait_for(lambda: not vetting.left(), "everything to be gone", GONE_S)


def find_child(vetting: Vet, name: str) -> psutil.Process:
    """The agent or the orchestrator itself, not one of the processes that watch over it."""
    module = {"agent": "vetting_agent run", "orchestrator": "orchestrator serve"}[name]

    def found() -> psutil.Process | None:
        start = f"{sys.executable} -P -m {module}"
        lines = [pid for pid, line in _command_lines() if line.startswith(start) and str(vetting.folder) in line]
        return psutil.Process(lines[0]) if lines else None

    process: psutil.Process = wait_for(found, f"the {name}")
    return process


@pytest.mark.parametrize("name", ["agent", "orchestrator"])
def test_a_process_that_dies_makes_the_run_incomplete(
    vetting: Vet, stand_ins: StandIns, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "loaded"
    endless_load(stand_ins, mark)
    vetting.start("--stages", "CPUStress")
    wait_for(mark.exists, "the load to run")
    find_child(vetting, name).kill()
    code, output = vetting.finish()
    assert code == 4, output
    assert f"the {name} ended unexpectedly (killed by SIGKILL)" in output
    assert vetting.left() == []


async def test_even_an_order_to_shut_down_does_not_power_off(vetting: Vet, stand_ins: StandIns, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    endless_load(stand_ins, mark)
    vetting.start("--stages", "CPUStress")
    wait_for(mark.exists, "the load to run")
    (facts,) = vetting.scratch.glob("*/data/server.json")
    listening = msgspec.json.decode(facts.read_bytes(), type=Listening)
    async with operator_client(Path(listening.operator_socket)) as client:
        await client.direct(1, "shutdown")
    code, output = vetting.finish()
    assert code == 4, output
    assert "the agent ended unexpectedly (exit code 0)" in output
    assert [call for name in POWER for call in stand_ins.calls(name)] == []


def test_setup_installs_every_tool_that_a_stage_names() -> None:
    script = (Path(__file__).parents[2] / ".ci" / "setup.sh").read_text()
    wanted = {tool for stage in STAGES for tool in stage.tools}
    assert {tool for tool in wanted if f"{tool}=" not in script} == set()


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vet.add_arguments(parser)
    return parser.parse_args(list(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "hasty"), "there is no profile 'hasty'; there are: quick, standard, burnin"),
        (("--stages", "SMART,Coffee"), "there is no stage 'Coffee'; there are: Inventory, SMART"),
        (("--stages", ""), "--stages names no stage"),
        (("--set", "duration_s=3"), "is not of the form STAGE.name=value"),
        (("--set", "CPUStress.duration_s"), "is not of the form STAGE.name=value"),
        (("--set", "Coffee.strength=3"), "there is no stage 'Coffee'"),
        (("--set", "CPUStress.vigour=3"), "CPUStress has no parameter 'vigour'; it has:"),
        (("--set", "CPUStress.duration_s=long"), "CPUStress.duration_s must be a number"),
        (("--set", "CPUStress.duration_s=nan"), "CPUStress.duration_s must be a number"),
        (("--report", "/proc/no/such"), "the report folder /proc/no/such cannot be made"),
    ],
)
def test_a_mistake_on_the_command_line_is_explained(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reports"
    assert vet.main(arguments("--report", str(folder), *words)) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists(), "a mistake must leave no empty report behind"


def test_the_command_line_becomes_a_plan(tmp_path: Path) -> None:
    plan = vet.plan_of(
        arguments(
            *("--report", str(tmp_path), "--profile", "standard", "--stages", "storage, SMART"),
            *("--set", "CPUStress.duration_s=30", "--set", "smart.self_test=none"),
        )
    )
    assert (plan.profile, plan.stages) == ("standard", ("SMART", "Storage"))
    assert plan.parameters == {"CPUStress": {"duration_s": 30}, "SMART": {"self_test": "none"}}
    assert plan.memory_fraction == 0.5


def test_an_older_report_is_never_written_over(tmp_path: Path) -> None:
    folders = {vet.new_folder(str(tmp_path), "../odd host/") for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path}

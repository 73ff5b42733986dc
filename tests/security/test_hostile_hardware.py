"""Disks, firmware and a BMC that call themselves anything: real agent, real orchestrator, tools that lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.orchestrator.test_cli import typed
from tests.security.words import HOSTILE, assert_tame_page, assert_tame_text, steering
from tests.support.stand_ins import StandIns
from tests.walk.conftest import new_agent, orchestrator
from tests.walk.rig import Agent, Orchestrator, wait_for
from tests.walk.test_walk import SHORT

__all__ = ["new_agent", "orchestrator"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.root]
WORD = HOSTILE.replace("\r\n", " ")
"""As it fits into one line."""
SERIALS = sorted(Path("/sys/block").glob("*/serial"))
STRESS_NG = f"""
if "--version" in sys.argv:
    print("stress-ng, version 0.15.06")
    sys.exit(0)
sys.stderr.write("stress-ng: fail:  [7] cpu: verification failed " + {HOSTILE!r} + chr(10))
sys.exit(2)
"""
SCAN = """
said = {{"json_format_version": [1, 0], "smartctl": {{"version": [7, 3], "exit_status": 0,
  "messages": [{{"string": {word!r}, "severity": "error"}}]}},
  "devices": [
  {{"name": "/dev/bus/0", "info_name": {word!r}, "type": "megaraid,8", "protocol": "SCSI"}}],
  "model_name": {word!r}, "serial_number": {word!r}, "device": {{"name": {word!r}}},
  "smart_status": {{"passed": False}}}}
print(json.dumps(said))
"""


def lying_tools(folder: Path) -> None:
    stand_ins = StandIns(folder)
    stand_ins.python("stress-ng", STRESS_NG)
    stand_ins.python("smartctl", SCAN.format(word=HOSTILE))


def lying_files(folder: Path) -> dict[str, Path]:
    """The CPU's name and, where this machine has such, a disk's serial number."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    changed = [f"model name\t: {WORD}" if line.startswith("model name") else line for line in lines]
    (folder / "cpuinfo").write_text("\n".join(changed) + "\n")
    (folder / "serial").write_text(f"{WORD}\n")
    return {"/proc/cpuinfo": folder / "cpuinfo"} | {str(path): folder / "serial" for path in SERIALS[:1]}


def test_what_hardware_calls_itself_reaches_nobody_as_control_codes(
    orchestrator: Orchestrator, new_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    lying_tools(tmp_path / "agent" / "bin")
    created = orchestrator.create_run(["Inventory", "SMART", "CPUStress"], on_failure="continue", parameters=SHORT)
    agent = new_agent(created, shown=lying_files(tmp_path))
    run = created["run_id"]
    wait_for(lambda: orchestrator.run(run)["state"] in {"Completed", "FailedHolding"}, "the end", 120)
    assert_tame_text(agent.errors, "the agent's standard error")
    for line in orchestrator.logs(run):
        assert steering(line["text"]) == set(), line
    view = orchestrator.run(run)
    assert "EVIL" in str(view["inventory"]), "the words came through at all"
    assert any("EVIL" in str(stage["summary"]) for stage in view["stages"])
    for words in (["run", "show", str(run)], ["run", "list"], ["report", str(run), "--form", "junit"]):
        assert_tame_text(typed(orchestrator.data, *words), " ".join(words))
    page = typed(orchestrator.data, "report", str(run))
    assert "EVIL" in page
    assert_tame_page(page, "the report")

"""How far the agent's unit is closed: the score that docs/security.md states, and stages with what is left."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.walk.conftest import orchestrator
from tests.walk.rig import Agent, Orchestrator, wait_for
from tests.walk.test_walk import PASSABLE, SHORT

__all__ = ["orchestrator"]  # a fixture

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "image/root/etc/systemd/system/vetting-agent.service"
PAGE = ROOT / "docs/security.md"
SYS_TIME = 25
"""Its number, linux/capability.h."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def taken_away() -> list[str]:
    """The capabilities that the unit takes away, as setpriv writes them."""
    (line,) = re.findall(r"^CapabilityBoundingSet=~(.*)$", UNIT.read_text(), re.MULTILINE)
    return [f"-{name.removeprefix('CAP_').lower()}" for name in line.split()]


def bounding(pid: int) -> int:
    """The capabilities that a process may ever have."""
    found = re.search(r"^CapBnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


@needs_systemd
def test_the_score_is_the_one_that_the_page_states() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    measured = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    stated = re.search(r"\*\*([\d.]+)\*\* \(systemd (\d+)", PAGE.read_text())
    assert measured is not None, done.stderr
    assert stated is not None
    version = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60
    ).stdout.split()[1]
    if version != stated[2]:
        pytest.skip(f"the figure is of systemd {stated[2]}; this is {version}")
    assert measured[1] == stated[1]


@pytest.mark.slow
@pytest.mark.root
def test_a_machine_is_vetted_with_the_rights_that_the_unit_leaves(orchestrator: Orchestrator, tmp_path: Path) -> None:
    created = orchestrator.create_run(PASSABLE, parameters=SHORT)
    agent = Agent(tmp_path / "agent", orchestrator.url, orchestrator.fingerprint, created)
    dropped = ",".join(taken_away())
    agent.within = ("setpriv", "--no-new-privs", "--bounding-set", dropped, "--inh-caps", dropped, "--")
    agent.start()
    assert agent.process is not None
    try:
        pid = agent.process.pid
        wait_for(lambda: not bounding(pid) >> SYS_TIME & 1, "the rights to be taken away")
        assert agent.wait(240) == 0, agent.errors
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Completed", agent.errors
    assert agent.power_log == ["systemctl poweroff"]

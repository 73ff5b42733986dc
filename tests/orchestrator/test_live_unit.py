"""The unit of the handbook under a real systemd: what it closes is closed, and the server does all that it is for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_systemd import SOURCE, SYSTEMD, LiveSystemd
from tests.support.ssh_server import ssh_server
from tests.walk.rig import Agent, Orchestrator, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed"),
]
UNIT = "vetting-orchestrator.service"
FILES = Path(__file__).parents[2] / "docs/systemd"
HOME = "/var/lib/vetting-orchestrator"
FROM_SOURCE = f"""[Service]
ExecStart=
ExecStart={SOURCE}/.venv/bin/python -m orchestrator serve $VETTING_SERVE
WorkingDirectory={SOURCE}
"""
"""All of the unit but for where the program lies."""


class Served(Orchestrator):
    """The server of the unit, driven as one that a test started itself."""

    def __init__(self, systemd: LiveSystemd) -> None:
        self.systemd = systemd
        self.find()

    def find(self) -> None:
        """Wait until the unit's server answers."""
        wait_for(self._answers, f"the server:\n{self.systemd.run('systemctl', 'status', '--no-pager', UNIT)}")

    def _answers(self) -> bool:
        """It says where its data lies once it serves."""
        if f"Data           {HOME}" not in self.systemd.run("journalctl", "-o", "cat", f"_PID={self.pid}"):
            return False
        facts: dict[str, Any] = json.loads((self.systemd.root / HOME.lstrip("/") / "server.json").read_text())
        self.facts = facts | {"operator_socket": f"{self.systemd.root}{facts['operator_socket']}"}
        return True

    @property
    def pid(self) -> int:
        return int(self.systemd.of_unit(UNIT, "MainPID"))


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystemd]:
    folder = tmp_path_factory.mktemp("live") / "machine"
    folder.mkdir()
    with LiveSystemd(folder) as systemd:
        systemd.run("useradd", "--system", "--home-dir", HOME, "vetting")
        place = systemd.root / "etc/systemd/system"
        shutil.copy(FILES / UNIT, place)
        (place / f"{UNIT}.d").mkdir()
        (place / f"{UNIT}.d" / "from-source.conf").write_text(FROM_SOURCE)
        yield systemd


@pytest.fixture
def served(systemd: LiveSystemd) -> Served:
    """Started anew with the options that the handbook's file has."""
    configured(systemd, (FILES / "vetting-orchestrator.env").read_text())
    systemd.run("systemctl", "reset-failed", UNIT)
    systemd.run("systemctl", "restart", UNIT)
    return Served(systemd)


def configured(systemd: LiveSystemd, text: str) -> None:
    (systemd.root / "etc/vetting").mkdir(exist_ok=True)
    (systemd.root / "etc/vetting/orchestrator.env").write_text(text)


def inside(systemd: LiveSystemd, pid: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """As if by the server itself: with its view of the file systems, and its user."""
    user = ["--reuid", "vetting", "--regid", "vetting", "--clear-groups"]
    words = ["nsenter", "-t", pid, "-m", "--", "setpriv", *user, *argv]
    text, _, code = systemd.run("sh", "-c", f"{shlex.join(words)} 2>&1; echo $?").rpartition("\n")
    return subprocess.CompletedProcess(words, int(code), text)


def test_what_the_unit_closes_is_closed(served: Served) -> None:
    pid = str(served.pid)
    status = served.systemd.run("cat", f"/proc/{pid}/status")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert int(facts["Uid"].split()[0]) != 0
    assert (facts["CapBnd"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "1", "2")
    for place in ("/usr", "/etc", "/opt", "/var"):
        assert "Read-only file system" in inside(served.systemd, pid, "touch", f"{place}/x").stdout
    assert inside(served.systemd, pid, "touch", f"{HOME}/.x").returncode == 0
    assert inside(served.systemd, pid, "ls", "/home").returncode != 0
    assert inside(served.systemd, pid, "ls", "/proc/1").returncode != 0, "the processes of others are to be seen"


def test_a_run_with_a_hold_goes_as_ever(served: Served, tmp_path: Path) -> None:
    """The Network stage's server, claim, results, the hold's key tried by the server's ssh, and an abort."""
    within = served.systemd.within_network
    wait_for(lambda: ":5201" in subprocess.check_output([*within, "ss", "-Hltn"], text=True), "the iperf3 server")
    argv = [*within, "iperf3", "-c", "127.0.0.1", "-p", "5201", "-t", "1", "-J"]
    measured = json.loads(subprocess.check_output(argv, text=True, timeout=60))
    assert measured["end"]["sum_received"]["bytes"] > 0
    created = served.create_run(["Inventory"], spec={"cpu": {"model": "Abacus 9000"}})
    agent = Agent(tmp_path / "agent", served.url, served.fingerprint, created, within=within).start()
    assert agent.process is not None
    try:
        wait_for(lambda: agent.keys.exists() and agent.keys.read_text(), "the wrong machine to be held")
        with ssh_server(tmp_path / "sshd", agent.keys, "127.0.0.1", 22, within):
            hops = preflight(served, created["run_id"])
        assert hops["hold_key"] == "ok", hops
        served.direct(created["run_id"], "abort")
        assert agent.wait(60) == 0, agent.errors
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()


def preflight(served: Served, run_id: int) -> dict[str, str]:
    """Its hops with what came of each."""
    argv = ["env", "-C", str(SOURCE), f"VETTING_DATA={HOME}", f"{SOURCE}/.venv/bin/python", "-m", "orchestrator"]
    said = json.loads(served.systemd.run(*argv, "preflight", str(run_id), "--json"))
    return {hop["hop"]: hop["status"] for hop in said["hops"]}


def programs(systemd: LiveSystemd) -> list[str]:
    """The name of each process."""
    return systemd.run("sh", "-c", "cat /proc/[0-9]*/comm").split()


def test_a_killed_server_is_back_with_its_runs_and_leaves_nothing_behind(served: Served) -> None:
    created = served.create_run(["Inventory"])
    before = served.pid
    served.systemd.run("kill", "-KILL", str(before))
    wait_for(lambda: served.pid not in {0, before}, "another server")
    served.find()
    assert served.run(created["run_id"])["state"] == "InventoryCheck"
    assert served.systemd.of_unit(UNIT, "NRestarts") == "1"
    wait_for(lambda: programs(served.systemd).count("iperf3") == 1, "one iperf3 server, and not that of before")
    served.systemd.run("systemctl", "stop", UNIT)
    assert served.systemd.of_unit(UNIT, "ExecMainStatus") == "0"
    assert served.systemd.of_unit(UNIT, "Result") == "success"
    assert "iperf3" not in programs(served.systemd)


def test_wrong_options_are_not_tried_again(served: Served) -> None:
    configured(served.systemd, "VETTING_DATA=/var/lib/vetting-orchestrator\nVETTING_SERVE=--nonsense\n")
    served.systemd.run("systemctl", "restart", UNIT)
    wait_for(lambda: served.systemd.of_unit(UNIT, "ActiveState") == "failed", "the unit to fail")
    assert served.systemd.of_unit(UNIT, "ExecMainStatus") == "2"
    assert served.systemd.of_unit(UNIT, "NRestarts") == "0"
    assert "unrecognized arguments: --nonsense" in served.systemd.run("journalctl", "--no-pager", "-u", UNIT)

"""A run's token, hold key and other secrets, looked for wherever a real run leaves anything."""

from __future__ import annotations

import gzip
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.orchestrator.test_cli import typed
from tests.walk.conftest import new_agent, orchestrator
from tests.walk.rig import Agent, Orchestrator, wait_for

__all__ = ["new_agent", "orchestrator"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.root]
NewAgent = Callable[..., Agent]
STRESS = {"CPUStress": {"duration_s": 6}}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file below a folder, and each in the archives among them, by name."""
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        content = path.read_bytes()
        yield str(path.relative_to(folder)), content
        if path.name.endswith(".tar.gz"):
            with tarfile.open(fileobj=BytesIO(gzip.decompress(content))) as tar:
                for member in tar.getmembers():
                    if (file := tar.extractfile(member)) is not None:
                        yield f"{path.name}:{member.name}", file.read()


def spoken_in_proc(agent: Agent, secret: bytes, seen: dict[str, int]) -> list[str]:
    """Processes of the agent's whose argv or environment holds the secret, now; counts what it looked at."""
    assert agent.process is not None
    found = []
    for pid in (agent.process.pid, *(one.pid for one in agent.descendants())):
        for name in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            seen[name] = seen.get(name, 0) + bool(content)
            if secret in content:
                found.append(f"{name} of {pid}")
    return found


def reports(server: Orchestrator, run_id: int) -> Iterator[tuple[str, bytes]]:
    for form in ("html", "json", "signed", "junit", "ocp", "csv"):
        yield f"report {form}", typed(server.data, "report", str(run_id), "--form", form).encode()
    for words in (["run", "show"], ["run", "list"], ["run", "watch", "--follow"], ["audit"], ["run", "show", "--json"]):
        run = [] if words[-1] in {"list", "audit"} else [str(run_id)]
        yield " ".join(words), typed(server.data, *words[:2], *run, *words[2:]).encode()


def test_the_runs_token_stands_nowhere_but_in_its_file(
    orchestrator: Orchestrator, new_agent: NewAgent, tmp_path: Path
) -> None:
    created = orchestrator.create_run(["Inventory", "CPUStress"], parameters=STRESS)
    token, seen = str(created["token"]).encode(), dict[str, int]()
    agent = new_agent(created)
    assert agent.process is not None
    while agent.process.poll() is None:
        assert spoken_in_proc(agent, token, seen) == []
        for one in psutil.process_iter():
            assert str(created["token"]) not in " ".join(_argv(one)), one
    assert agent.process.returncode == 0, agent.errors
    assert min(seen["cmdline"], seen["environ"]) > 5
    view = orchestrator.run(created["run_id"])
    assert view["state"] == "Completed"
    holders = {name for name, content in contents(tmp_path) if token in content}
    assert holders == {"agent/token"}, "the test's own token file, and nothing else"
    assert any(".tar.gz:" in name for name, _ in contents(tmp_path)), "evidence was looked into"
    for name, content in reports(orchestrator, created["run_id"]):
        assert len(content) > 10, name
        assert token not in content, name
    assert token not in json.dumps(orchestrator.logs(created["run_id"])).encode()


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_a_token_given_in_the_environment_is_not_handed_on_to_tools(
    orchestrator: Orchestrator, new_agent: NewAgent, tmp_path: Path
) -> None:
    """The process's own environment is what systemd gave it, and readable by root alone."""
    created: dict[str, Any] = orchestrator.create_run(["Inventory", "CPUStress"], parameters=STRESS)
    agent = Agent(tmp_path / "agent", orchestrator.url, orchestrator.fingerprint, created)
    agent.environment = {"VETTING_TOKEN": str(created["token"])}
    token = str(created["token"]).encode()
    agent.start()
    assert agent.process is not None
    try:
        wait_for(agent.load, "the CPU load", 90)
        looked_at, held_since, end = 0, dict[int, float](), time.monotonic() + 120
        own = Path(f"/proc/{agent.process.pid}/cmdline").read_bytes()
        while agent.process.poll() is None and time.monotonic() < end:
            for child in agent.descendants():
                try:
                    is_a_tool = Path(f"/proc/{child.pid}/cmdline").read_bytes() != own
                    environment = Path(f"/proc/{child.pid}/environ").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                looked_at += is_a_tool and bool(environment)
                if token in environment:  # the agent's own, until a child that it forked becomes the tool
                    assert not is_a_tool, child
                    assert time.monotonic() - held_since.setdefault(child.pid, time.monotonic()) < 1.0, child
        assert looked_at > 5
        assert agent.wait(120) == 0, agent.errors
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()


def test_what_the_server_keeps_secret_is_readable_by_its_user_alone(orchestrator: Orchestrator) -> None:
    open_to_others = [
        path
        for path in orchestrator.data.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o077 and _secret(path)
    ]
    assert open_to_others == []
    assert any(_secret(path) for path in orchestrator.data.rglob("*"))


def _secret(path: Path) -> bool:
    if path.name == "tls-certificate.pem":
        return False  # what every caller is shown
    return path.suffix in {".db", ".pem", ".key"} or "secret" in path.name or "key" in path.name

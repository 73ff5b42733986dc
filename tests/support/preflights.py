"""Preflights of both sides as processes, and what each of their reports must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from probes.host import Host
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.preflight import Preflight

BOUND_S = 300.0
"""What a whole preflight may take at the very most, on a machine under load."""
PATIENT_S = 60.0
"""The limit of a hop that is to end by itself."""
SHORT_S = 8.0
"""That of one which is to run into it."""


def agent_preflight(
    folder: Path,
    url: str,
    *,
    run_id: int = 1,
    token: str = "t0ken",
    fingerprint: str = "",
    arguments: Sequence[str] = (),
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    hop_s: float = PATIENT_S,
) -> dict[str, Any]:
    """The report, after it has been seen to be whole. `prefix`: what the command is put behind."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(token)
    argv = [
        sys.executable,
        "-m",
        "vetting_agent",
        "preflight",
        "--json",
        "--orchestrator",
        url,
        "--hop-limit",
        str(hop_s),
    ]
    argv += ["--run-id", str(run_id), "--token-file", str(folder / "token"), "--state-dir", str(folder / "state")]
    argv += ["--tls-fpr", fingerprint] if fingerprint else []
    argv += [] if "--evidence" in arguments else ["--evidence", str(folder / "evidence")]
    found = subprocess.run(
        [*prefix, *argv, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**os.environ, **(environment or {})},
    )
    return whole(found, token)


async def preflight_here(folder: Path, url: str, fingerprint: str, hop_s: float = PATIENT_S) -> dict[str, Any]:
    """The same in this process, for tests of many answers."""
    way = way_to(url, (fingerprint,))
    params = BootParams(url, 1, Token("t0ken"), (fingerprint,))
    given = Preflight(
        Host(), params, way, params.token, folder / "evidence", folder / "state", str(uuid.uuid4()), hop_s
    )
    try:
        report: dict[str, Any] = msgspec.to_builtins(await given.run())
    finally:
        await way.close()
    assert "t0ken" not in str(report)
    return report


def orchestrator_preflight(data: Path, run_id: int, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """The same of the other side."""
    argv = [
        sys.executable,
        "-m",
        "orchestrator",
        "preflight",
        str(run_id),
        "--data",
        str(data),
        "--json",
        "--hop-limit",
        str(PATIENT_S),
    ]
    found = subprocess.run([*prefix, *argv], capture_output=True, text=True, timeout=BOUND_S)
    return whole(found, None)


def whole(found: subprocess.CompletedProcess[str], token: str | None) -> dict[str, Any]:
    """The report in an output: exit code and report say the same, and nothing tells the token."""
    assert found.stderr == ""
    assert token is None or token not in found.stdout
    report: dict[str, Any] = json.loads(found.stdout)
    assert found.returncode == (0 if report["ok"] else 1)
    assert report["correlation_id"]
    states = [one["status"] for one in report["hops"]]
    if report["ok"]:
        assert not {"failed", "not_tried"} & set(states)
        assert report["signal"] is None
    return report


def assert_failed(report: dict[str, Any], hop: str, signal: str) -> str:
    """That hop and no other failed, nothing after it was tried, and a person is told what to do; what was seen."""
    hops = [one["hop"] for one in report["hops"]]
    states = [one["status"] for one in report["hops"]]
    assert (report["failed_hop"], report["signal"]) == (hop, signal), report
    at = hops.index(hop)
    assert states[at] == "failed"
    assert not {"failed", "not_tried"} & set(states[:at]), report
    assert set(states[at + 1 :]) <= {"not_tried"}, report
    assert all(report[name] for name in ("symptom", "seen", "likely_owner", "recovery")), report
    return str(report["seen"])


def state_of(report: dict[str, Any], hop: str) -> tuple[str, str]:
    """(status, detail) of a hop."""
    step = next(one for one in report["hops"] if one["hop"] == hop)
    return step["status"], step["detail"]

"""What the product makes of a recorded machine: its inventory, and the verdict of each stage that can judge one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probes.host import Host
from probes.inventory import collect
from stages import stage_named
from stages.outcome import Outcome, Severity
from stages.runner import StageRun
from tests.support.replay import HOSTS, recorded_host
from tests.support.stage_context import stage_context
from vetting_agent.recorded_stage import AT_REST, WITHOUT_LOAD

GOLDEN = "expected.json"


def machines() -> list[str]:
    """The names of all recorded machines."""
    return sorted(folder.name for folder in HOSTS.iterdir() if folder.is_dir())


def golden(machine: str) -> dict[str, Any]:
    """What is expected of a machine."""
    expected: dict[str, Any] = json.loads((HOSTS / machine / GOLDEN).read_text())
    return expected


async def facts(machine: str, evidence: Path) -> dict[str, Any]:
    """Inventory and outcomes as they are, in the form of the golden file."""
    found = await collect(recorded_host(machine))
    outcomes = {name: told(await outcome(recorded_host(machine), name, evidence)) for name in sorted(AT_REST)}
    text = json.dumps({"inventory": asdict(found), "stages": outcomes})
    # Messages name the file that could not be read.
    whole: dict[str, Any] = json.loads(text.replace(f"{HOSTS / machine}/", ""))
    return whole


async def outcome(host: Host, stage_name: str, evidence: Path) -> Outcome:
    """One stage on a recorded machine, as `stage --root` runs it."""
    stage = stage_named(stage_name)
    assert stage is not None
    folder = evidence / stage_name
    folder.mkdir(parents=True)
    context, _ = stage_context(folder, host)
    return await StageRun(stage, WITHOUT_LOAD.get(stage_name, {}), context).run()


def told(result: Outcome) -> dict[str, Any]:
    """The verdict, and what stands behind it: code and component of each error and warning."""
    found = {
        severity.value: sorted(
            {f"{one.reason_code.value} {one.component}" for one in result.findings if one.severity is severity}
        )
        for severity in (Severity.ERROR, Severity.WARNING)
    }
    return {"verdict": result.verdict.value, "headline": result.headline, **found}

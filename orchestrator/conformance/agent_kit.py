"""Tests an agent: plays the scenes that the chosen clauses need, a few at a time, and judges their traces."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.conformance import agent_calls, agent_orders, agent_trouble
from orchestrator.conformance import agent_scenes as s
from orchestrator.conformance import agent_scenes_holds as h
from orchestrator.conformance import agent_scenes_trouble as t
from orchestrator.conformance.agent_rig import HOLD_KEY, OTHER_KEY, Rig, Subject, long_stage_of, play
from orchestrator.conformance.agent_scenes import Scene
from orchestrator.conformance.agent_scenes_holds import bad_key
from orchestrator.conformance.agent_scenes_trouble import FINAL_OF_CLAIM, bad_parameter, refused_claim
from orchestrator.conformance.clause import Clause, Finding, NotTested, Status, found, selected, tried
from probes.host import Host

CLAUSES: tuple[Clause[Rig], ...] = tuple(
    sorted((*agent_calls.CLAUSES, *agent_trouble.CLAUSES, *agent_orders.CLAUSES), key=lambda one: one.section)
)
FIRST_RUN_ID = 8_000_000
"""Run ids that no run of this machine has: the agent may keep things by run."""


def scenes() -> dict[str, Scene]:
    """Every scene by its name, the long ones first."""
    long = (t.proxy_lasts, t.hello_down, h.hold_asked_again, t.hanging, t.trouble, s.walk, t.slow_down)
    rest = (s.cancel, s.shutdown, s.abort, s.over, s.revoked, s.killed, s.completed, s.no_state, s.parked, t.proxy)
    more = (t.refused_hello, t.rejected_claim, t.rejected_result, t.older_server, h.retry, h.lost_acks, h.hold)
    odd = (s.null_lists, s.between, s.no_systemctl, t.redirected_claim, t.rejected_evidence)
    held = (h.hold_abort, h.hold_over, h.hold_revoked, h.hold_sigterm, h.hold_retry, t.stranger, t.rotation, t.swapped)
    named: dict[str, Scene] = {one.__name__: one for one in (*long, *rest, *more, *odd, *held)}
    return (
        named
        | {f"claim_{code}": refused_claim(code) for code in FINAL_OF_CLAIM}
        | {
            "bad_run_id": bad_parameter(run_id="0"),
            "bad_fpr": bad_parameter(fpr="abc"),
            "plain_http": bad_parameter(url="http://127.0.0.1:9"),
            "key_options": bad_key(f'command="true" {HOLD_KEY}'),
            "key_lines": bad_key(f"{HOLD_KEY}\n{OTHER_KEY}"),
            "key_type": bad_key(HOLD_KEY.replace("ssh-ed25519", "ssh-rsa")),
        }
    )


def subject_of(arguments: argparse.Namespace) -> Subject:
    """The subject that the command line names. Raises ValueError."""
    needed = [name for name in ("{url}", "{run_id}", "{token_file}", "{fpr}") if name not in arguments.agent]
    if needed:
        raise ValueError(f"the command does not say where {', '.join(needed)} go; see docs/conformance.md")
    stage, parameters = long_stage_of(arguments.long_stage)
    return Subject(arguments.agent, stage, parameters, arguments.patience, arguments.slack)


def test_agent(arguments: argparse.Namespace, host: Host, tell: Callable[[Finding], None]) -> list[Finding]:
    """The findings of all clauses chosen by `arguments.only`; told when all are there."""
    subject = subject_of(arguments)
    chosen = [one for one in CLAUSES if selected(one.name, arguments.only)]
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True)
        traces = asyncio.run(_play_all(chosen, subject, host, arguments.folder.resolve(), arguments.jobs))
        return _judged(chosen, traces, arguments.optional, tell)
    with tempfile.TemporaryDirectory(prefix="vetting-conformance-") as folder:
        traces = asyncio.run(_play_all(chosen, subject, host, Path(folder), arguments.jobs))
        return _judged(chosen, traces, arguments.optional, tell)


async def _play_all(
    chosen: Sequence[Clause[Rig]], subject: Subject, host: Host, folder: Path, jobs: int
) -> dict[str, Rig | str]:
    """The trace of each scene, or why it was not played."""
    needed = {one.scene for one in chosen}
    turns = asyncio.Semaphore(jobs)

    async def one(number: int, name: str, scene: Scene) -> tuple[str, Rig | str]:
        async with turns:
            rig = Rig(subject, folder / name, host, run_id=FIRST_RUN_ID + number)
            try:
                return name, await play(scene, rig)
            except NotTested as reason:
                return name, str(reason)

    plays = [one(number, name, scene) for number, (name, scene) in enumerate(scenes().items()) if name in needed]
    return dict(await asyncio.gather(*plays))


def _judged(
    chosen: Sequence[Clause[Rig]],
    traces: dict[str, Any],
    optional: Sequence[str],
    tell: Callable[[Finding], None],
) -> list[Finding]:
    findings = []
    for clause in chosen:
        trace = traces[clause.scene]
        if isinstance(trace, str):
            findings.append(found(clause, Status.NOT_TESTED, trace, optional))
        else:
            findings.append(tried(clause, trace, optional))
        tell(findings[-1])
    return findings

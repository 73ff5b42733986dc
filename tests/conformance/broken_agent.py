"""The product's agent with one thing broken: `python -m tests.conformance.broken_agent BREAK run …`.

It has the quick stages of the tests, and short waits. `nothing` breaks nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import Any

import httpx
import msgspec

from orchestrator.conformance.agent_rig import TOKEN
from stages.outcome import Outcome
from tests.support import agent_rig
from vetting_agent import client, control, heartbeat, logs, run
from vetting_agent.client import Client
from vetting_agent.directives import Action
from vetting_agent.errors import Rejected, Trouble
from vetting_agent.key_file import KeyFile
from vetting_agent.pinning import FixedWay
from vetting_agent.wire import CANCEL_STAGE, LogRequest


def nothing() -> None:
    return


def loses_results() -> None:
    insist = Client.insist

    async def once(self: Any, verb: str, attempt: Any, **how: Any) -> Any:
        if verb != "result":
            return await insist(self, verb, attempt, **how)
        try:
            return await attempt()
        except Trouble as problem:
            raise Rejected("result", 422, str(problem)) from None

    Client.insist = once


def refuses_to_cancel() -> None:
    ours = control.action_for
    control.action_for = lambda cmd, activity: Action.REFUSE if cmd == CANCEL_STAGE else ours(cmd, activity)


def repeats_seq() -> None:
    async def log(self: Any, request: LogRequest) -> None:
        lines = [msgspec.structs.replace(line, seq=((line.seq or 0) + 1) // 2) for line in request.lines]
        await ours(self, LogRequest(lines=lines))

    ours, Client.log = Client.log, log


def takes_any_certificate() -> None:
    run.way_to = lambda _url, _pins: FixedWay(httpx.AsyncClient(verify=False, trust_env=False))


def never_powers_off() -> None:
    sys.argv.append("--no-power")


def goes_on_after_410() -> None:
    client.FINAL_STATUS = client.FINAL_STATUS - {410}


def ignores_retry_after() -> None:
    client._retry_after_s = lambda _response: None


def makes_a_new_id_for_each_posting() -> None:
    async def result(self: Any, request: Any) -> Any:
        return await ours(self, msgspec.structs.replace(request, result_id=str(uuid.uuid4())))

    ours, Client.result = Client.result, result


def acknowledges_once() -> None:
    trouble = heartbeat.Heartbeat._trouble

    def forget(self: Any, problem: Exception) -> None:
        if (ack := self._ack()) is not None:
            self._heard = ack.number
        trouble(self, problem)

    heartbeat.Heartbeat._trouble = forget


def acts_on_every_repetition() -> None:
    obey = control.Control._obey

    def forgetful(self: Any, item: Any) -> Any:
        self._seen = {name: status for name, status in self._seen.items() if name != getattr(item, "cmd_id", None)}
        return obey(self, item)

    control.Control._obey = forgetful


def leaves_its_hold_key() -> None:
    KeyFile.remove = lambda _self: None


def passes_everything() -> None:
    async def result(self: Any, request: Any) -> Any:
        return await ours(self, msgspec.structs.replace(request, passed=True))

    ours, Client.result = Client.result, result


def leaves_a_child() -> None:
    """A process that the stage starts behind the back of what would kill it."""

    def spawn() -> None:
        subprocess.Popen(["sleep", "3217"], start_new_session=True)

    async def stage(context: Any, options: Any) -> Outcome:
        spawn()
        outcome: Outcome = await agent_rig._run(context, options)
        return outcome

    agent_rig.STAGES = tuple(replace(one, run=stage) if one.name == "SMART" else one for one in agent_rig.STAGES)


def tells_the_token() -> None:
    start = logs.LogBook.info

    def info(self: Any, text: str, stage: str = "") -> None:
        self.redactor._secrets = []
        start(self, f"{text} ({TOKEN})", stage)

    logs.LogBook.info = info


def follows_redirections() -> None:
    send = httpx.AsyncClient.send

    async def following(self: Any, request: Any, **how: Any) -> Any:
        return await send(self, request, **how | {"follow_redirects": True})

    httpx.AsyncClient.send = following


def retries_what_is_rejected() -> None:
    judge = Client._judge

    def lenient(self: Any, verb: str, response: Any, content: bytes) -> None:
        try:
            judge(self, verb, response, content)
        except Rejected as problem:
            raise Trouble(verb, str(problem)) from None

    Client._judge = lenient


BREAKS = {
    one.__name__: one
    for one in (
        nothing,
        loses_results,
        refuses_to_cancel,
        repeats_seq,
        takes_any_certificate,
        never_powers_off,
        goes_on_after_410,
        ignores_retry_after,
        makes_a_new_id_for_each_posting,
        acknowledges_once,
        acts_on_every_repetition,
        leaves_its_hold_key,
        passes_everything,
        leaves_a_child,
        tells_the_token,
        follows_redirections,
        retries_what_is_rejected,
    )
}


def main() -> int:
    BREAKS[sys.argv.pop(1)]()
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    run.add_arguments(parser)
    return run.main(parser.parse_args(), agent_rig.STAGES, agent_rig.SHORT, agent_rig._components)


if __name__ == "__main__":
    sys.exit(main())

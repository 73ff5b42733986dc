"""The product's orchestrator with one thing broken: `python -m tests.conformance.broken_orchestrator BREAK serve …`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import msgspec

from orchestrator import __main__ as command_line
from orchestrator import agent_app, agent_service, callers, http_calls, results, runs
from orchestrator.agent_service import AgentService
from orchestrator.callers import Caller
from orchestrator.directives import beat
from orchestrator.results import post_result
from orchestrator.steps import Beat, Refusal
from orchestrator.tokens import matches


def counts_results_twice() -> None:
    runs.post_result = lambda run, event, now: post_result(msgspec.structs.replace(run, answers={}), event, now)


def forgets_refusals() -> None:
    runs.beat = lambda run, event, now: beat(run, Beat() if event.ack_status == "refused" else event, now)


def sends_an_order_once() -> None:
    def once(run: Any, event: Beat, now: str) -> Any:
        step = beat(run, event, now)
        sent = {one.cmd_id for one in run.directives if one.sent_at is not None}
        return replace(step, directive=None) if step.directive and step.directive.cmd_id in sent else step

    runs.beat = once


def takes_any_token() -> None:
    callers.matches = lambda token, _hash: bool(token)


def takes_the_token_of_any_run() -> None:
    ours = callers.caller_of

    def caller_of(store: Any, boot_tokens: Any, run_id: int, token: str | None, instance_id: str) -> Caller:
        try:
            return ours(store, boot_tokens, run_id, token, instance_id)
        except Refusal as refusal:
            if refusal.status == 403 and any(matches(token, run.token_hash) for run in store.runs()):
                return Caller(store.find_run(run_id), instance_id)
            raise

    agent_service.caller_of = caller_of


def takes_evidence_of_any_size() -> None:
    agent_app.EVIDENCE_LIMIT_BYTES = 2**30


def trusts_digests() -> None:
    keep = AgentService.keep_evidence

    async def trusting(self: Any, caller: Any, stage: str, result_id: str, _digest: str, content: bytes) -> Any:
        from hashlib import sha256

        return await keep(self, caller, stage, result_id, sha256(content).hexdigest(), content)

    AgentService.keep_evidence = trusting


def errors_in_another_shape() -> None:
    http_calls.error_body = lambda _correlation, code, message: json.dumps({"code": code, "detail": message}).encode()


def errors_without_correlation() -> None:
    ours = http_calls.error_body
    http_calls.error_body = lambda _correlation, code, message: ours("", code, message)


def trusts_passed() -> None:
    results.judged_passed = lambda request: request.passed


def keeps_old_agents() -> None:
    claim = runs._claim

    def lenient(run: Any, event: Any, now: str) -> Any:
        return claim(msgspec.structs.replace(run, older_instances=()), event, now)

    runs._claim = lenient
    runs.check_caller = agent_service.check_caller = lambda _run, _instance: None


def keeps_every_copy_of_a_line() -> None:
    log = AgentService.log

    async def forgetful(self: Any, caller: Any, request: Any) -> Any:
        lines = [msgspec.structs.replace(line, seq=None) for line in request.lines]
        return await log(self, caller, msgspec.structs.replace(request, lines=lines))

    AgentService.log = forgetful


def overlooks_reboots() -> None:
    claim = runs._claim
    runs._claim = lambda run, event, now: claim(run, replace(event, kernel_boot_id=None), now)


def overlooks_changed_components() -> None:
    results._changed_components = lambda _run, _request: ""


def overlooks_silence() -> None:
    AgentService.is_silent = lambda _self, _run: False


def hold_keys_with_options() -> None:
    hold = AgentService.hold

    async def optional(self: Any, caller: Any, request: Any) -> Any:
        reply = await hold(self, caller, request)
        return msgspec.structs.replace(reply, authorized_key=f"no-pty {reply.authorized_key}")

    AgentService.hold = optional


def refuses_unknown_fields() -> None:
    ours = agent_app.decoded

    def strict(kind: Any, body: bytes) -> Any:
        value = ours(kind, body)
        if strangers := set(json.loads(body)) - set(kind.__struct_fields__):
            raise Refusal(422, "malformed", f"unknown: {strangers}")
        return value

    agent_app.decoded = strict


def forgets_runs_that_are_over() -> None:
    def refuse(run: Any) -> None:
        if run.is_over:
            raise Refusal(404, "no_such_run", "gone")

    callers.refuse_when_over = agent_service.refuse_when_over = refuse


BREAKS = {
    one.__name__: one
    for one in (
        counts_results_twice,
        forgets_refusals,
        sends_an_order_once,
        takes_any_token,
        takes_the_token_of_any_run,
        takes_evidence_of_any_size,
        trusts_digests,
        errors_in_another_shape,
        errors_without_correlation,
        trusts_passed,
        keeps_old_agents,
        keeps_every_copy_of_a_line,
        overlooks_reboots,
        overlooks_changed_components,
        overlooks_silence,
        hold_keys_with_options,
        refuses_unknown_fields,
        forgets_runs_that_are_over,
    )
}


if __name__ == "__main__":
    BREAKS[sys.argv[1]]()
    sys.exit(command_line.main(sys.argv[2:]))

"""Who calls, what its token opens, and what a claim makes of the token: the run's own, a boot token, or a session's."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator.boot_tokens import (
    BootTokens,
    Grant,
    check_grant,
    claimed_with_grant,
    claimed_with_own,
    claimed_with_session,
)
from orchestrator.clock import now_text, seconds_between
from orchestrator.run_record import RELEASED, Run
from orchestrator.steps import Claimed, Refusal
from orchestrator.store import Store
from orchestrator.tokens import matches

LAST_WORDS_S = 60.0
"""After the end of a run its agent may still acknowledge, and send its last log lines, for so long."""


@dataclass(slots=True)
class Caller:
    """Who calls: the run as last committed, and the instance the agent says it is ("" when it does not).

    `grant`: the call carries a boot token, good for a claim and for what comes before it. `by_session`: it carries
    the token that a boot token was exchanged for.
    """

    run: Run
    instance_id: str
    grant: Grant | None = None
    by_session: bool = False


def caller_of(store: Store, boot_tokens: BootTokens | None, run_id: int, token: str | None, instance_id: str) -> Caller:
    """The caller whom this token lets in to this run. Refuses with 404, 401 or 403."""
    run = store.find_run(run_id)
    if run is None:
        raise Refusal(404, "no_such_run", f"There is no run {run_id}")
    if not token:
        raise Refusal(401, "no_token", "The call carries no bearer token")
    grant = boot_tokens.read(token) if boot_tokens else None
    if grant is not None and grant.run_id == run_id:
        return Caller(run, instance_id, grant=grant)
    if run.boot is not None and matches(token, run.boot.session_hash):
        return Caller(run, instance_id, by_session=True)
    if not matches(token, run.token_hash):
        raise Refusal(403, "wrong_token", f"This is not the token of run {run_id}")
    if run.token_expires_at is not None and run.instance_id is None and run.token_expires_at <= now_text():
        raise Refusal(403, "wrong_token", f"The token of run {run_id} ended before a host claimed with it")
    return Caller(run, instance_id)


def claimable(run: Run, caller: Caller, event: Claimed) -> tuple[Run, str | None]:
    """The run bound to the claiming boot, if the claim comes with a token of one; and the token to use from now on."""
    refuse_when_over(run)
    boot_id = event.kernel_boot_id or event.instance_id
    if caller.grant is not None:
        return claimed_with_grant(run, caller.grant, event.mac, boot_id, time.time())
    if caller.by_session:
        return claimed_with_session(run, event.mac, boot_id), None
    if event.instance_id != run.instance_id:
        return claimed_with_own(run), None
    return run, None


def check_unused(caller: Caller, *, again: bool = False) -> None:
    """Before the claim a boot token opens only while it may still be claimed with. Raises Refusal 403.

    `again`: or when a claim with it was made already, whose answer may have been lost.
    """
    if caller.grant is None:
        return
    used = caller.run.boot
    if not (again and used is not None and used.token_hash == caller.grant.token_hash):
        check_grant(caller.run, caller.grant, time.time())


def check_claimed(caller: Caller) -> None:
    """A boot token opens nothing but a claim. Raises Refusal 403."""
    if caller.grant is not None:
        raise Refusal(403, "wrong_token", "A boot token is good for a claim; the claim's answer holds the next one")


def refuse_when_over(run: Run) -> None:
    """Raises Refusal 410."""
    if run.is_over:
        raise Refusal(410, "run_over", f"Run {run.run_id} is {run.state}")


def instances_of(run: Run) -> set[str | None]:
    """The agents that claimed the run, and "" for one that does not say who it is."""
    return {"", run.instance_id, *run.older_instances}


def check_going_on(run: Run, *, last_words: bool, released: bool) -> None:
    """Raises Refusal 410 when the run is over; not for a while with `last_words`, of a released one if `released`."""
    if not run.is_over:
        return
    recent = run.finished_at is not None and seconds_between(run.finished_at, now_text()) < LAST_WORDS_S
    if not (last_words and recent and (released or run.state != RELEASED)):
        refuse_when_over(run)

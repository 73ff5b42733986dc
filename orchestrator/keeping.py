"""What follows from an event, kept: all of it in one transaction, with what the world outside is told of it."""

from __future__ import annotations

from orchestrator.run_record import Run
from orchestrator.steps import Step
from orchestrator.store import Transaction
from orchestrator.webhook_events import events_of
from vetting_agent.run_view import EventView
from vetting_agent.wire import ResultRequest

OF_HOSTS = ("boot", "claim", "finding", "hold", "result", "stalled")
"""What a host brings about in its run's history by itself, and so as often as it likes."""
MOST_OF_HOSTS = 5000
FULL = (
    f"the history has {MOST_OF_HOSTS} entries of the host's own doing: no more of them are kept,"
    " only what people do and what state the run comes to"
)


def keep(transaction: Transaction, before: Run, step: Step, now: str) -> None:
    """Store what a step says: the record, the history, results of the orchestrator's own, and what others are told."""
    if step.run is not before:
        transaction.put_run(step.run)
    for note in step.notes:
        keep_event(transaction, before.run_id, EventView(ts=now, kind=note.kind, text=note.text))
    for own in step.own_results:
        request = ResultRequest(
            stage=own.stage, passed=False, summary=own.summary, message=own.summary.headline, result_id=own.result_id
        )
        transaction.put_result(before.run_id, own.result_id, request, now)
    for event in events_of(before, step.run, now):
        transaction.outbox.add(event)


def keep_event(transaction: Transaction, run_id: int, event: EventView) -> None:
    """An entry of the run's history. A host that, say, claims for ever must not fill the server's disk with them."""
    if event.kind not in OF_HOSTS:
        transaction.add_event(run_id, event)
        return
    there = transaction.count_events(run_id, OF_HOSTS)
    if there < MOST_OF_HOSTS:
        transaction.add_event(run_id, event)
    if there == MOST_OF_HOSTS - 1:
        transaction.add_event(run_id, EventView(ts=event.ts, kind="quota", text=FULL))

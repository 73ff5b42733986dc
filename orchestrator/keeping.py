"""What follows from an event, kept: all of it in one transaction, with what the world outside is told of it."""

from __future__ import annotations

from orchestrator.run_record import Run
from orchestrator.steps import Step
from orchestrator.store import Transaction
from orchestrator.webhook_events import events_of
from vetting_agent.run_view import EventView
from vetting_agent.wire import ResultRequest


def keep(transaction: Transaction, before: Run, step: Step, now: str) -> None:
    """Store what a step says: the record, the history, results of the orchestrator's own, and what others are told."""
    if step.run is not before:
        transaction.put_run(step.run)
    for note in step.notes:
        transaction.add_event(before.run_id, EventView(ts=now, kind=note.kind, text=note.text))
    for own in step.own_results:
        request = ResultRequest(
            stage=own.stage, passed=False, summary=own.summary, message=own.summary.headline, result_id=own.result_id
        )
        transaction.put_result(before.run_id, own.result_id, request, now)
    for event in events_of(before, step.run, now):
        transaction.outbox.add(event)

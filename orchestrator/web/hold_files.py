"""The key of a hold as a file: handed out once by the console, and who took it."""

from __future__ import annotations

from orchestrator.acts import Acts
from orchestrator.clock import now_text
from orchestrator.run_record import Record
from orchestrator.steps import Refusal
from orchestrator.store import HoldKey, Transaction
from orchestrator.who import Who


class KeyTaken(Record, frozen=True, kw_only=True):
    """Who downloaded the key that expires then."""

    run_id: int
    key_expires_at: str
    by: str
    at: str


async def take_key(acts: Acts, run_id: int, who: Who) -> HoldKey:
    """The run's key pair, for the first who asks. Refuses with 404 and 409."""

    def work(transaction: Transaction) -> HoldKey:
        key = transaction.hold_key(run_id)
        if key is None:
            raise Refusal(404, "no_hold_key", f"Run {run_id} has no hold key: its host has not asked for one")
        taken = transaction.document(KeyTaken, str(run_id))
        if taken is not None and taken.key_expires_at == key.expires_at:
            text = (
                f"{taken.by} downloaded this key at {taken.at}. On the server: vetting-orchestrator hold-key {run_id}"
            )
            raise Refusal(409, "key_taken", text)
        taken = KeyTaken(run_id=run_id, key_expires_at=key.expires_at, by=who.name, at=now_text())
        transaction.put_document(str(run_id), taken)
        transaction.add_audit(who.entry("take hold key", subject=f"run {run_id}"))
        return key

    return await acts.written(work, who, "take hold key", f"run {run_id}")

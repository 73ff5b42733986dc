"""The scripted orchestrator of the conformance kit, by the name that these tests know it by."""

from orchestrator.conformance.scripted import (
    DROP,
    GARBLE,
    LOSE,
    Call,
    Fault,
    Reply,
    refusal,
    status,
)
from orchestrator.conformance.scripted import ScriptedOrchestrator as FakeOrchestrator

__all__ = ["DROP", "GARBLE", "LOSE", "Call", "FakeOrchestrator", "Fault", "Reply", "refusal", "status"]

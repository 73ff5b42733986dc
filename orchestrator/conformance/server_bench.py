"""What the clauses about an orchestrator work with: runs of their own, agents on them, and the operator's eyes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.conformance.clause import NotTested, broken, expect
from orchestrator.conformance.operator import Operator
from orchestrator.conformance.speaker import Door, Speaker

STAGES = ("Inventory", "SMART", "CPUStress")
HEARTBEAT_S = 0.5
FINAL = (401, 403, 404, 409, 410)


@dataclass(frozen=True, slots=True)
class Bench:
    """An orchestrator under test."""

    door: Door
    operator: Operator
    patience_s: float = 30.0

    def run(self, *stages: str, **wanted: Any) -> Speaker:
        """An agent that has said nothing yet, on a new run (of Inventory, SMART and CPUStress)."""
        asked = {"stages": list(stages or STAGES), "heartbeat_interval_s": HEARTBEAT_S, "non_destructive": True}
        run_id, token = self.operator.create_run(asked | wanted)
        return Speaker(self.door, run_id, token)

    def claimed(self, *stages: str, **wanted: Any) -> Speaker:
        """One that has claimed."""
        agent = self.run(*stages, **wanted)
        agent.claim()
        return agent

    def holding(self, *stages: str, **wanted: Any) -> Speaker:
        """One whose first stage after the Inventory failed."""
        agent = self.claimed(*stages, **wanted)
        stage = agent.post("Inventory")
        state = agent.post(stage, "fail")
        expect(state == "FailedHolding", f"a failed {stage} led to {state}")
        return agent

    def order(
        self, agent: Speaker, cmd: str, stage: str | None = None, flags: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Give an order; the heartbeat's answer that hands it out. Raises BrokenClause when none does."""
        self.operator.direct(agent.run_id, cmd, stage, flags)
        return dict(self.until(agent.beat, lambda reply: reply.get("cmd") == cmd, f"no heartbeat handed out {cmd}"))

    def ended(self) -> Speaker:
        """An agent of a run that ended with an abort that it acknowledged."""
        agent = self.claimed()
        order = self.order(agent, "abort")
        agent.send("heartbeat", {"acked_cmd_id": order.get("cmd_id"), "ack_status": "done"})
        return agent

    def seen(self, agent: Speaker, what: str) -> Any:
        """A fact of the run, as the operator sees it. Raises NotTested where the operator's side does not tell it."""
        view = self.operator.get(agent.run_id)
        if view.get(what) is None:
            raise NotTested(f"the operator's side does not tell `{what}`")
        return view[what]

    def sees(self, agent: Speaker, what: str, holds: Callable[[Any], object], complaint: str) -> Any:
        """The same, once it is so."""
        return self.until(lambda: self.seen(agent, what), holds, complaint)

    def until(self, ask: Callable[[], Any], holds: Callable[[Any], object], complaint: str) -> Any:
        """Ask until the answer is right."""
        deadline = time.monotonic() + self.patience_s
        while not holds(answer := ask()):
            if time.monotonic() > deadline:
                broken(f"{complaint}; last: {answer!r}"[:500])
            time.sleep(HEARTBEAT_S / 5)
        return answer

"""The queue for the iperf3 server: it measures one host at a time, and nobody fails for waiting. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

LEASE_S = 60.0
RETRY_AFTER_S = 2.0
FORGET_S = 15.0
"""One who waits and does not ask for so long has gone."""

Slot = tuple[int, str]
"""Run and slot_id."""


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    granted: bool
    ahead: int
    expired: bool = False
    """A lease ran out unreleased: whoever held it may still sit on the server."""


@dataclass(slots=True)
class SlotQueue:
    """Who holds the slot, until when, and who waits, in the order of their first request. Times are seconds."""

    holder: Slot | None = None
    until: float = 0.0
    waiting: dict[Slot, float] = field(default_factory=dict)

    def acquire(self, slot: Slot, now: float) -> SlotAnswer:
        """Ask for the slot, ask again while waiting, or keep it."""
        expired = self._forget(now)
        if self.holder == slot:
            self.until = now + LEASE_S
            return SlotAnswer(granted=True, ahead=0, expired=expired)
        self.waiting[slot] = now
        if self.holder is None and next(iter(self.waiting)) == slot:
            del self.waiting[slot]
            self.holder, self.until = slot, now + LEASE_S
            return SlotAnswer(granted=True, ahead=0, expired=expired)
        ahead = list(self.waiting).index(slot) + (self.holder is not None)
        return SlotAnswer(granted=False, ahead=ahead, expired=expired)

    def release(self, slot: Slot) -> None:
        """Give it back, or leave the queue."""
        self.waiting.pop(slot, None)
        if self.holder == slot:
            self.holder = None

    def release_run(self, run_id: int) -> None:
        """A run has ended: it holds nothing and waits for nothing."""
        for slot in [*self.waiting, *([self.holder] if self.holder else [])]:
            if slot[0] == run_id:
                self.release(slot)

    def _forget(self, now: float) -> bool:
        self.waiting = {slot: asked for slot, asked in self.waiting.items() if now - asked < FORGET_S}
        if self.holder is None or now < self.until:
            return False
        self.holder = None
        return True

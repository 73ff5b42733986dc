"""What could not be read, in words: the `notes` of an inventory."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Notes:
    """Collects one line for each value that is null because it could not be read."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, why: object) -> None:
        """Note that `what` ("disk vda: serial") could not be read, and why."""
        self.lines.append(f"{what}: {why}")

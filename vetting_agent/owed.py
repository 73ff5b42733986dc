"""A power-off that the operator has ordered and that this host still owes, for an agent that is killed before it.

Noted before the order is acknowledged, in the folder of what a restarted agent needs. It counts for the same run, token
and kernel boot alone, and for a while only: an order of long ago takes nobody by surprise.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from vetting_agent.lock import run_file
from vetting_agent.params import BootParams

OWED_FOR_S = 900.0


class PowerOffOwed:
    """Written by the agent that accepts the order, read by it and by its successor."""

    def __init__(self, folder: Path, params: BootParams, boot_id: str | None) -> None:
        self._path = run_file(folder, params, "power-off")
        self._boot_id = boot_id

    def note(self, cmd: str) -> None:
        """This order was accepted just now. Raises OSError."""
        content = {"kernel_boot_id": self._boot_id, "cmd": cmd, "at_s": _now_s()}
        temporary = self._path.with_suffix(".power-off.new")
        temporary.write_text(json.dumps(content) + "\n")
        temporary.replace(self._path)

    @property
    def order(self) -> str | None:
        """The order that a power-off is owed to; None: none is."""
        try:
            content = json.loads(self._path.read_text())
            boot_id, cmd, at_s = content["kernel_boot_id"], str(content["cmd"]), float(content["at_s"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        fresh = 0.0 <= _now_s() - at_s <= OWED_FOR_S
        return cmd if self._boot_id is not None and boot_id == self._boot_id and fresh else None

    def void(self) -> None:
        """Nothing is owed: another order counts now, or the host is no longer the orchestrator's to end."""
        self._path.unlink(missing_ok=True)


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)

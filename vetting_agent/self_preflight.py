"""The agent's own preflight: run when a claim does not come to be, seldom, and told where people look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from probes.host import Host
from vetting_agent.client import Client
from vetting_agent.errors import FinalRefusal
from vetting_agent.logs import LogBook
from vetting_agent.params import BootParams

if TYPE_CHECKING:  # an agent that claims at once needs none of it
    from vetting_agent.preflight import Preflight
    from vetting_agent.preflight_report import Report

MOST_PAUSE_S = 600.0


@dataclass(slots=True)
class SelfPreflight:
    """Beside the claim. `first_s`: how long that may take before the first look, 0: never; then twice as long each.

    `show` gets the table of each report, and whether it says something else than the one before.
    """

    host: Host
    params: BootParams
    client: Client
    evidence: Path
    state_dir: Path
    correlation_id: str
    book: LogBook
    show: Callable[[str, bool], None]
    first_s: float
    _told: str | None = field(default=None)

    async def run(self) -> None:
        """For ever. A fault of its own is told and harms nothing."""
        pause_s = self.first_s
        while pause_s > 0:
            await asyncio.sleep(pause_s)
            try:
                if self.client.wait_s("claim") == 0:  # who was asked to slow down asks for nothing more
                    self._tell(await self._preflight().run())
            except Exception as problem:
                self.book.warn(f"the preflight failed: {type(problem).__name__}: {problem}")
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def refused(self, refusal: FinalRefusal) -> None:
        """The claim is finally refused: tell it in the same form."""
        if self.first_s > 0:
            self._tell(self._preflight().refused(refusal))

    def _preflight(self) -> Preflight:
        from vetting_agent.preflight import Preflight

        return Preflight(
            self.host,
            self.params,
            self.client.way,
            self.client.token,
            self.evidence,
            self.state_dir,
            self.correlation_id,
        )

    def _tell(self, report: Report) -> None:
        from vetting_agent.preflight_report import summary, table

        news = (report.signal or "") != self._told
        self._told = report.signal or ""
        self.show(table(report), news)
        self.book.warn(summary(report))

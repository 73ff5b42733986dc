"""The SMART stage over a smartctl that plays recordings: shared by its tests."""

from __future__ import annotations

from pathlib import Path

from probes.host import Host
from stages.outcome import Outcome, ReasonCode, Severity
from stages.smart import STAGE, Options, SelfTest
from stages.stage import RunFacts
from tests.support.judging import outcome_of
from tests.support.smartctl_player import Frame, Player, ata_poll, ata_row
from tests.support.stage_context import Remembering, stage_context

SDA, SDB, NVME = "sat /dev/sda", "scsi /dev/sdb", "nvme /dev/nvme0"
NO_TEST = Options(self_test=SelfTest.NONE)
# Polls fast; the deadline stays a minute or more, so that a loaded machine does not matter.
FAST = Options(poll_s=0.05)
GOOD_TEST = [ata_poll(0xF5), ata_poll(0, [ata_row(0, 8244)])]
BAD_TEST = [ata_poll(0xF5), ata_poll(121, [ata_row(121, 8244, lba=70012345)])]


def one_disk(player: Player, name: str, **frames: list[Frame]) -> None:
    kind, device = name.split()
    player.scanned((device, kind))
    player.device(name, **frames)


async def run(
    host: Host, folder: Path, options: Options = NO_TEST, facts: RunFacts | None = None
) -> tuple[Outcome, Remembering]:
    context, listener = stage_context(folder / "evidence", host, facts=facts)
    return outcome_of(STAGE, await STAGE.run(context, options), options), listener


def errors(outcome: Outcome) -> set[tuple[ReasonCode, str]]:
    return {(finding.reason_code, finding.component) for finding in outcome.errors}


def codes(outcome: Outcome, severity: Severity) -> set[ReasonCode]:
    return {finding.reason_code for finding in outcome.findings if finding.severity is severity}

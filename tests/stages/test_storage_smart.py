"""What a disk's own counters gain while Storage loads it: charged to Storage, old errors to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import storage, storage_smart
from stages.outcome import Outcome, ReasonCode, Severity, Verdict
from stages.runner import StageRun
from stages.storage_smart import SmartCounts
from tests.stages.test_storage_read import FAST
from tests.support.detection import detects, spares
from tests.support.loop_disks import MIB, LoopMachine, loop_machine
from tests.support.smartctl_player import NO_SUCH_DEVICE, Frame, Player, played, recording
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

SERIAL = "HDD-HEALTHY-1"


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        yield made


def table(number: int, raw: int) -> dict[str, Any]:
    """The attribute table of a healthy disk, with the raw value of one attribute."""
    attributes = recording("ata-healthy-hdd")["ata_smart_attributes"]
    told_raw = {"raw": {"value": raw, "string": str(raw)}}
    rows = [row | told_raw if row["id"] == number else row for row in attributes["table"]]
    assert number in {row["id"] for row in rows}
    return {"ata_smart_attributes": {**attributes, "table": rows}}


async def seen(machine: LoopMachine, stand_ins: StandIns, *frames: Frame, serial: str = SERIAL) -> Outcome:
    machine.add("sda", serial, 16 * MIB)
    player = Player(stand_ins)
    player.device("auto /dev/sda", read=list(frames))
    context, _ = stage_context(machine.root.parent / "evidence", machine.host)
    return await StageRun(storage.STAGE, FAST, context).run()


def told(outcome: Outcome) -> list[tuple[ReasonCode, Severity, str]]:
    return [(one.reason_code, one.severity, one.component) for one in outcome.findings]


@pytest.mark.root
@detects(ReasonCode.DISK_REALLOCATED, "recording of a healthy WD disk, edited: sectors replaced while Storage reads it")
async def test_sectors_replaced_under_load_fail(machine: LoopMachine, stand_ins: StandIns) -> None:
    outcome = await seen(machine, stand_ins, played("ata-healthy-hdd"), played("ata-healthy-hdd", **table(5, 3)))
    assert told(outcome) == [(ReasonCode.DISK_REALLOCATED, Severity.ERROR, f"disk:{SERIAL}")]
    assert "rose from 0 to 3" in outcome.message


@pytest.mark.root
@spares(ReasonCode.DISK_REALLOCATED, "recording of a WD disk with sectors replaced before Storage, edited")
async def test_sectors_replaced_before_are_nobodys(machine: LoopMachine, stand_ins: StandIns) -> None:
    outcome = await seen(machine, stand_ins, played("ata-healthy-hdd", **table(5, 3)))
    assert (outcome.verdict, outcome.findings) == (Verdict.PASS, ())


@pytest.mark.root
async def test_a_disk_that_does_not_answer_again_is_told(machine: LoopMachine, stand_ins: StandIns) -> None:
    outcome = await seen(machine, stand_ins, played("ata-healthy-hdd"), NO_SUCH_DEVICE)
    assert told(outcome) == [(ReasonCode.SMART_UNREADABLE, Severity.WARNING, f"disk:{SERIAL}")]


@pytest.mark.root
async def test_another_disk_at_that_place_is_not_taken_for_it(machine: LoopMachine, stand_ins: StandIns) -> None:
    frames = (played("ata-healthy-hdd"), played("ata-healthy-hdd", **table(5, 3)))
    outcome = await seen(machine, stand_ins, *frames, serial="OTHER")
    assert (outcome.verdict, outcome.findings) == (Verdict.PASS, ())


@pytest.mark.parametrize(
    ("name", "code", "severity"),
    [
        ("sectors pending", ReasonCode.DISK_MEDIA_ERRORS, Severity.ERROR),
        ("NVMe media errors", ReasonCode.DISK_MEDIA_ERRORS, Severity.ERROR),
        ("sectors replaced", ReasonCode.DISK_REALLOCATED, Severity.ERROR),
        ("CRC errors on its link", ReasonCode.DISK_LINK_ERRORS, Severity.WARNING),
        ("bits of its NVMe critical warning", ReasonCode.NVME_CRITICAL_WARNING, Severity.ERROR),
    ],
)
def test_each_counter(name: str, code: ReasonCode, severity: Severity) -> None:
    (finding,) = storage_smart.findings({"disk:S": SmartCounts({name: 1}, {name: 2})}, {})
    assert (finding.reason_code, finding.severity) == (code, severity)
    assert list(storage_smart.findings({"disk:S": SmartCounts({name: 2}, {name: 2})}, {})) == []
    assert list(storage_smart.findings({"disk:S": SmartCounts({}, {name: 2})}, {})) == []

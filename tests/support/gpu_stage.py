"""Runs the GPU stage over a made machine whose NVIDIA library plays a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.host import Host
from stages.gpu import STAGE, Options
from stages.outcome import Outcome, ReasonCode
from tests.support import nvml
from tests.support.judging import outcome_of
from tests.support.stage_context import Remembering, stage_context

QUICK = Options(duration_s=0.1, interval_s=0.1, load=False)
UUID = nvml.HEALTHY["uuid"]
H100, CONSUMER = ("30200", "10DE:2330"), ("30000", "10DE:2204")
NVSWITCH = ("68000", "10DE:22A3")
LOADED = {"utilization": "99", "power_mw": "690000", "temperature": "71", "clock": "1755", "throttle_reasons": "0x4"}
"""What a loaded H100 says: held at its power limit, which is no fault."""


def quick(**changes: Any) -> Options:
    """QUICK with other options."""
    return replace(QUICK, **changes)


async def run(host: Host, folder: Path, options: Options = QUICK) -> tuple[Outcome, Remembering]:
    context, listener = stage_context(folder / "evidence", host)
    return outcome_of(STAGE, await STAGE.run(context, options), options), listener


def errors(outcome: Outcome) -> set[tuple[ReasonCode, str]]:
    return {(finding.reason_code, finding.component) for finding in outcome.errors}


def said(outcome: Outcome, code: ReasonCode) -> str:
    """The sentences of all findings with a code, whatever their severity."""
    return "\n".join(one.message for one in outcome.findings if one.reason_code is code)


def many(host: Host, library: Path, gpus: Sequence[Mapping[str, str]], /, **top: str) -> None:
    """A machine full of GPUs, the first in the place of the one that is there."""
    for bus in range(1, len(gpus)):
        nvml.pci_device(host.root, f"0000:{0x3B + bus:02x}:00.0", *H100, "nvidia")
    places = [{"uuid": f"G{number}", "pci": f"00000000:{0x3B + number:02X}:00.0"} for number in range(len(gpus))]
    nvml.script(library, *({**place, **facts} for place, facts in zip(places, gpus, strict=True)), **top)

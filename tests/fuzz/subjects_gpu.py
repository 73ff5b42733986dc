"""Entry for what the load of a GPU says: the lines of a child process that may be cut off or garbled with its GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probes.host import Host
from probes.json_paths import dig
from stages.gpu_burn import Said
from stages.gpu_burn_judge import REQUIRED, judge_burn
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import Parser, verdict_of
from tests.support.recordings import FOLDER
from tests.support.stage_context import stage_context

PCI = "0000:3b:00.0"
MEMORY_FLOOR = 0.9


def _recordings() -> tuple[Recording, ...]:
    files = sorted((FOLDER / "gpu-burn").glob("*.out"))
    return tuple(Recording(file.stem, file.read_bytes(), sick="sick" in file.stem) for file in files)


def _burn(mutant: Mutant) -> str:
    with tempfile.TemporaryDirectory(prefix="vetting-fuzz-") as folder:
        context, _ = stage_context(Path(folder) / "evidence", Host())
        said = Said(context, PCI, "together")
        for line in mutant.text.splitlines():
            said.line(line)
        return verdict_of(judge_burn((said.ended("", ""),), {PCI: None}, MEMORY_FLOOR).findings)


def _facts(mutant: Mutant) -> bool:
    """Which GPU it was, that the child came to its end, and of each test that it did something and found nothing."""
    told = list(_documents(mutant.text))
    named = any(dig(one, "gpu", "pci") == PCI and dig(one, "gpu", "name") for one in told)
    ended = any(dig(one, "done") is True for one in told)
    sound = {dig(one, "result", "test") for one in told if _is_sound(dig(one, "result"))}
    return named and ended and {*REQUIRED, "fp8"} <= sound | {dig(one, "unavailable") for one in told}


def _documents(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def _is_sound(result: object) -> bool:
    if not isinstance(result, Mapping):
        return False
    covered = result.get("test") != "memory" or result["bytes"] >= MEMORY_FLOOR * result["free"]
    return bool(covered and result.get("words") and result.get("rounds") and result.get("wrong") == 0)


ENTRIES = (
    Parser(
        "gpu-burn",
        ("stages/gpu_burn.py", "stages/gpu_burn_child.py", "stages/gpu_burn_judge.py"),
        _recordings,
        _burn,
        facts=_facts,
    ),
)

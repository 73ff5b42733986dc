"""What rows need that let disks be written: a run with leave to do so, and proofs of what was written and what not."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from image.lab.scene import Scene, WrongTurn, findings
from image.vm.machine import Machine
from vetting_agent.run_view import RunView

BLOCK = 4096
GB = 1e9
SHORT: Mapping[str, Any] = {"retention_s": 0.5, "write_fraction": 0.25}


def expected(serial: str, size: int) -> dict[str, Any]:
    """A disk of the claim."""
    return {"serial": serial, "size_gb": size / GB}


def boot_to_write(
    scene: Scene,
    machine: Machine,
    disks: Iterable[Mapping[str, Any]] | None,
    *,
    stages: str = "Storage",
    storage: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """A run that may write to `disks`, as far as the guard lets it. The machine stays up afterwards."""
    claim = None if disks is None else list(disks)
    parameters = {"Storage": {**SHORT, **(storage or {})}}
    run: dict[str, Any] = {"non_destructive": False, "expected_disks": claim, "shutdown_when_completed": False}
    scene.boot(machine, stages, parameters=parameters, **{**run, **more})


def sum_of(file: Path) -> str:
    """SHA-256 of a disk's whole content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sums_of(files: Iterable[Path]) -> dict[Path, str]:
    return {file: sum_of(file) for file in files}


def must_be_untouched(scene: Scene, before: Mapping[Path, str], *disks: int) -> None:
    """Neither did QEMU write to these disks of the machine (none named: to any), nor did these files change.

    Raises WrongTurn.
    """
    written = written_bytes(scene)
    for name in [f"block{number}" for number in disks] or written:
        if written[name]:
            raise WrongTurn(f"{written[name]} bytes were written to {name}")
    for file, was in before.items():
        if sum_of(file) != was:
            raise WrongTurn(f"the content of {file.name} has changed")


def written_bytes(scene: Scene) -> dict[str, int]:
    """What the guest has written to each disk since it started, or discarded of it, by QEMU's own count.

    By the name of the block device: the Nth disk is `blockN`.
    """
    return {
        one["node-name"]: one["stats"]["wr_bytes"] + one["stats"]["unmap_bytes"]
        for one in scene.monitor.qmp("query-blockstats")
        if one.get("node-name")
    }


def must_be_written(scene: Scene, number: int, least: int) -> None:
    """Raises WrongTurn where the guest wrote less to a disk."""
    written = written_bytes(scene)[f"block{number}"]
    if written < least:
        raise WrongTurn(f"only {written} bytes were written to disk {number}, and not {least}")


def must_be_all(file: Path, pattern: bytes = b"\0") -> None:
    """Raises WrongTurn where the disk holds anything else."""
    content = file.read_bytes()
    if content != pattern * (len(content) // len(pattern)):
        raise WrongTurn(f"{file.name} is not blank")


def must_bear_stamps(file: Path) -> None:
    """Every block names its own place and one and the same run: see stages/stamp_child.py. Raises WrongTurn."""
    content = file.read_bytes()
    nonces = set()
    for at in range(0, len(content), BLOCK):
        nonce, offset, inverse = struct.unpack_from("<16sQQ", content, at)
        if offset != at or inverse != ~at & 2**64 - 1:
            raise WrongTurn(f"no stamp at byte {at}")
        nonces.add(nonce)
    if len(nonces) != 1:
        raise WrongTurn(f"stamps of {len(nonces)} runs")


def must_be_refused(view: RunView, code: str, serials: Iterable[str]) -> None:
    """Storage has refused each of these disks with that code. Raises WrongTurn."""
    found = {one["component"] for one in findings(view, "Storage") if one["reason_code"] == code}
    if missed := {f"disk:{serial}" for serial in serials} - found:
        raise WrongTurn(f"not refused with {code}: {', '.join(sorted(missed))}")


def retried(scene: Scene, **order: Any) -> RunView:
    """Storage once more, by the operator's order, to its end."""
    before = _result(scene.view())
    scene.direct("retry_stage", stage="Storage", **order)
    scene.until("another result of Storage", lambda view: _result(view) != before)
    return scene.until_ended()


def _result(view: RunView) -> str | None:
    return next((one.result_id for one in view.stages if one.stage == "Storage"), None)

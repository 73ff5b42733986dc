"""The evidence of a run on this host, and how a stage's part of it is sent.

    EVIDENCE/run-<id>/boot.json            which boot and orchestrator the folders below belong to
    EVIDENCE/run-<id>/<NN>-<Stage>/        one execution of a stage each; NN counts up over restarts
    EVIDENCE/run-<id>/<NN>-<Stage>.result  its result_id, and whether the orchestrator has taken its result

What an earlier agent of the same boot left is picked up again; what another boot left is kept, and not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vetting_agent.redact import Redactor
from vetting_agent.wire import EVIDENCE_LIMIT_BYTES

if TYPE_CHECKING:
    from tarfile import TarFile

MARKER = "boot.json"
OUTCOME = "outcome.json"
COMPONENTS = "components.json"
NOTE = "LEFT-OUT.txt"
# More than this is not even tried: compressing it would take longer than sending may.
UNPACKED_LIMIT_BYTES = 192 * 2**20


class EvidenceStore:
    """The folder of one run."""

    def __init__(self, root: Path, *, run_id: int, orchestrator: str, boot_id: str | None) -> None:
        self.folder = root / f"run-{run_id}"
        self._identity = {"orchestrator": orchestrator, "run_id": run_id, "kernel_boot_id": boot_id}
        self._newest: dict[str, Path] = {}
        self._of_this_boot: list[Path] = []
        self._number = 0
        self.resumed = False
        """True when an agent of this boot worked on this run before."""

    def open(self) -> None:
        """Look at what is there, and mark the folder as this boot's. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = _json(self.folder / MARKER)
        first = marker.pop("first_number", 1) if isinstance(marker, dict) else 1
        same_boot = marker == self._identity and self._identity["kernel_boot_id"] is not None
        for number, stage, path in _executions(self.folder):
            self._number = max(self._number, number)
            if same_boot and number >= first:
                self._newest[stage] = path
                self._of_this_boot.append(path)
        if not same_boot:
            identity = self._identity | {"first_number": self._number + 1}
            (self.folder / MARKER).write_text(json.dumps(identity) + "\n")
        self.resumed = bool(self._newest)

    def begin(self, stage: str) -> Path:
        """The folder for one more execution of a stage. Making it may fail; the stage then says so itself."""
        self._number += 1
        folder = self.folder / f"{self._number:02d}-{stage}"
        self._newest[stage] = folder
        self._of_this_boot.append(folder)
        return folder

    def last_with(self, file_name: str) -> Path | None:
        """That file of the last execution in this boot, of whichever stage, that left one."""
        files = (folder / file_name for folder in reversed(self._of_this_boot))
        return next((path for path in files if path.exists()), None)

    def newest(self) -> dict[str, Path]:
        """The newest folder of each stage in this boot."""
        return dict(self._newest)

    def cut_short(self, stage: str) -> Path | None:
        """The newest folder of a stage in this boot, if the orchestrator has taken no result of that execution."""
        folder = self._newest.get(stage)
        return None if folder is None or self._is_delivered(folder) else folder

    def undelivered(self, stage: str) -> Path | None:
        """The same, if its agent had begun to deliver an outcome and did not live to see it taken.

        Only where its result_id is known: under another one, a result that was taken would count as a new execution.
        """
        folder = self.cut_short(stage)
        known = folder is not None and (folder / OUTCOME).exists() and self._kept_id(folder) is not None
        return folder if known else None

    def result_id(self, folder: Path) -> str:
        """What the result of that execution is posted under: the same one by whichever agent delivers it."""
        kept = self._kept_id(folder)
        if kept is not None:
            return kept
        made = str(uuid.uuid4())
        with contextlib.suppress(OSError):  # on a full disk the result counts more than this
            _result_of(folder).write_text(json.dumps({"result_id": made}) + "\n")
        return made

    def delivered(self, folder: Path, result_id: str) -> None:
        """The orchestrator has taken the result of that execution."""
        with contextlib.suppress(OSError):
            _result_of(folder).write_text(json.dumps({"result_id": result_id, "delivered": True}) + "\n")

    def _kept_id(self, folder: Path) -> str | None:
        kept = _json(_result_of(folder))
        found = kept.get("result_id") if isinstance(kept, dict) else None
        return found if isinstance(found, str) else None

    def _is_delivered(self, folder: Path) -> bool:
        kept = _json(_result_of(folder))
        return isinstance(kept, dict) and kept.get("delivered") is True

    def outcome_of(self, stage: str) -> dict[str, Any] | None:
        """The newest outcome of a stage in this boot, as `outcome.json` has it."""
        content = _json(self._newest[stage] / OUTCOME) if stage in self._newest else None
        return content if isinstance(content, dict) else None

    def components(self) -> list[str] | None:
        """The components that the newest Inventory of this boot found, or None."""
        content = _json(self._newest["Inventory"] / COMPONENTS) if "Inventory" in self._newest else None
        return [str(one) for one in content] if isinstance(content, list) else None


@dataclass(frozen=True, slots=True)
class Package:
    """A stage's evidence, ready to be sent."""

    archive: bytes
    """tar.gz."""
    digest: str
    """SHA-256 of the archive, hex."""
    left_out: tuple[str, ...] = ()
    """Files that would have made it too big."""


def _result_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.result")


def redact_folder(folder: Path, redactor: Redactor) -> None:
    """Take the token out of every file: tools print the kernel's command line. Raises OSError."""
    for path in _files(folder):
        content = path.read_bytes()
        if redactor.found_in(content):
            path.write_bytes(redactor.raw(content))


def pack(folder: Path, *, limit_bytes: int = EVIDENCE_LIMIT_BYTES) -> Package:
    """One archive of a stage's folder; the largest files are left out, and named, when it would be too big.

    The same content gives the same bytes. Raises OSError.
    """
    files = sorted(_files(folder), key=lambda path: path.stat().st_size)
    left_out: list[Path] = []
    while sum(path.stat().st_size for path in files) > UNPACKED_LIMIT_BYTES:
        left_out.append(files.pop())
    archive = _archive(folder, files, left_out)
    while len(archive) > limit_bytes and files:
        left_out.append(files.pop())
        archive = _archive(folder, files, left_out)
    names = tuple(str(path.relative_to(folder)) for path in left_out)
    return Package(archive, hashlib.sha256(archive).hexdigest(), names)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _archive(folder: Path, files: Sequence[Path], left_out: Sequence[Path]) -> bytes:
    import gzip  # with tarfile a megabyte that an agent without anything to send does not need
    import tarfile

    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(files):
            with path.open("rb") as handle:
                tar.addfile(tar.gettarinfo(arcname=f"{folder.name}/{path.relative_to(folder)}", fileobj=handle), handle)
        if left_out:
            _add_note(tar, folder, left_out)
    return buffer.getvalue()


def _add_note(tar: TarFile, folder: Path, left_out: Sequence[Path]) -> None:
    lines = [f"{path.stat().st_size} bytes: {path.relative_to(folder)}" for path in left_out]
    text = "Left out because the archive would have been too big; on the host they are complete.\n" + "\n".join(lines)
    content = (text + "\n").encode()
    import tarfile

    entry = tarfile.TarInfo(f"{folder.name}/{NOTE}")
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _executions(folder: Path) -> list[tuple[int, str, Path]]:
    """(number, stage, folder) of each execution, oldest first."""
    found = []
    for path in folder.iterdir():
        if match := re.fullmatch(r"(\d{2,})-(\w+)", path.name):
            found.append((int(match[1]), match[2], path))
    return sorted(found)


def _json(path: Path) -> object:
    try:
        content: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content

"""Plays a row and compares what the agent found with the fault: a Result, which is kept as a file beside its logs."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import traceback
from pathlib import Path

import msgspec

from image.lab.guest import NoAnswer
from image.lab.row import Expect, Row
from image.lab.scene import Scene, WrongTurn, findings
from image.vm.machine import NoMachine
from image.vm.services import NoService
from orchestrator.operator_client import NoServer, Refused
from vetting_agent.run_view import RunView

KEPT = ("serial.log", "orchestrator.err", "qemu.err")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a row. `trouble` is None when it was as expected, else what was not."""

    row: str
    version: str
    image: str
    trouble: str | None
    state: str
    found: list[str]
    """`stage: code severity component` of each finding of the run."""
    wall_s: float
    cpu_s: float
    """QEMU's."""
    marks: dict[str, float]

    @property
    def is_right(self) -> bool:
        return self.trouble is None


def play(row: Row, image: Path, image_sum: str, results: Path, accel: str) -> Result:
    """One row from start to end; whatever happens in it becomes a Result. Logs go to `results/<row>/`."""
    folder = Path(tempfile.mkdtemp(prefix="lab."))
    kept = results / row.name
    began = time.monotonic()
    trouble: str | None = None
    view: RunView | None = None
    with contextlib.ExitStack() as stack:
        scene = Scene(image, folder, accel, stack, row.limit_s)
        try:
            row.tell(scene)
            view = scene.view()
            trouble = difference(row.expect, view)
        except (WrongTurn, NoAnswer, NoService, NoServer, NoMachine, Refused, OSError, ValueError) as problem:
            trouble = f"{type(problem).__name__}: {problem}"
        except Exception:
            trouble = traceback.format_exc()
        cpu_s = scene.used_cpu_s()
        if view is None and scene.run_id:
            with contextlib.suppress(Exception):
                view = scene.view()
    _keep(folder, kept, view)
    result = Result(
        row=row.name,
        version=row.version,
        image=image_sum,
        trouble=trouble,
        state=view.state if view else "none",
        found=_found(view) if view else [],
        wall_s=round(time.monotonic() - began, 1),
        cpu_s=round(cpu_s, 1),
        marks=scene.marks,
    )
    (kept / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def known(row: Row, image_sum: str, results: Path) -> Result | None:
    """The good result that this row already has with this image."""
    result = newest(row, results)
    return result if result is not None and result.image == image_sum and result.is_right else None


def newest(row: Row, results: Path) -> Result | None:
    """What came of this row, as it is written now, when last it was played here with any image."""
    try:
        result = msgspec.json.decode((results / row.name / "result.json").read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError):
        return None
    return result if result.version == row.version else None


def _keep(folder: Path, kept: Path, view: RunView | None) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.move(folder / name, kept / name)
    if view is not None:
        (kept / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(view), indent=1))
    shutil.rmtree(folder, ignore_errors=True)


def _found(view: RunView) -> list[str]:
    stages: list[str | None] = [*(one.stage for one in view.stages), None]
    return [
        f"{stage or 'run'}: {one['reason_code']} {one['severity']} {one['component']}"
        for stage in stages
        for one in findings(view, stage)
    ]


def difference(expect: Expect, view: RunView) -> str | None:
    """What is not as expected, or None."""
    if view.state != expect.state:
        return f"the run is {view.state}, and must be {expect.state}"
    if expect.code is not None and not any(map(expect.fits, findings(view, expect.stage))):
        return f"no finding: {expect.stage or 'run'}: {expect.code} {expect.severity} {expect.component or ''}"
    strangers = {
        one["reason_code"]
        for stage in [*(one.stage for one in view.stages), None]
        for one in findings(view, stage)
        if one["severity"] == "error"
    } - {expect.code, *expect.also}
    return f"errors that the fault does not explain: {', '.join(sorted(strangers))}" if strangers else None

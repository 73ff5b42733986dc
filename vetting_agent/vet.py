"""`vetting-agent vet`: vet the machine it stands on, through the real protocol, and write a report.

Never powers off, arms no hold, writes to no disk but for its report folder, and loads at most half of the memory
that is free. Exit code 0 pass, 1 fail, 4 incomplete, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from vetting_agent.report import Report
    from vetting_agent.verdict import Ending
    from vetting_agent.vet_run import Seen, VetPlan

DEFAULT_FOLDER = "vetting-report"
USAGE = 2
INTERRUPTED = 130
VERDICTS = frozenset({0, 1, 4})


class UsageError(ValueError):
    """Something on the command line that cannot be done. `str()` says what, and what could be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vet`."""
    parser.add_argument("--stages", metavar="A,B", help="only these stages (default: all)")
    parser.add_argument(
        "--profile",
        default="quick",
        metavar="NAME",
        help="how long and how thoroughly: quick (minutes; the default), standard, or burnin (12 h)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.name=value",
        help="set a parameter of a stage, for instance CPUStress.duration_s=30; may be repeated",
    )
    parser.add_argument(
        "--report", default=DEFAULT_FOLDER, metavar="DIR", help=f"where reports go (default: ./{DEFAULT_FOLDER})"
    )
    parser.add_argument(
        "--exit-zero", action="store_true", help="exit 0 whenever a verdict was reached, a bad one included"
    )
    parser.add_argument("--json", action="store_true", help="print report.json on standard output at the end")


def main(args: argparse.Namespace) -> int:
    """Vet this machine; returns the exit code."""
    import asyncio

    try:
        plan = plan_of(args)
    except UsageError as problem:
        sys.stderr.write(f"vetting-agent vet: {problem}\n")
        return USAGE
    try:
        code = asyncio.run(_vet(plan, as_json=args.json))
    except KeyboardInterrupt:  # before the signal handlers stood; nothing had been started
        return INTERRUPTED
    if args.exit_zero and code in VERDICTS:
        if code:
            sys.stderr.write(f"(exit code {code}, given as 0 because a verdict was reached)\n")
        return 0
    return code


def plan_of(args: argparse.Namespace) -> VetPlan:
    """What the command line asks for, checked, with the report folder made. Raises UsageError."""
    import socket

    from stages.profiles import PROFILES
    from vetting_agent.vet_run import VetPlan

    if args.profile not in PROFILES:
        raise UsageError(f"there is no profile {args.profile!r}; there are: {', '.join(PROFILES)}")
    stages = _stages(args.stages)
    parameters = _parameters(args.set)
    folder = new_folder(args.report, socket.gethostname())
    return VetPlan(socket.gethostname(), args.profile, stages, parameters, folder)


def _stages(text: str | None) -> tuple[str, ...] | None:
    """The stages named, in the order of the walk; None for all."""
    from stages import STAGES

    if text is None:
        return None
    names = {stage.name.lower(): stage.name for stage in STAGES}
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in wanted if part.lower() not in names]
    if unknown or not wanted:
        said = f"there is no stage {unknown[0]!r}" if unknown else "--stages names no stage"
        raise UsageError(f"{said}; there are: {', '.join(names.values())}")
    chosen = {names[part.lower()] for part in wanted}
    return tuple(stage.name for stage in STAGES if stage.name in chosen)


def _parameters(settings: list[str]) -> dict[str, dict[str, Any]]:
    """`STAGE.name=value` texts as the claim's parameters. Raises UsageError."""
    from stages import STAGES
    from stages.options import BadParameter, parse_options, parse_text

    by_name = {stage.name.lower(): stage for stage in STAGES}
    parameters: dict[str, dict[str, Any]] = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        stage_name, dot, name = target.strip().partition(".")
        if not (equals and dot and name):
            raise UsageError(f"--set {setting!r} is not of the form STAGE.name=value")
        stage = by_name.get(stage_name.lower())
        if stage is None:
            known = ", ".join(one.name for one in STAGES)
            raise UsageError(f"--set {setting!r}: there is no stage {stage_name!r}; there are: {known}")
        try:
            values = parameters.setdefault(stage.name, {})
            if name not in stage.options.__dataclass_fields__:
                parse_options(stage.options, stage.name, {name: text})
            values[name] = parse_text(stage.options, stage.name, name, text)
            parse_options(stage.options, stage.name, values)
        except BadParameter as problem:
            raise UsageError(f"--set {setting!r}: {problem}") from None
    return parameters


def new_folder(base: str, host: str) -> Path:
    """A folder below `base` that did not exist before: an older report is never written over. Raises UsageError."""
    from datetime import UTC, datetime
    from pathlib import Path

    safe = "".join(character if character.isalnum() or character in "-." else "-" for character in host)
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{safe}"
    root = Path(base).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as problem:
        raise UsageError(f"the report folder {root} cannot be made: {problem.strerror}") from None
    raise UsageError(f"the report folder {root} is full of reports of this very second")


async def _vet(plan: VetPlan, *, as_json: bool) -> int:
    import shutil
    import tempfile
    from pathlib import Path

    from vetting_agent.vet_run import Seen

    scratch = Path(tempfile.mkdtemp(prefix="vet-"))
    seen = Seen()
    try:
        ending = await _supervised(plan, scratch, seen, as_json=as_json)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report = write_report(plan, seen, ending)
    _speak(report, plan.folder, as_json=as_json)
    return report.exit_code


async def _supervised(plan: VetPlan, scratch: Path, seen: Seen, *, as_json: bool) -> Ending:
    """Walk until the end, a signal or trouble. A second signal ends this process at once, and with it all others."""
    import asyncio
    import contextlib
    import os
    import shutil
    import signal

    from probes.host import REAL_PROC
    from probes.tools import ToolError, Tools
    from vetting_agent.verdict import Ending
    from vetting_agent.vet_run import Trouble, walk
    from vetting_agent.vet_table import watching

    async def watched() -> None:
        with watching(sys.stderr if as_json else sys.stdout) as table:
            await walk(plan, Tools.of_environment(REAL_PROC), scratch, table, seen)

    walking = asyncio.ensure_future(watched())
    signals: list[int] = []

    def stop(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            shutil.rmtree(scratch, ignore_errors=True)
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the live table had hidden the cursor
            os._exit(INTERRUPTED)  # the leashes close with this process: nothing outlives it
        sys.stderr.write("\nStopping; once more to stop at once.\n")
        walking.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await walking
        except Trouble as problem:
            return Ending(trouble=str(problem), interrupted=bool(signals))
        except ToolError as problem:
            return Ending(trouble=str(problem), interrupted=bool(signals))
    return Ending(interrupted=bool(signals))


def write_report(plan: VetPlan, seen: Seen, ending: Ending) -> Report:
    """Write report.json, report.html and run.log into the run's folder; the report."""
    from vetting_agent import report, zones
    from vetting_agent.report_html import page

    made = report.build(
        report.Gathered(
            run=seen.run,
            ending=ending,
            host=plan.host,
            profile=plan.profile,
            started_at=seen.started_at,
            finished_at=report.now(),
            samples=seen.samples,
            logs=seen.logs,
            evidence=plan.evidence.name,
            zones=zones.read(plan.evidence),
        )
    )
    report.write_json(made, plan.folder / "report.json")
    (plan.folder / "report.html").write_text(page(made), encoding="utf-8")
    lines = (f"{line.ts} {line.level:5} {line.stage or '-'}: {line.text}\n" for line in seen.logs)
    (plan.folder / "run.log").write_text("".join(lines), encoding="utf-8", errors="replace")
    return made


def _speak(report: Report, folder: Path, *, as_json: bool) -> None:
    from vetting_agent.terminal import paper_for
    from vetting_agent.vet_text import final_text

    if as_json:
        sys.stdout.write((folder / "report.json").read_text(encoding="utf-8"))
    stream = sys.stderr if as_json else sys.stdout
    names = {"Report": "report.html", "Data": "report.json", "Log": "run.log", "Evidence": report.evidence}
    paths = {name: str(folder / file) for name, file in names.items()}
    stream.write("\n" + final_text(report, paths, paper_for(stream)))

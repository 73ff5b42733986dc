"""`vetting-agent inventory` and `vetting-agent stage NAME`: one look, one stage, no orchestrator.

Exit codes: 0 pass, 1 fail, 4 could not be judged, 2 wrong usage, 130 interrupted. Never destructive: no disk
is written whatever the options say. The result goes to standard output, what happens meanwhile to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from probes.host import Host
    from stages.outcome import Outcome
    from stages.stage import IperfPeer, Level, Stage, StageContext

PASS, FAIL, USAGE, UNKNOWN, INTERRUPTED = 0, 1, 2, 4, 130
MEMORY_FRACTION = 0.5
PROGRESS_EVERY_S = 10.0
ROOT_HELP = "read a recorded machine, made by `vetting-agent capture DIR`, and nothing of this one"
ResultT = TypeVar("ResultT")


def add_arguments_inventory(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inventory`."""
    parser.set_defaults(alone="inventory")
    parser.add_argument("--json", action="store_true", help="print the inventory object of the protocol")
    parser.add_argument("--root", metavar="DIR", type=Path, help=ROOT_HELP)


def add_arguments_stage(parser: argparse.ArgumentParser) -> None:
    """The arguments of `stage`."""
    parser.set_defaults(alone="stage")
    parser.add_argument("name", metavar="NAME", help="the stage; an unknown one lists them all")
    parser.add_argument("--json", action="store_true", help="print the outcome object of the protocol")
    parser.add_argument(
        "--set", metavar="name=value", action="append", default=[], dest="settings", help="set a parameter; repeatable"
    )
    parser.add_argument(
        "--evidence", metavar="DIR", type=Path, help="where to leave raw output (default: a new folder)"
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help=ROOT_HELP)


def main(args: argparse.Namespace) -> int:
    """Run the command that the parser was made for; the exit code."""
    command = _inventory if args.alone == "inventory" else _stage
    try:
        return until_interrupted(lambda: command(args))
    except UsageError as problem:
        print(f"vetting-agent {args.alone}: {problem}", file=sys.stderr)  # noqa: T201
        return USAGE


class UsageError(ValueError):
    """The command line cannot be followed; `str()` says why."""


def until_interrupted(work: Callable[[], Awaitable[int]]) -> int:
    """Run `work`; SIGINT and SIGTERM cancel it, which kills all it started."""

    async def watched() -> int:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, me.cancel)
        return await work()

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        print("Interrupted: everything that was started has been killed", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


async def _inventory(args: argparse.Namespace) -> int:
    from probes.inventory import collect
    from vetting_agent import alone_text

    found = await collect(_host(args.root))
    text = json.dumps(asdict(found), indent=1) if args.json else alone_text.inventory(found)
    _print(text)
    return UNKNOWN if found.failed else PASS


def _host(root: Path | None) -> Host:
    """This machine, or the one recorded in a folder. Raises UsageError."""
    from probes.host import Host
    from probes.recorded import NotARecording, open_recording

    try:
        return Host() if root is None else open_recording(root)
    except NotARecording as problem:
        raise UsageError(str(problem)) from None


async def _stage(args: argparse.Namespace) -> int:
    from stages.stage import RunFacts, StageContext
    from vetting_agent import alone_text
    from vetting_agent.recorded_stage import WITHOUT_LOAD, refusal

    stage = _stage_named(args.name)
    parameters = _parameters(stage, args.settings)
    if args.root:
        parameters |= WITHOUT_LOAD.get(stage.name, {})
    host = _host(args.root)
    evidence = _evidence_folder(args.evidence, stage.name)
    context = StageContext(
        host=host.with_tools(host.tools.recording(evidence / "tools")),
        evidence=evidence,
        facts=RunFacts(memory_fraction=MEMORY_FRACTION),
        iperf=_NoLender(),
        listener=_Spoken(),
    )
    refused = refusal(stage) if args.root else None
    outcome = refused or await _run(stage, parameters, context)
    _print(_outcome_json(outcome) if args.json else alone_text.outcome(stage.title, outcome))
    print(f"Evidence: {evidence}", file=sys.stderr)  # noqa: T201
    return _exit_code(outcome)


async def _run(stage: Stage[Any], parameters: dict[str, Any], context: StageContext) -> Outcome:
    from stages.runner import StageRun

    return await StageRun(stage, parameters, context).run()


def _stage_named(name: str) -> Stage[Any]:
    from stages import STAGES, stage_named

    stage = stage_named(name) or next((one for one in STAGES if one.name.lower() == name.lower()), None)
    if stage is None:
        names = ", ".join(one.name for one in STAGES)
        raise UsageError(f"there is no stage {name!r}; the stages are: {names}")
    return stage


def _parameters(stage: Stage[Any], settings: Sequence[str]) -> dict[str, Any]:
    """The `--set` arguments as parameters. Raises UsageError for one the stage cannot take."""
    from stages.options import BadParameter, parse_options, parse_text

    parameters: dict[str, Any] = {}
    try:
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"--set takes name=value, not {setting!r}")
            name = name.removeprefix(f"{stage.name}.")
            parameters[name] = parse_text(stage.options, stage.name, name, text)
        parse_options(stage.options, stage.name, parameters)
    except BadParameter as problem:
        raise UsageError(str(problem)) from None
    return parameters


def _evidence_folder(parent: Path | None, stage: str) -> Path:
    """A new folder for this execution. Raises UsageError when it cannot be made."""
    try:
        parent = parent or Path(tempfile.mkdtemp(prefix="vetting-stage-"))
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = parent.resolve() / f"{number:02d}-{stage}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as problem:
        raise UsageError(f"the evidence folder cannot be made: {problem}") from None
    raise UsageError(f"the evidence folder {parent} is full of executions of {stage}")


def _exit_code(outcome: Outcome) -> int:
    from stages.outcome import Verdict

    if outcome.passed:
        return PASS
    return {Verdict.FAIL: FAIL, Verdict.CANCELLED: INTERRUPTED}.get(outcome.verdict, UNKNOWN)


def _outcome_json(outcome: Outcome) -> str:
    import msgspec

    from vetting_agent.wire import summary_of

    return msgspec.json.format(msgspec.json.encode(summary_of(outcome)), indent=1).decode()


def _print(text: str) -> None:
    # Hardware says what it likes; a terminal that is not UTF-8 must not end us.
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", errors="backslashreplace") + b"\n")
    sys.stdout.flush()


class _NoLender:
    """There is no orchestrator here to lend an iperf3 server."""

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[IperfPeer | None]:
        yield None


@dataclass
class _Spoken:
    """Says on standard error what the stage reports: its log, and now and then how far it is."""

    started: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def log(self, level: Level, text: str) -> None:
        self._say(text if level.value == "info" else f"{level.value}: {text}")

    def progress(self, fraction: float, eta_s: float | None) -> None:
        now = time.monotonic()
        if fraction < 1.0 and now - self.said >= PROGRESS_EVERY_S:
            left = "" if eta_s is None else f", about {eta_s:.0f} s to go"
            self._say(f"{fraction:.0%} done{left}")

    def sample(self, kind: str, key: str, value: float, unit: str) -> None:
        """Live figures are for the orchestrator; here the outcome's measurements will do."""

    def _say(self, text: str) -> None:

        from vetting_agent.printable import printable

        self.said = time.monotonic()
        print(f"[{self.said - self.started:6.1f} s] {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201

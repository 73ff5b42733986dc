"""`vetting-agent judge`: verdicts computed again from evidence alone, on any machine; no hardware is touched.

Exit codes: 0 pass, 1 fail, 4 could not be judged, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.outcome import Finding, Outcome
    from vetting_agent.judge_evidence import Judged

PASS, FAIL, USAGE, UNKNOWN = 0, 1, 2, 4
EPILOG = """\
EVIDENCE is a run's folder (run-N, with folders like 03-SMART), one such folder, or a tar.gz of either. The newest
execution of each stage is judged, with the options it ran with and --set laid over them. Whatever is missing, cut off,
foreign or changed leaves the verdict unknown and is named. With several verdicts the exit code is the worst:
1 when any failed, else 4 when any is unknown, else 0. With --json: the outcome object of the protocol, with "stage" or
"file" beside it; a list of them where there are several.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `judge`."""
    from vetting_agent.judge_smart import RULE

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + RULE
    parser.add_argument("evidence", metavar="EVIDENCE", type=Path, nargs="?", help="a folder or tar.gz of evidence")
    parser.add_argument("--smart", metavar="FILE", type=Path, nargs="+", help="outputs of smartctl --json -x (or -a)")
    parser.add_argument(
        "--set",
        metavar="STAGE.name=value",
        action="append",
        default=[],
        dest="settings",
        help="judge with this parameter; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome object of the protocol")


class UsageError(ValueError):
    """The command line cannot be followed; `str()` says why."""


def main(args: argparse.Namespace) -> int:
    """Judge, print, and return the exit code."""
    from stages.options import BadParameter

    try:
        judged = _judged(args)
    except (UsageError, BadParameter) as problem:
        print(f"vetting-agent judge: {problem}", file=sys.stderr)  # noqa: T201
        return USAGE
    _print(_json(judged, "file" if args.smart else "stage") if args.json else _text(judged, whole=not args.smart))
    return exit_code([one.outcome for one in judged])


def _judged(args: argparse.Namespace) -> list[Judged]:
    """Raises UsageError and BadParameter."""
    if (args.evidence is None) == (args.smart is None):
        raise UsageError("give either EVIDENCE or --smart FILE")
    settings = _settings(args.settings)
    return _of_files(args.smart, settings) if args.smart else _of_evidence(args.evidence, settings)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """The worst of all; nothing judged is unknown."""
    from stages.outcome import Verdict

    if any(outcome.verdict is Verdict.FAIL for outcome in outcomes):
        return FAIL
    return PASS if outcomes and all(outcome.passed for outcome in outcomes) else UNKNOWN


def _settings(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Stage name → parameters. Raises UsageError and BadParameter."""
    from stages import STAGES
    from stages.options import parse_options, parse_text

    found: dict[str, dict[str, Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        stage_name, dot, name = path.partition(".")
        if not equals or not dot or not name:
            raise UsageError(f"--set takes STAGE.name=value, not {word!r}")
        stage = next((one for one in STAGES if one.name.lower() == stage_name.lower()), None)
        if stage is None:
            names = ", ".join(one.name for one in STAGES)
            raise UsageError(f"there is no stage {stage_name!r}; the stages are: {names}")
        mine = found.setdefault(stage.name, {})
        mine[name] = parse_text(stage.options, stage.name, name, text)
        parse_options(stage.options, stage.name, mine)
    return found


def _of_files(paths: Sequence[Path], settings: Mapping[str, dict[str, Any]]) -> list[Judged]:
    from stages.options import parse_options
    from stages.smart import Options
    from vetting_agent.judge_evidence import Judged
    from vetting_agent.judge_smart import STAGE_NAME, judge_file

    if others := sorted(settings.keys() - {STAGE_NAME}):
        raise UsageError(f"--smart judges by {STAGE_NAME} alone; --set {others[0]}... has nothing to say there")
    options = parse_options(Options, STAGE_NAME, settings.get(STAGE_NAME))
    return [Judged(str(path), str(path), path.name, judge_file(path, options)) for path in paths]


def _of_evidence(path: Path, settings: Mapping[str, dict[str, Any]]) -> list[Judged]:
    from stages.outcome import Outcome, ReasonCode, error
    from vetting_agent.judge_evidence import Judged, judge
    from vetting_agent.judge_sources import Refused, newest

    try:
        executions = newest(path)
    except Refused as problem:
        finding = error(ReasonCode.OUTPUT_UNREADABLE, path.name or "evidence", str(problem))
        return [Judged("", "Evidence", path.name, Outcome("No evidence that could be judged", (finding,)))]
    if others := sorted(settings.keys() - {one.stage for one in executions}):
        raise UsageError(f"--set {others[0]}...: there is no evidence of {others[0]} in {path}")
    return [judge(one, settings.get(one.stage, {})) for one in executions]


def _json(judged: Sequence[Judged], kind: str) -> str:
    import msgspec

    from vetting_agent.wire import summary_of

    objects = [{kind: one.name, **msgspec.to_builtins(summary_of(one.outcome))} for one in judged]
    content: object = objects[0] if len(objects) == 1 else objects
    return json.dumps(content, indent=1)  # in ASCII: file names need not be text


def _text(judged: Sequence[Judged], *, whole: bool) -> str:
    from vetting_agent import alone_text

    blocks = []
    for one in judged:
        title = f"{one.title} ({one.place})" if whole else one.title
        blocks.append("\n".join([alone_text.outcome(title, one.outcome), *_differences(one)]))
    if whole or len(judged) > 1:
        blocks.append("\n".join(_overall(judged, whole=whole)))
    return "\n\n".join(blocks)


def _differences(one: Judged) -> Iterator[str]:
    """Where this judgement parts from the one that was recorded."""
    from vetting_agent.printable import printable

    if one.recorded is None:
        return
    now, then = one.outcome.verdict, one.recorded.verdict
    if now is not then:
        yield f"DIFFERS from outcome.json, which says {then.value.replace('_', ' ').upper()}"
    keys = ({_key(finding) for finding in outcome.findings} for outcome in (one.recorded, one.outcome))
    old, new = keys
    yield from (printable(f"  only in outcome.json: {' '.join(key)}") for key in sorted(old - new))
    yield from (printable(f"  only now: {' '.join(key)}") for key in sorted(new - old))


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.severity.value, finding.reason_code.value, finding.component


def _overall(judged: Sequence[Judged], *, whole: bool) -> Iterator[str]:
    from stages import STAGES
    from vetting_agent.printable import printable

    word = {PASS: "PASS", FAIL: "FAIL"}.get(exit_code([one.outcome for one in judged]), "UNKNOWN")
    yield f"Overall: {word}"
    for one in judged:
        yield printable(f"  {one.outcome.verdict.value:<14}  {one.name or one.place}")
    absent = [stage.name for stage in STAGES if stage.name not in {one.name for one in judged}]
    if whole and absent:
        yield f"No evidence here of: {', '.join(absent)}"


def _print(text: str) -> None:
    # Hardware says what it likes; a terminal that is not UTF-8 must not end us.
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", errors="backslashreplace") + b"\n")
    sys.stdout.flush()

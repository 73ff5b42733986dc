"""`vetting-agent explain [CODE] [--json]`: a reason code in plain words, or the list of all."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.reasons import Reason

UNKNOWN_CODE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `explain`."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="a reason code; without one, all are listed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Explain one code or list all. Exit code 2 for a code that does not exist, with the nearest ones."""
    from stages import reasons
    from stages.outcome import ReasonCode

    if args.code is None:
        return _write_all(list(reasons.REASONS.values()), as_json=args.json)
    try:
        reason = reasons.REASONS[ReasonCode(args.code.strip().lower())]
    except ValueError:
        near = reasons.nearest(args.code)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `vetting-agent explain` lists all"
        sys.stderr.write(f"There is no reason code {args.code!r}{hint}\n")
        return UNKNOWN_CODE
    sys.stdout.write(_dumps(_as_json(reason)) if args.json else _paragraphs(reason))
    return 0


def _write_all(every: list[Reason], *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(_dumps([_as_json(reason) for reason in every]))
        return 0
    width = max(len(reason.code) for reason in every)
    for reason in every:
        sys.stdout.write(f"{reason.code:{width}}  {reason.meaning}\n")
    return 0


def _as_json(reason: Reason) -> dict[str, Any]:
    return {**asdict(reason), "code": reason.code.value, "inconclusive": reason.inconclusive}


def _dumps(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"


def _paragraphs(reason: Reason) -> str:
    verdict = "could not be judged (unknown)" if reason.inconclusive else "fail"
    parts = {
        "Seen": reason.meaning,
        "Likely cause": reason.cause,
        "What to do": reason.action,
        "Who": reason.owner,
        "As an error": f"the verdict is: {verdict}" if reason.code != "cancelled" else "the verdict is: cancelled",
    }
    lines = [textwrap.fill(f"{name + ':':14}{text}", 100, subsequent_indent=" " * 14) for name, text in parts.items()]
    return "\n".join([reason.code.value, *lines]) + "\n"

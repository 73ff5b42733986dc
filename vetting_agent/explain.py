"""`vetting-agent explain [CODE] [--json]`: a reason code or a signal of preflight in plain words; or all of them."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vetting_agent import signals
from vetting_agent.signals import SIGNALS, Signal

if TYPE_CHECKING:
    from stages.reasons import Reason

UNKNOWN_CODE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `explain`."""
    parser.add_argument(
        "code", nargs="?", metavar="CODE", help="a reason code or a signal; without one, all are listed"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Explain one code or signal, or list all. Exit code 2 for one that does not exist, with the nearest ones."""
    from stages import reasons
    from stages.outcome import ReasonCode

    if args.code is None:
        return _write_all(list(reasons.REASONS.values()), as_json=args.json)
    name = args.code.strip().lower()
    reason = reasons.REASONS[ReasonCode(name)] if name in set(ReasonCode) else None
    signal = Signal(name) if name in set(Signal) else None
    if reason is None and signal is None:
        near = [*reasons.nearest(args.code), *signals.nearest(args.code)]
        hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else "; `vetting-agent explain` lists all"
        sys.stderr.write(f"There is no reason code or signal {args.code!r}{hint}\n")
        return UNKNOWN_CODE
    if args.json:
        sys.stdout.write(_dumps(_as_json(reason) if reason else _signal_as_json(signal)))
        return 0
    texts = [_paragraphs(reason) if reason else "", _signal_paragraphs(signal) if signal else ""]
    sys.stdout.write("\n".join(filter(None, texts)))
    return 0


def _write_all(every: list[Reason], *, as_json: bool) -> int:
    """The reason codes, then the signals that are none."""
    codes = {reason.code.value for reason in every}
    others = [signal for signal in SIGNALS if signal not in codes]
    if as_json:
        sys.stdout.write(_dumps([*map(_as_json, every), *map(_signal_as_json, others)]))
        return 0
    rows = [(reason.code.value, reason.meaning) for reason in every]
    rows += [(signal.value, SIGNALS[signal].symptom) for signal in others]
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        sys.stdout.write(f"{name:{width}}  {meaning}\n")
    return 0


def _signal_as_json(signal: Signal | None) -> dict[str, Any]:
    assert signal is not None
    return {"code": signal.value, **asdict(SIGNALS[signal])}


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
    return _text(reason.code.value, parts)


def _signal_paragraphs(signal: Signal) -> str:
    meaning = SIGNALS[signal]
    parts = {
        "Seen": meaning.symptom,
        "What to do": meaning.recovery,
        "Who": meaning.owner,
        "In preflight": f"the hop {meaning.hop}",
    }
    return _text(f"{signal} (a signal of preflight)", parts)


def _text(heading: str, parts: dict[str, str]) -> str:
    lines = [textwrap.fill(f"{name + ':':14}{text}", 100, subsequent_indent=" " * 14) for name, text in parts.items()]
    return "\n".join([heading, *lines]) + "\n"

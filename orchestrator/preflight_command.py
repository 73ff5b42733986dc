"""`vetting-orchestrator preflight RUN`: the orchestrator's side, asked over the operator socket."""

from __future__ import annotations

import argparse
import math
import uuid
from pathlib import Path

import msgspec

from orchestrator.cli_text import say, say_json
from orchestrator.operator_client import NoServer, OperatorClient, Refused
from orchestrator.preflight import HOPS, SIDE
from vetting_agent.preflight_report import Failed, Report, Walk, report_of, table
from vetting_agent.redact import Redactor
from vetting_agent.signals import Hop, Signal

TIMES, MARGIN_S = 16, 10.0
"""Longer than all hops of the server may take together."""


def main(arguments: argparse.Namespace) -> int:
    """0: every hop is well; 1: one failed."""
    walk = Walk(SIDE, arguments.run, str(uuid.uuid4()), Redactor())
    try:
        client = OperatorClient(Path(arguments.data), TIMES * arguments.hop_limit + MARGIN_S)
        path, limit_s = f"/runs/{arguments.run}/preflight", math.ceil(arguments.hop_limit)
        content = client.get_bytes(path, walk.correlation_id, hop_limit=limit_s)
        report = msgspec.json.decode(content, type=Report)
    except NoServer as problem:
        report = report_of(walk, Failed(Signal.SERVER_DOWN, str(problem)), HOPS)
    except (Refused, msgspec.MsgspecError) as problem:
        unknown = isinstance(problem, Refused) and problem.code == "no_such_run"
        signal, hop = (Signal.RUN_NOT_FOUND, Hop.CLAIM) if unknown else (Signal.API_INCOMPATIBLE, Hop.SERVER)
        report = report_of(walk, Failed(signal, str(problem)), HOPS, untold={Hop.IMAGE}, hop=hop)
    say_json(report) if arguments.json else say(table(report))
    return 0 if report.ok else 1

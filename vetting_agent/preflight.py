"""`vetting-agent preflight [--json]`: from the boot parameters to the GPU driver, up to the first hop that fails.

It changes nothing: no claim, no lock, and of the orchestrator it wants one answer to `hello`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from probes.host import Host
from vetting_agent import params, preflight_report
from vetting_agent.client import Client
from vetting_agent.errors import (
    EXIT_CRASHED,
    EXIT_DONE,
    BadBootParameter,
    FinalRefusal,
    MissingBootParameter,
)
from vetting_agent.lock import TokenStore, default_state_dir
from vetting_agent.params import BootParams, Token, read_params
from vetting_agent.pinning import Way, way_to
from vetting_agent.preflight_api import REFUSED, ApiHops
from vetting_agent.preflight_machine import MachineHops
from vetting_agent.preflight_network import NetworkHops
from vetting_agent.preflight_report import HOP_LIMIT_S, Check, Failed, Report, Seen, Walk, report_of, table
from vetting_agent.redact import Redactor
from vetting_agent.run import default_evidence
from vetting_agent.signals import Hop, Signal

SIDE = "agent"
HOPS: Sequence[Hop] = (
    Hop.BOOT_PARAMETERS,
    Hop.LINK,
    Hop.ADDRESS,
    Hop.ROUTE,
    Hop.DNS,
    Hop.TCP,
    Hop.TLS,
    Hop.CLOCK,
    Hop.HELLO,
    Hop.TOKEN,
    Hop.RUN,
    Hop.IPERF,
    Hop.EVIDENCE,
    Hop.TOOLS,
    Hop.BMC,
    Hop.GPU,
)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a preflight is about. `correlation_id`: the caller's own in the orchestrator's eyes."""

    host: Host
    params: BootParams
    way: Way
    token: Token
    evidence: Path
    state_dir: Path
    correlation_id: str
    hop_s: float = HOP_LIMIT_S

    async def run(self) -> Report:
        """Look at every hop in turn. Never raises but for a cancel; takes 25 times `hop_s` at the very most."""
        client = Client(self.params, self.correlation_id, self.way)
        client.token = self.token
        api = ApiHops(self.params, client, self.way, self.correlation_id, self.hop_s)
        checks = [
            Check(Hop.BOOT_PARAMETERS, self._parameters, Signal.BOOT_PARAMETERS_INVALID),
            *NetworkHops(self.host, self.params.orchestrator, self.hop_s).checks(),
            *api.checks(),
            *MachineHops(self.host, self.evidence, self.state_dir, lambda: api.reply.stages, self.hop_s).checks(),
        ]
        return await self.walk.over(checks)

    async def _parameters(self) -> Seen:
        return Seen(f"run {self.params.run_id} at {self.params.orchestrator}")

    def refused(self, refusal: FinalRefusal) -> Report:
        """The record of a refusal that a call of the agent met: nothing is asked again."""
        signal = REFUSED[refusal.status] if refusal.own else Signal.API_INTERCEPTED
        untold = {Hop.CLOCK} | ({Hop.TOKEN} if signal is Signal.RUN_NOT_FOUND else set())
        return report_of(self.walk, Failed(signal, str(refusal)), HOPS, untold)

    @property
    def walk(self) -> Walk:
        redactor = Redactor()
        for token in (self.params.token, self.token):
            redactor.add(token.reveal())
        return Walk(SIDE, self.params.run_id, self.correlation_id, redactor, self.hop_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent preflight`: those of `run`, so that the same line can be tried."""
    params.add_arguments(parser)
    preflight_report.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0: every hop is well; 1: one failed."""
    host, correlation_id = Host(), str(uuid.uuid4())
    try:
        boot = read_params(args, os.environ, host.proc("cmdline"))
        state_dir = args.state_dir or default_state_dir(host)
    except BadBootParameter as problem:
        missing = isinstance(problem, MissingBootParameter)
        signal = Signal.BOOT_PARAMETERS_MISSING if missing else Signal.BOOT_PARAMETERS_INVALID
        return _tell(
            report_of(Walk(SIDE, None, correlation_id, Redactor()), Failed(signal, str(problem)), HOPS),
            as_json=args.json,
        )
    os.environ.pop("VETTING_TOKEN", None)
    evidence = args.evidence or default_evidence(host, state_dir)

    async def look() -> Report:
        way = way_to(boot.orchestrator, boot.fingerprints)
        token = TokenStore(state_dir, boot).load() or boot.token
        try:
            return await Preflight(host, boot, way, token, evidence, state_dir, correlation_id, args.hop_limit).run()
        finally:
            await way.close()

    return _tell(asyncio.run(look()), as_json=args.json)


def _tell(report: Report, *, as_json: bool) -> int:
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() if as_json else table(report)
    sys.stdout.write(text + "\n")
    return EXIT_DONE if report.ok else EXIT_CRASHED

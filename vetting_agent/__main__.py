"""The command line `vetting-agent`. Only the module of the subcommand at hand is imported: `run` must start light."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from vetting_agent import __version__


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: where its flags and its `main(args) -> int` live."""

    help: str
    flags: tuple[str, str]
    """Module and function that adds its arguments."""
    module: str
    """Module whose `main` runs it."""


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "walk a run through its stages, as the live image does",
        ("vetting_agent.run", "add_arguments"),
        "vetting_agent.run",
    ),
    "status": Command(
        "show what the agent of this host is at",
        ("vetting_agent.status_socket", "add_arguments"),
        "vetting_agent.status_socket",
    ),
    "preflight": Command(
        "find the first thing that keeps this host and its orchestrator apart",
        ("vetting_agent.preflight", "add_arguments"),
        "vetting_agent.preflight",
    ),
    "vet": Command(
        "test this machine, with an orchestrator of its own",
        ("vetting_agent.vet", "add_arguments"),
        "vetting_agent.vet",
    ),
    "inventory": Command(
        "show what this machine is made of",
        ("vetting_agent.alone", "add_arguments_inventory"),
        "vetting_agent.alone",
    ),
    "stage": Command(
        "run one stage on this machine, without an orchestrator",
        ("vetting_agent.alone", "add_arguments_stage"),
        "vetting_agent.alone",
    ),
    "judge": Command(
        "compute verdicts again from evidence, or from smartctl's JSON",
        ("vetting_agent.judge", "add_arguments"),
        "vetting_agent.judge",
    ),
    "explain": Command(
        "say what a reason code or a signal of preflight means and what to do",
        ("vetting_agent.explain", "add_arguments"),
        "vetting_agent.explain",
    ),
    "capture": Command(
        "record this machine into a folder that inventory and stage can read with --root",
        ("vetting_agent.capture", "add_arguments"),
        "vetting_agent.capture",
    ),
    "hold-clean": Command(
        "take back the hold key of an agent that was killed",
        ("vetting_agent.hold", "add_arguments"),
        "vetting_agent.hold",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="vetting-agent", description="Proves a machine's hardware, or holds it.")
    parser.add_argument("--version", action="version", version=f"vetting-agent {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name in words[:1]:
            _function(*command.flags)(subparser)
    args = parser.parse_args(words)
    return cast(int, _function(COMMANDS[args.command].module, "main")(args))


def _function(module: str, name: str) -> Callable[..., object]:
    return cast(Callable[..., object], getattr(importlib.import_module(module), name))


if __name__ == "__main__":
    sys.exit(main())

"""The words of the commands in cli_hosts.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Commands = argparse._SubParsersAction
Asks = Callable[[argparse.ArgumentParser, str, str], argparse.ArgumentParser]
MODULE = "orchestrator.cli_hosts"


def add_commands(commands: Commands[argparse.ArgumentParser], asks: Asks) -> None:
    """`host`, `unknown-hosts`, `queue` and `profile`. `asks` makes a parser one that asks the server."""
    _hosts(commands.add_parser("host", help="add, import, list and change hosts"), asks)
    policy = asks(
        commands.add_parser("unknown-hosts", help="what becomes of a host that nobody has named"),
        "unknown_hosts",
        MODULE,
    )
    policy.add_argument("policy", nargs="?", choices=("refuse", "queue", "accept"), help="default: show it")
    policy.add_argument("--profile", metavar="NAME", help="the hardware profile that accepted hosts get")
    _queue(commands.add_parser("queue", help="hosts that wait for approval"), asks)
    _profiles(commands.add_parser("profile", help="hardware profiles: learn, edit, compare"), asks)


def _acts(parser: argparse.ArgumentParser) -> Commands[argparse.ArgumentParser]:
    return parser.add_subparsers(dest="act", required=True, metavar="ACT")


def _hosts(parser: argparse.ArgumentParser, asks: Asks) -> None:
    acts = _acts(parser)
    for name, text in (("add", "a new host"), ("edit", "change a host; what is not given stays")):
        act = asks(acts.add_parser(name, help=text), f"{name}_host", MODULE)
        act.add_argument("name")
        act.add_argument("--mac", action="append", default=[], help="repeatable: each port it may boot from")
        act.add_argument("--label", action="append", default=[], help="repeatable")
        act.add_argument("--note")
        act.add_argument("--profile", metavar="NAME", help="its hardware profile")
    asks(acts.add_parser("list", help="all hosts"), "list_hosts", MODULE)
    asks(acts.add_parser("remove", help="forget a host; its runs stay"), "remove_host", MODULE).add_argument("name")
    load = asks(acts.add_parser("import", help="hosts from a CSV file, all or none"), "import_hosts", MODULE)
    load.add_argument("file", help="columns: name, mac, profile, labels, note; - for standard input")
    load.add_argument("--dry-run", action="store_true", help="show what would change")


def _queue(parser: argparse.ArgumentParser, asks: Asks) -> None:
    acts = _acts(parser)
    asks(acts.add_parser("list", help="who waits"), "list_waiting", MODULE)
    approve = asks(acts.add_parser("approve", help="make it a host, with a run"), "approve", MODULE)
    approve.add_argument("mac")
    approve.add_argument("name", help="of a new host, or of a known one that gets the address too")
    approve.add_argument("--profile", metavar="NAME")
    approve.add_argument("--no-run", action="store_true")
    asks(acts.add_parser("reject", help="let it boot its own disk"), "reject", MODULE).add_argument("mac")


def _profiles(parser: argparse.ArgumentParser, asks: Asks) -> None:
    acts = _acts(parser)
    asks(acts.add_parser("list", help="all profiles"), "list_profiles", MODULE)
    show = asks(acts.add_parser("show", help="the YAML of one"), "show_profile", MODULE)
    show.add_argument("name")
    show.add_argument("--version", type=int)
    learn = asks(acts.add_parser("learn", help="from a run that passed"), "learn_profile", MODULE)
    learn.add_argument("name")
    learn.add_argument("run", type=int)
    save = asks(acts.add_parser("save", help="keep a YAML file as the next version"), "save_profile", MODULE)
    save.add_argument("name")
    save.add_argument("file", help="- for standard input")
    save.add_argument("--check", action="store_true", help="only tell what is wrong")
    for act in (learn, save):
        act.add_argument("--note")
    diff = asks(acts.add_parser("diff", help="between versions, or with a host"), "diff_profile", MODULE)
    diff.add_argument("name")
    diff.add_argument("old", type=int, nargs="?", help="default: the version before the newest")
    diff.add_argument("new", type=int, nargs="?")
    diff.add_argument("--host", help="how this host differs from the profile")
    remove = asks(
        acts.add_parser("remove", help="with all versions; refused while something uses it"), "remove_profile", MODULE
    )
    remove.add_argument("name")
    asks(acts.add_parser("baselines", help="what its hosts measure"), "baselines", MODULE).add_argument("name")

"""The words of what keeps a server up: its webhooks, what it keeps for how long, backup and restore."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Commands = argparse._SubParsersAction
AddData = Callable[[argparse.ArgumentParser], None]
Asks = Callable[[argparse.ArgumentParser, str, str], argparse.ArgumentParser]


def add_commands(commands: Commands[argparse.ArgumentParser], asks: Asks) -> None:
    """`webhooks`. `asks` makes a parser one that asks the server."""
    module = "orchestrator.webhook_commands"
    listing = asks(
        commands.add_parser("webhooks", help="what waits to be told and what could not be; test: send a ping"),
        "webhooks",
        module,
    )
    listing.add_argument("--limit", type=int, default=1000, metavar="N", help="newest deliveries (default: 1000)")
    listing.add_argument("act", nargs="?", choices=("test",), help="send a signed ping and say what came of it")
    listing.add_argument("url", nargs="?", metavar="URL", help="of the receiver that is tested")


def add_data_commands(commands: Commands[argparse.ArgumentParser], add_data: AddData) -> None:
    """`backup` and `restore`: on the data folder, with a server or without."""
    words = {
        "backup": "write the data folder into one file, of a running server too",
        "restore": "make a data folder of a backup; it must be empty or missing",
    }
    for name, text in words.items():
        parser = commands.add_parser(name, help=text)
        add_data(parser)
        parser.add_argument("file", metavar="FILE")
        parser.add_argument("--json", action="store_true", help="print the manifest")


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--webhook",
        metavar="URL",
        action="append",
        default=[],
        help="tell this receiver of held, ended and silent hosts; repeatable (see docs/operations.md)",
    )
    parser.add_argument(
        "--webhook-secret", metavar="FILE", help="what webhooks are signed with (default: DIR/webhook-secret, made)"
    )
    parser.add_argument(
        "--webhook-pause",
        type=float,
        default=5.0,
        metavar="S",
        help="before the first retry; each later pause is three times as long, up to an hour (default: 5)",
    )
    parser.add_argument(
        "--push-logs", metavar="URL", help="push the hosts' log lines to this VictoriaLogs: http://host:9428"
    )
    parser.add_argument(
        "--site-ssh-keys",
        metavar="FILE",
        help="public keys, one a line without options, that open every held host beside its run's own key",
    )
    for what, span in (("logs", "90d"), ("samples", "30d")):
        parser.add_argument(
            f"--keep-{what}",
            metavar="TIME",
            default=span,
            help=f"delete {what} of hosts after so long: 12h, {span}, 8w or forever (default: {span})",
        )
    for option, default, what in (("--log-quota", 256, "log lines"), ("--sample-quota", 2048, "sensor samples")):
        parser.add_argument(
            option,
            type=int,
            default=default,
            metavar="MIB",
            help=f"of a run's {what}: what is more is acknowledged and dropped (default: {default})",
        )
    parser.add_argument(
        "--calls-per-second",
        type=float,
        default=1600.0,
        metavar="N",
        help="from as many hosts on as would call more often, each is told to call less often (default: 1600)",
    )

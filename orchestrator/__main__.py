"""`vetting-orchestrator`: the command line.

Exit codes: 0 done; 1 refused by the server, or a watched run that did not complete; 2 wrong usage, or no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from orchestrator.cli_hosts_words import add_commands as add_host_commands
from orchestrator.cli_identify import add_command as add_identify
from orchestrator.cli_upkeep_words import add_commands as add_upkeep_commands
from orchestrator.cli_upkeep_words import add_data_commands, add_serve_options
from vetting_agent.preflight_report import add_arguments as add_preflight_arguments

ROLES = ("viewer", "operator", "admin")
PROFILE_NAMES = ("quick", "standard", "burnin")
REPORT_FORMS = ("html", "json", "signed", "junit", "ocp", "csv")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.command == "serve":
        from orchestrator import serve

        return serve.main(arguments)
    if arguments.command == "openapi":
        name = "orchestrator.operator_openapi" if arguments.operator else "orchestrator.openapi"
        sys.stdout.write(import_module(name).document_text())
        return 0
    if arguments.command in {"backup", "restore"}:
        from orchestrator import backup_commands

        return backup_commands.main(arguments)
    if arguments.command == "preflight":
        from orchestrator import preflight_command

        return preflight_command.main(arguments)
    if arguments.command == "verify":
        from orchestrator.cli_reports import verify

        return verify(arguments)
    return _ask_server(arguments)


def _module_of(arguments: argparse.Namespace) -> ModuleType:
    """Where the command's function is."""
    accounts = arguments.command in {"user", "token", "audit"}
    return import_module("orchestrator.account_commands" if accounts else arguments.module)


def _ask_server(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from orchestrator import cli_commands
    from orchestrator.cli_text import complain
    from orchestrator.operator_client import NoServer, OperatorClient, Refused

    command: Callable[[argparse.Namespace, OperatorClient], int] = getattr(_module_of(arguments), arguments.function)
    try:
        return command(arguments, OperatorClient(Path(arguments.data)))
    except NoServer as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 2
    except cli_commands.BadArgument as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 2
    except Refused as problem:
        complain(f"vetting-orchestrator: {problem}")
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="vetting-orchestrator", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="start the server"))
    _add_run_commands(commands.add_parser("run", help="create, list, show, watch and direct runs"))
    add_host_commands(commands, _asks)
    key = _asks(commands.add_parser("hold-key", help="the private key of a held host"), "hold_key")
    key.add_argument("run", type=int)
    key.add_argument("--out", metavar="FILE", help="write the private key there, mode 0600")
    preflight = commands.add_parser("preflight", help="what stands between a run's host and this server")
    _add_data(preflight)
    add_preflight_arguments(preflight)
    preflight.add_argument("run", type=int, metavar="RUN")
    terminal = _asks(commands.add_parser("terminal", help="a shell in a held host"), "terminal")
    terminal.add_argument("run", type=int)
    add_identify(commands, _asks)
    evidence = _asks(commands.add_parser("evidence", help="list or download the evidence of a run"), "evidence")
    evidence.add_argument("run", type=int)
    evidence.add_argument("--download", metavar="DIR", help="write every piece into this folder")
    _add_account_commands(commands)
    _add_reports(commands)
    add_upkeep_commands(commands, _asks)
    add_data_commands(commands, _add_data)
    _add_simulate(commands.add_parser("simulate", help="put simulated agents on a server without hosts"))
    described = commands.add_parser("openapi", help="print the OpenAPI document of the agent API")
    described.add_argument("--operator", action="store_true", help="that of the operator API")
    return top


def _add_data(parser: argparse.ArgumentParser) -> None:
    from orchestrator.operator_client import default_data_folder

    parser.add_argument(
        "--data",
        metavar="DIR",
        default=str(default_data_folder()),
        help="the server's data folder (default: $VETTING_DATA, else /var/lib/vetting-orchestrator as root,"
        " ~/.local/share/vetting-orchestrator otherwise)",
    )


def _asks(
    parser: argparse.ArgumentParser, function: str, module: str = "orchestrator.cli_commands", *, prints: bool = True
) -> argparse.ArgumentParser:
    """A command that asks the server, by the name of its function; `prints`: for people, or JSON."""
    _add_data(parser)
    if prints:
        parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(function=function, module=module)
    return parser


def _add_reports(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser("report", help="a run's report: a page, JSON, signed, JUnit, OCP, CSV")
    _asks(report, "report", "orchestrator.cli_reports", prints=False)
    report.add_argument("run", type=int)
    report.add_argument("--form", choices=REPORT_FORMS, default="html", help="default: html")
    report.add_argument("--out", metavar="FILE", help="default: standard output")
    changes = _asks(
        commands.add_parser("drift", help="what changed between two runs"), "changes", "orchestrator.cli_reports"
    )
    changes.add_argument("before", type=int, metavar="RUN", help="the older run")
    changes.add_argument("after", type=int, metavar="RUN")
    key = commands.add_parser("report-key", help="print the public key that signed reports are checked with")
    _asks(key, "report_key", "orchestrator.cli_reports", prints=False)
    verify = commands.add_parser("verify", help="check a signed report; needs no server")
    _add_data(verify)
    verify.add_argument("report", metavar="FILE")
    verify.add_argument("--key", metavar="PEM", help="the public key; default: that of the data folder")
    verify.add_argument("--evidence", metavar="DIR", help="check the downloaded evidence in DIR, too")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", default="0.0.0.0:0", help="port 0: any free one, printed")
    parser.add_argument("--url", help="base URL that hosts are told, when it is not the address listened on")
    parser.add_argument(
        "--console", metavar="HOST:PORT", help="of the operators' page, or off (default: a free port beside --listen)"
    )
    parser.add_argument("--console-url", help="of the operators' page, when it is not the address listened on")
    parser.add_argument("--iperf-port", type=int, default=0, help="for the first iperf3 server (default: any free one)")
    parser.add_argument(
        "--iperf-servers",
        type=int,
        default=1,
        metavar="N",
        help="lent together to one host: one for every 25 Gb/s of its fastest port (default: 1)",
    )
    parser.add_argument("--image", metavar="DIR", help="boot hosts from this image: the outputs of `make image`")
    parser.add_argument(
        "--boot-listen",
        metavar="HOST:PORT",
        help="serve boot.ipxe and the image there, in plain HTTP, to the boot network (see docs/hosts.md)",
    )
    parser.add_argument("--boot-extra", metavar="WORDS", default="", help="more kernel parameters for booted hosts")
    parser.add_argument(
        "--terminal-timeout",
        type=float,
        default=15.0,
        metavar="S",
        help="seconds for a host to connect back for a terminal, and then for its shell to start (default: 15)",
    )
    add_serve_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON line when listening")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    _asks(parser, "run", "orchestrator.simulation.command")
    parser.add_argument("--agents", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="default: 30")
    parser.add_argument(
        "--flat-out",
        nargs="?",
        const="heartbeat",
        choices=("heartbeat", "log"),
        help="heartbeats, or batches of the log, one after the other and nothing else",
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="of the simulator (default: 1)")
    parser.add_argument("--log-lines", type=int, default=4, metavar="N", help="in each batch of the log (default: 4)")
    parser.add_argument("--pace", type=float, default=1.0, metavar="X", help="2: call twice as often as a host does")
    parser.add_argument("--anyway", action="store_true", help="even where runs are not finished")


def _add_account_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    users = commands.add_parser("user", help="who may log in to the console").add_subparsers(dest="act", required=True)
    add = _asks(users.add_parser("add", help="a new user; the password is read from the terminal or stdin"), "add_user")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="viewer")
    _asks(users.add_parser("list", help="all users"), "list_users")
    _asks(users.add_parser("password", help="set a password"), "set_password").add_argument("name")
    role = _asks(users.add_parser("role", help="set a role"), "set_role")
    role.add_argument("name")
    role.add_argument("role", choices=ROLES)
    _asks(users.add_parser("remove", help="remove a user"), "remove_user").add_argument("name")
    tokens = commands.add_parser("token", help="keys of programs for the console's API")
    acts = tokens.add_subparsers(dest="act", required=True)
    make = _asks(acts.add_parser("create", help="a new token; printed once"), "create_token")
    make.add_argument("name")
    make.add_argument("--role", choices=ROLES, default="viewer")
    make.add_argument("--days", type=int, default=None, help="how long it is valid (default: until revoked)")
    _asks(acts.add_parser("list", help="all tokens"), "list_tokens")
    _asks(acts.add_parser("revoke", help="by its key"), "revoke_token").add_argument("key")
    audit = _asks(commands.add_parser("audit", help="who did what"), "audit")
    audit.add_argument("--limit", type=int, default=100)


def _add_run_commands(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    _add_create(_asks(acts.add_parser("create", help="a new run; prints the kernel command line"), "create"))
    _asks(acts.add_parser("list", help="all runs"), "list_runs")
    _asks(acts.add_parser("show", help="one run"), "show").add_argument("run", type=int)
    watch = _asks(acts.add_parser("watch", help="events and log lines until the run ends or holds"), "watch")
    watch.add_argument("run", type=int)
    watch.add_argument("--follow", action="store_true", help="go on through holds")
    _add_directives(acts)
    rotate = acts.add_parser("token", help="rotate: end all tokens of the run, print a new one")
    turn = _asks(_only_act(rotate, "rotate"), "rotate_token", "orchestrator.cli_hosts")
    turn.add_argument("run", type=int)
    release = _asks(acts.add_parser("release", help="end the run and let the host go"), "release")
    release.add_argument("run", type=int)


def _only_act(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    return parser.add_subparsers(dest="turn", required=True, metavar="ACT").add_parser(name)


def _add_directives(acts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    helps = {
        "cancel": ("cancel_stage", "stop the running stage, end the run, power the host off"),
        "shutdown": ("shutdown", "power the host off"),
        "abort": ("abort", "end the agent and the run, leave the host up"),
        "retry": ("retry_stage", "run a stage of a held run again"),
    }
    for name, (cmd, text) in helps.items():
        act = _asks(acts.add_parser(name, help=text), "direct")
        act.add_argument("run", type=int)
        act.set_defaults(cmd=cmd)
    act.add_argument("stage", nargs="?", help="default: the first stage without a valid pass")
    act.add_argument("--wipe", action="store_true", help="destroy data: on the disks refused for it, or --serial")
    act.add_argument("--serial", action="append", default=[], help="a disk that --wipe may destroy; repeatable")


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", required=True, help="the host's name, for people")
    parser.add_argument("--mac", help="bind the run to this host; otherwise the first claim binds it")
    parser.add_argument("--profile", choices=PROFILE_NAMES, help="default: the hardware profile's, else standard")
    parser.add_argument(
        "--hardware", metavar="NAME", help="another hardware profile than the host's; '' for none (default: the host's)"
    )
    parser.add_argument("--token-valid", metavar="SECONDS", type=float, help="until a host has claimed with it")
    parser.add_argument("--stages", metavar="A,B", help="only these (Inventory always)")
    parser.add_argument("--set", metavar="STAGE.name=value", action="append", default=[], help="a stage's parameter")
    parser.add_argument("--destructive", action="store_true", help="let Storage write to expected, blank disks")
    parser.add_argument("--expect-disk", metavar="SERIAL[=GB]", action="append", default=[])
    parser.add_argument("--spec", metavar="FILE", help="JSON: what the host must be made of")
    parser.add_argument("--on-failure", choices=("hold", "continue"), default="hold")
    parser.add_argument("--leave-on", action="store_true", help="no power-off when the run is completed")


if __name__ == "__main__":
    sys.exit(main())

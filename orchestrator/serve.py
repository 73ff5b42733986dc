"""`vetting-orchestrator serve`: starts the server, says where it is, and ends it cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from orchestrator.cli_text import complain, say
from orchestrator.event_loop import run_fast
from orchestrator.listeners import CannotServe, allow_many_files
from orchestrator.quota import MIB, Quotas
from orchestrator.retention import Kept, span_of
from orchestrator.schema import SchemaTooNew
from orchestrator.server import Running, ServeOptions, running
from orchestrator.site_keys import BadSiteKeys, site_keys_in
from orchestrator.terminal_session import TerminalLimits
from orchestrator.webhook_receivers import MOST_RECEIVERS, BadReceiver, WebhookOptions, checked

log = logging.getLogger("orchestrator")
PEER_LEFT = "SSL connection is closed"
"""What the event loop says when a page is left while its stream still writes: each day's business."""
MOST_IPERF_SERVERS = 64
LONGEST_TERMINAL_TIMEOUT_S = 300
SWITCH_S = 0.001
"""The thread that commits gets the interpreter back this soon from the one that answers hosts; 0.005 is usual."""
MOST_CALLS_PER_S = 1_000_000
MOST_QUOTA_MIB = 2**20
LEAST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3600.0


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a person has something to do about it."""
    return record.getMessage() != PEER_LEFT


def main(arguments: argparse.Namespace) -> int:
    """Exit 0 after a signal, 1 when the server could not start."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").addFilter(_is_news)
    logging.getLogger("orchestrator.retention").setLevel(logging.INFO)  # what is deleted is told
    try:
        host, port = _address("--listen", arguments.listen)
        console = _console(arguments.console, host)
        console_url = _base_url("--console-url", arguments.console_url)
        boot = _boot_options(arguments)
        webhooks = _webhooks(arguments)
        push_logs = checked(arguments.push_logs, "--push-logs") if arguments.push_logs else None
        site_keys = site_keys_in(Path(arguments.site_ssh_keys)) if arguments.site_ssh_keys else ()
        kept = Kept(_span("--keep-logs", arguments.keep_logs), _span("--keep-samples", arguments.keep_samples))
    except (ValueError, BadReceiver) as problem:
        complain(str(problem))
        return 2
    except BadSiteKeys as problem:
        complain(f"--site-ssh-keys {problem}")
        return 2
    if not 1 <= arguments.iperf_servers <= MOST_IPERF_SERVERS:
        complain(f"--iperf-servers must be 1 to {MOST_IPERF_SERVERS}, not {arguments.iperf_servers}")
        return 2
    if not 1 <= arguments.terminal_timeout <= LONGEST_TERMINAL_TIMEOUT_S:
        complain(f"--terminal-timeout must be 1 to {LONGEST_TERMINAL_TIMEOUT_S} seconds")
        return 2
    for option, mib in (("--log-quota", arguments.log_quota), ("--sample-quota", arguments.sample_quota)):
        if not 1 <= mib <= MOST_QUOTA_MIB:
            complain(f"{option} must be 1 to {MOST_QUOTA_MIB} MiB")
            return 2
    if not 1 <= arguments.calls_per_second <= MOST_CALLS_PER_S:
        complain(f"--calls-per-second must be 1 to {MOST_CALLS_PER_S}")
        return 2
    terminal = TerminalLimits(open_s=arguments.terminal_timeout)
    iperf = (arguments.iperf_port, arguments.iperf_servers)
    more: dict[str, Any] = {**boot, "terminal": terminal, "webhooks": webhooks, "kept": kept, "push_logs": push_logs}
    more["quotas"] = Quotas(arguments.log_quota * MIB, arguments.sample_quota * MIB)
    more |= {"site_keys": site_keys, "console_url": console_url, "calls_per_s": arguments.calls_per_second}
    allow_many_files()
    sys.setswitchinterval(SWITCH_S)
    options = ServeOptions(Path(arguments.data), host, port, arguments.url, *iperf, console, **more)
    try:
        return run_fast(_serve(options, as_json=arguments.json))
    except (CannotServe, SchemaTooNew, sqlite3.Error, OSError) as problem:
        complain(f"vetting-orchestrator cannot serve: {problem}")
        return 1


def _console(text: str | None, host: str) -> tuple[str, int] | None:
    """Where the console listens: any free port of the agents' address unless said otherwise."""
    if text is None:
        return host, 0
    return None if text == "off" else _address("--console", text)


def _base_url(option: str, text: str | None) -> str | None:
    """Raises ValueError for what is no URL of a page."""
    if text is None:
        return None
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{option} must be https://HOST[:PORT]/, not {text!r}")
    return text.rstrip("/") + "/"


def _address(option: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{option} must be HOST:PORT, not {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  # ":8443" means every address


def _boot_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the boot services. Raises ValueError that says what is wrong."""
    if (arguments.image is None) != (arguments.boot_listen is None):
        raise ValueError("--image and --boot-listen go together: what is booted, and where from")
    if arguments.image is None:
        return {}
    host, port = _address("--boot-listen", arguments.boot_listen)
    if not arguments.boot_extra.isprintable():
        raise ValueError("--boot-extra must be one line of kernel parameters")
    return {
        "image": Path(arguments.image),
        "boot_host": host,
        "boot_port": port,
        "boot_extra": arguments.boot_extra,
    }


def _span(option: str, text: str) -> float | None:
    """Raises ValueError that names the option."""
    try:
        return span_of(text)
    except ValueError as problem:
        raise ValueError(f"{option} {problem}") from None


def _webhooks(arguments: argparse.Namespace) -> WebhookOptions:
    """Raises ValueError and BadReceiver that say what is wrong."""
    receivers = tuple(dict.fromkeys(checked(url) for url in arguments.webhook))
    if len(receivers) > MOST_RECEIVERS:
        raise ValueError(f"there may be {MOST_RECEIVERS} webhooks, not {len(receivers)}")
    if not LEAST_PAUSE_S <= arguments.webhook_pause <= LONGEST_PAUSE_S:
        raise ValueError(f"--webhook-pause must be {LEAST_PAUSE_S} to {LONGEST_PAUSE_S:.0f} seconds")
    secret = Path(arguments.webhook_secret) if arguments.webhook_secret else None
    return WebhookOptions(receivers, secret, arguments.webhook_pause)


async def _serve(options: ServeOptions, *, as_json: bool) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running(options) as server:
        say(msgspec.json.encode(server.info).decode() if as_json else _for_people(server, options.data))
        await ended.wait()
    return 0


def _for_people(server: Running, data: Path) -> str:
    info = server.info
    iperf = f"port {info.iperf_port}" if info.iperf_port else "not installed: throughput cannot be measured"
    return "\n".join(
        [
            f"Listening on   {info.url}",
            f"Fingerprint    {info.fingerprint}",
            f"Console        {info.console_url or 'off'}",
            *([f"First login    one-time code {server.first_code}"] if server.first_code else []),
            f"Operator API   {info.operator_socket}",
            f"iperf3         {iperf}",
            *([f"Boot           {info.boot_url}/boot.ipxe"] if info.boot_url else []),
            f"Data           {data}",
        ]
    )

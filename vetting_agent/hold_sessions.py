"""Closes the SSH sessions that a hold's key has opened.

sshd does not tell by itself which key opened a session. Its log does ("Accepted publickey for root from 192.0.2.7 port
50022 ssh2: ED25519 SHA256:..."), with the process that serves the session. So: of the sessions that began after the
key was installed, those are closed that the log does not clearly give to another key or to a password. Where no log
can be read this closes a session too many rather than leave the run's key in the house.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from probes.host import Host, text_of
from probes.tools import ToolError

SERVER_NAMES = ("sshd", "sshd-session", "sshd-auth")
LOG_FILES = ("auth.log", "secure")
LOG_LIMIT_S = 3.0
LOG_TAIL_BYTES = 4 * 2**20
GRACE_S = 0.5
CLOCK_SLACK_S = 2.0
START_FIELD = 19
"""Of a process's stat, counted from 0 after the name: starttime, in ticks."""

# Accepted publickey for root from 127.0.0.1 port 51034 ssh2: ED25519 SHA256:Zk8c...
ACCEPTED = re.compile(
    r"Accepted (?P<method>\S+) for \S+ from (?P<ip>\S+) port (?P<port>\d+)(?: ssh2: \S+ (?P<key>SHA256:\S+))?"
)


@dataclass(frozen=True, slots=True)
class Login:
    """One "Accepted" line: the far end, and the key's fingerprint (None: a password)."""

    ip: str
    port: int
    key: str | None


def parse_logins(lines: Iterable[str]) -> list[Login]:
    """The logins that a log of sshd tells of."""
    found = (ACCEPTED.search(line) for line in lines)
    return [Login(match["ip"], int(match["port"]), match["key"]) for match in found if match]


async def close_sessions(host: Host, fingerprint: str, since_s: float) -> int:
    """End the sessions of that key that began after `since_s` (seconds since the host's start); how many there were.

    Not by the time of day: a clock that was set back meanwhile would put all of them before the key.
    """
    candidates = [process for process in _servers() if _began_s(host, process) >= since_s - CLOCK_SLACK_S]
    if not candidates:
        return 0
    logins = parse_logins(await _log_lines(host, time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_s)))
    doomed = [process for process in candidates if not _is_foreign(process, logins, fingerprint)]
    sessions = _sessions(doomed)
    await _end(doomed)
    return sessions


def _sessions(servers: list[psutil.Process]) -> int:
    """How many sessions they are: in OpenSSH 10 one may have a process below the other."""
    pids = {process.pid for process in servers}
    return sum(_parent_of(process) not in pids for process in servers)


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _servers() -> list[psutil.Process]:
    """The processes that serve one connection each: not the listener, nor what a session runs."""
    return [process for process in psutil.process_iter() if _is_server(process)]


def _is_server(process: psutil.Process) -> bool:
    try:
        if process.name() not in SERVER_NAMES:
            return False
        title = " ".join(process.cmdline())
        return re.match(r"sshd(-session|-auth)?: ", title) is not None and "[listener]" not in title
    except psutil.Error:
        return False


def _began_s(host: Host, process: psutil.Process) -> float:
    """Seconds from the host's start to that of a process; where it can't be read, endless: it is looked at."""
    words = (text_of(host.proc(str(process.pid), "stat")) or "").rpartition(")")[2].split()
    try:
        return int(words[START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (IndexError, ValueError):
        return math.inf


def _is_foreign(process: psutil.Process, logins: list[Login], fingerprint: str) -> bool:
    """Whether the log gives this session to another key or a password."""
    ends = _far_ends(process)
    mine = [login for login in logins if (login.ip, login.port) in ends]
    return bool(mine) and all(login.key != fingerprint for login in mine)


def _far_ends(process: psutil.Process) -> set[tuple[str, int]]:
    """The far ends of its connections, and of its parent's (a session of a user runs below a monitor)."""
    ends = set()
    try:
        family = [process, *process.parents()[:1], *process.children()]
    except psutil.Error:
        family = [process]
    for one in family:
        try:
            connections = one.net_connections(kind="tcp") if hasattr(one, "net_connections") else one.connections("tcp")
        except psutil.Error:
            continue
        ends |= {(link.raddr.ip.removeprefix("::ffff:"), link.raddr.port) for link in connections if link.raddr}
    return ends


async def _log_lines(host: Host, since: float) -> list[str]:
    """What sshd has logged, from wherever it logs to."""
    lines = await _journal(host, since)
    places = [host.root / "var" / "log" / name for name in LOG_FILES]
    for path in [*places, *_listener_logs()]:
        lines += _tail(path)
    return lines


async def _journal(host: Host, since: float) -> list[str]:
    fields = [f"SYSLOG_IDENTIFIER={name}" for name in SERVER_NAMES]
    command = ["journalctl", "-q", "-o", "json", "--no-pager", f"--since=@{int(since - CLOCK_SLACK_S)}", *fields]
    try:
        result = await host.tools.run(*command, timeout_s=LOG_LIMIT_S)
    except ToolError:
        return []
    messages = []
    for line in result.stdout.splitlines():
        try:
            messages.append(str(json.loads(line).get("MESSAGE", "")))
        except (ValueError, AttributeError):
            continue
    return messages


def _listener_logs() -> list[Path]:
    """The files that listeners were told to log to with `-E`."""
    paths = []
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
            if process.name() == "sshd" and (match := re.search(r" -E ?(\S+)", title)):
                paths.append(Path(shlex.split(match[1])[0]))
        except (psutil.Error, ValueError):
            continue
    return paths


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            return handle.read().decode(errors="replace").splitlines()
    except OSError:
        return []


async def _end(servers: list[psutil.Process]) -> None:
    """End them and all below them: ask first, then insist."""
    family = set(servers)
    for server in servers:
        try:
            family |= set(server.children(recursive=True))
        except psutil.Error:
            continue
    for process in family:
        _signal(process, hard=False)
    await asyncio.sleep(GRACE_S)
    for process in family:
        _signal(process, hard=True)


def _signal(process: psutil.Process, *, hard: bool) -> None:
    try:
        if process.is_running():
            process.kill() if hard else process.terminate()
    except psutil.Error:
        return

"""Whether another host has reserved a disk, or has registered to: SCSI persistent reservations and NVMe's.

SATA, MMC and virtio-blk have no such command. A SCSI target without it answers "invalid opcode", an NVMe controller
"Invalid Command Opcode": nothing can be reserved there either. Anything else than these plain answers is unknown.
Registered keys count as reserved already, ours included: this program registers none.
"""

from __future__ import annotations

import re

from probes.block_use import Transport
from probes.host import Host
from probes.json_paths import parsed
from probes.tools import ToolError, ToolResult

LIMIT_S = 20.0
SG_INVALID_OPCODE = 9
SG_RESERVATION_CONFLICT = 24

_NO_RESERVATIONS = frozenset({Transport.SATA, Transport.MMC, Transport.VIRTIO})
_INVALID_OPCODE = re.compile(r"invalid[ _](command[ _])?opcode", re.IGNORECASE)


class Unreadable(Exception):
    """Whether the disk is reserved could not be found out; `str()` says why."""


async def is_reserved(host: Host, fd: int, transport: Transport | None) -> bool:
    """True when some host holds a reservation or a registration on the disk. Raises Unreadable."""
    if transport in _NO_RESERVATIONS:
        return False
    try:
        if transport is Transport.NVME:
            argv = ("nvme", "resv-report", f"/dev/fd/{fd}", "--output-format=json")
            return judge_nvme(await host.tools.run(*argv, timeout_s=LIMIT_S, accept=None, pass_fds=(fd,)))
        if transport in {Transport.SAS, Transport.SCSI}:
            argv = ("sg_persist", "--in", "--read-keys", f"/dev/fd/{fd}")
            return judge_scsi(await host.tools.run(*argv, timeout_s=LIMIT_S, accept=None, pass_fds=(fd,)))
    except ToolError as problem:
        raise Unreadable(str(problem)) from problem
    raise Unreadable("the way it is attached is not known to have no reservations")


def judge_nvme(result: ToolResult) -> bool:
    """By `nvme resv-report --output-format=json`. Raises Unreadable."""
    if result.exit_code == 0:
        try:
            report = parsed(result.stdout)
        except ValueError:
            report = None
        if isinstance(report, dict) and isinstance(registered := report.get("regctl"), int):
            return registered > 0 or bool(report.get("rtype"))
    elif _INVALID_OPCODE.search(result.stdout + result.stderr):
        return False
    raise Unreadable(f"nvme resv-report gave no answer ({result.how_it_ended()}): {result.last_words()}")


def judge_scsi(result: ToolResult) -> bool:
    """By `sg_persist --in --read-keys`: without a registered key there is no reservation. Raises Unreadable."""
    if result.exit_code == 0:
        if "NO registered reservation keys" in result.stdout:
            return False
        if re.search(r"\d+ registered reservation keys? follows?", result.stdout):
            return True
    elif result.exit_code == SG_INVALID_OPCODE:
        return False
    elif result.exit_code == SG_RESERVATION_CONFLICT:
        return True
    raise Unreadable(f"sg_persist gave no answer ({result.how_it_ended()}): {result.last_words()}")

"""The evidence of an earlier boot that ended badly: into the run's evidence folder, the log, and to the orchestrator.

It goes out once per boot, right after the claim: a run that is held because its host restarted has no stage to send it.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from probes import crash_records
from probes.crash_records import CrashRecord
from probes.host import Host
from vetting_agent import wire
from vetting_agent.background import in_thread
from vetting_agent.client import Client
from vetting_agent.errors import Rejected, Trouble
from vetting_agent.evidence import pack, redact_folder
from vetting_agent.logs import LogBook
from vetting_agent.printable import printable

READ_LIMIT_S = 10.0
SEND_LIMIT_S = 30.0
TOLD_MOST = 8
TOKEN = re.compile(rb"(vetting\.token=)[^\s\x00]+")
"""The kernel's log quotes its command line, which may be that of an earlier run."""


async def keep(host: Host, folder: Path, client: Client, claim: wire.Claim, book: LogBook) -> None:
    """Keep and send what is there. `folder` is made; where it is, an agent of this boot has done this. Never harms."""
    if folder.exists():
        return
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            records = await in_thread(lambda: crash_records.read(host))
        if not records:
            return
        for record in records[:TOLD_MOST]:
            book.warn(f"kept from an earlier boot: {printable(record.summary)}")
        async with asyncio.timeout(SEND_LIMIT_S):
            await in_thread(lambda: _write(folder, records))
            await _send(folder, client, claim, book)
    except (OSError, Trouble, Rejected) as problem:
        reason = str(problem) or "it took too long"
        book.warn(f"what is kept from an earlier boot was not sent: {reason}")


def _write(folder: Path, records: Sequence[CrashRecord]) -> None:
    for record in records:
        path = folder / record.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(TOKEN.sub(rb"\1[redacted]", record.content))


async def _send(folder: Path, client: Client, claim: wire.Claim, book: LogBook) -> None:
    """As evidence of the run's first stage: each piece of evidence belongs to one."""
    await in_thread(lambda: redact_folder(folder, book.redactor))
    if not claim.offers(wire.FEATURE_EVIDENCE) or not claim.stages:
        return
    package = await in_thread(lambda: pack(folder))
    result_id = str(uuid.uuid4())
    stage = claim.stages[0]
    await client.insist("evidence", lambda: client.evidence(stage, result_id, package.archive, package.digest))

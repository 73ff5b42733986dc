"""What a booting machine gets: its run, a moment's patience, or its own disk."""

from __future__ import annotations

import time
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator import host_book
from orchestrator.agent_service import AgentService
from orchestrator.boot_script import boot_script, cmdline_of, local_script, wait_script
from orchestrator.boot_tokens import BootTokens
from orchestrator.clock import now_text, seconds_between
from orchestrator.host_record import ACCEPT, QUEUE, HostRecord, MacOwner, Waiting
from orchestrator.host_service import HostService
from orchestrator.images import ImageFolder
from orchestrator.keeping import keep_event
from orchestrator.run_creation import RunRequest
from orchestrator.run_record import Run
from orchestrator.steps import Refusal
from orchestrator.store import Transaction
from orchestrator.tokens import new_token
from vetting_agent.run_view import EventView

AGAIN_S = 10
PATIENCE_S = 300.0
"""A machine that waits for approval asks for so long, then boots its own disk. Asking again later begins anew."""
FORGOTTEN_S = 60.0
MOST_WAITING = 1000
"""Addresses are easily made up: so many wait, no more."""
MOST_ACCEPTED_AN_HOUR = 200


@dataclass(slots=True)
class BootService:
    """`url`, `fingerprint`: where the agent of the booted image finds this server. `extra`: more kernel parameters."""

    service: AgentService
    hosts: HostService
    tokens: BootTokens
    image: ImageFolder
    url: str
    fingerprint: str
    extra: str = ""

    async def script(self, mac: str, ip: str, base: str) -> str:
        """The script for this MAC address. `base`: this server's URL as the boot loader reaches it. Raises OSError."""
        newest = self._newest_run_of(mac)
        run = None if newest is None or newest.is_over or newest.is_completed else newest
        if newest is None and await self.hosts.store.document(MacOwner, mac) is None:
            found = await self._unknown(mac, ip)
            if isinstance(found, str):
                return self._wait(found, mac, base) if found else local_script("This host is not known here")
            run = found
        if run is None:
            return local_script("Nothing to do for this host")
        if run.expects_calls and not run.stalled and not self.service.is_silent(run):
            return self._wait(f"Run {run.run_id} still hears from this host", mac, base)
        return await self._vetting(run, mac, base)

    def _newest_run_of(self, mac: str) -> Run | None:
        """Of the host with this address."""
        return next((one for one in reversed(self.service.store.runs()) if mac == one.mac or mac in one.macs), None)

    async def _vetting(self, run: Run, mac: str, base: str) -> str:
        token = self.tokens.mint(run, mac, time.time())
        words = cmdline_of(self.url, self.fingerprint, run.run_id, token, mac)
        script = boot_script(self.image.template(), f"{base}/image", words, self.extra)
        note = EventView(ts=now_text(), kind="boot", text=f"{mac} got its boot script")
        if not any(
            one.text == note.text and seconds_between(one.ts, note.ts) < FORGOTTEN_S
            for one in await self.service.store.events(run.run_id, 20)
        ):
            await self.service.store.write(lambda transaction: keep_event(transaction, run.run_id, note))
        return script

    def _wait(self, why: str, mac: str, base: str) -> str:
        return wait_script(why, f"{base}/boot.ipxe?mac={mac}", AGAIN_S)

    async def _unknown(self, mac: str, ip: str) -> Run | str:
        """By the policy: a run of its own, or why it waits ("": it does not)."""
        policy = await self.hosts.unknown_hosts()
        if policy.policy == ACCEPT:
            return await self._accepted(mac, policy.profile)
        if policy.policy == QUEUE:
            return await self._queued(mac, ip)
        return ""

    async def _accepted(self, mac: str, profile: str | None) -> Run | str:
        now = now_text()

        def work(transaction: Transaction) -> Run | None:
            if transaction.document(MacOwner, mac) is not None:
                return None  # two calls at once: the other one made the host
            fresh = [one for one in transaction.documents(HostRecord) if seconds_between(one.created_at, now) < 3600]
            if sum(one.note.startswith(ACCEPTED_NOTE) for one in fresh) >= MOST_ACCEPTED_AN_HOUR:
                return None
            name = f"host-{mac.replace(':', '')}"
            host = HostRecord(name=name, macs=(mac,), profile=profile, note=f"{ACCEPTED_NOTE} {now}", created_at=now)
            host_book.add_host(transaction, host)
            return host_book.created_run(transaction, RunRequest(host=name), new_token(), now)[0]

        try:
            return await self.service.store.write(work) or "This host is being taken in"
        except Refusal:  # the profile is gone, or the name is taken: a person must look
            return ""

    async def _queued(self, mac: str, ip: str) -> str:
        now = now_text()

        def work(transaction: Transaction) -> bool:
            known = transaction.document(Waiting, mac)
            if known is None:
                if len(transaction.documents(Waiting)) >= MOST_WAITING:
                    return False
                known = Waiting(mac=mac, first_seen_at=now, last_seen_at=now, asking_since=now, ip=ip)
            elif seconds_between(known.last_seen_at, now) > FORGOTTEN_S:
                known = replace(known, asking_since=now)
            transaction.put_document(mac, replace(known, last_seen_at=now, ip=ip))
            return not known.rejected and seconds_between(known.asking_since, now) < PATIENCE_S

        return "This host waits for approval" if await self.service.store.write(work) else ""


ACCEPTED_NOTE = "taken in when it booted,"

"""The acts on hosts, hardware profiles and the queue of unknown hosts, without HTTP: for the API and for the pages.

Every method raises Refusal for what is not allowed. Nothing is answered before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from orchestrator import host_book
from orchestrator.clock import now_text
from orchestrator.hardware_profile import BadProfile, checked_profile
from orchestrator.host_csv import Known, planned, read_host_file
from orchestrator.host_messages import (
    ApproveRequest,
    HostDiff,
    HostEdit,
    HostRequest,
    ImportReport,
    LearntProfile,
    ProfileDiff,
    ProfileView,
)
from orchestrator.host_record import (
    HOST_NAME,
    POLICIES,
    THE_POLICY,
    HostRecord,
    Profile,
    ProfileVersion,
    UnknownHosts,
    Waiting,
    checked,
    checked_mac,
    version_key,
)
from orchestrator.profile_diff import changes, host_differences
from orchestrator.profile_learning import learnt
from orchestrator.run_creation import RunRequest
from orchestrator.run_record import Run
from orchestrator.steps import Refusal
from orchestrator.store import Store, Transaction
from orchestrator.tokens import new_token
from orchestrator.who import Who

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HostService:
    store: Store

    async def hosts(self) -> list[HostRecord]:
        return await self.store.documents(HostRecord)

    async def host(self, name: str) -> HostRecord:
        host = await self.store.document(HostRecord, name)
        if host is None:
            raise Refusal(404, "no_such_host", f"There is no host {name[:100]!r}")
        return host

    async def add(self, wanted: HostRequest, who: Who) -> HostRecord:
        host = HostRecord(
            name=wanted.name,
            macs=tuple(wanted.macs),
            labels=tuple(wanted.labels),
            note=wanted.note,
            profile=wanted.profile or None,
            created_at=now_text(),
        )
        return await self._kept(lambda transaction: host_book.add_host(transaction, host), who, "add host", host.name)

    async def edit(self, name: str, wanted: HostEdit, who: Who) -> HostRecord:
        def work(transaction: Transaction) -> HostRecord:
            host = host_book.host_named(transaction, name)
            given = {field: getattr(wanted, field) for field in wanted.__struct_fields__}
            new = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
            new = {field: value for field, value in new.items() if value is not None}
            if "profile" in new:
                new["profile"] = new["profile"] or None
            host = checked(replace(host, **new))
            host_book.put_hosts(transaction, [host])
            return host

        return await self._kept(work, who, "change host", name)

    async def remove(self, name: str, who: Who) -> None:
        await self._kept(lambda transaction: host_book.remove_host(transaction, name), who, "remove host", name)

    async def import_csv(self, content: bytes, who: Who, *, dry_run: bool) -> ImportReport:
        """All of the file or nothing of it. With `dry_run` nothing, and the report says what would be."""
        file = read_host_file(content)
        now = now_text()

        def work(transaction: Transaction) -> ImportReport:
            known = {one.name: one for one in transaction.documents(HostRecord)}
            names = frozenset(one.name for one in transaction.documents(Profile))
            hosts, made = planned(file, Known(known, names), now)
            if file.errors:
                return ImportReport(done=False, errors=file.errors, hosts=[])
            if not dry_run:
                changed = {one.name for one in made if one.act != "unchanged"}
                host_book.put_hosts(transaction, [host for host in hosts if host.name in changed])
                transaction.add_audit(who.entry("import hosts", detail=f"{len(changed)} of {len(hosts)} changed"))
            return ImportReport(done=not dry_run, errors=[], hosts=made)

        return await self.store.write(work)

    async def unknown_hosts(self) -> UnknownHosts:
        return await self.store.document(UnknownHosts, THE_POLICY) or UnknownHosts()

    async def set_unknown_hosts(self, wanted: UnknownHosts, who: Who) -> UnknownHosts:
        if wanted.policy not in POLICIES:
            raise Refusal(422, "malformed", f"policy must be one of {', '.join(POLICIES)}, not {wanted.policy[:60]!r}")

        def work(transaction: Transaction) -> UnknownHosts:
            if wanted.profile is not None:
                host_book.newest_version(transaction, wanted.profile)
            transaction.put_document(THE_POLICY, wanted)
            return wanted

        return await self._kept(work, who, "set policy for unknown hosts", wanted.policy, wanted.profile or "")

    async def queue(self) -> list[Waiting]:
        """Those that wait, longest first; rejected ones at the end."""
        waiting = await self.store.documents(Waiting)
        return sorted(waiting, key=lambda one: (one.rejected, one.first_seen_at))

    async def approve(self, mac: str, wanted: ApproveRequest, who: Who) -> tuple[HostRecord, Run | None]:
        """The waiting address becomes a host, or one more of a known host's; with a run, unless told not to."""
        mac, now = checked_mac(mac), now_text()

        def work(transaction: Transaction) -> tuple[HostRecord, Run | None]:
            _waiting(transaction, mac)
            transaction.drop_document(Waiting, mac)
            known = transaction.document(HostRecord, wanted.name)
            if known is not None:
                host = checked(replace(known, macs=(*known.macs, mac), profile=wanted.profile or known.profile))
                host_book.put_hosts(transaction, [host])
            else:
                host = HostRecord(name=wanted.name, macs=(mac,), created_at=now)
                labels, note = tuple(wanted.labels), wanted.note
                host = replace(host, profile=wanted.profile or None, labels=labels, note=note)
                host = host_book.add_host(transaction, host)
            request = RunRequest(host=host.name)
            return host, host_book.created_run(transaction, request, new_token(), now)[0] if wanted.vet else None

        return await self._kept(work, who, "approve host", mac, wanted.name[:100])

    async def reject(self, mac: str, who: Who) -> Waiting:
        """The address is left to boot its own disk until its entry is removed or approved."""
        mac = checked_mac(mac)

        def work(transaction: Transaction) -> Waiting:
            waiting = replace(_waiting(transaction, mac), rejected=True)
            transaction.put_document(mac, waiting)
            return waiting

        return await self._kept(work, who, "reject host", mac)

    async def forget(self, mac: str, who: Who) -> None:
        """Takes the entry out of the queue; the address may ask again."""
        mac = checked_mac(mac)

        def work(transaction: Transaction) -> None:
            _waiting(transaction, mac)
            transaction.drop_document(Waiting, mac)

        await self._kept(work, who, "forget host", mac)

    async def profiles(self) -> list[ProfileView]:
        hosts = await self.hosts()
        views = []
        for one in await self.store.documents(Profile):
            version = await self.version(one.name, one.version)
            views.append(
                ProfileView(
                    name=one.name,
                    version=one.version,
                    created_at=version.created_at,
                    author=version.author,
                    note=version.note,
                    hosts=sum(host.profile == one.name for host in hosts),
                )
            )
        return views

    async def version(self, name: str, number: int | None = None) -> ProfileVersion:
        """A version of a profile, by default the newest."""
        if number is None:
            newest = await self.store.document(Profile, name)
            number = newest.version if newest else 0
        found = await self.store.document(ProfileVersion, version_key(name, number))
        if found is None:
            what = f"version {number} of the" if number else ""
            raise Refusal(
                404, "no_such_profile", f"There is no {what} hardware profile {name[:100]!r}".replace("  ", " ")
            )
        return found

    async def versions(self, name: str) -> list[ProfileVersion]:
        """All versions, newest first."""
        newest, profile = await self.version(name), await self.store.document(Profile, name)
        first = profile.first if profile else 1
        return [newest, *[await self.version(name, number) for number in range(newest.version - 1, first - 1, -1)]]

    async def remove_profile(self, name: str, who: Who) -> None:
        """What runs took from it stays with them. Refuses while something living goes by it."""

        def work(transaction: Transaction) -> None:
            host_book.remove_profile(transaction, name, self.store.runs())

        await self._kept(work, who, "remove profile", name)

    async def save(self, name: str, text: str, who: Who, *, note: str = "", base: int | None = None) -> ProfileVersion:
        """The text as the profile's next version. Raises BadProfile with all that is wrong with it."""
        checked_profile(text)
        version = _new_version(name, text, note, who.name)
        return await self._kept(
            lambda transaction: host_book.add_version(transaction, version, base=base), who, "save profile", name, note
        )

    async def learn(self, name: str, run_id: int, who: Who, *, note: str = "") -> LearntProfile:
        """The profile of a host that passed, kept as the next version, and what was left out and why."""
        run = self.store.find_run(run_id)
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        result = learnt(run, await self._inventory(run))
        text = result.text(f"Learnt from run {run.run_id} of {run.host}")
        try:
            version = await self.save(name, text, who, note=note or f"learnt from run {run_id} of {run.host}")
        except BadProfile as problem:
            raise Refusal(422, "bad_profile", f"What was learnt is no sound profile: {problem}") from None
        return LearntProfile(version=version, left_out=result.left_out)

    async def compare(self, name: str, old: int | None = None, new: int | None = None) -> ProfileDiff:
        """Two versions; by default the newest and the one before."""
        after = await self.version(name, new)
        before = await self.version(name, old or max(1, after.version - 1))
        found = changes(host_book.parsed(before), host_book.parsed(after))
        return ProfileDiff(
            name=name, old=before.version, new=after.version, changes=found, lines=[str(one) for one in found]
        )

    async def compare_host(self, name: str, host: str, number: int | None = None) -> HostDiff:
        """How a host's newest inventory, and the run that took it, differ from the profile."""
        version = await self.version(name, number)
        run = next((one for one in reversed(self.store.runs()) if one.host == host and one.inventory_result_id), None)
        inventory = await self._inventory(run) if run else None
        lines = host_differences(host_book.parsed(version), inventory, run)
        run_id = run.run_id if run else None
        return HostDiff(name=name, version=version.version, host=host, run_id=run_id, lines=lines)

    async def _kept(self, work: Callable[[Transaction], T], who: Who, act: str, subject: str, detail: str = "") -> T:
        """What `work` gives, kept, with a line in the audit log: of a refusal too."""

        def audited(transaction: Transaction) -> T:
            given = work(transaction)
            transaction.add_audit(who.entry(act, subject=subject, detail=detail))
            return given

        try:
            return await self.store.write(audited)
        except Refusal as refusal:
            entry = who.entry(act, subject=subject[:100], detail=detail, outcome=f"refused: {refusal.code}")
            await self.store.write(lambda transaction: transaction.add_audit(entry))
            raise

    async def _inventory(self, run: Run) -> dict[str, Any] | None:
        if run.inventory_result_id is None:
            return None
        result = await self.store.result(run.run_id, run.inventory_result_id)
        return result.inventory if result else None


def _waiting(transaction: Transaction, mac: str) -> Waiting:
    waiting = transaction.document(Waiting, mac)
    if waiting is None:
        raise Refusal(404, "not_waiting", f"{mac} does not wait for approval")
    return waiting


def _new_version(name: str, text: str, note: str, author: str) -> ProfileVersion:
    if not HOST_NAME.fullmatch(name) or name == "check":
        raise Refusal(
            422, "malformed", f"{name[:100]!r} is no profile name: letters, digits, dots, dashes, at most 100"
        )
    return ProfileVersion(name=name, version=0, text=text, created_at=now_text(), author=author[:100], note=note[:500])

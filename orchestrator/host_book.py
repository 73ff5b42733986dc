"""Writes and reads of hosts, profiles and the queue inside a transaction: the rules that hold between documents.

Each function takes the Transaction that it works in, so that several make one act.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.hardware_profile import BadProfile, HardwareProfile, checked_profile
from orchestrator.host_record import (
    THE_POLICY,
    HostRecord,
    MacOwner,
    Profile,
    ProfileVersion,
    RetiredProfile,
    UnknownHosts,
    checked,
    version_key,
)
from orchestrator.run_creation import RunRequest, Template, new_run
from orchestrator.run_record import Run, normal_mac
from orchestrator.steps import Refusal
from orchestrator.store import Transaction
from orchestrator.tokens import hash_of
from vetting_agent.run_view import EventView


def host_named(transaction: Transaction, name: str) -> HostRecord:
    """Raises Refusal 404."""
    host = transaction.document(HostRecord, name)
    if host is None:
        raise Refusal(404, "no_such_host", f"There is no host {name[:100]!r}")
    return host


def add_host(transaction: Transaction, host: HostRecord) -> HostRecord:
    """A new host. Raises Refusal: 409 for a name or an address that is taken, 422 for what makes no sense."""
    if transaction.document(HostRecord, host.name) is not None:
        raise Refusal(409, "host_exists", f"There is a host {host.name} already")
    put_hosts(transaction, [host := checked(host)])
    return host


def put_hosts(transaction: Transaction, hosts: Sequence[HostRecord]) -> None:
    """Write checked hosts, new or changed. An address may move from one to another of them, not from a third."""
    for host in hosts:
        old = transaction.document(HostRecord, host.name)
        for mac in old.macs if old else ():
            transaction.drop_document(MacOwner, mac)
        if host.profile is not None and transaction.document(Profile, host.profile) is None:
            raise Refusal(422, "no_such_profile", f"There is no hardware profile {host.profile[:100]!r}")
    for host in hosts:
        for mac in host.macs:
            owner = transaction.document(MacOwner, mac)
            if owner is not None and owner.host != host.name:
                raise Refusal(409, "mac_taken", f"{mac} belongs to the host {owner.host} already")
            transaction.put_document(mac, MacOwner(host=host.name))
        transaction.put_document(host.name, host)


def remove_host(transaction: Transaction, name: str) -> None:
    """Its runs stay. Raises Refusal 404."""
    for mac in host_named(transaction, name).macs:
        transaction.drop_document(MacOwner, mac)
    transaction.drop_document(HostRecord, name)


def newest_version(transaction: Transaction, name: str) -> ProfileVersion:
    """Raises Refusal 404."""
    profile = transaction.document(Profile, name)
    found = profile and transaction.document(ProfileVersion, version_key(name, profile.version))
    if not found:
        raise Refusal(404, "no_such_profile", f"There is no hardware profile {name[:100]!r}")
    return found


def add_version(transaction: Transaction, version: ProfileVersion, *, base: int | None = None) -> ProfileVersion:
    """Keep a text as the next version; the same text again is the version that it is already.

    `base`: the version that was edited. Raises Refusal 409 when another one came since.
    """
    old, retired = transaction.document(Profile, version.name), transaction.document(RetiredProfile, version.name)
    newest = old.version if old else 0
    if base is not None and base != newest:
        text = f"{version.name} is at version {newest} by now: version {base} was edited"
        raise Refusal(409, "profile_changed", text)
    if newest:
        last = newest_version(transaction, version.name)
        if last.text == version.text:
            return last
    kept = ProfileVersion(
        name=version.name,
        version=max(newest, retired.version if retired else 0) + 1,
        text=version.text,
        created_at=version.created_at,
        author=version.author,
        note=version.note,
    )
    transaction.put_document(version_key(kept.name, kept.version), kept)
    first = old.first if old else kept.version
    transaction.put_document(kept.name, Profile(name=kept.name, version=kept.version, first=first))
    return kept


def remove_profile(transaction: Transaction, name: str, runs: Sequence[Run]) -> None:
    """All its versions. Raises Refusal 404, and 409 while a host, a living run or the policy goes by it."""
    newest_version(transaction, name)
    profile = transaction.document(Profile, name)
    assert profile is not None
    hosts = [one.name for one in transaction.documents(HostRecord) if one.profile == name]
    living = [str(one.run_id) for one in runs if one.hardware == name and not (one.is_over or one.is_completed)]
    policy = transaction.document(UnknownHosts, THE_POLICY)
    users = [f"{what} {', '.join(found[:5])}" for what, found in (("run", living), ("host", hosts)) if found]
    users += ["the policy for unknown hosts"] * (policy is not None and policy.profile == name)
    if users:
        raise Refusal(409, "profile_in_use", f"{name} is used by {'; '.join(users)}")
    for number in range(profile.first, profile.version + 1):
        transaction.drop_document(ProfileVersion, version_key(name, number))
    transaction.drop_document(Profile, name)
    transaction.put_document(name, RetiredProfile(name=name, version=profile.version))


def parsed(version: ProfileVersion) -> HardwareProfile:
    """The profile as values. Raises Refusal 422: this program's stages may have changed since it was written."""
    try:
        return checked_profile(version.text)
    except BadProfile as problem:
        text = f"Version {version.version} of {version.name} does not fit this program: {problem}"
        raise Refusal(422, "bad_profile", text) from None


def template_for(transaction: Transaction, request: RunRequest) -> Template:
    """What is known for a new run. Raises Refusal for a profile that is not there, or an address of another host."""
    host = transaction.document(HostRecord, request.host)
    mac = normal_mac(request.mac) if request.mac else None
    owner = transaction.document(MacOwner, mac) if mac else None
    if owner is not None and owner.host != request.host:
        raise Refusal(422, "other_host", f"{mac} is the address of the host {owner.host}, not of {request.host}")
    name = request.hardware if request.hardware is not None else host and host.profile
    if not name:
        return Template(host=host)
    version = newest_version(transaction, name)
    return Template(host=host, profile_name=name, profile_version=version.version, profile=parsed(version))


def created_run(transaction: Transaction, wanted: RunRequest, token: str, now: str) -> tuple[Run, str]:
    """A new run with the first line of its history, and that line. Raises Refusal."""
    template = template_for(transaction, wanted)

    def make(run_id: int) -> Run:
        return new_run(wanted, run_id, hash_of(token), now, template)

    run = transaction.create_run(make)
    hardware = f"; hardware profile {run.hardware} version {run.hardware_version}" if run.hardware else ""
    text = f"for {run.host}: {', '.join(run.stages)}; profile {run.profile}{hardware}"
    transaction.add_event(run.run_id, EventView(ts=now, kind="created", text=text))
    return run, text

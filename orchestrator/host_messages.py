"""Messages of the operator API about hosts, profiles and booting."""

from __future__ import annotations

import msgspec

from orchestrator.host_csv import CsvError, HostChange
from orchestrator.host_record import HostRecord, ProfileVersion
from orchestrator.profile_diff import Change


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every request body."""


class HostRequest(Wanted, frozen=True, kw_only=True):
    """The body of POST …/hosts."""

    name: str
    macs: list[str] = []
    labels: list[str] = []
    note: str = ""
    profile: str | None = None


class HostEdit(Wanted, frozen=True, kw_only=True):
    """The body of PATCH …/hosts/{name}: what is not given stays. `profile` "" takes the profile away."""

    macs: list[str] | None = None
    labels: list[str] | None = None
    note: str | None = None
    profile: str | None = None


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or would do. With `errors` it did nothing."""

    done: bool
    errors: list[CsvError]
    hosts: list[HostChange]


class ApproveRequest(Wanted, frozen=True, kw_only=True):
    """The body of POST …/boot-queue/{mac}/approve. `vet`: create a run at once."""

    name: str
    profile: str | None = None
    labels: list[str] = []
    note: str = ""
    vet: bool = True


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """The host, and its run if one was made at once."""

    host: HostRecord
    run_id: int | None


class ProfileText(Wanted, frozen=True, kw_only=True):
    """The body of POST …/profiles/{name} and …/profiles/check. `base`: the version that was edited."""

    text: str
    note: str = ""
    base: int | None = None


class LearnRequest(Wanted, frozen=True, kw_only=True):
    """The body of POST …/profiles/{name}/learn."""

    run_id: int
    note: str = ""


class ProblemView(msgspec.Struct, frozen=True, kw_only=True):
    line: int
    path: str
    message: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a profile's text; empty when nothing is."""

    problems: list[ProblemView]


class ProfileView(msgspec.Struct, frozen=True, kw_only=True):
    """A profile: its newest version, and how many there are."""

    name: str
    version: int
    created_at: str
    author: str
    note: str
    hosts: int


class LearntProfile(msgspec.Struct, frozen=True, kw_only=True):
    version: ProfileVersion
    left_out: list[str]


class ProfileDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions: each change, and the same as lines."""

    name: str
    old: int
    new: int
    changes: list[Change]
    lines: list[str]


class HostDiff(msgspec.Struct, frozen=True, kw_only=True):
    """How a host differs from a profile, by this run's inventory (None: it never posted one)."""

    name: str
    version: int
    host: str
    run_id: int | None
    lines: list[str]


class TokenRotated(msgspec.Struct, frozen=True, kw_only=True):
    """The run's new token: the only time that it is told."""

    run_id: int
    token: str
    cmdline: str

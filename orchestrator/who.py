"""An actor: a person or program, its role, and how it came in."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.clock import now_text
from orchestrator.store import AuditEntry

ROLES = ("viewer", "operator", "admin")
"""Each may do what those before it may."""


@dataclass(frozen=True, slots=True)
class Who:
    """`via` is `session` (a browser), `token` (a program) or `socket` (the local command line)."""

    name: str
    role: str
    via: str
    key: str = ""
    """The hash of its session or token."""
    address: str = ""
    correlation_id: str = ""

    def may(self, role: str) -> bool:
        """Whether this one has at least that role."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def entry(self, act: str, *, subject: str = "", detail: str = "", outcome: str = "done") -> AuditEntry:
        """A line of the audit log about an act of this one."""
        return AuditEntry(
            ts=now_text(),
            author=self.name,
            via=self.via,
            act=act,
            subject=subject,
            detail=detail,
            outcome=outcome,
            correlation_id=self.correlation_id,
            address=self.address,
        )


def local_who(correlation_id: str = "") -> Who:
    """Whoever may open the operator socket."""
    return Who("local", "admin", "socket", correlation_id=correlation_id)

"""Messages of the operator API that are not views of a run (those: vetting_agent/run_view.py)."""

from __future__ import annotations

import msgspec

from vetting_agent.run_view import SampleView
from vetting_agent.wire import IdentifyOrder


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is: the listening line, and DATA/server.json."""

    event: str = "listening"
    url: str
    fingerprint: str
    operator_socket: str
    iperf_port: int | None
    boot_url: str | None = None
    """Where hosts boot from, in plain HTTP."""
    console_url: str | None = None


class RunCreated(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a new run: the only time the token is told."""

    run_id: int
    token: str
    orchestrator: str
    tls_fpr: str
    cmdline: str


class DirectiveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST …/directives."""

    cmd: str
    stage: str | None = None
    wipe: bool = False
    serials: list[str] | None = None
    identify: IdentifyOrder | None = None


class SamplesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Samples after a number; the next page is after `last`."""

    samples: list[SampleView]
    last: int


class TerminalMinted(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal that was ordered: `token` opens its socket once. `waits_s`: how long each step may take."""

    token: str
    correlation_id: str
    waits_s: dict[str, float]
    notice: str

"""The recorded machines of tests/fixtures/hosts."""

from __future__ import annotations

from pathlib import Path

from probes.host import Host
from probes.recorded import RecordedTools as Replay
from probes.recorded import host_in

HOSTS = Path(__file__).parent.parent / "fixtures" / "hosts"

__all__ = ["HOSTS", "Replay", "host_in", "recorded_host"]


def recorded_host(machine: str) -> Host:
    """The machine recorded in tests/fixtures/hosts/MACHINE, its tools in `tools` there."""
    return host_in(HOSTS / machine)

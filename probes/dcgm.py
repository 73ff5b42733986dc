"""What NVIDIA's DCGM says of the GPUs' health, where a site runs it: `dcgmi health --check --json`.

That command, because it only looks: it evaluates what the host engine (`nv-hostengine`) has sampled while others
worked, starts nothing and sets nothing. `dcgmi diag` would put programs of its own on the GPUs, and complains of
settings that are no defects, such as persistence mode; `dcgmi health --set` would replace the site's own watches.
Sources: NVIDIA's DCGM documentation, "dcgmi health" and "Health Monitoring"; the form of the document as dcgmi's own
source (DcgmiOutput) makes it: each thing has a `value`, lines of `overflow`, and `children` by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from probes.host import Host
from probes.json_paths import dig, parsed, rows
from probes.tools import ToolError, ToolFailed, ToolMissing, ToolResult

HEALTHY = "Healthy"
OVERALL, OVERALL_VALUES = "Overall Health", (HEALTHY, "Warning", "Failure")
MOST_INCIDENTS = 64
NAME, WORDS = 40, 400
"""Characters that are kept."""
GPU_ROW = re.compile(r"^\|\s*(?P<number>\d{0,4})\s*\|\s*(?P<name>[A-Za-z ]+):\s*(?P<value>\S.*?)\s*\|\s*$")
UUID = re.compile(r"^GPU-[0-9a-f-]{8,40}$")


@dataclass(frozen=True, slots=True)
class DcgmIncident:
    """One complaint. `entity` is DCGM's own number of a thing of a `group` ("GPU", "NvSwitch"); both may be empty."""

    group: str
    entity: str
    system: str
    """"PCIe system", "Memory system" …"""
    health: str
    """"Warning" or "Failure"."""
    words: str


@dataclass(frozen=True, slots=True)
class DcgmHealth:
    """`gpus` tells the UUID of each GPU by DCGM's number; it is asked for where there is an incident."""

    overall: str
    incidents: tuple[DcgmIncident, ...] = ()
    gpus: Mapping[str, str] = field(default_factory=dict)


async def read(host: Host, limit_s: float) -> DcgmHealth | None:
    """What DCGM says; None where it is not installed. `limit_s` is for each call of dcgmi. Raises ToolError when it was
    of no help."""
    if host.tools.find("dcgmi") is None:
        return None
    try:
        result = await host.tools.run("dcgmi", "health", "--check", "--json", timeout_s=limit_s, accept=None)
    except ToolMissing:
        return None
    overall, incidents = _told(result)
    gpus = await _gpus(host, limit_s) if any(one.group == "GPU" for one in incidents) else {}
    return DcgmHealth(overall, incidents, gpus)


def _told(result: ToolResult) -> tuple[str, tuple[DcgmIncident, ...]]:
    try:
        return health_of(parsed(result.stdout))
    except ValueError as problem:
        if result.exit_code:
            text = f"dcgmi ended with exit code {result.exit_code}: {result.last_words()}"
            raise ToolFailed("dcgmi", text, result) from None
        raise ToolError("dcgmi", f"dcgmi printed no report of health: {problem}", result) from None


async def _gpus(host: Host, limit_s: float) -> Mapping[str, str]:
    """Without the names an incident is still one."""
    try:  # it ends with an error where the module for NVSwitches is switched off, and tells of the GPUs all the same
        result = await host.tools.run("dcgmi", "discovery", "--list", timeout_s=limit_s, accept=None)
    except ToolError:
        return {}
    return gpus_of(result.stdout)


def health_of(document: object) -> tuple[str, tuple[DcgmIncident, ...]]:
    """The overall health, and the incidents. Raises ValueError for a document that does not tell."""
    overall = dig(document, "body", OVERALL, "value")
    if overall not in OVERALL_VALUES:
        raise ValueError(f"its overall health is {str(overall)[:40]!r}")
    found = [one for one, _ in zip(_incidents(dig(document, "body")), range(MOST_INCIDENTS), strict=False)]
    if overall != HEALTHY and not found:
        found = [DcgmIncident("", "", "", overall, "")]
    return overall, tuple(found)


def _incidents(body: Mapping[str, Any]) -> Iterator[DcgmIncident]:
    for group, section in body.items():
        for entity, node in _children(section) if group != OVERALL else ():
            systems = dict(_children(dig(node, "children", "Errors")))
            for system, told in systems.items():
                words = " ".join(str(line).strip() for line in rows(told, "overflow"))
                yield _incident(group, entity, system, told, words)
            if not systems and dig(node, "value") != HEALTHY:
                yield _incident(group, entity, "", node, "")


def _incident(group: str, entity: str, system: str, node: object, words: str) -> DcgmIncident:
    health = str(dig(node, "value") or "not told")
    return DcgmIncident(group[:NAME], entity[:NAME], system[:NAME], health[:NAME], words[:WORDS])


def _children(node: object) -> list[tuple[str, Any]]:
    children = dig(node, "children")
    return list(children.items()) if isinstance(children, Mapping) else []


def gpus_of(text: str) -> dict[str, str]:
    """UUIDs by DCGM's number, of the table that `dcgmi discovery --list` prints; other tables of it are passed over."""
    found: dict[str, str] = {}
    number = ""
    for line in text.splitlines():
        row = GPU_ROW.match(line)
        if row is None:
            number = number if line.startswith("|") else ""
            continue
        number = row["number"] or number
        if number and row["name"] == "Device UUID" and UUID.match(row["value"]):
            found[number] = row["value"]
    return found

"""Hosts that are equal but for their serials and a little luck, vetted through a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.orchestrator.making import result
from tests.orchestrator.served import Agent, Served
from vetting_agent.wire import ResultRequest, WireMeasurement

GOLDEN = Path(__file__).parents[1] / "fixtures" / "wire" / "result-request-inventory.json"
STAGES = ["CPUStress", "Storage"]


def inventory_of(number: int) -> dict[str, Any]:
    """The recorded inventory with serials and addresses of this host's own."""
    text = GOLDEN.read_text().replace("S4EVNX0R123456", f"DISK{number:04d}").replace("PHLN0123", f"OTHER{number:04d}")
    inventory: dict[str, Any] = json.loads(text.replace("52:54:00:12:34:56", mac_of(number)))["inventory"]
    return inventory


def mac_of(number: int) -> str:
    return f"52:54:00:aa:{number >> 8:02x}:{number & 255:02x}"


def figure(name: str, component: str, value: float, unit: str) -> WireMeasurement:
    return WireMeasurement(name=name, component=component, value=value, unit=unit, limit=None, ok=None)


def passed(stage: str, number: int, *, speed: float = 1.0, inventory: bool = False) -> ResultRequest:
    """A pass of a host that is `speed` times as fast as its siblings, with what such a stage measures."""
    wobble = 1 + (number * 37 % 11 - 5) / 500
    figures = {
        "CPUStress": [figure("bogo_ops_cpu", "cpu", 5000 * wobble, "1/s")],
        "Storage": [
            figure("throughput", f"disk:DISK{number:04d}", 520 * wobble * speed, "MB/s"),
            figure("latency_p50", f"disk:DISK{number:04d}", 0.11 / wobble / speed, "ms"),
        ],
    }
    request = result(stage, inventory=inventory_of(number) if inventory else None, components=[f"host:{number}"])
    return msgspec.structs.replace(
        request, summary=msgspec.structs.replace(request.summary, measurements=figures.get(stage, []))
    )


def vetted(served: Served, number: int, *, speed: float = 1.0, **how: Any) -> tuple[Agent, str]:
    """A host of the fleet, its run walked to where it ends: the agent, and the last state."""
    agent = served.create(**{"host": f"node{number}", "mac": mac_of(number), "stages": STAGES, **how})
    agent.claim(mac_of(number))
    state = ""
    for stage in ("Inventory", *STAGES):
        request = passed(stage, number, speed=speed, inventory=stage == "Inventory")
        request = msgspec.structs.replace(request, result_id=f"{agent.run_id}-{stage}")
        state = str(agent.call("result", request)["next_state"])
    return agent, state


def saved_profile(served: Served, name: str, text: str = "") -> httpx.Response:
    return served.operator.post(f"/profiles/{name}", json={"text": text or "test_profile: quick\n"})

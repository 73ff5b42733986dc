"""One iperf3 test to a server: runs the child, and makes figures of its report."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.host import Host
from probes.json_paths import parsed
from probes.tools import ToolResult, ToolTimeout

PYTHON = (sys.executable, "-I", str(Path(__file__).with_name("iperf_child.py")))
NO_LIBRARY = 3
PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """One test in one direction."""

    host: str
    port: int
    seconds: int
    streams: int
    reverse: bool
    """True: the server sends, this host receives."""
    both: bool = False
    """True: both send at once; `reverse` is then False."""
    address: str | None = None
    device: str | None = None
    omit: int = 1
    """Seconds at the start that do not count: TCP is still finding its speed."""
    slack_s: float = 15.0
    """What connecting and exchanging results may take beyond the test itself."""

    @property
    def direction(self) -> str:
        return "both ways" if self.both else "receive" if self.reverse else "send"


@dataclass(frozen=True, slots=True)
class Flow:
    """What a test moved."""

    mbps: float
    """As received, in 10^6 bits a second."""
    bytes_moved: int
    """Payload that arrived; the sender's own count includes what still lay in its buffers at the end."""
    retransmits: int | None
    packets: float
    """Segments sent, from the bytes and the segment size."""
    own_cpu: float
    """The client's CPU time, percent of one CPU."""
    peer_cpu: float
    version: str

    @property
    def retransmit_share(self) -> float | None:
        """Segments sent again, of all sent; None where the sender's kernel does not tell."""
        if self.retransmits is None or self.packets <= 0:
            return None
        return self.retransmits / self.packets


class IperfUnavailable(Exception):
    """The server could not be used, for as long as it was tried. `str()` says why."""


class IperfNotInstalled(Exception):
    """libiperf or the iperf3 package is missing here."""


class IperfUnreadable(Exception):
    """The child or libiperf said something that makes no sense."""


class IperfStalled(IperfUnreadable):
    """The server answered, and not one byte of the test itself came over."""


async def measure(host: Host, request: Request, *, retry_s: float) -> Flow:
    """Run one test in one direction. Raises as `measure_all`."""
    (flow,) = (await measure_all(host, [request], retry_s=retry_s)).values()
    return flow


async def measure_all(host: Host, requests: Sequence[Request], *, retry_s: float) -> dict[str, Flow]:
    """Run tests side by side, each in a process and with a server of its own; the flows by direction, as one.

    A server that is busy, away or dies is tried again until `retry_s` have gone by in failures; then all begin anew,
    for flows that did not run at the same time prove nothing together. Raises IperfUnavailable, IperfNotInstalled,
    IperfUnreadable, and ToolError when a child crashes or hangs.
    """
    failing_s = 0.0
    while True:
        started = time.monotonic()
        try:
            return await _all_once(host, requests)
        except IperfUnavailable as problem:
            failing_s += time.monotonic() - started
            if failing_s >= retry_s:
                raise IperfUnavailable(f"{problem}, for {failing_s:.0f} s") from None
        except ToolTimeout:
            failing_s += time.monotonic() - started
            if failing_s >= retry_s:
                raise
        pause_s = min(PAUSE_S, max(0.1, retry_s - failing_s))
        await asyncio.sleep(pause_s)
        failing_s += pause_s


async def _all_once(host: Host, requests: Sequence[Request]) -> dict[str, Flow]:
    tasks = [asyncio.create_task(_once(host, request)) for request in requests]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        reports = [task.result() for task in done]
        return {way: together([flows[way] for flows in reports]) for way in reports[0]}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not complain of those that failed beside the first


def together(flows: Sequence[Flow]) -> Flow:
    """Flows that ran side by side as one. The CPU of each was its own, so that the busiest tells the limit."""
    retransmits = [flow.retransmits for flow in flows]
    return Flow(
        mbps=sum(flow.mbps for flow in flows),
        bytes_moved=sum(flow.bytes_moved for flow in flows),
        retransmits=None if None in retransmits else sum(count or 0 for count in retransmits),
        packets=sum(flow.packets for flow in flows),
        own_cpu=max(flow.own_cpu for flow in flows),
        peer_cpu=max(flow.peer_cpu for flow in flows),
        version=flows[0].version,
    )


async def _once(host: Host, request: Request) -> dict[str, Flow]:
    fields = ("host", "port", "seconds", "omit", "streams", "reverse", "both", "address", "device")
    asked = json.dumps({name: getattr(request, name) for name in fields})
    limit_s = request.seconds + request.omit + request.slack_s
    result = await host.tools.run(*PYTHON, asked, timeout_s=limit_s, accept=(0, NO_LIBRARY))
    answer = _parse(result)
    if result.exit_code == NO_LIBRARY:
        raise IperfNotInstalled(str(answer.get("error")))
    if "error" in answer:
        raise IperfUnavailable(str(answer["error"]).removeprefix("error - "))
    if request.both:
        return {"send": flow_of(answer), "receive": flow_of(answer, "_bidir_reverse")}
    return {request.direction: flow_of(answer)}


def _parse(result: ToolResult) -> dict[str, Any]:
    try:
        answer = parsed(result.stdout)
    except ValueError:
        raise IperfUnreadable(f"the iperf3 client said {result.stdout[:80]!r} ({result.last_words()})") from None
    if not isinstance(answer, dict):
        raise IperfUnreadable(f"the iperf3 client said {result.stdout[:80]!r}")
    return answer


def flow_of(answer: dict[str, Any], suffix: str = "") -> Flow:
    """The figures of a report of iperf3 3.1 and later; `suffix` picks the other direction of a test of both.

    Raises IperfUnreadable, and IperfStalled for a test that moved nothing.
    """
    try:
        report = answer["report"]
        start, end = report["start"], report["end"]
        sent, received = end["sum_sent" + suffix], end["sum_received" + suffix]
        mss = int(start.get("tcp_mss") or start.get("tcp_mss_default") or 0)
        flow = Flow(
            mbps=float(received["bits_per_second"]) / 1e6,
            bytes_moved=int(received["bytes"]),
            retransmits=None if sent.get("retransmits") is None else int(sent["retransmits"]),
            packets=sent["bytes"] / mss if mss else 0.0,
            own_cpu=float(end["cpu_utilization_percent"]["host_total"]),
            peer_cpu=float(end["cpu_utilization_percent"]["remote_total"]),
            version=str(answer.get("version")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        raise IperfUnreadable(f"iperf3's report lacks {problem}") from None
    if flow.bytes_moved <= 0 or not 0 < flow.mbps < math.inf:
        raise IperfStalled("iperf3 reports that nothing was moved")
    figures = (flow.mbps, flow.packets, flow.own_cpu, flow.peer_cpu, flow.retransmits or 0)
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        raise IperfUnreadable(f"iperf3 reports figures that cannot be: {flow}")
    return flow

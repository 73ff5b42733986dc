"""Runs a tool the way the agent does, in the agent's own environment, and says what that cost.

    python through.py ARGV...                      any tool, through probes.tools
    python through.py iperf3-client HOST PORT S    a client test, through stages.iperf

Prints JSON: {"own_s", "children_s", "stdout", "mbps"}.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any


async def _run(argv: list[str]) -> dict[str, Any]:
    from probes.host import Host

    if argv[0] == "iperf3-client":
        from stages import iperf

        request = iperf.Request(argv[1], int(argv[2]), seconds=int(argv[3]), streams=1, reverse=False, omit=0)
        return {"mbps": (await iperf.measure(Host(), request, retry_s=20)).mbps}
    result = await Host().tools.run(*argv, timeout_s=600, load=True, on_line=lambda _: None)
    return {"stdout": result.stdout}


def _spent(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str]) -> None:
    """Measure from after the imports: a running agent has paid for those."""
    from probes.host import Host
    from stages import iperf  # noqa: F401  # imported before the clock starts

    Host()
    before = _spent(resource.RUSAGE_SELF), _spent(resource.RUSAGE_CHILDREN)
    answer = asyncio.run(_run(argv))
    own_s, children_s = _spent(resource.RUSAGE_SELF) - before[0], _spent(resource.RUSAGE_CHILDREN) - before[1]
    print(json.dumps({**answer, "own_s": own_s, "children_s": children_s}))


if __name__ == "__main__":
    main(sys.argv[1:])

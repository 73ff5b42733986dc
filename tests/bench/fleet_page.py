"""How fast the console's fleet page is with many hosts: the server's answer, and the page in Chromium, on loopback.

    python tests/bench/fleet_page.py [--hosts 1000] [--rounds 20]

To reach: both under 200 ms with 1,000 hosts, on a machine with nothing else to do. The answer is the whole of it, over
TLS, from a connection that is open; DOMContentLoaded counts from the browser's own start of the navigation, with the
scripts and styles in its cache as for whoever has seen the page before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from playwright.sync_api import Page

from tests.orchestrator.served import Served, serving
from tests.orchestrator.web.rig import add_user, chromium, console_url, fill, log_in, logged_in

GOAL = "< 200"
NAVIGATION = "() => performance.getEntriesByType('navigation')[0].toJSON()"


def answers_ms(served: Served, rounds: int) -> list[float]:
    with logged_in(served, "olaf") as client:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            assert client.get("/").status_code == 200
            took.append((time.perf_counter() - began) * 1000)
        return took


def loads(page: Page, served: Served, hosts: int, rounds: int) -> tuple[list[float], list[float]]:
    """Until DOMContentLoaded, and until the rows of all hosts are there, in ms."""
    ready, whole = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        page.goto(console_url(served) + "/", wait_until="domcontentloaded")
        ready.append(float(page.evaluate(NAVIGATION)["domContentLoadedEventEnd"]))
        page.locator("#hosts tbody tr").nth(hosts - 1).wait_for(state="attached")
        whole.append((time.perf_counter() - began) * 1000)
    return ready, whole


def told(name: str, values: Sequence[float], goal: str = "") -> str:
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"| {name} | {statistics.median(ordered):.0f} | {ordered[0]:.0f} | {worst:.0f} | {goal} |"


def measured(folder: Path, hosts: int, rounds: int) -> list[str]:
    """The lines of the table."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    asyncio.run(fill(data / "orchestrator.db", hosts))
    with serving(data) as served:
        add_user(served, "olaf", "operator")
        answers = answers_ms(served, rounds)
        with chromium() as browser:
            page = browser.new_context(ignore_https_errors=True).new_page()
            log_in(page, served, "olaf")
            ready, whole = loads(page, served, hosts, rounds)
    return [
        told("answer of the server", answers, GOAL),
        told("DOMContentLoaded", ready, GOAL),
        told("all rows there, as Playwright sees it", whole),
    ]


TEXT = """## The fleet's page

{hosts} hosts, {rounds} rounds, load average {load:.1f} before it. On loopback over TLS, in Chromium; milliseconds.

| | median | least | 95 % | to reach |
|---|---|---|---|---|
{lines}
"""


def section(hosts: int = 1000, rounds: int = 20) -> str:
    """The section of the page of `make bench`."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        lines = measured(Path(folder), hosts, rounds)
    return TEXT.format(hosts=hosts, rounds=rounds, load=load, lines="\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    print(section(arguments.hosts, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())

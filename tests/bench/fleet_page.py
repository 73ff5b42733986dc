"""How fast the console's fleet page is with many hosts: the server's answer, and the page in Chromium, on loopback.

    python tests/bench/fleet_page.py [--hosts 1000] [--rounds 20]

To reach: under 200 ms with 1,000 hosts, on a machine with nothing else to do. The answer is the whole of it, over TLS,
from a connection that is open. The browser's times count from its own start of the navigation, from another page of the
console, with scripts and styles in its cache as for whoever has seen the page before.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Page

from tests.orchestrator.served import Served, serving
from tests.orchestrator.web.rig import add_user, chromium, console_url, fill, log_in, logged_in

GOAL = "< 200"
READING_MS = 1000
"""How long somebody stays on a page: what the last one began is over."""
ALL_ROWS = "hosts => document.querySelectorAll('#hosts tbody tr').length >= hosts"
NAVIGATION = "() => performance.getEntriesByType('navigation')[0].toJSON()"


def answers_ms(served: Served, rounds: int) -> list[float]:
    with logged_in(served, "olaf") as client:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            assert client.get("/").status_code == 200
            took.append((time.perf_counter() - began) * 1000)
        return took


def trusting(served: Served) -> str:
    """The argument by which Chromium takes the server's certificate for a trusted one: else it caches nothing of it."""
    where = urlsplit(console_url(served))
    assert where.hostname is not None
    assert where.port is not None
    shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((where.hostname, where.port)).encode())
    key = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(hashlib.sha256(key).digest()).decode()}"


def loads(page: Page, served: Served, hosts: int, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Until DOMContentLoaded, until the load event, and until the rows of all hosts are there, in ms."""
    ready, loaded, whole = [], [], []
    for _ in range(rounds):
        page.goto(console_url(served) + "/audit")
        page.wait_for_timeout(READING_MS)
        began = time.perf_counter()
        page.goto(console_url(served) + "/", wait_until="load")
        timing = page.evaluate(NAVIGATION)
        ready.append(float(timing["domContentLoadedEventEnd"]))
        loaded.append(float(timing["loadEventStart"]))
        page.wait_for_function(ALL_ROWS, arg=hosts)
        whole.append((time.perf_counter() - began) * 1000)
    return ready, loaded, whole


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
        with chromium(trusting(served)) as browser:
            page = browser.new_context().new_page()
            log_in(page, served, "olaf")
            ready, loaded, whole = loads(page, served, hosts, rounds)
    return [
        told("answer of the server", answers, GOAL),
        told("DOMContentLoaded", ready, GOAL),
        told("load event: the first hosts are there", loaded, GOAL),
        told("all hosts are there, as Playwright sees it", whole),
    ]


TEXT = """## The fleet's page

{hosts} hosts, {rounds} rounds, load average {load:.1f} before. On loopback over TLS; milliseconds. In Chromium,
without a graphics card, from another page of the console and with scripts and styles in the cache.

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

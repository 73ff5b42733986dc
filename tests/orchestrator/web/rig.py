"""A served console, people who log in to it, a real browser, and hosts to look at."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from orchestrator.clock import later, now_text
from orchestrator.run_record import STAGE_NAMES, Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.store import Status, Transaction
from stages import STAGES
from tests.orchestrator.making import START, summary
from tests.orchestrator.served import Agent, Served, _unverified
from vetting_agent.wire import ResultRequest, Summary, WireFinding, WireMeasurement

PASSWORD = "correct horse battery"
CHROMIUM = "/usr/bin/chromium"


def add_user(served: Served, name: str, role: str) -> None:
    answer = served.operator.post("/users", json={"name": name, "role": role, "password": PASSWORD}, timeout=60)
    assert answer.status_code == 201, answer.text


def console_url(served: Served) -> str:
    return str(served.info["console_url"]).rstrip("/")


def visitor(served: Served) -> httpx.Client:
    """A browser's requests without a browser: same origin, cookies kept, redirects not followed."""
    url = console_url(served)
    headers = {"Origin": url, "Accept": "text/html"}
    return httpx.Client(base_url=url, headers=headers, verify=_unverified(), trust_env=False, timeout=30)


@contextlib.contextmanager
def logged_in(served: Served, name: str) -> Iterator[httpx.Client]:
    with visitor(served) as client:
        answer = client.post("/login", data={"name": name, "password": PASSWORD, "next": "/"})
        assert answer.status_code == 303, answer.text
        yield client


@contextlib.contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """`more`: arguments."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *more])
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser: Browser, **how: Any) -> Iterator[BrowserContext]:
    """A context in which no page may log an error or meet its Content-Security-Policy."""
    context = browser.new_context(ignore_https_errors=True, **how)
    complaints: list[str] = []

    def listen(page: Page) -> None:
        page.on("pageerror", lambda problem: complaints.append(str(problem)))
        page.on("console", lambda line: complaints.append(line.text) if "Content Security" in line.text else None)

    context.on("page", listen)
    yield context
    context.close()
    assert complaints == []


def keep_picture(page: Page, name: str) -> None:
    """For people to look at, where VETTING_PICTURES names a folder."""
    if folder := os.environ.get("VETTING_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def log_in(page: Page, served: Served, name: str, path: str = "/") -> None:
    page.goto(console_url(served) + path)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(console_url(served) + path)


def disk(name: str, serial: str, model: str = "SAMSUNG MZ7LH960", **facts: Any) -> dict[str, Any]:
    given = {"wwn": None, "size_gb": 960.2, "transport": "sata", "rotational": False, "firmware": "HXT7904Q"}
    return {"name": name, "serial": serial, "model": model, **given, **facts}


INVENTORY = {
    "system": {"vendor": "Supermicro", "product": "SYS-6029P-WTR", "serial": "S411786X9B12345", "bios": "3.4"},
    "cpu": {"model": "Intel(R) Xeon(R) Gold 6230", "sockets": 2, "physical_cores": 40, "logical_cores": 80},
    "memory": {
        "total_gib": 376.6,
        "dimms": [
            {
                "slot": f"P1-DIMM{letter}1",
                "size": "32 GB",
                "speed": 2933,
                "part": "M393A4K40CB2-CVF",
                "serial": f"03A{n}",
            }
            for n, letter in enumerate("ABCDEF")
        ],
    },
    "disks": [
        disk("sda", "S45NNE0M500001", model="SAMSUNG MZ7LH960HAJR-00005"),
        disk("sdb", "S45NNE0M500002", model="SAMSUNG MZ7LH960HAJR-00005"),
        disk("nvme0n1", "PHLN0123", model="INTEL SSDPE2KX010T8", size_gb=1000.2, transport="nvme"),
    ],
    "nics": [{"name": "eno1", "mac": "52:54:00:12:34:56", "speed_mbps": 10000, "link": True, "driver": "i40e"}],
    "notes": ["bmc: ipmitool could not open /dev/ipmi0"],
}


def finding(code: str, component: str, message: str, severity: str = "error", evidence: str = "") -> WireFinding:
    return WireFinding(reason_code=code, severity=severity, component=component, message=message, evidence=evidence)


def result(stage: str, said: Summary, **more: Any) -> ResultRequest:
    passed = said.verdict in {"pass", "not_applicable"}
    return ResultRequest(stage=stage, passed=passed, summary=said, message=said.headline, **more)


def measured(name: str, component: str, value: float, unit: str, limit: float | None = None) -> WireMeasurement:
    return WireMeasurement(name=name, component=component, value=value, unit=unit, limit=limit, ok=None)


def said(
    verdict: str, headline: str, *findings: WireFinding, measurements: tuple[WireMeasurement, ...] = ()
) -> Summary:
    made = summary(verdict, *findings)
    return Summary(
        verdict=verdict,
        headline=headline,
        findings=list(findings),
        measurements=list(measurements),
        coverage=made.coverage,
        duration_s=1.0,
        tool_versions={},
    )


def zones_evidence(serials: dict[str, float], zones: int = 48) -> bytes:
    """A Storage evidence archive with zones.json; by serial the latency of the zones in the middle."""
    content = {
        f"disk:{serial}": {
            "name": serial,
            "size_bytes": 960 * 10**9,
            "zones": [
                {
                    "offset": n * 20 * 10**9,
                    "length": 20 * 10**9,
                    "read_bytes": 2**28,
                    "mb_s": 520.0 if not 20 <= n < 24 or slow < 10 else 90.0,
                    "p50_ms": 0.2,
                    "max_ms": (1.0 + (n * 7 % 5) / 10) if not 20 <= n < 24 else slow,
                }
                for n in range(zones)
            ],
        }
        for serial, slow in serials.items()
    }
    text = json.dumps(content).encode()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        info = tarfile.TarInfo("001-Storage/zones.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return gzip.compress(plain.getvalue())


def send_evidence(agent: Agent, stage: str, content: bytes) -> None:
    answer = agent.send(
        f"evidence/{stage}?result_id=e1", content=content, headers={"X-Content-SHA256": sha256(content).hexdigest()}
    )
    assert answer.status_code == 200, answer.text


def lines(agent: Agent, first: int, count: int, stage: str = "SMART", level: str = "info") -> None:
    """Log lines `first` to `first + count - 1`, each naming its number."""
    sent = [
        {"ts": now_text(), "level": level, "stage": stage, "text": f"line {n}", "seq": n}
        for n in range(first, first + count)
    ]
    agent.call("log", {"lines": sent})


def sensors(agent: Agent, seconds: int = 300, step: int = 5) -> None:
    """A history of temperatures, power and throughput up to now."""
    now = now_text()
    samples = []
    for back in range(seconds, 0, -step):
        ts, part = later(now, -back), (seconds - back) / seconds
        for n in range(4):
            samples.append(
                {"kind": "temp", "key": f"coretemp/Core {n}", "value": 42 + 30 * part + n, "unit": "degC", "ts": ts}
            )
        samples.append({"kind": "power", "key": "psu1", "value": 210 + 180 * part, "unit": "W", "ts": ts})
        samples.append({"kind": "load", "key": "cpu", "value": 100 * min(1, 2 * part), "unit": "%", "ts": ts})
    for start in range(0, len(samples), 500):
        agent.call("sensor", {"samples": samples[start : start + 500]})


def held_on_storage(served: Served, host: str, *, destructive: bool = True) -> Agent:
    """A host whose Storage test was refused for data on a disk, and which holds."""
    agent = served.create(host=host, non_destructive=not destructive, stages=["SMART", "Storage"])
    agent.claim()
    parts = ["cpu:0", *(f"disk:{one['serial']}" for one in INVENTORY["disks"])]
    agent.call("result", result("Inventory", said("pass", "3 disks, 1 NIC"), inventory=INVENTORY, components=parts))
    agent.call("result", result("SMART", said("pass", "3 of 3 disks are healthy"), components=parts))
    found = (
        finding("wipe_refused_data_present", "disk:S45NNE0M500001", "sda holds an ext4 filesystem (label data)"),
        finding("disk_slow", "disk:S45NNE0M500002", "sdb reads 4 of 48 zones at 90 MB/s, far below its median"),
    )
    measures = tuple(
        measured("storage.read_mb_s", f"disk:{one['serial']}", 512.3 - n, "MB/s", 200.0)
        for n, one in enumerate(INVENTORY["disks"])
    )
    send_evidence(agent, "Storage", zones_evidence({"S45NNE0M500001": 2.0, "S45NNE0M500002": 480.0, "PHLN0123": 1.1}))
    storage = said("fail", "sda holds data, sdb is slow in places", *found, measurements=measures)
    agent.call("result", result("Storage", storage, components=parts))
    agent.call("hold", {"ip": "10.20.0.17"})
    agent.call("heartbeat", {"activity": "holding"})
    return agent


def fleet(served: Served, number: int) -> list[dict[str, Any]]:
    """That many hosts in all states, over one connection."""
    client = httpx.Client(base_url=served.url, verify=_unverified(), trust_env=False)
    made = []
    for n in range(number):
        run = served.operator.post("/runs", json={"host": f"rack{n // 40 + 1}-node{n % 40 + 1}"}).json()
        made.append(run)
        if n % 10 == 9:
            continue
        _play(client, run, n)
    client.close()
    return made


def _play(client: httpx.Client, run: dict[str, Any], n: int) -> None:
    def call(verb: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {run['token']}", "X-Correlation-ID": f"agent-{n}"}
        answer = client.post(f"/api/v1/runs/{run['run_id']}/{verb}", content=encode(body), headers=headers)
        assert answer.status_code == 200, answer.text

    mac = f"52:54:00:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
    address = f"10.20.{n >> 8}.{n & 255}"
    call("claim", {"agent_version": "0.1.0", "mac": mac, "ip": address, "instance_id": f"agent-{n}"})
    passed = {0: len(STAGES), 1: 2, 2: 3}.get(n % 12, 1 + n % 5)
    failed = n % 12 == 1
    for number, stage in enumerate([stage.name for stage in STAGES][:passed]):
        if failed and number == passed - 1:
            bad = finding("disk_io_error", "disk:S45", "sda: 3 reads failed between 412 and 414 GB")
            call("result", result(stage, said("fail", bad.message, bad)))
            continue
        call("result", result(stage, said("pass", "fine"), inventory={"disks": []} if stage == "Inventory" else None))
    samples = [{"kind": "temp", "key": "coretemp/Package id 0", "value": 48 + n * 7 % 40, "unit": "degC"}]
    call("sensor", {"samples": samples})
    call("heartbeat", {"activity": "running", "progress": n * 13 % 100 / 100, "eta_s": 60 + n * 37 % 7000})


def encode(body: Any) -> bytes:
    return msgspec.json.encode(body)


def screenshot(page: Page, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


async def fill(database: Path, number: int) -> None:
    """A database with that many claimed hosts, each with a heartbeat, made without a server."""
    store = SqliteStore.open(database)

    def work(transaction: Transaction) -> None:
        for n in range(number):
            facts = {"token_hash": "x", "created_at": START, "stages": STAGE_NAMES, "instance_id": f"agent-{n}"}
            host = f"rack{n // 40 + 1}-node{n % 40 + 1}"
            run = transaction.create_run(lambda run_id, host=host, facts=facts: Run(run_id=run_id, host=host, **facts))
            status = Status(last_seen_at=now_text(), progress=n % 100 / 100, eta_s=60.0 + n)
            transaction.put_status(run.run_id, status)

    await store.write(work)
    await store.close()

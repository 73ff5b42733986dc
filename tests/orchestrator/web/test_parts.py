"""The console's small parts, each alone: expiry, throttle, tickets, rows, disk maps, words."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from orchestrator.agent_service import AgentService
from orchestrator.clock import later, now_text
from orchestrator.evidence import EvidenceFolder
from orchestrator.liveness import Heard, liveness_of
from orchestrator.pulse import Failure
from orchestrator.run_record import Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.steps import Refusal
from orchestrator.store import Transaction
from orchestrator.tokens import hash_of
from orchestrator.web import disk_maps
from orchestrator.web.accounts import ABSOLUTE_S, IDLE_S, Accounts, ApiToken, Session
from orchestrator.web.disk_maps import maps_in
from orchestrator.web.fleet import FleetBoard, natural, shown_runs
from orchestrator.web.throttle import FAILURES_OF_ADDRESS, FAILURES_OF_NAME, WINDOW_S, Throttle
from orchestrator.web.words import json_text
from orchestrator.wipes import WipeDisk, WipeTicket, disks_of, use_ticket
from tests.orchestrator.making import START
from tests.orchestrator.web.rig import INVENTORY, PASSWORD, finding, zones_evidence

RUN = Run(run_id=1, host="h", token_hash="x", created_at=START, stages=("SMART",), instance_id="one")


@pytest.mark.parametrize(
    ("age_s", "idle_s", "alive"),
    [
        (0, 0, True),
        (IDLE_S + 60, IDLE_S - 60, True),
        (IDLE_S + 60, IDLE_S + 1, False),
        (ABSOLUTE_S - 60, 0, True),
        (ABSOLUTE_S + 1, 0, False),
    ],
)
async def test_a_session_ends_by_rest_and_by_age(tmp_path: Path, age_s: float, idle_s: float, alive: bool) -> None:
    accounts = Accounts(SqliteStore.open(tmp_path / "db"))
    await accounts.add_user("ada", "admin", PASSWORD, by="test")
    now = now_text()
    session = Session(key=hash_of("secret"), user="ada", created_at=later(now, -age_s), used_at=later(now, -idle_s))
    await accounts.store.write(lambda transaction: transaction.put_document(session.key, session))
    assert (await accounts.session_of("secret") is not None) == alive
    if alive and idle_s > 60:
        touched = await accounts.store.document(Session, session.key)
        assert touched is not None
        assert touched.used_at >= now
    await accounts.store.close()


async def test_a_token_ends_with_its_day(tmp_path: Path) -> None:
    accounts = Accounts(SqliteStore.open(tmp_path / "db"))
    token, secret = await accounts.new_token("ci", "viewer", 1, by="ada")
    assert await accounts.token_of(secret) == token
    expired: ApiToken = replace(token, expires_at=now_text())
    await accounts.store.write(lambda transaction: transaction.put_document(token.key, expired))
    assert await accounts.token_of(secret) is None
    await accounts.store.close()


def test_the_throttle_forgets_and_spares_other_addresses() -> None:
    now = [0.0]
    throttle = Throttle(clock=lambda: now[0])
    for _ in range(FAILURES_OF_NAME):
        assert throttle.wait_s("ada", "a") == 0
        throttle.failed("ada", "a")
    assert throttle.wait_s("ada", "a") == WINDOW_S
    assert throttle.wait_s("ada", "b") == throttle.wait_s("bob", "a") == 0
    for number in range(FAILURES_OF_ADDRESS):
        throttle.failed(f"name{number}", "a")
    assert throttle.wait_s("fresh", "a") > 0
    now[0] = WINDOW_S + 1
    assert throttle.wait_s("ada", "a") == throttle.wait_s("fresh", "a") == 0


def test_a_ticket_that_was_shown_too_long_ago_opens_nothing() -> None:
    ticket = WipeTicket(
        key="k", run_id=1, author="olaf", created_at=START, expires_at=later(START, 600), disks=[WipeDisk(serial="A")]
    )
    dropped: list[str] = []
    transaction = cast(
        Transaction,
        SimpleNamespace(document=lambda _kind, _key: ticket, drop_document=lambda _kind, key: dropped.append(key)),
    )
    with pytest.raises(Refusal, match="too long ago"):
        use_ticket(transaction, "k", 1, ["A"], {"A": "A"}, "olaf", later(START, 600))
    assert dropped == []
    use_ticket(transaction, "k", 1, ["A"], {"A": "A"}, "olaf", later(START, 599))
    assert dropped == ["k"]


def test_a_disk_in_use_can_not_be_chosen() -> None:
    in_use = finding("wipe_refused_in_use", "disk:PHLN0123", "nvme0n1 is mounted on /")
    disks = disks_of(INVENTORY, [in_use])
    assert [(one.serial, one.in_use) for one in disks][-1] == ("PHLN0123", True)
    assert disks[-1].found == ("nvme0n1 is mounted on /",)
    assert disks_of(None, []) == disks_of({"disks": [{"serial": None}, "?"]}, []) == []


@pytest.mark.parametrize(
    ("heard", "changes", "state"),
    [
        (Heard(now=100, at=99), {}, "healthy"),
        (Heard(now=100, at=None), {}, "unknown"),
        (Heard(now=100, at=10), {"stalled": True}, "stale"),
        (Heard(now=100, at=99), {"instance_id": None}, "unknown"),
        (Heard(now=100, at=99), {"state": "Released"}, "unknown"),
        (Heard(now=100, at=99), {"powered_off": True}, "unknown"),
        (Heard(now=100, at=10, auth=Failure(50, START, "heartbeat", "wrong_token", "no", "c")), {}, "auth_failed"),
        (Heard(now=100, at=99, auth=Failure(50, START, "heartbeat", "wrong_token", "no", "c")), {}, "healthy"),
        (Heard(now=100, at=60, auth=Failure(50, START, "heartbeat", "wrong_token", "no", "c")), {}, "healthy"),
        (Heard(now=100, at=99, trouble=Failure(98, START, "log", "store_failed", "no", "c")), {}, "api_unreachable"),
        (Heard(now=100, at=99, result=Failure(98, START, "result", "malformed", "no", "c")), {}, "result_failed"),
    ],
)
def test_liveness(heard: Heard, changes: dict[str, Any], state: str) -> None:
    alive = liveness_of(replace(RUN, **changes), heard)
    assert alive.state == state
    assert alive.reason
    if state in {"auth_failed", "api_unreachable", "result_failed"}:
        assert (alive.correlation_id, alive.ts) == ("c", START)


async def test_a_row_is_made_again_only_when_it_changed(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    service, made = AgentService(store, EvidenceFolder(tmp_path)), list[str]()

    def render(row: Any) -> str:
        made.append(row.host)
        return str(row.state)

    board = FleetBoard(service, render)
    for name in ("node10", "node9"):
        await store.write(
            lambda transaction, name=name: transaction.create_run(lambda n: replace(RUN, run_id=n, host=name))
        )  # type: ignore[misc]
    first = board.since("")
    assert [one.row.host for one in board.rows()] == ["node9", "node10"]
    assert made == ["node10", "node9"]
    board._made_at = 0.0
    assert (board.since(first.version).html, made) == ({}, ["node10", "node9"])
    await store.write(lambda transaction: transaction.put_run(replace(RUN, run_id=2, host="node9", state="SMART")))
    await store.write(lambda transaction: transaction.create_run(lambda n: replace(RUN, run_id=n, host="node10")))
    board._made_at = 0.0
    delta = board.since(first.version)
    assert (list(delta.html), delta.gone) == ([2, 3], [1])
    assert board.since("elsewhere.7").html.keys() == {2, 3}
    await store.close()


def machine(run_id: int, mac: str | None, **facts: Any) -> Run:
    instance = None if mac is None else f"agent-{run_id}"
    return replace(RUN, run_id=run_id, host="twin", mac=mac, instance_id=instance, **facts)


def test_two_machines_of_one_name_are_both_shown_while_they_live() -> None:
    one, other = machine(1, "52:54:00:00:00:01"), machine(2, "52:54:00:00:00:02")
    assert [run.run_id for run in shown_runs([one, other])] == [1, 2]
    assert [run.run_id for run in shown_runs([one, other, machine(3, one.mac)])] == [2, 3]
    assert [run.run_id for run in shown_runs([replace(one, state="Completed"), other])] == [2]


def test_a_run_that_waits_hides_no_held_one_and_gives_way_itself() -> None:
    held = machine(1, "52:54:00:00:00:01", state="FailedHolding")
    waiting, again = machine(2, None), machine(3, None)
    assert [run.run_id for run in shown_runs([held, waiting])] == [1, 2]
    assert [run.run_id for run in shown_runs([held, waiting, again])] == [1, 3]
    assert [run.run_id for run in shown_runs([held, waiting, machine(3, held.mac)])] == [3]


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["node10", "node9", "Node1", "a"], key=natural) == ["a", "Node1", "node9", "node10"]


def test_the_map_of_a_disk_shows_its_slow_zones(tmp_path: Path) -> None:
    (tmp_path / "e.tar.gz").write_bytes(zones_evidence({"A": 480.0, "B": 1.2}))
    maps = maps_in(tmp_path / "e.tar.gz")
    heats = [cell.heat for cell in maps["disk:A"].cells]
    assert heats[20:24] == ["weak"] * 4
    assert {*heats[:20], *heats[24:]} == {"0"}
    assert (maps["disk:A"].weak, maps["disk:A"].worst_ms) == (4, 480.0)
    assert {cell.heat for cell in maps["disk:B"].cells} == {"0"}
    assert "slowest 480 ms" in maps["disk:A"].cells[20].words


HUGE = {
    "name": "a",
    "size_bytes": 1,
    "zones": [{"offset": 2**62, "length": 2**62, "max_ms": 1e308, "mb_s": 1e-308}] * 3000,
}


def _archive(name: str, content: bytes) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip at all",
        zones_evidence({"A": 1.0})[:80],
        _archive("x/other.json", b"{}"),
        _archive("x/zones.json", b"\xff\xfe"),
        _archive("x/zones.json", json.dumps({"disk:A": {"name": 1}}).encode()),
        _archive("x/zones.json", b"[" * 100_000),
        _archive("x/zones.json", json.dumps({"disk:A": HUGE}).encode()),
        gzip.compress(b"\0" * 2**22),
    ],
    ids=["empty", "no gzip", "cut", "no zones", "no text", "no disk", "deep", "huge", "zeros"],
)
def test_evidence_that_makes_no_sense_costs_a_map_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.tar.gz").write_bytes(content)
    assert maps_in(tmp_path / "e.tar.gz") == {}


def test_evidence_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.tar.gz"
    path.write_bytes(zones_evidence({"A": 1.0}))
    assert maps_in(path)
    monkeypatch.setattr(disk_maps, "MOST_BYTES", 100)
    assert maps_in(path) == {}


def test_json_in_a_page_ends_no_element() -> None:
    text = json_text({"a": "</script><b>&'\u2028"})
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><b>&'\u2028"}

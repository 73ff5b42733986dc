"""Thermal sidecar, iperf lender, evidence, lock: each over real files, real sensors' files, and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import os
import random
import tarfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from probes.host import Host
from probes.tools import Isolation, Tools
from stages.outcome import ReasonCode
from stages.stage import IperfPeer
from tests.support.detection import detects, spares
from tests.support.fake_orchestrator import Call, FakeOrchestrator, status
from vetting_agent.background import in_thread
from vetting_agent.client import Backoff, Client
from vetting_agent.errors import AlreadyRunning, BadBootParameter
from vetting_agent.evidence import NOTE, EvidenceStore, pack, redact_folder
from vetting_agent.execution import refused_serials
from vetting_agent.iperf_slot import Lender
from vetting_agent.lock import TokenStore, prepare_state_dir, run_lock
from vetting_agent.logs import LogBook
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.redact import Redactor
from vetting_agent.status import Alarm, Directives
from vetting_agent.thermal import SampleBuffer, Thermal
from vetting_agent.wire import Claim


@contextlib.asynccontextmanager
async def client_on(server: FakeOrchestrator) -> AsyncIterator[Client]:
    async with server.serve():
        params = BootParams(server.url, 7, Token("t"))
        client = Client(params, "inst", way_to(server.url, ()), backoff=Backoff(0.01, 0.02))
        try:
            yield client
        finally:
            await client.close()


# --- thermal ----------------------------------------------------------------------------------------------------------


class Chip:
    """A hwmon chip of a recorded machine."""

    def __init__(self, root: Path, crit: float | None) -> None:
        self.folder = root / "sys" / "class" / "hwmon" / "hwmon0"
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text("nvme\n")
        if crit is not None:
            (self.folder / "temp1_crit").write_text(f"{crit * 1000:.0f}\n")

    def at(self, degrees: float | None) -> None:
        path = self.folder / "temp1_input"
        if degrees is None:
            path.unlink()
        else:
            path.write_text(f"{degrees * 1000:.0f}\n")


def thermal(root: Path, client: Client, directives: Directives, buffer: SampleBuffer) -> Thermal:
    host = Host(root=root, tools=Tools(path="", proc=root, isolation=Isolation.GROUP))
    return Thermal(host, client, buffer, directives, LogBook(), 0.02, cpu_load=lambda: 12.5)


async def alarms(root: Path, degrees: list[float | None], crit: float | None) -> list[Alarm]:
    """What comes of one sample after the other."""
    directives = Directives()
    chip = Chip(root, crit)
    async with client_on(FakeOrchestrator()) as client:
        sidecar = thermal(root, client, directives, SampleBuffer())
        from probes.sensors import read_all

        for one in degrees:
            with contextlib.suppress(FileNotFoundError):
                chip.at(one)
            sidecar._take(read_all(sidecar._host))
    found = []
    while (item := directives.take()) is not None:
        assert isinstance(item, Alarm)
        found.append(item)
    return found


@detects(
    ReasonCode.THERMAL_CRITICAL,
    "made hwmon sensor that stands over its critical limit of 100 °C in three samples running",
)
async def test_three_samples_over_crit_running_raise_the_alarm_with_figures(tmp_path: Path) -> None:
    found = await alarms(tmp_path, [90, 101, 102, 103], crit=100)
    assert len(found) == 1
    assert found[0].finding.reason_code is ReasonCode.THERMAL_CRITICAL
    assert "103" in found[0].finding.message
    assert "100" in found[0].finding.message


@spares(
    ReasonCode.THERMAL_CRITICAL,
    "made hwmon sensors with a single peak, a gap, no limit, or one that nobody can believe",
)
@pytest.mark.parametrize(
    ("degrees", "crit"),
    [
        ([101, 102, 99, 101, 102], 100.0),
        ([101, 102, None, 101, 102], 100.0),
        ([101] * 9, None),
        ([30] * 9, 20.0),
        ([200] * 9, 150.0),
        ([-5] * 9, 0.0),
    ],
)
async def test_no_alarm_for_a_peak_a_gap_or_a_limit_nobody_can_believe(
    degrees: list[float | None], crit: float | None, tmp_path: Path
) -> None:
    assert not await alarms(tmp_path, degrees, crit)


async def test_samples_are_sent_through_trouble_and_a_dead_sensor_drops_out(tmp_path: Path) -> None:
    chip = Chip(tmp_path, 100)
    chip.at(40)
    server = FakeOrchestrator()
    server.faults["sensor"].extend([status(500), status(500), status(422)])
    buffer = SampleBuffer()
    async with client_on(server) as client:
        sidecar = thermal(tmp_path, client, Directives(), buffer)
        buffer.add("throughput", "disk:S", float("nan"), "MB/s")
        buffer.add("throughput", "disk:S", 5.0, "MB/s")
        loops = [asyncio.create_task(one()) for one in (sidecar.sample, sidecar.send)]
        await server.until(lambda: len(server.of("sensor")) > 6, "batches")
        chip.at(None)
        await asyncio.sleep(0.1)
        count = len(server.of("sensor"))
        await server.until(lambda: len(server.of("sensor")) > count + 3, "more batches")
        for one in loops:
            one.cancel()
        await asyncio.wait(loops)
    batches = [call.body["samples"] for call in server.of("sensor")]
    kinds = [{sample["kind"] for sample in batch} for batch in batches]
    assert {"temperature", "load"} <= kinds[4]
    assert "temperature" not in kinds[-1]
    assert "load" in kinds[-1]
    assert batches[0] == batches[1] == batches[2]
    assert [sample["value"] for sample in batches[0] if sample["kind"] == "throughput"] == [5.0]
    assert all(sample["ts"].endswith("Z") for batch in batches for sample in batch)


# --- iperf ------------------------------------------------------------------------------------------------------------


def lender(client: Client, **claim: object) -> Lender:
    return Lender(client, Claim(stages=[], **claim), "orc.example", LogBook())  # type: ignore[arg-type]


async def test_without_the_feature_the_port_of_the_claim_is_lent() -> None:
    async with client_on(FakeOrchestrator()) as client:
        for claim, expected in (
            ({"iperf_port": 5201}, IperfPeer("orc.example", 5201)),
            ({"iperf_port": 5201, "iperf_host": "10.0.0.9"}, IperfPeer("10.0.0.9", 5201)),
            ({"iperf_port": 0}, None),
            ({"iperf_port": 99999}, None),
            ({}, None),
        ):
            async with lender(client, **claim).lease() as peer:
                assert peer == expected


class SlotServer(FakeOrchestrator):
    refusals = 2

    def _on_iperf_slot(self, call: Call) -> object:
        if call.body["action"] == "release":
            return {"granted": False}
        if self.refusals:
            self.refusals -= 1
            return {"granted": False, "retry_after_s": 0.0, "ahead": self.refusals + 1}
        return {"granted": True, "port": 5300, "more_ports": [5301, 5300, 0, 5301], "lease_s": 0.6}


async def test_a_slot_is_queued_for_kept_and_given_back() -> None:
    server = SlotServer()
    async with client_on(server) as client:
        async with lender(client, features=["iperf_slot"]).lease() as peer:
            assert peer == IperfPeer("orc.example", 5300, (5301,))
            await asyncio.sleep(0.7)
        bodies = [call.body for call in server.of("iperf_slot")]
    assert len({body["slot_id"] for body in bodies}) == 1
    actions = [body["action"] for body in bodies]
    assert actions[:3] == ["acquire"] * 3
    assert len(actions) >= 5
    assert actions[-1] == "release"


async def test_a_cancelled_stage_gives_its_slot_back() -> None:
    server = SlotServer()

    async def stage(client: Client) -> None:
        async with lender(client, features=["iperf_slot"]).lease():
            await asyncio.sleep(60)

    async with client_on(server) as client:
        task = asyncio.create_task(stage(client))
        await server.until(lambda: len(server.of("iperf_slot")) == 3, "the slot")
        task.cancel()
        await asyncio.wait({task})
        assert server.of("iperf_slot")[-1].body["action"] == "release"


# --- evidence ---------------------------------------------------------------------------------------------------------


def store(root: Path, boot_id: str | None = "boot-1", orchestrator: str = "https://o") -> EvidenceStore:
    made = EvidenceStore(root, run_id=7, orchestrator=orchestrator, boot_id=boot_id)
    made.open()
    return made


def executed(one: EvidenceStore, stage: str) -> Path:
    folder = one.begin(stage)
    folder.mkdir()
    (folder / "outcome.json").write_text('{"findings": []}')
    return folder


def test_folders_count_executions_and_a_restarted_agent_goes_on_counting(tmp_path: Path) -> None:
    first = store(tmp_path)
    assert not first.resumed
    names = [executed(first, stage).name for stage in ("Inventory", "SMART", "SMART")]
    assert names == ["01-Inventory", "02-SMART", "03-SMART"]
    (first.newest()["Inventory"] / "components.json").write_text('["disk:S"]')
    second = store(tmp_path)
    assert second.resumed
    assert second.components() == ["disk:S"]
    assert second.newest()["SMART"].name == "03-SMART"
    assert second.outcome_of("SMART") == {"findings": []}
    assert executed(second, "GPU").name == "04-GPU"


def test_an_outcome_stays_undelivered_until_the_orchestrator_has_taken_it(tmp_path: Path) -> None:
    first = store(tmp_path)
    folder = first.begin("SMART")
    assert (first.cut_short("SMART"), first.undelivered("SMART")) == (folder, None)
    folder.mkdir()
    (folder / "outcome.json").write_text("{}")
    assert first.undelivered("SMART") is None, "under a new result_id it could count twice"
    result_id = first.result_id(folder)
    second = store(tmp_path)
    assert second.undelivered("SMART") == second.cut_short("SMART") == folder
    assert second.result_id(folder) == result_id
    second.delivered(folder, result_id)
    for one in (second, store(tmp_path)):
        assert one.undelivered("SMART") is one.cut_short("SMART") is None
        assert one.result_id(folder) == result_id
    assert store(tmp_path, boot_id="boot-2").undelivered("SMART") is None


@pytest.mark.parametrize("other", [{"boot_id": "boot-2"}, {"orchestrator": "https://p"}, {"boot_id": None}])
def test_what_another_boot_or_orchestrator_left_is_kept_and_not_used(other: dict[str, str], tmp_path: Path) -> None:
    executed(store(tmp_path), "Inventory")
    second = store(tmp_path, **other)
    assert not second.resumed
    assert second.newest() == {}
    assert executed(second, "Inventory").name == "02-Inventory"
    if other.get("boot_id", "") is not None:
        third = store(tmp_path, **other)
        assert third.resumed
        assert [path.name for path in third.newest().values()] == ["02-Inventory"]


def test_refused_serials_are_those_refused_for_data() -> None:
    findings = [
        {"reason_code": "wipe_refused_data_present", "component": "disk:A"},
        {"reason_code": "wipe_refused_in_use", "component": "disk:B"},
        {"reason_code": "wipe_refused_data_present", "component": "disk:A"},
    ]
    assert refused_serials({"findings": findings}) == ("A",)
    assert refused_serials(None) == ()


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar.getmembers()}  # type: ignore[union-attr]


def test_a_folder_is_packed_whole_and_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    folder = tmp_path / "02-SMART"
    (folder / "tools").mkdir(parents=True)
    (folder / "outcome.json").write_text("{}")
    (folder / "tools" / "001-smartctl.out").write_bytes(b"\x00raw\xff")
    (folder / "link").symlink_to("/etc/hostname")
    package = pack(folder)
    assert unpacked(package.archive) == {
        "02-SMART/outcome.json": b"{}",
        "02-SMART/tools/001-smartctl.out": b"\x00raw\xff",
    }
    assert package.digest == hashlib.sha256(package.archive).hexdigest()
    assert pack(folder).digest == package.digest
    assert package.left_out == ()


def test_the_largest_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "02-SMART"
    folder.mkdir()
    noise = random.Random(1)
    for size in (100, 60_000, 90_000):
        (folder / f"{size}.bin").write_bytes(noise.randbytes(size))
    package = pack(folder, limit_bytes=80_000)
    assert package.left_out == ("90000.bin",)
    assert len(package.archive) <= 80_000
    files = unpacked(package.archive)
    assert set(files) == {"02-SMART/100.bin", "02-SMART/60000.bin", f"02-SMART/{NOTE}"}
    assert b"90000 bytes: 90000.bin" in files[f"02-SMART/{NOTE}"]


def test_the_token_is_taken_out_of_files_on_the_host_too(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add("s3cret")
    (tmp_path / "dmesg.out").write_bytes(b"\xffCommand line: vetting.token=s3cret quiet\n")
    (tmp_path / "clean").write_text("clean")
    redact_folder(tmp_path, redactor)
    assert (tmp_path / "dmesg.out").read_bytes() == b"\xffCommand line: vetting.token=[token] quiet\n"
    assert (tmp_path / "clean").read_text() == "clean"


# --- lock and token ---------------------------------------------------------------------------------------------------


def params(url: str = "https://o", run_id: int = 7, token: str = "boot") -> BootParams:
    return BootParams(url, run_id, Token(token))


def test_one_agent_a_run(tmp_path: Path) -> None:
    folder = prepare_state_dir(tmp_path / "state")
    assert folder.stat().st_mode & 0o777 == 0o700
    with run_lock(folder, params()):
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"), run_lock(folder, params()):
            pass
        with run_lock(folder, params(run_id=8)), run_lock(folder, params("https://other")):
            pass
    with run_lock(folder, params()):
        pass


def test_a_state_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")
    with pytest.raises(BadBootParameter):
        prepare_state_dir(tmp_path / "state")


def test_a_kept_token_is_found_by_a_restarted_agent_only(tmp_path: Path) -> None:
    TokenStore(tmp_path, params()).save(Token("better"))
    assert TokenStore(tmp_path, params()).load() == Token("better")
    for other in (params(token="other"), params("https://p"), params(run_id=8)):
        assert TokenStore(tmp_path, other).load() is None
    TokenStore(tmp_path, params()).forget()
    assert TokenStore(tmp_path, params()).load() is None


async def test_a_host_without_room_for_a_thread_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads and packs in threads takes it for what a failed fork is, and goes on later."""

    def refuses(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    with pytest.raises(OSError, match="can't start new thread: this host has too many processes"):
        await in_thread(lambda: 1)

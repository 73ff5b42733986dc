"""What an earlier boot left goes into the run's evidence: once a boot, redacted, and without harm when it cannot."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from probes.host import Host
from tests.support.fake_orchestrator import FakeOrchestrator, refusal
from tests.vetting_agent.test_sidecars import client_on
from vetting_agent import last_boot
from vetting_agent.logs import LogBook
from vetting_agent.redact import Redactor
from vetting_agent.wire import Claim

PANIC = b"Kernel panic - not syncing: Fatal machine check\nKernel command line: vetting.token=old-one quiet\n"


def claim(*features: str) -> Claim:
    return Claim(stages=["Inventory"], current_state="FailedHolding", features=list(features))


def crashed(root: Path) -> Host:
    (root / "sys/fs/pstore").mkdir(parents=True)
    (root / "sys/fs/pstore/dmesg-erst-1").write_bytes(PANIC)
    return Host(root=root)


def book_of(lines: list[str]) -> LogBook:
    return LogBook(redactor=Redactor(), echo=lambda line: lines.append(line.text))


async def test_it_is_sent_once_and_without_the_token_of_its_time(tmp_path: Path) -> None:
    server, lines = FakeOrchestrator(), list[str]()
    async with client_on(server) as client:
        host = crashed(tmp_path / "host")
        for _ in range(2):
            await last_boot.keep(host, tmp_path / "kept", client, claim("evidence"), book_of(lines))
    (call,) = server.of("evidence")
    assert "/evidence/Inventory?" in call.path
    with tarfile.open(fileobj=io.BytesIO(call.content), mode="r:gz") as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert b"Fatal machine check" in (text := content.read())
        assert b"old-one" not in text
    assert lines == ["kept from an earlier boot: pstore/dmesg-erst-1: Kernel panic - not syncing: Fatal machine check"]


async def test_a_server_without_the_feature_gets_nothing_and_the_host_keeps_it(tmp_path: Path) -> None:
    server, lines = FakeOrchestrator(), list[str]()
    async with client_on(server) as client:
        await last_boot.keep(crashed(tmp_path / "host"), tmp_path / "kept", client, claim(), book_of(lines))
    assert server.calls == []
    assert (tmp_path / "kept/pstore/dmesg-erst-1").exists()


async def test_a_refusal_of_the_payload_is_told_and_ends_nothing(tmp_path: Path) -> None:
    server, lines = FakeOrchestrator(), list[str]()
    server.faults["evidence"].append(refusal(422))
    async with client_on(server) as client:
        await last_boot.keep(crashed(tmp_path / "host"), tmp_path / "kept", client, claim("evidence"), book_of(lines))
    assert "was not sent" in lines[-1]


async def test_a_machine_that_left_nothing_leaves_no_folder(tmp_path: Path) -> None:
    server, lines = FakeOrchestrator(), list[str]()
    async with client_on(server) as client:
        await last_boot.keep(Host(root=tmp_path), tmp_path / "kept", client, claim("evidence"), book_of(lines))
    assert lines == []
    assert not (tmp_path / "kept").exists()

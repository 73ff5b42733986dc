"""The hold with a real sshd on loopback: who gets in while it lasts, and who stays in afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from probes.host import Host
from tests.support.fake_orchestrator import FakeOrchestrator, refusal, status
from tests.support.namespaces import free_port
from tests.support.ssh_server import ssh_server
from tests.support.stand_ins import StandIns
from vetting_agent.client import Client
from vetting_agent.errors import FinalRefusal
from vetting_agent.hold import Hold
from vetting_agent.hold_key import parse_key
from vetting_agent.hold_sessions import Login, parse_logins
from vetting_agent.key_file import KeyFile
from vetting_agent.logs import LogBook
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.ssh_door import Door, OpenDoor

GOOD = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@dataclass
class Held:
    hold: Hold
    keys: KeyFile
    book: LogBook
    server: FakeOrchestrator

    @property
    def said(self) -> str:
        return "\n".join(line.text for line in self.book.batch(10**9))

    async def until(self, text: str) -> None:
        deadline = time.monotonic() + 15
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def held(tmp_path: Path, host: Host, server: FakeOrchestrator, door: Door | None = None) -> AsyncIterator[Held]:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    book = LogBook()
    keys = KeyFile(tmp_path / "home" / ".ssh" / "authorized_keys", state)

    async def address() -> str:
        return "127.0.0.1"

    async with server.serve():
        client = Client(BootParams(server.url, 7, Token("t")), "inst", way_to(server.url, ()))
        hold = Hold(client, host, keys, book, address, ask_again_s=0.05, door=door)
        keeping = asyncio.create_task(hold.keep())
        try:
            yield Held(hold, keys, book, server)
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            await client.close()


async def test_a_good_key_is_asked_for_installed_and_taken_back(tmp_path: Path, host: Host) -> None:
    expiry = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    server = FakeOrchestrator(hold_key={"authorized_key": GOOD + "\n", "expires_at": expiry})
    async with held(tmp_path, host, server) as it:
        await it.until("installed")
        assert it.keys.path.read_text().startswith('expiry-time="')
        await asyncio.sleep(0.2)
        assert len(server.of("hold")) == 1
        assert server.of("hold")[0].body["ip"] == "127.0.0.1"
        await it.hold.leave()
        assert it.keys.path.read_text() == ""
        await it.hold.leave()


class KeyMakingDoor(OpenDoor):
    """As in the live image: the host has no SSH key before its server starts for the first time."""

    def __init__(self, public_key: Path) -> None:
        self.public_key = public_key

    async def open(self) -> str | None:
        self.public_key.parent.mkdir(parents=True, exist_ok=True)
        if not self.public_key.exists():
            keygen("-q", "-t", "ed25519", "-N", "", "-f", str(self.public_key.with_suffix("")))
        return None


def keygen(*words: str) -> str:
    return subprocess.run(["ssh-keygen", *words], capture_output=True, text=True, check=True).stdout


async def test_the_host_key_is_told_to_who_is_to_come(tmp_path: Path, host: Host) -> None:
    host = Host(root=tmp_path / "root", tools=host.tools)
    public_key = host.etc("ssh", "ssh_host_ed25519_key.pub")
    server = FakeOrchestrator(hold_key={"authorized_key": GOOD})
    async with held(tmp_path, host, server, KeyMakingDoor(public_key)):
        await server.until(lambda: len(server.of("hold")) == 2, "the key that was made meanwhile", 60)
    shown = keygen("-lf", str(public_key))
    told = [call.body.get("ssh_host_key") for call in server.of("hold")]
    assert told == [None, shown.split()[1]]
    server.calls.clear()
    async with held(tmp_path, host, server, KeyMakingDoor(public_key)) as it:
        await it.until("the hold key is")
        await it.hold.leave()
    assert [call.body.get("ssh_host_key") for call in server.of("hold")] == [shown.split()[1]], "once is enough"


async def test_a_refused_key_and_every_failure_is_asked_for_again(tmp_path: Path, host: Host) -> None:
    server = FakeOrchestrator(hold_key=f"no-pty {GOOD}")
    server.faults["hold"].extend([status(500), status(422), status(200, b"garbage")])
    async with held(tmp_path, host, server) as it:
        await server.until(lambda: len(server.of("hold")) >= 6, "asking again")
        assert not it.keys.path.exists()
        server.hold_key = {"authorized_key": GOOD, "expires_at": "2001-01-01T00:00:00Z"}
        await it.until("has expired")
        assert not it.keys.path.exists()
        server.hold_key = GOOD
        await it.until("installed")
        assert it.keys.path.read_text() == GOOD + "\n"
        await it.hold.leave()


async def test_a_final_refusal_ends_the_keeping(tmp_path: Path, host: Host) -> None:
    server = FakeOrchestrator(always={"hold": refusal(410)})
    async with held(tmp_path, host, server) as it:
        with pytest.raises(FinalRefusal):
            await it.hold.keep()


SITE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO2G2GIVc3cTnb15UVxp16m8HfRwzvQbiiS5oK4djj0X night-shift"


async def test_keys_of_the_site_come_and_go_with_the_runs(tmp_path: Path, host: Host) -> None:
    expiry = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    bad = [f"no-pty {SITE}", "ssh-ed25519 AAAA", SITE + "\n" + SITE]
    server = FakeOrchestrator(hold_key={"authorized_key": GOOD, "expires_at": expiry, "site_keys": [*bad, SITE, SITE]})
    async with held(tmp_path, host, server) as it:
        it.keys.path.parent.mkdir(parents=True)
        it.keys.path.write_text("ssh-rsa AAAA theirs")
        await it.until("the hold key is installed")
        lines = it.keys.path.read_text().splitlines()
        assert [line.split()[-1] for line in lines[:1]] == ["theirs"]
        assert [line.split()[2] for line in lines[1:]] == [GOOD.split()[1], SITE.split()[1]]
        assert all(line.startswith('expiry-time="') for line in lines[1:])
        assert it.said.count("a key of the site is refused") == len(bad)
        await it.hold.leave()
        assert it.keys.path.read_text() == "ssh-rsa AAAA theirs"
        assert list(it.keys.state_dir.iterdir()) == []


async def test_a_key_of_the_site_that_was_there_before_stays(tmp_path: Path, host: Host) -> None:
    server = FakeOrchestrator(hold_key={"authorized_key": GOOD, "site_keys": [SITE]})
    async with held(tmp_path, host, server) as it:
        it.keys.path.parent.mkdir(parents=True)
        it.keys.path.write_text(SITE + "\n")
        await it.until("the hold key is installed")
        await it.hold.leave()
        assert it.keys.path.read_text() == SITE + "\n"


def test_logins_in_real_lines_of_sshd() -> None:
    lines = [
        "Accepted publickey for root from 192.0.2.7 port 50022 ssh2: ED25519 SHA256:abc/def+1",
        "Nov 21 04:00:00 h sshd[1]: Accepted password for root from 2001:db8::1 port 4 ssh2",
        "Failed publickey for root from 192.0.2.7 port 50023 ssh2: ED25519 SHA256:abc/def+1",
    ]
    assert parse_logins(lines) == [Login("192.0.2.7", 50022, "SHA256:abc/def+1"), Login("2001:db8::1", 4, None)]


# --- with a real sshd -------------------------------------------------------------------------------------------------


@dataclass
class Sshd:
    folder: Path
    port: int

    def key(self, name: str) -> str:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
        return path.with_suffix(".pub").read_text()

    def command(self, key: str, *words: str) -> list[str]:
        options = ["IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=no", "BatchMode=yes"]
        options += [f"UserKnownHostsFile={self.folder}/known", "ControlMaster=no", "ConnectTimeout=10"]
        flags = [word for option in options for word in ("-o", option)]
        user = f"{getpass.getuser()}@127.0.0.1"
        return ["ssh", "-F", "none", "-p", str(self.port), "-i", str(self.folder / key), *flags, user, *words]

    def login(self, key: str) -> bool:
        return subprocess.run(self.command(key, "true"), capture_output=True, check=False).returncode == 0

    def session(self, key: str) -> subprocess.Popen[bytes]:
        """A session that stays; returns once its command runs."""
        session = subprocess.Popen(
            self.command(key, "echo in; exec sleep 300"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        return session


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    port, keys = free_port(), tmp_path / "home" / ".ssh" / "authorized_keys"
    with ssh_server(tmp_path / "sshd", keys, "127.0.0.1", port):
        yield Sshd(tmp_path / "sshd", port)


def ended(session: subprocess.Popen[bytes]) -> None:
    session.kill()
    session.wait()
    assert session.stdout is not None
    session.stdout.close()


@pytest.mark.root
async def test_sessions_of_the_key_are_closed_and_those_of_other_keys_stay(
    tmp_path: Path, host: Host, sshd: Sshd
) -> None:
    mine, run_key = sshd.key("mine"), sshd.key("run")
    async with held(tmp_path, host, FakeOrchestrator(hold_key=run_key)) as it:
        await it.until("installed")
        with it.keys.path.open("a") as handle:
            handle.write(mine)
        assert sshd.login("run")
        sessions = {name: await asyncio.to_thread(sshd.session, name) for name in ("run", "mine")}
        try:
            await it.hold.leave()
            assert await asyncio.to_thread(sessions["run"].wait, 10) != 0
            assert sessions["mine"].poll() is None
            assert it.keys.path.read_text() == mine
            assert not sshd.login("run")
            assert sshd.login("mine")
        finally:
            for session in sessions.values():
                ended(session)
        assert "sessions closed: 1" in it.said


@pytest.mark.root
async def test_a_key_of_the_site_opens_the_held_host_and_nothing_afterwards(
    tmp_path: Path, host: Host, sshd: Sshd
) -> None:
    run_key, site = sshd.key("run"), sshd.key("site")
    server = FakeOrchestrator(hold_key={"authorized_key": run_key, "site_keys": [site]})
    async with held(tmp_path, host, server) as it:
        await it.until("the hold key is installed")
        session = await asyncio.to_thread(sshd.session, "site")
        try:
            assert sshd.login("run")
            await it.hold.leave()
            assert await asyncio.to_thread(session.wait, 30) != 0
            assert not sshd.login("site")
        finally:
            ended(session)


@pytest.mark.root
async def test_a_session_is_closed_though_the_clock_was_set_back_after_the_key_came(
    tmp_path: Path, host: Host, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live image boots with whatever its clock says, and NTP sets it right in the middle of a hold."""
    run_key, right = sshd.key("run"), time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: right() + 5 * 3600)
        async with held(tmp_path, host, FakeOrchestrator(hold_key=run_key)) as it:
            await it.until("installed")
            ahead.undo()
            session = await asyncio.to_thread(sshd.session, "run")
            try:
                await it.hold.leave()
                assert await asyncio.to_thread(session.wait, 10) != 0
            finally:
                ended(session)
            assert "sessions closed: 1" in it.said


@pytest.mark.root
async def test_sshd_understands_the_expiry_that_is_written(tmp_path: Path, host: Host, sshd: Sshd) -> None:
    run_key = sshd.key("run")
    key = parse_key(run_key)
    async with held(tmp_path, host, FakeOrchestrator(hold_key="")) as it:
        now = datetime.now(UTC)
        it.keys.install(key, key.line(now + timedelta(minutes=1)), time.clock_gettime(time.CLOCK_BOOTTIME))
        assert sshd.login("run")
        it.keys.install(key, key.line(now - timedelta(minutes=1)), time.clock_gettime(time.CLOCK_BOOTTIME))
        assert not sshd.login("run")
        await it.hold.leave()


@pytest.mark.root
def test_a_killed_agent_is_cleaned_up_after(tmp_path: Path, sshd: Sshd, stand_ins: StandIns) -> None:
    run_key = sshd.key("run")
    state = tmp_path / "state"
    state.mkdir()
    keys = KeyFile(tmp_path / "home" / ".ssh" / "authorized_keys", state)
    keys.path.parent.mkdir(parents=True)
    keys.path.write_text("ssh-rsa AAAA me")
    key = parse_key(run_key)
    keys.install(key, key.line(None), time.clock_gettime(time.CLOCK_BOOTTIME))
    site = parse_key(sshd.key("site"))
    keys.for_key(site).install(site, site.line(None), time.clock_gettime(time.CLOCK_BOOTTIME))
    session = sshd.session("run")
    try:
        argv = [sys.executable, "-m", "vetting_agent", "hold-clean"]
        argv += ["--authorized-keys", str(keys.path), "--state-dir", str(state)]
        for _ in range(2):
            assert subprocess.run(argv, check=False).returncode == 0
        session.wait(10)
        assert keys.path.read_text() == "ssh-rsa AAAA me"
    finally:
        ended(session)

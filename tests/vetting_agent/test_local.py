"""What the agent shows on its own host: systemd's socket, the status socket, /healthz, screens, and the SSH door."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_rig import agent_process, agent_task
from tests.support.scenes import orchestrator, reach, shut_down
from tests.support.stand_ins import StandIns
from vetting_agent import console, outlook
from vetting_agent.hold import default_key_file
from vetting_agent.local import Local
from vetting_agent.notify import Notifier
from vetting_agent.outlook import Outlook, StageResult
from vetting_agent.ssh_door import UnitDoor


def an_outlook(**changes: Any) -> Outlook:
    fields: dict[str, Any] = {
        "host": "vetting",
        "product": "Maker Model SN1",
        "run_id": 7,
        "orchestrator": "https://192.0.2.1:8443",
        "agent_version": "0.1.0",
        "image_version": "20260101.000000-abc",
        "instance_id": "i",
        "claimed": True,
        "activity": "running",
        "stage": "CPUStress",
        "elapsed_s": 61.0,
        "progress": 0.5,
        "eta_s": 59.0,
        "results": (StageResult(stage="Inventory", verdict="pass", message="1 x CPU"),),
        "stages": ("Inventory", "SMART", "CPUStress"),
        "ip": "192.0.2.9",
        "mac": "52:54:00:00:00:01",
        "hold_open": False,
        "ssh_host_key": None,
        "last_line": "stage CPUStress starts",
    }
    return Outlook(**(fields | changes))


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_text_names_host_run_stage_progress_and_address() -> None:
    text = outlook.text(an_outlook())
    for part in (
        "Maker Model SN1",
        "192.0.2.9",
        "7 at https://192.0.2.1:8443",
        "running CPUStress",
        "50%",
        "0:59 left",
    ):
        assert part in text
    rows = [line.split() for line in text.splitlines()]
    assert ["Inventory", "pass", "1", "x", "CPU"] in rows
    assert ["SMART", "waiting"] in rows
    assert ["CPUStress", "running"] in rows
    assert "nobody can log in" in text


def test_an_open_hold_shows_the_way_in_and_the_host_key() -> None:
    text = outlook.text(an_outlook(activity="holding", stage=None, hold_open=True, ssh_host_key="SHA256:abc"))
    assert "FAILED" in text
    assert "ssh root@192.0.2.9  host key SHA256:abc" in text


def test_a_disk_cannot_steer_the_screen() -> None:
    evil = StageResult(stage="SMART", verdict="fail", message="disk \x1b[2J\x07 broke")
    text = outlook.text(an_outlook(results=(evil,), last_line="\x1b]0;gotcha\x07"))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_no_line_is_wider_than_a_terminal() -> None:
    wide = StageResult(stage="SMART", verdict="fail", message="x" * 300)
    assert max(map(len, outlook.text(an_outlook(results=(wide,), last_line="y" * 300)).splitlines())) <= outlook.WIDTH


# --- systemd ----------------------------------------------------------------------------------------------------------


async def test_systemd_hears_that_the_agent_is_ready_and_alive(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        notifier = Notifier(str(tmp_path / "notify"), watchdog_s=0.2)
        task = asyncio.create_task(notifier.run())
        loop = asyncio.get_running_loop()
        heard = [await asyncio.wait_for(loop.sock_recv(systemd, 100), 5) for _ in range(4)]
        task.cancel()
        await asyncio.wait({task})
    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_the_environment_is_read_once_and_not_handed_on() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/",
    }
    assert Notifier.of_environment(environment) == Notifier("/run/n", 60.0)
    assert environment == {"PATH": "/"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"WATCHDOG_USEC": "5"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "x"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"},
    ],
)
def test_without_a_watchdog_there_are_no_signs_of_life(environment: dict[str, str]) -> None:
    assert Notifier.of_environment(environment).watchdog_s is None


def test_a_socket_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    assert Notifier(str(tmp_path / "nobody")).tell("READY=1") is False


# --- the whole agent --------------------------------------------------------------------------------------------------


async def test_the_agent_tells_what_it_is_at(tmp_path: Path) -> None:
    server = orchestrator()
    async with server.serve():
        local = Local(status_socket=tmp_path / "status.sock", healthz_port=free_port())
        async with agent_task(tmp_path / "a", server, local=local) as agent:
            seen = await until(lambda: asked(tmp_path / "status.sock"), lambda one: len(one.get("results", [])) >= 2)
            assert seen["run_id"] == 7
            assert seen["results"][0]["stage"] == "Inventory"
            assert seen["results"][0]["verdict"] == "pass"
            assert "t0ken" not in json.dumps(seen)
            health = await asyncio.to_thread(fetched, f"http://127.0.0.1:{local.healthz_port}/healthz")
            assert health["instance_id"] == seen["instance_id"]
            assert agent.running


async def test_the_status_command_speaks_with_the_agent(tmp_path: Path) -> None:
    server = orchestrator()
    async with server.serve(), agent_process(tmp_path / "a", server, "--status-socket"):
        await until(lambda: asked(tmp_path / "a" / "state" / "status.sock"), lambda one: bool(one))
        code, out, _ = await status(tmp_path / "a" / "state", "--json")
        assert code == 0
        assert json.loads(out)["claimed"] in {True, False}
        code, out, _ = await status(tmp_path / "a" / "state")
        assert code == 0
        assert out.startswith("Host")


async def test_no_agent_is_exit_one_and_a_sentence(tmp_path: Path) -> None:
    code, _, err = await status(tmp_path)
    assert code == 1
    assert "no agent answers" in err


async def test_another_path_than_healthz_is_not_found(tmp_path: Path) -> None:
    server = orchestrator()
    async with server.serve():
        local = Local(healthz_port=free_port())
        async with agent_task(tmp_path / "a", server, local=local):
            await until(lambda: answers(local.healthz_port or 0), bool)
            reader, writer = await asyncio.open_connection("127.0.0.1", local.healthz_port)
            writer.write(b"GET /secret HTTP/1.1\r\n\r\n")
            assert b"404" in await asyncio.wait_for(reader.readline(), 5)
            writer.close()


async def test_what_cannot_be_shown_does_not_end_the_walk(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = orchestrator()
        async with server.serve():
            local = Local(healthz_port=taken.getsockname()[1], screens=(tmp_path / "no" / "tty1",))
            async with agent_task(tmp_path / "a", server, local=local) as agent:
                await reach("completed", server)
                assert "not all there" in agent.errors


# --- screens ----------------------------------------------------------------------------------------------------------


def test_a_virtual_terminal_is_painted_and_a_serial_line_is_not() -> None:
    assert console.screen(Path("/dev/tty1")).painted
    assert not console.screen(Path("/dev/ttyS0")).painted


def test_a_serial_line_gets_a_block_per_change_and_none_per_second() -> None:
    control, device = pty.openpty()
    try:
        os.set_blocking(control, False)
        screen = console.Screen(Path(os.ttyname(device)), painted=False)
        screen.show(an_outlook(), 0.0)
        first = os.read(control, 65536).decode()
        assert "running CPUStress" in first
        screen.show(an_outlook(elapsed_s=62.0, progress=0.6, last_line="more"), 1.0)
        with pytest.raises(BlockingIOError):
            os.read(control, 65536)
        screen.show(an_outlook(activity="holding", stage=None, hold_open=True), 2.0)
        assert "ssh root@192.0.2.9" in os.read(control, 65536).decode()
    finally:
        os.close(control)
        os.close(device)


def test_a_screen_that_takes_nothing_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ttyS0")
    screen = console.Screen(tmp_path / "ttyS0", painted=False)
    screen.show(an_outlook(), 0.0)  # nobody reads it


# --- the door ---------------------------------------------------------------------------------------------------------


async def test_the_door_is_a_unit_that_is_started_and_stopped(tmp_path: Path) -> None:
    tools = StandIns(tmp_path)
    tools.says("systemctl")
    door = UnitDoor(tools.tools(), "vetting-ssh.service")
    assert await door.open() is None
    assert await door.shut() is None
    assert tools.calls() == [
        ["systemctl", "start", "vetting-ssh.service"],
        ["systemctl", "stop", "--no-block", "vetting-ssh.service"],
    ]


async def test_a_hold_opens_the_door_and_its_end_shuts_it(tmp_path: Path) -> None:
    server = orchestrator(parameters={"SMART": {"fail": True}})
    local = Local(status_socket=tmp_path / "status.sock", ssh_unit="vetting-ssh.service")
    async with server.serve(), agent_task(tmp_path / "a", server, local=local) as agent:
        seen = await until(lambda: asked(tmp_path / "status.sock"), lambda one: bool(one.get("hold_open")))
        assert seen["activity"] == "holding"
        assert ["systemctl", "start", "vetting-ssh.service"] in agent.power_calls
        await shut_down(server, agent)
    assert ["systemctl", "stop", "--no-block", "vetting-ssh.service"] in agent.power_calls
    assert not agent.keys.read_text()


async def test_a_door_that_does_not_open_says_so(tmp_path: Path) -> None:
    tools = StandIns(tmp_path)
    tools.says("systemctl", stderr="Unit vetting-ssh.service not found.\n", exit_code=5)
    assert "vetting-ssh.service" in (await UnitDoor(tools.tools(), "vetting-ssh.service").open() or "")


def test_the_tests_leave_roots_own_keys_alone() -> None:
    assert default_key_file() == Path("/root/.ssh/authorized_keys")


# --- helpers ----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


async def asked(path: Path) -> dict[str, Any]:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return {}
    content = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return json.loads(content) if content else {}


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def fetched(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


async def until(ask: Any, good: Any, limit_s: float = 20.0) -> Any:
    async with asyncio.timeout(limit_s):
        while not good(seen := await ask()):  # noqa: ASYNC110 it asks from outside, which tells nobody by itself
            await asyncio.sleep(0.02)
    return seen


async def status(state_dir: Path, *flags: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vetting_agent", "status", "--state-dir", str(state_dir), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, out.decode(), err.decode()

"""Rows: a person does not come in to a held host. A terminal that fails is told to the operator, in the history, and
in the evidence."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.chaos.net import AGENT
from tests.chaos.row import Group
from tests.chaos.scene import Relay, Scene
from tests.terminal.rig import HOLDS_AT_ONCE, evidence_of, opening
from tests.walk.rig import wait_for

TERMINAL = Group("Ways in to a held host")
OPEN_S = "5"
TIMEOUT = "terminal_node_stream_timeout"


def _hold(scene: Scene, bash: str | None = None) -> Relay:
    scene.serve("--terminal-timeout", OPEN_S)
    scene.create(("Inventory", "PSU"), parameters=HOLDS_AT_ONCE)
    relay = scene.relay()
    agent = scene.agent(url=relay.url, environment={"HOME": str(scene.folder)}, start=False)
    if bash is not None:
        (agent.stand_ins / "bash").write_text(bash)
        (agent.stand_ins / "bash").chmod(0o755)
    agent.start()
    scene.held()
    wait_for(lambda: "hold key is" in agent.errors, "the key", 60)
    return relay


async def _ask(scene: Scene) -> str:
    """Open a terminal: "ready", or how it failed."""
    async with opening(scene.server, scene.run_id) as desk:
        while await desk.next() is not None:
            if desk.told and desk.told[-1]["type"] in {"ready", "failed"}:
                break
        last = desk.told[-1]
    if last["type"] == "ready":
        return "ready"
    code = str(last["code"])
    facts, _ = await asyncio.to_thread(evidence_of, scene.server, scene.run_id, desk.session)
    assert (facts["session"], facts["failure"]) == (desk.session, code)
    assert any(code in one["text"] and desk.session in one["text"] for one in scene.view["events"])
    scene.correlation = f"history and evidence, session {desk.session[:8]}…"
    return f"{code}: {last['detail']}"


def _fails(scene: Scene) -> None:
    scene.broken()
    scene.heard.append(asyncio.run(_ask(scene)))
    scene.seen()


def _opens(scene: Scene) -> None:
    scene.repaired()
    scene.recovered(lambda: asyncio.run(_ask(scene)) == "ready", "a terminal that opens")


def _on_the_way(scene: Scene, fault: str) -> None:
    relay = _hold(scene)
    relay.order(fault=fault, verbs=["terminal"])
    _fails(scene)
    relay.order()
    _opens(scene)


@TERMINAL.row(
    "the route of the node's stream is removed: a proxy answers it with its 404 page",
    hop="terminal",
    signal="terminal_open_without_stream",
    says=("operator", r"^terminal_open_without_stream: The agent answered the order with refused"),
    end="FailedHolding",
)
def terminal_route_removed(scene: Scene) -> None:
    _on_the_way(scene, "404")


@TERMINAL.row(
    "the upgrade of the node's stream is rejected with 502",
    hop="terminal",
    signal=TIMEOUT,
    says=("operator", rf"^{TIMEOUT}: "),
    end="FailedHolding",
)
def terminal_upgrade_rejected(scene: Scene) -> None:
    _on_the_way(scene, "502")


@TERMINAL.row(
    "the node's stream is blocked: taken and never answered",
    hop="terminal",
    signal=TIMEOUT,
    says=("operator", rf"^{TIMEOUT}: "),
    end="FailedHolding",
)
def terminal_stream_blocked(scene: Scene) -> None:
    _on_the_way(scene, "silent")


def _shell(scene: Scene, script: str) -> None:
    _hold(scene, script)
    _fails(scene)
    (scene.agents[0].stand_ins / "bash").unlink()
    _opens(scene)


@TERMINAL.row(
    "the host has no shell",
    hop="terminal",
    signal="terminal_pty_failed",
    says=("operator", r"^terminal_pty_failed: .*No such file"),
    end="FailedHolding",
)
def terminal_shell_missing(scene: Scene) -> None:
    _shell(scene, "#!/nowhere/at-all\n")


@TERMINAL.row(
    "the shell shows nothing until the time-out has passed",
    hop="terminal",
    signal="terminal_pty_failed",
    says=("operator", r"^terminal_pty_failed: .*shows nothing within"),
    end="FailedHolding",
)
def terminal_pty_delayed(scene: Scene) -> None:
    _shell(scene, "#!/bin/sh\nexec sleep 3391\n")


CONFIG = """ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {keys}
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
UseDNS no
"""


def _ssh_server(scene: Scene, keys: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """A real SSH server on the host; what logs in to it from the orchestrator's side, with the hold's key."""
    folder = scene.folder / "sshd"
    folder.mkdir()
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    assert program is not None
    Path("/run/sshd").mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    (folder / "config").write_text(CONFIG.format(address=AGENT, folder=folder, keys=keys))
    start = [*scene.net.within(scene.net.host), program, "-D", "-f", str(folder / "config"), "-E", str(folder / "log")]
    server = subprocess.Popen(start)
    scene.at_the_end += [lambda: server.wait() and None, server.terminate]  # the last one first
    key = folder / "hold-key"
    key.touch(0o600)
    key.write_text(scene.server.operator("GET", f"/runs/{scene.run_id}/hold-key")["private_key"])
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5"]
    flags = [word for option in options for word in ("-o", option)]
    ssh = ["ssh", "-F", "none", "-i", str(key), *flags, f"root@{AGENT}", "true"]

    def login() -> subprocess.CompletedProcess[str]:
        argv = [*scene.net.within(scene.net.server), *ssh]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    return login


@TERMINAL.row(
    "SSH to a held host is blocked while its agent lives: a terminal still opens, and the host is not called silent",
    hop="hold_port",
    signal="node_ops_ssh_failed",
    says=("operator", r"ssh: connect to host .* port 22: Connection timed out"),
    end="FailedHolding",
)
def ssh_broken(scene: Scene) -> None:
    _hold(scene)
    login = _ssh_server(scene, scene.agents[0].keys)
    wait_for(lambda: login().returncode == 0, "a login before", 60)
    scene.broken()
    scene.net.break_("tcp dport 22 drop")
    scene.heard += login().stderr.splitlines()
    scene.seen()
    assert asyncio.run(_ask(scene)) == "ready"
    assert not scene.view["stalled"]
    scene.net.repair()
    scene.repaired()
    scene.recovered(lambda: login().returncode == 0, "a login")


ROWS = (
    terminal_route_removed,
    terminal_upgrade_rejected,
    terminal_stream_blocked,
    terminal_shell_missing,
    terminal_pty_delayed,
    ssh_broken,
)

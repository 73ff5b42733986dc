"""A recorded machine: files, errors and tools as they were; nothing of the real machine."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from probes.host import text_of
from probes.recorded import NotARecording, host_in, open_recording
from probes.tools import ToolFailed, ToolKilled, ToolMissing, ToolTimeout
from tests.support.trees import Link, plant


def machine(root: Path, *, unreadable: dict[str, str] | None = None, **tools: str) -> Path:
    plant(root, {"sys/class/net/eth0/speed": "1000", "sys/link": Link("class/net/eth0"), "proc/uptime": "1.0 2.0"})
    plant(root, {f"tools/{name}": text for name, text in tools.items()})
    if unreadable:
        (root / "capture.json").write_text(json.dumps({"unreadable": unreadable}))
    return root


def test_an_unreadable_file_gives_the_error_that_it_gave(tmp_path: Path) -> None:
    root = machine(tmp_path, unreadable={"sys/class/net/eth0/speed": "EINVAL", "sys/class/net": "EACCES"})
    host = open_recording(root)
    speed = host.sys("class", "net", "eth0", "speed")
    assert speed.exists()
    with pytest.raises(OSError, match="Invalid argument") as problem:
        speed.read_text()
    assert problem.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="Invalid argument"):
        host.sys("link", "speed").read_bytes()  # by whatever way
    with pytest.raises(PermissionError):
        list(host.sys("class", "net").iterdir())
    assert text_of(host.proc("uptime")) == "1.0 2.0"


@pytest.mark.parametrize("target", ["/etc", "/proc/self", "../../../../../../../../../../etc", "link2"])
def test_a_link_out_of_the_recording_is_refused(tmp_path: Path, target: str) -> None:
    root = machine(tmp_path / "machine")
    plant(root, {"sys/class/net/eth1": Link(target), "sys/class/net/link2": Link("/tmp")})
    with pytest.raises(NotARecording, match="leads out of the recording"):
        open_recording(root)


def test_a_link_that_turns_in_a_circle_or_leads_nowhere_is_no_harm(tmp_path: Path) -> None:
    root = plant(machine(tmp_path), {"sys/round": Link("round"), "sys/gone": Link("../nowhere"), "sys/up": Link("..")})
    assert text_of(open_recording(root).sys("round")) is None
    assert text_of(open_recording(root).sys("gone")) is None


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARecording, match="neither a folder proc nor a folder sys"):
        open_recording(tmp_path)
    for text in ("nonsense", '{"unreadable": {"sys/x": "ENONSENSE"}}', '{"unreadable": 3}', "[]"):
        (machine(tmp_path) / "capture.json").write_text(text)
        with pytest.raises(NotARecording, match="cannot be read"):
            open_recording(tmp_path)


async def test_a_tool_gives_what_it_gave_and_the_second_time_what_it_gave_then(tmp_path: Path) -> None:
    tools = {"disk -x _dev_sda.out": "first", "disk -x _dev_sda.exit": "4", "disk -x _dev_sda @2.out": "later"}
    host = host_in(machine(tmp_path, **tools))
    seen: list[str] = []
    result = await host.tools.run("disk", "-x", "/dev/sda", timeout_s=1, accept=None, on_line=seen.append)
    assert (result.stdout, result.exit_code, seen) == ("first\n", 4, ["first"])
    again = host.tools.recording(tmp_path / "evidence")
    for _ in range(2):
        result = await again.run("disk", "-x", "/dev/sda", timeout_s=1)
        assert (result.stdout, result.exit_code) == ("later\n", 0)
    assert len(list((tmp_path / "evidence").iterdir())) == 2


async def test_a_tool_fails_as_it_failed(tmp_path: Path) -> None:
    tools = {
        "bad.out": "",
        "bad.exit": "3",
        "dead.out": "half",
        "dead.exit": "-9",
        "slow.out": "",
        "slow.exit": "timeout",
    }
    run = host_in(machine(tmp_path, **tools)).tools.run
    with pytest.raises(ToolFailed, match="exit code 3"):
        await run("bad", timeout_s=1)
    with pytest.raises(ToolKilled, match="SIGKILL"):
        await run("dead", timeout_s=1)
    with pytest.raises(ToolTimeout):
        await run("slow", timeout_s=1)


async def test_what_was_not_recorded_is_not_run(tmp_path: Path) -> None:
    tools = host_in(machine(tmp_path, **{"sh -c true.out": ""})).tools
    with pytest.raises(ToolMissing, match="nothing of touch was recorded"):
        await tools.run("touch", str(tmp_path / "decoy"), timeout_s=1)
    with pytest.raises(ToolFailed, match="this call was not recorded"):
        await tools.run("sh", "-c", "true " * 200, timeout_s=1)  # no file can have such a name
    with pytest.raises(ToolFailed, match="this call was not recorded"):
        await tools.run("sh", "-c", f"touch {tmp_path}/decoy", timeout_s=1)
    with pytest.raises(ToolFailed, match="cannot be put under load"):
        await tools.run("sh", "-c", "true", timeout_s=1, load=True)
    assert not (tmp_path / "decoy").exists()

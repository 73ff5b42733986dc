"""The door to processes, with real programs and with stand-ins that crash, freeze, fork and flood."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from probes.host import REAL_PROC
from probes.tool_process import KILL_WAIT_S
from probes.tools import (
    Isolation,
    ToolFailed,
    ToolKilled,
    ToolMissing,
    Tools,
    ToolTimeout,
    ToolUnkillable,
    signal_name,
)
from tests.support.stand_ins import StandIns

BOTH = [
    pytest.param(Isolation.NAMESPACE, marks=pytest.mark.root),
    Isolation.GROUP,
]
# A stand-in that forks, whose children leave its session and its process group, and that then freezes.
FORKS_AND_FREEZES = """
import time
for depth in range(3):
    if os.fork() == 0:
        os.setsid()
        if depth == 2 and os.fork() == 0:
            os.setsid()
with open(os.environ["PIDS"], "a") as pids:
    pids.write("x\\n")
while True:
    time.sleep(60)
"""


def marked(mark: str) -> list[psutil.Process]:
    """Processes whose argument list carries `mark`, zombies not counted."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if mark in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


async def until(condition: object, limit_s: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("isolation", BOTH)
async def test_exit_codes_above_128_are_not_taken_for_signals(stand_ins: StandIns, isolation: Isolation) -> None:
    stand_ins.says("smartctl", "out\n", stderr="err\n", exit_code=137)
    result = await stand_ins.tools(isolation).run("smartctl", timeout_s=20, accept=None)
    assert (result.exit_code, result.signal) == (137, None)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("isolation", BOTH)
async def test_a_crash_is_told_from_a_failure(stand_ins: StandIns, isolation: Isolation) -> None:
    stand_ins.python("crashes", "os.kill(os.getpid(), 11)\n")
    stand_ins.says("fails", stderr="no such device\n", exit_code=3)
    tools = stand_ins.tools(isolation)
    with pytest.raises(ToolKilled, match="SIGSEGV"):
        await tools.run("crashes", timeout_s=20)
    with pytest.raises(ToolFailed, match="exit code 3: no such device") as caught:
        await tools.run("fails", timeout_s=20)
    assert caught.value.result is not None
    assert caught.value.result.exit_code == 3


async def test_a_missing_tool_says_where_it_was_looked_for(only_stand_ins: StandIns) -> None:
    with pytest.raises(ToolMissing, match=r"smartctl is not installed.*stand-ins"):
        await only_stand_ins.tools().run("smartctl", timeout_s=20)


@pytest.mark.parametrize("isolation", BOTH)
async def test_what_is_no_program_counts_as_missing(stand_ins: StandIns, isolation: Isolation) -> None:
    script = stand_ins.python("broken", "")
    script.write_text("#!/no/such/interpreter\n")
    with pytest.raises(ToolMissing, match="broken could not be started: No such file"):
        await stand_ins.tools(isolation).run("broken", timeout_s=20)


@pytest.mark.parametrize("isolation", BOTH)
async def test_a_frozen_tool_is_killed_with_all_it_started(
    stand_ins: StandIns, isolation: Isolation, tmp_path: Path
) -> None:
    mark = f"mark-{os.getpid()}-{isolation.value}-timeout"
    stand_ins.python("freezes", FORKS_AND_FREEZES)
    pids = tmp_path / "pids"
    with pytest.raises(ToolTimeout, match="did not finish within 3 s"):
        await stand_ins.tools(isolation).run("freezes", mark, timeout_s=3, environment={"PIDS": str(pids)})
    assert len(pids.read_text().splitlines()) > 5, "the stand-in never forked"
    assert marked(mark) == []


@pytest.mark.parametrize("isolation", BOTH)
async def test_cancel_leaves_nothing_within_two_seconds(
    stand_ins: StandIns, isolation: Isolation, tmp_path: Path
) -> None:
    mark = f"mark-{os.getpid()}-{isolation.value}-cancel"
    stand_ins.python("freezes", FORKS_AND_FREEZES)
    environment = {"PIDS": str(tmp_path / "pids")}
    task = asyncio.create_task(stand_ins.tools(isolation).run("freezes", mark, timeout_s=60, environment=environment))
    await until(lambda: len(marked(mark)) > 5)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 2.0
    assert marked(mark) == []


@pytest.mark.parametrize("isolation", BOTH)
def test_sigkill_of_the_agent_leaves_nothing(stand_ins: StandIns, isolation: Isolation, tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-{isolation.value}-sigkill"
    stand_ins.python("freezes", FORKS_AND_FREEZES)
    program = (
        "import asyncio, pathlib; from probes.tools import *\n"
        f"tools = Tools({stand_ins.path!r}, pathlib.Path('/proc'), Isolation.{isolation.name})\n"
        f"asyncio.run(tools.run('freezes', {mark!r}, timeout_s=60, environment={{'PIDS': {str(tmp_path / 'p')!r}}}))\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 10
    while len(marked(mark)) <= 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 2
    while marked(mark):
        assert time.monotonic() < deadline, "load processes outlived the agent by two seconds"
        time.sleep(0.02)


@pytest.mark.parametrize("isolation", BOTH)
async def test_a_daemon_that_a_tool_leaves_behind_is_ended(stand_ins: StandIns, isolation: Isolation) -> None:
    mark = f"mark-{os.getpid()}-{isolation.value}-daemon"
    stand_ins.python(
        "daemonises", "import time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nprint('done')\n"
    )
    result = await stand_ins.tools(isolation).run("daemonises", mark, timeout_s=20)
    assert result.stdout == "done\n"
    assert marked(mark) == []


@pytest.mark.parametrize("isolation", BOTH)
async def test_a_tool_that_a_busy_machine_is_slow_to_end_is_not_called_unkillable(
    stand_ins: StandIns, isolation: Isolation
) -> None:
    stand_ins.python("sleeper", "import time; time.sleep(300)")
    tools = stand_ins.tools(isolation)
    mine = {one.pid for one in psutil.Process().children()}
    async with tools.start("sleeper"):
        [init] = [one for one in psutil.Process().children() if one.pid not in mine]
        # Stopped it cannot act, as if it got no processor; and it does not sleep in the kernel.
        init.suspend()
        asyncio.get_running_loop().call_later(KILL_WAIT_S + 0.5, init.resume)
    assert await tools.take_unkillable() == []


@pytest.mark.parametrize("isolation", BOTH)
async def test_stop_asks_before_it_kills(stand_ins: StandIns, isolation: Isolation) -> None:
    stand_ins.python(
        "polite",
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\ntime.sleep(60)\n",
    )
    async with stand_ins.tools(isolation).start("polite") as process:
        assert await process.stdout.readline() == b"ready\n"
        ended = await process.stop()
    assert ended.exit_code == 7


async def test_output_is_capped_but_read_to_its_end(stand_ins: StandIns) -> None:
    stand_ins.python("floods", "for _ in range(12): sys.stdout.write('x' * 2**20)\n")
    result = await stand_ins.tools().run("floods", timeout_s=30)
    assert result.truncated
    assert len(result.stdout) == 8 * 2**20


async def test_lines_arrive_while_the_tool_runs(stand_ins: StandIns) -> None:
    stand_ins.python("talks", "sys.stdout.write('10%\\r20%\\r\\nlast')\n")
    lines: list[str] = []
    await stand_ins.tools().run("talks", timeout_s=20, on_line=lines.append)
    assert lines == ["10%", "20%", "last"]


async def test_standard_input_is_fed(stand_ins: StandIns) -> None:
    result = await stand_ins.tools().run("cat", timeout_s=20, stdin=b"seen")
    assert result.stdout == "seen"


@pytest.mark.parametrize("isolation", BOTH)
async def test_a_load_is_niced_first_to_be_killed_and_limited(stand_ins: StandIns, isolation: Isolation) -> None:
    stand_ins.python(
        "load",
        "import resource\nprint(os.nice(0), open('/proc/self/oom_score_adj').read().strip(),"
        " resource.getrlimit(resource.RLIMIT_AS)[0])\n",
    )
    result = await stand_ins.tools(isolation).run("load", timeout_s=20, load=True, memory_bytes=2**30)
    assert result.stdout.split() == ["10", "1000", str(2**30)]


async def test_a_descriptor_is_lent(stand_ins: StandIns, tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("contents")
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    try:
        result = await stand_ins.tools().run("cat", f"/proc/self/fd/{fd}", timeout_s=20, pass_fds=(fd,))
    finally:
        os.close(fd)
    assert result.stdout == "contents"


async def test_secrets_in_the_environment_do_not_reach_a_tool(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VETTING_TOKEN", "s3cret")
    result = await stand_ins.tools().run("env", timeout_s=20)
    assert "s3cret" not in result.stdout
    assert "LC_ALL=C.UTF-8" in result.stdout


async def test_every_run_is_recorded(stand_ins: StandIns, tmp_path: Path) -> None:
    stand_ins.says("smartctl", "{}", stderr="warned", exit_code=4)
    tools = stand_ins.tools().recording(tmp_path / "tools")
    await tools.run("smartctl", "--json", timeout_s=20, accept=None)
    with pytest.raises(ToolMissing):
        await tools.run("no-such-tool", timeout_s=20)
    facts = json.loads((tmp_path / "tools" / "001-smartctl.json").read_text())
    assert facts["argv"] == ["smartctl", "--json"]
    assert facts["exit_code"] == 4
    assert (tmp_path / "tools" / "001-smartctl.out").read_text() == "{}"
    assert (tmp_path / "tools" / "001-smartctl.err").read_text() == "warned"


async def test_no_descriptor_is_leaked(stand_ins: StandIns) -> None:
    tools = stand_ins.tools()
    await tools.run("true", timeout_s=20)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await tools.run("true", timeout_s=20)
        with pytest.raises(ToolTimeout):
            await tools.run("sleep", "60", timeout_s=0.2)
        with pytest.raises(ToolMissing):
            await tools.run("no-such-tool", timeout_s=20)
    await asyncio.sleep(0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_isolation_without_the_programs_for_it_falls_back_to_a_group(tmp_path: Path) -> None:
    assert Isolation.best(str(tmp_path)) is Isolation.GROUP


@pytest.mark.root
def test_isolation_of_root_is_a_namespace() -> None:
    assert Isolation.best(os.environ["PATH"]) is Isolation.NAMESPACE


def test_tools_are_found_on_the_path_the_agent_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = Tools.of_environment(REAL_PROC)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert tools.find("true") is None


def test_signals_are_named() -> None:
    assert signal_name(signal.SIGSEGV) == "SIGSEGV"
    assert signal_name(99) == "signal 99"


async def _unkillable_for_now(tools: Tools) -> psutil.Process:
    """The init of a tool that did not go in time."""
    try:
        async with tools.start("sleep", "1234.5"):
            alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
            (init,) = [one for one in alive if "1234.5" in one.cmdline()]
            init.suspend()
    except ToolUnkillable:
        return init
    raise AssertionError("it went")


@pytest.mark.parametrize("thaws", [True, False])
async def test_what_goes_late_after_its_kill_is_no_survivor(thaws: bool) -> None:
    """A stopped init does not kill its tool; on a machine that is slow enough, none does in time."""
    tools = Tools(path=os.environ["PATH"], proc=REAL_PROC, isolation=Isolation.GROUP)
    init = await _unkillable_for_now(tools)
    if thaws:
        asyncio.get_running_loop().call_later(0.3, init.resume)
    try:
        assert await tools.recording(Path()).take_unkillable() == [], "a stage is not charged with what others left"
        assert await tools.take_unkillable(10.0 if thaws else 0.3) == ([] if thaws else ["sleep"])
        assert await tools.take_unkillable() == []
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            init.resume()
        await until(lambda: not init.is_running())

"""CPUs that are slow or run other microcode, as the real tools and recorded machines show them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from probes import cpu
from stages import cpu_speed
from stages.outcome import Finding, ReasonCode, Severity
from tests.support.detection import detects, spares
from tests.support.replay import host_in
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns
from tests.support.trees import copy_of

STOLEN_ON_CPU_1 = """
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
static void *burn(void *nothing) { for (volatile long n = 0;; n++); return nothing; }
static void in_child(void) {
  cpu_set_t may;
  pthread_t thread;
  sched_getaffinity(0, sizeof may, &may);
  if (CPU_COUNT(&may) == 1 && CPU_ISSET(1, &may))
    for (int number = 0; number < 3; number++) pthread_create(&thread, 0, burn, 0);
}
__attribute__((constructor)) static void begin(void) { pthread_atfork(0, 0, in_child); }
"""


@detects(ReasonCode.CPU_SLOW, "real stress-ng, of whose time on CPU 1 a library takes three quarters away: a warning")
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to build the fault")
@pytest.mark.skipif(not os.sched_getaffinity(0) >= {0, 1}, reason="needs CPUs 0 and 1")
async def test_a_cpu_whose_time_is_stolen_is_slow(tmp_path: Path, stand_ins: StandIns) -> None:
    """As by firmware that keeps interrupting it: the CPU is busy, and gets little done."""
    (tmp_path / "stolen.c").write_text(STOLEN_ON_CPU_1)
    library = tmp_path / "stolen.so"
    argv = ["cc", "-shared", "-fPIC", "-pthread", "-o", str(library), str(tmp_path / "stolen.c")]
    await asyncio.to_thread(subprocess.run, argv, check=True)
    real = shutil.which("stress-ng")
    stand_ins.python(
        "stress-ng",
        f"os.environ['LD_PRELOAD'] = {str(library)!r}\nos.execv({real!r}, ['stress-ng', *sys.argv[1:]])\n",
    )
    (tmp_path / "root").mkdir()
    context, _ = stage_context(tmp_path / "evidence", host_in(tmp_path / "root").with_tools(stand_ins.tools()))
    context.evidence.mkdir(exist_ok=True)
    speeds, slow = await cpu_speed.measure(context, (0, 1), 0.8)
    assert speeds.keys() == {0, 1}
    (finding,) = cpu_speed.findings(speeds, slow, 0.8)
    assert (finding.reason_code, finding.severity, finding.component) == (
        ReasonCode.CPU_SLOW,
        Severity.WARNING,
        "cpu:1",
    )


async def _microcode(root: Path) -> list[Finding]:
    return cpu_speed.microcode_findings(await cpu.places(host_in(root)))


@detects(ReasonCode.MICROCODE_MISMATCH, "recorded GPU node, edited: its last CPU runs older microcode: a warning")
@spares(ReasonCode.MICROCODE_MISMATCH, "recorded GPU node, all of whose CPUs run one microcode")
async def test_a_cpu_with_older_microcode(tmp_path: Path) -> None:
    root = copy_of("gpu-node-h100", tmp_path)
    assert await _microcode(root) == []
    cpuinfo = root / "proc/cpuinfo"
    head, _, tail = cpuinfo.read_text().rpartition("microcode\t: ")
    assert head
    cpuinfo.write_text(f"{head}microcode\t: 0x1\n{tail.partition(chr(10))[2]}")
    (finding,) = await _microcode(root)
    last = max(await cpu.places(host_in(root)))
    assert (finding.reason_code, finding.severity, finding.component) == (
        ReasonCode.MICROCODE_MISMATCH,
        Severity.WARNING,
        f"cpu:{last}",
    )

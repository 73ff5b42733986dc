"""OpenDCDiag, played by stand-ins in the forms that its own tests hold it to: it is installed nowhere here."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.host import Host
from stages.cpu_opendcdiag import DcdiagReading, findings, run
from stages.outcome import Finding, Outcome, ReasonCode, Verdict
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

HEADER = "command-line: 'opendcdiag -Y'\nversion: 0.1\ntests:\n"
PASS = HEADER + "- test: zstd1\n  result: pass\n- test: amx\n  result: skip\nexit: pass\n"
FAIL = HEADER + "- test: zstd1\n  result: pass\n- test: eigen_gemm_float\n  result: fail\nexit: fail\n"


async def said(tmp_path: Path, stand_ins: StandIns) -> tuple[DcdiagReading, list[Finding]]:
    context, _ = stage_context(tmp_path / "evidence", Host(tools=stand_ins.tools()))
    reading = await run(context, 2.0)
    return reading, list(findings(reading))


async def test_a_pass(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("opendcdiag", PASS)
    reading, found = await said(tmp_path, only_stand_ins)
    assert found == []
    assert reading.passed == 1
    (call,) = only_stand_ins.calls("opendcdiag")
    assert call[1:4] == ["-T", "2s", "--strict-runtime"]


async def test_a_failed_test_fails_and_is_named(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("opendcdiag", FAIL, exit_code=1)
    _, (finding,) = await said(tmp_path, only_stand_ins)
    assert (finding.reason_code, finding.component) == (ReasonCode.CPU_MISCOMPUTE, "cpu")
    assert "eigen_gemm_float" in finding.message


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(0)\n",
        "print('exit: pass')\n",
        f"print({PASS!r}); sys.exit(2)\n",
        f"print({PASS.replace('exit: pass', 'exit: invalid')!r}); sys.exit(2)\n",
        f"print({PASS.replace('exit: pass', '')!r})\n",
        "os.kill(os.getpid(), 11)\n",
        "sys.exit(64)\n",
    ],
)
async def test_anything_else_is_unknown(body: str, tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.python("opendcdiag", body)
    _, found = await said(tmp_path, only_stand_ins)
    assert Outcome("", tuple(found)).verdict is Verdict.UNKNOWN

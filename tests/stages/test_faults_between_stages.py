"""Faults that arise in a recorded machine between two stages, when nobody looks: they are charged to the next one.

Not so after a hold, in which people work at the machine; and never to two stages.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from probes.counters import Counters
from stages.deltas_between import going_on
from stages.outcome import Outcome, ReasonCode
from stages.runner import StageRun
from stages.stage import StageContext
from tests.stages.test_faults_in_a_stage import DIMMS, FATAL_LINE, OLD_LINE, Fault, counts, line, logs, root, serious
from tests.stages.test_runner import Options, stage
from tests.support.detection import detects, spares
from tests.support.replay import host_in
from tests.support.stage_context import stage_context

__all__ = ["root"]  # a fixture
PORT, MAC = "sys/class/net/eth0", "52:54:00:7e:70:99"


def unplugged(root: Path) -> None:
    """A network port is gone from its bus."""
    shutil.rmtree(root / PORT)


async def passing(
    root: Path, evidence: Path, last: Counters | None, *, after_repair: bool = False
) -> tuple[Counters | None, Outcome]:
    """A stage in which nothing happens: the counters at its end, and its outcome."""

    async def run(context: StageContext, options: Options) -> Outcome:
        return Outcome("all is well")

    context, _ = stage_context(evidence, host_in(root))
    subject = StageRun(stage(run), None, context, last=last, after_repair=after_repair)
    outcome = await subject.run()
    return subject.last, outcome


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(line(OLD_LINE), ReasonCode.MCE_UNCORRECTED, id="mce"),
        pytest.param(counts(f"{DIMMS}/dimm1/dimm_ue_count", "1"), ReasonCode.ECC_UNCORRECTED, id="ecc"),
        pytest.param(line(FATAL_LINE), ReasonCode.PCIE_AER_FATAL, id="aer"),
        pytest.param(logs("Voltage #0x11 | Lower Critical going low"), ReasonCode.BMC_EVENT, id="bmc"),
        pytest.param(
            unplugged,
            ReasonCode.NET_LINK_DOWN,
            marks=[
                detects(
                    ReasonCode.NET_LINK_DOWN, "recorded server whose network port leaves its bus between two stages"
                ),
                spares(ReasonCode.NET_LINK_DOWN, "recorded server whose network port was taken out in a hold"),
            ],
            id="port",
        ),
    ],
)
async def test_a_fault_between_two_stages_is_charged_to_the_next(
    root: Path, tmp_path: Path, fault: Fault, code: ReasonCode
) -> None:
    (root / PORT / "device").mkdir(parents=True)
    (root / PORT / "address").write_text(f"{MAC}\n")
    first, outcome = await passing(root, tmp_path / "1", None)
    assert serious(outcome) == []
    fault(root)
    held, outcome = await passing(root, tmp_path / "2", first, after_repair=True)
    assert serious(outcome) == [], "whoever repairs a machine makes it say much"
    second, outcome = await passing(root, tmp_path / "3", first)
    assert [one.reason_code for one in outcome.errors] == [code]
    for number, last in ((4, second), (5, held)):
        _, outcome = await passing(root, tmp_path / str(number), last)
        assert serious(outcome) == [], "it was charged to the stage before, or to nobody"


def test_a_reading_that_could_not_be_had_is_no_place_to_go_on_from() -> None:
    now = Counters(uptime_s=9.0, mce_exceptions=4, nic_macs={"eth0": "b"})
    assert going_on(Counters(unreadable=("hangs",)), now) == now
    partly = Counters(uptime_s=3.0, mce_exceptions=1, nic_macs={"eth0": "a"}, unreadable=("the kernel log",))
    assert going_on(partly, now).mce_exceptions == 4
    assert going_on(partly, now).nic_macs == {"eth0 (a)": "a", "eth0": "b"}

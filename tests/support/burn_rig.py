"""A machine whose CUDA driver plays a script, for tests of the burn: the children are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from probes.host import Host
from stages.gpu_burn import Burned, BurnPlan, Target, burn
from stages.gpu_burn_judge import Judged, judge_burn
from stages.outcome import Finding, ReasonCode, Severity
from tests.support import cuda_driver
from tests.support.stage_context import Remembering, stage_context

SECONDS = 0.05
SILENCE_S = 60.0


class Rig:
    """A machine whose CUDA driver plays a script."""

    def __init__(self, host: Host, library: Path, cubins: Path, folder: Path) -> None:
        self.host, self.library, self.cubins, self.folder = host, library, cubins, folder
        self.listener = Remembering()

    async def burn(self, *gpus: Mapping[str, str], plan: BurnPlan | None = None, **top: str) -> tuple[Burned, ...]:
        cuda_driver.script(self.library, *gpus, **top)
        context, self.listener = stage_context(self.folder / "evidence", self.host)
        targets = [Target(cuda_driver.pci_of(number), cuda_driver.uuid_of(number)) for number in range(len(gpus))]
        return await burn(context, targets, plan or self.plan())

    def plan(self, silence_s: float = SILENCE_S, **extra: object) -> BurnPlan:
        return BurnPlan(SECONDS, silence_s, folders=(str(self.cubins),), extra={"size": 256, **extra})

    async def judged(self, *gpus: Mapping[str, str], plan: BurnPlan | None = None, **top: str) -> Judged:
        return self.judge(await self.burn(*gpus, plan=plan, **top), len(gpus))

    def judge(self, said: Sequence[Burned], count: int = 0) -> Judged:
        """`count` GPUs; 0: those of which something was said."""
        numbers = range(count or len({one.pci for one in said}))
        return judge_burn(said, {cuda_driver.pci_of(one): cuda_driver.uuid_of(one) for one in numbers}, 0.9)

    async def findings(self, *gpus: Mapping[str, str], plan: BurnPlan | None = None, **top: str) -> list[Finding]:
        return list((await self.judged(*gpus, plan=plan, **top)).findings)


def built(folder: Path, host: Host, config: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Rig:
    library = cuda_driver.install(folder / "driver", cuda_driver.built(config))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    return Rig(host, library, cuda_driver.cubins(config), folder)


def codes(findings: list[Finding]) -> set[tuple[ReasonCode, str]]:
    return {(one.reason_code, one.component) for one in findings if one.severity is Severity.ERROR}


GPU_0 = f"gpu:{cuda_driver.uuid_of(0)}"
GPU_1 = f"gpu:{cuda_driver.uuid_of(1)}"

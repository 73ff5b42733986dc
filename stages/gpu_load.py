"""The burn beside the sampling of a GPU stage: begun with the first sample, which tells which GPUs there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from probes.nvml import NvmlSample
from stages.gpu_burn import Burned, BurnPlan, Target, burn
from stages.gpu_burn_judge import Judged
from stages.outcome import Finding, ReasonCode, Severity
from stages.stage import StageContext


class Load:
    """The burn of one execution. `begin` with every sample; the first one counts."""

    def __init__(self, context: StageContext, plan: BurnPlan | None, addresses: Collection[str]) -> None:
        """plan: None puts no load on any GPU. addresses: the GPUs that PCI shows."""
        self._context, self._plan, self._addresses = context, plan, addresses
        self._task: asyncio.Task[tuple[Burned, ...]] | None = None
        self.targets: tuple[Target, ...] = ()

    def begin(self, sample: NvmlSample) -> None:
        if self._task is not None or self._plan is None:
            return
        self.targets = tuple(Target(gpu.pci, gpu.uuid) for gpu in sample.gpus if gpu.pci in self._addresses)
        if self.targets:
            self._context.plan.set(self._plan.planned_s(len(self.targets)))
            self._task = asyncio.ensure_future(burn(self._context, self.targets, self._plan))

    @property
    def goes_on(self) -> bool:
        return self._task is not None and not self._task.done()

    async def finished(self) -> tuple[Burned, ...]:
        """What the children said, once all is over. Raises what the burn raised."""
        return () if self._task is None else await self._task

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def beside(context: StageContext, plan: BurnPlan | None, addresses: Collection[str]) -> AsyncIterator[Load]:
    """A load that is over when the block is left."""
    load = Load(context, plan, addresses)
    try:
        yield load
    finally:
        await load.end()


def merged(health: Sequence[Finding], burned: Judged) -> list[Finding]:
    """The findings of both. Of a GPU that the burn spoke of, its word on whether it was loaded counts; and that one
    was not loaded is said only of a GPU against which nothing else speaks."""
    not_loaded = ReasonCode.GPU_NOT_LOADED
    facts = [one for one in health if not (_is_unloaded(one) and one.component in burned.components)]
    faulty = {
        one.component
        for one in (*facts, *burned.findings)
        if one.severity is Severity.ERROR and one.reason_code is not not_loaded
    }
    return facts + [one for one in burned.findings if one.reason_code is not not_loaded or one.component not in faulty]


def _is_unloaded(finding: Finding) -> bool:
    return finding.reason_code is ReasonCode.GPU_NOT_LOADED and finding.severity is Severity.ERROR

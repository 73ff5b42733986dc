"""What a GPU's PCIe path, its NVLinks and the fabric between them say. Readings in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probes.nvml import GpuFacts, NvLink
from stages.gpu_case import Case, sustained
from stages.outcome import Finding, ReasonCode, error, warning

GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
NOT_STARTED, IN_PROGRESS, COMPLETED = 1, 2, 3
# What is wrong by the fabric's health mask: (shift, mask, values that are bad, words).
UNHEALTHY = (
    (0, 0x3, (1,), "its bandwidth is degraded"),
    (4, 0x3, (1,), "a route is unhealthy"),
    (8, 0xF, range(2, 16), "its configuration is wrong"),
)


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins the GPUs of a machine. `manager_runs` is None where the processes could not be looked at."""

    switches: tuple[str, ...] = ()
    """PCI addresses of the NVSwitches."""
    manager_runs: bool | None = None

    def joins(self, gpu: GpuFacts) -> bool:
        """Whether switches join this GPU to the others. Without their manager its links stay dark, through no fault."""
        return bool(self.switches) and (self.manager_runs is True or _fabric(gpu)[0] == COMPLETED)


def judge_pcie(case: Case) -> Iterator[Finding]:
    """The link of the GPU itself: width always, speed under load (an idle one saves power)."""
    able = _least(case.amount("pcie_width_max"), case.path.max_width)
    widths = case.all("pcie_width")
    width = min(widths[-1], sustained(widths) or widths[-1]) if widths else None
    if width is not None and able is not None and width < able:
        text = f"its PCIe link runs at x{width:.0f}, GPU and slot can do x{able:.0f}"
        yield case.error(ReasonCode.GPU_PCIE_DEGRADED, text)
    generation = sustained(case.loaded("pcie_generation"))
    able = _least(case.amount("pcie_generation_max"), GENERATIONS.get(case.path.max_speed_gts or 0.0))
    if generation is not None and able is not None and generation < able:
        text = f"its PCIe link ran at generation {generation:.0f} under load, GPU and slot can do {able:.0f}"
        yield case.error(ReasonCode.GPU_PCIE_DEGRADED, text)
    yield from _replays(case)


def _replays(case: Case) -> Iterator[Finding]:
    gained, limit = case.gained("pcie_replays"), case.limits.pcie_replays_per_minute
    if gained is not None and gained > limit * max(1.0, case.seconds / 60):
        text = f"{gained:.0f} PCIe packets had to be sent again during the stage, {limit:.0f} a minute are ordinary"
        yield case.warning(ReasonCode.GPU_PCIE_DEGRADED, text)


def judge_nvlink(case: Case) -> Iterator[Finding]:
    links = case.gpu.nvlinks
    unread = [str(link.number) for link in links if link.active is None]
    if unread:
        yield case.error(ReasonCode.PROBE_ERROR, f"the state of NVLink {', '.join(unread)} could not be read")
    yield from _dark(case, links)
    before = {link.number: link for link in next((one.nvlinks for one in case.history if one.nvlinks), ())}
    for link in links:
        yield from _counted(case, before.get(link.number, link), link)


def _dark(case: Case, links: Sequence[NvLink]) -> Iterator[Finding]:
    dark = [str(link.number) for link in links if link.active is False]
    must = case.limits.nvlink_expected or case.switched
    was_active = any(link.active for one in case.history for link in one.nvlinks)
    if dark and (was_active or must):
        yield case.error(ReasonCode.GPU_NVLINK, f"NVLink {', '.join(dark)} inactive, of {len(links)}")
    elif dark:
        text = f"none of its {len(links)} NVLinks is active; sound where no bridge or switch joins them"
        yield case.info(ReasonCode.GPU_NVLINK, text)
    elif must and not links and any("temperature" in one.values for one in case.history):
        yield case.error(ReasonCode.GPU_NVLINK, "the driver shows none of its NVLinks, and they are expected")


def _counted(case: Case, before: NvLink, now: NvLink) -> Iterator[Finding]:
    for fact, words in (("crc_errors", "CRC errors"), ("failed_recoveries", "failed recoveries")):
        if (new := _gain(before, now, fact)) > 0:
            yield case.error(ReasonCode.GPU_NVLINK, f"{new} new {words} on NVLink {now.number} during the stage")
    if (new := _gain(before, now, "recoveries")) > 0:
        yield case.error(ReasonCode.GPU_NVLINK, f"NVLink {now.number} had to recover {new} times during the stage")
    for fact, words in (("replays", "replays"), ("effective_errors", "errors after its correction")):
        if (new := _gain(before, now, fact)) > 0:
            yield case.warning(ReasonCode.GPU_NVLINK, f"{new} new {words} on NVLink {now.number} during the stage")


def _gain(before: NvLink, now: NvLink, counter: str) -> int:
    first, last = getattr(before, counter), getattr(now, counter)
    return 0 if last is None else int(last - (first or 0))


def judge_fabric(gpus: Sequence[GpuFacts], fabric: Fabric) -> Iterator[Finding]:
    """Whether the GPUs that NVSwitches join have found each other: without it no program can use them."""
    waiting = [gpu for gpu in gpus if (told := _fabric(gpu)) and told[0] in {NOT_STARTED, IN_PROGRESS}]
    if waiting:
        state = "in progress" if any(_fabric(gpu)[0] == IN_PROGRESS for gpu in waiting) else "not started"
        text = f"{len(waiting)} of {len(gpus)} GPUs have not joined the NVLink fabric (registration {state})"
        # Without a switch in sight this may be a machine that needs no fabric: its load will tell.
        raise_it = error if fabric.switches else warning
        yield raise_it(ReasonCode.GPU_FABRIC, "gpu", f"{text}: {_manager(fabric)}", _places(fabric))
    elif fabric.switches and fabric.manager_runs is False and not any(_fabric(gpu)[0] == COMPLETED for gpu in gpus):
        text = f"{len(fabric.switches)} NVSwitches join the GPUs of this machine: {_manager(fabric)}"
        yield error(ReasonCode.GPU_FABRIC, "gpu", text, _places(fabric))


def judge_membership(case: Case) -> Iterator[Finding]:
    """What the fabric says of one GPU that has joined it."""
    state, status, health = _fabric(case.gpu)
    if state != COMPLETED:
        return
    if status:
        yield case.error(ReasonCode.GPU_NVLINK, f"it could not join the NVLink fabric (NVML status {status})")
    for shift, mask, bad, words in UNHEALTHY:
        if (health >> shift) & mask in bad:
            yield case.error(ReasonCode.GPU_NVLINK, f"the NVLink fabric is not healthy: {words}", f"mask {health:#x}")


def _fabric(gpu: GpuFacts) -> tuple[int, int, int]:
    """(state, status, health mask); zeros where there is none."""
    value = gpu.values.get("fabric")
    if not isinstance(value, list) or len(value) != 3 or not all(type(part) is int and part >= 0 for part in value):
        return 0, 0, 0
    return value[0], value[1], value[2]


def _manager(fabric: Fabric) -> str:
    return {
        True: "NVIDIA's Fabric Manager (nv-fabricmanager) runs, and has not brought it about",
        False: "NVIDIA's Fabric Manager (nv-fabricmanager) is not running",
        None: "whether NVIDIA's Fabric Manager (nv-fabricmanager) runs could not be read",
    }[fabric.manager_runs]


def _places(fabric: Fabric) -> str:
    return f"NVSwitches: {', '.join(fabric.switches)}" if fabric.switches else ""


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value), default=None)

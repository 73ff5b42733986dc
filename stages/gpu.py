"""GPU: every compute GPU that PCI shows is driven, what NVML says of its health is sound, and its work is right.

The health facts alone prove nothing: they are read while a load runs whose every result is checked (`stages.gpu_burn`),
and a GPU without fault ends as `gpu_not_loaded` where that load could not be run on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from probes import amd_gpus, dcgm, gpus, pci
from probes.apart import apart
from probes.dcgm import DcgmHealth
from probes.notes import Notes
from probes.nvml import NVML_LIMIT_S, GpuFacts, NvmlSample, NvmlUnusable, sample_nvml
from probes.pci import PciDevice
from probes.tools import ToolError, ToolMissing
from stages import gpu_amd_judge, gpu_burn_judge, gpu_case, gpu_dcgm_judge, gpu_hops, gpu_judge, gpu_load
from stages.gpu_burn import Burned, BurnPlan, Target
from stages.gpu_case import Limits, Path
from stages.gpu_links_judge import Fabric
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import Stage, StageContext

MOST_SAMPLES = 600
"""What a long stage is sampled in: what the reader prints has to fit into what is kept of a tool's output."""
SAMPLES_MORE = 5
"""Of a further reader, where the load goes on after those that were planned."""
FAILURES = {
    "hung": ReasonCode.GPU_HUNG,
    "no_library": ReasonCode.GPU_DRIVER_MISSING,
    "no_driver": ReasonCode.GPU_DRIVER_MISSING,
    "init": ReasonCode.GPU_DRIVER_MISSING,
    "no_module": ReasonCode.TOOL_MISSING,
    "crashed": ReasonCode.TOOL_FAILED,
    "unreadable": ReasonCode.OUTPUT_UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class Options:
    duration_s: float = field(default=10.0, metadata={"minimum": 0, "maximum": 86_400})
    """How long the GPUs are loaded and sampled."""
    load: bool = True
    """False: only the health facts are read, and every GPU ends as not loaded."""
    cublas: bool = True
    """Where the site has NVIDIA's cuBLAS, the GPUs are loaded with it too, for 8 % of the time. It gives no verdict."""
    dcgm: bool = True
    """Where the site has NVIDIA's DCGM (`dcgmi`), it is asked after the load what it saw. It gives warnings at most."""
    memory_coverage_floor: float = field(default=0.9, metadata={"minimum": 0, "maximum": 1})
    """The part of a GPU's free memory that has to be tested."""
    silence_s: float = field(default=60.0, metadata={"minimum": 0.1, "maximum": 3600})
    """How long nothing may come from the load of a GPU before it counts as hung."""
    interval_s: float = field(default=2.0, metadata={"minimum": 0.05, "maximum": 60})
    expected_count: int | None = field(default=None, metadata={"minimum": 0})
    """How many compute GPUs this host has to have; None: as many as there are."""
    retired_pages_limit: int = field(default=63, metadata={"minimum": 1})
    throttled_percent: float = field(default=5.0, metadata={"minimum": 0, "maximum": 100})
    nvlink_expected: bool = False
    """True: a GPU whose NVLinks are all inactive fails. By itself that can be a card without a bridge."""
    answer_limit_s: float = field(default=NVML_LIMIT_S, metadata={"minimum": 0.1, "maximum": 600})
    """How long the driver may be silent beside the interval before it counts as hung."""
    pcie_replays_per_minute: float = field(default=8.0, metadata={"minimum": 0})

    @property
    def samples(self) -> int:
        """Never less than two: throttle time is a difference."""
        return min(MOST_SAMPLES, max(2, 1 + round(self.duration_s / self.interval_s)))

    @property
    def every_s(self) -> float:
        """From one sample to the next."""
        return max(self.interval_s, self.duration_s / (MOST_SAMPLES - 1))


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was read. `failure` is set when NVML did not tell all that it was asked; `samples` are what it told."""

    devices: tuple[PciDevice, ...]
    """Compute GPUs on PCI."""
    pci_readable: bool = True
    """False: there was no way to look for GPUs."""
    paths: tuple[Path, ...] = ()
    samples: tuple[NvmlSample, ...] = ()
    failure: Finding | None = None
    failed_at: str | None = None
    """PCI address of the GPU that the driver was asked of when it failed; None: of all, or not known."""
    ports: tuple[PciDevice, ...] = ()
    """The GPUs and the ports on the way to them, each with its link at its best while the stage ran."""
    fabric: Fabric = field(default_factory=Fabric)
    amd: tuple[GpuFacts, ...] = ()
    """What the amdgpu driver said of AMD's GPUs."""
    amd_problems: tuple[Finding, ...] = ()
    targets: tuple[Target, ...] = ()
    """The GPUs on which the load was to be run."""
    burned: tuple[Burned, ...] = ()
    dcgm: DcgmHealth | None = None
    """What DCGM said after the load; None where it is not installed, or was not asked."""
    dcgm_problem: Finding | None = None


def planned_s(options: Options) -> float:
    """Without GPUs; the load says how long it takes once it is known how many there are."""
    return (options.samples - 1) * options.every_s + 10.0


async def run(context: StageContext, options: Options) -> Readings:
    """Look at PCI, load the GPUs and sample NVML beside it."""
    notes = Notes()
    if not context.host.sys("bus").is_dir():
        return Readings((), pci_readable=False)
    everything = await pci.collect(context.host, notes)
    # One whose class could not be read may be a GPU: it must not be passed over.
    devices = tuple(device for device in everything if gpus.is_compute(device) or device.class_id is None)
    paths = tuple(gpu_case.path_of(device, everything) for device in devices)
    context.info(f"GPU: {len(devices)} compute GPUs on PCI")
    reading = Readings(devices, paths=paths)
    async with gpu_hops.watching(context.host, gpu_hops.on_the_way(devices, everything)) as ports:
        if any(device.vendor_id == gpus.NVIDIA for device in devices):
            reading = replace(await _sampled(context, options, reading), fabric=await _fabric(context, everything))
            reading = await _with_dcgm(context, options, reading)
        if any(device.vendor_id == gpus.AMD for device in devices):
            reading = await _with_amd(context, options, reading)
        return replace(reading, ports=ports())


async def _fabric(context: StageContext, everything: Sequence[PciDevice]) -> Fabric:
    switches = tuple(device.address for device in everything if gpus.is_nvswitch(device))
    return Fabric(switches, await apart(lambda: gpus.fabric_manager_runs(context.host), "processes"))


async def _with_dcgm(context: StageContext, options: Options, reading: Readings) -> Readings:
    """After the load, when DCGM has seen it; not where the driver has failed, which holds DCGM up as well."""
    if not options.dcgm or reading.failure is not None:
        return reading
    try:
        return replace(reading, dcgm=await dcgm.read(context.host, options.answer_limit_s))
    except ToolError as problem:
        return replace(reading, dcgm_problem=gpu_dcgm_judge.unhelpful(problem))


async def _with_amd(context: StageContext, options: Options, reading: Readings) -> Readings:
    addresses = [device.address for device in reading.devices if device.vendor_id == gpus.AMD]
    told = await amd_gpus.read(context.host, addresses, options.answer_limit_s)
    return replace(reading, amd=told.gpus, amd_problems=tuple(tool_finding(one, "gpu") for one in told.problems))


async def _sampled(context: StageContext, options: Options, reading: Readings) -> Readings:
    plan = BurnPlan(options.duration_s, options.silence_s, cublas=options.cublas) if options.load else None
    samples: list[NvmlSample] = []
    async with gpu_load.beside(context, plan, [device.address for device in _nvidia(reading)]) as load:
        try:
            await _sample(context, options, load, samples)
            burned = await load.finished()
            if any(one.results for one in burned):  # what the load has left behind
                samples += await sample_nvml(context.host, limit_s=options.answer_limit_s)
        except NvmlUnusable as problem:
            code = FAILURES.get(problem.kind, ReasonCode.TOOL_FAILED)
            failure, seen = error(code, "gpu", _sentence(problem)), (*samples, *problem.seen)
            return replace(reading, samples=seen, failure=failure, failed_at=problem.asked)
        except ToolMissing as problem:
            return replace(reading, failure=tool_finding(problem, "gpu"))
        return replace(reading, samples=tuple(samples), targets=load.targets, burned=burned)


async def _sample(context: StageContext, options: Options, load: gpu_load.Load, samples: list[NvmlSample]) -> None:
    """Adds to `samples` until the load is over, which takes longer the more GPUs there are."""
    taken = 0

    def on_sample(sample: NvmlSample) -> None:
        nonlocal taken
        taken += 1
        load.begin(sample)
        left = max(0, options.samples - taken)
        context.progress(min(1.0, taken / options.samples), left * options.every_s)
        for gpu in sample.gpus:
            if taken == 1:
                context.info(f"GPU {gpu.pci}: {gpu.text('name') or 'no name'}, {gpu_case.settings(gpu)}")
            for name, unit in (("temperature", "C"), ("memory_temperature", "C"), ("power", "W"), ("clock", "MHz")):
                value = gpu.amount(name)
                if value is not None:
                    context.sample(name, f"gpu:{gpu.uuid or gpu.pci}", value, unit)

    count = options.samples
    while count:
        samples += await sample_nvml(
            context.host,
            samples=count,
            interval_s=options.every_s,
            limit_s=options.answer_limit_s,
            on_sample=on_sample,
        )
        count = SAMPLES_MORE if load.goes_on else 0


def _sentence(problem: NvmlUnusable) -> str:
    before = {
        "no_library": "No NVIDIA driver is installed (libnvidia-ml.so.1 was not found)",
        "no_driver": "The NVIDIA driver is installed but not loaded",
        "init": "The NVIDIA driver could not be started",
        "hung": "The GPUs could not be read",
        "no_module": "The GPUs could not be read",
    }.get(problem.kind, "NVML could not be read")
    return f"{before}: {problem}"


def judge(reading: Readings, options: Options) -> Outcome:
    """The outcome of all GPUs together. Pure."""
    if not reading.pci_readable:
        text = "The kernel shows no buses (sysfs is not there), so that GPUs could not be looked for"
        return Outcome(text, (error(ReasonCode.PROBE_ERROR, "gpu", text),))
    findings = [*_counted(reading, options)]
    measurements: list[Measurement] = []
    if reading.failure is not None:
        findings += [_of_one(reading, reading.failure, device) for device in _nvidia(reading)]
    elif not reading.samples:
        missing = error(ReasonCode.OUTPUT_UNREADABLE, "gpu", "there is no reading of its health")
        findings += [_of_one(reading, missing, device) for device in _nvidia(reading)]
    findings += [_other_vendor(device) for device in reading.devices if device.vendor_id not in {gpus.NVIDIA, gpus.AMD}]
    findings += reading.amd_problems
    for device, amd in _amd(reading):
        findings += gpu_amd_judge.judge(device, amd)
        measurements += gpu_amd_judge.measure(device, amd) if amd else ()
    if reading.samples:
        judged = _health(reading, options)
        findings += judged.findings
        measurements += judged.measurements
    findings += _hops(reading)
    if reading.dcgm is not None:
        findings += gpu_dcgm_judge.judge(reading.dcgm)
        measurements += gpu_dcgm_judge.measure(reading.dcgm)
    findings += [reading.dcgm_problem] if reading.dcgm_problem else []
    burned = gpu_burn_judge.judge_burn(
        reading.burned, {target.pci: target.uuid for target in reading.targets}, options.memory_coverage_floor
    )
    findings = gpu_load.merged(findings, burned)
    found = sum(device.class_id is not None for device in reading.devices)
    return Outcome(
        headline=_headline(found, reading),
        findings=tuple(findings),
        measurements=(*measurements, *burned.measurements),
        coverage={**_not_loaded(findings), **burned.coverage},
        tool_versions=_versions(reading),
        hardware_present=bool(found),
    )


def _versions(reading: Readings) -> dict[str, str]:
    driver = {"NVIDIA driver": reading.samples[-1].driver or "not told"} if reading.samples else {}
    libraries = {result.library for one in reading.burned for result in one.results if result.library}
    return {**driver, **({"cuBLAS": ", ".join(sorted(libraries))} if libraries else {})}


def _headline(found: int, reading: Readings) -> str:
    if not found:
        return "No compute GPU here"
    loaded = {one.pci for one in reading.burned if one.results}
    return f"{found} compute GPUs, health facts read, {f'{len(loaded)} loaded' if loaded else 'no load run'}"


def _not_loaded(findings: Sequence[Finding]) -> dict[str, float]:
    return {finding.component: 0.0 for finding in findings if finding.reason_code is ReasonCode.GPU_NOT_LOADED}


def _nvidia(reading: Readings) -> list[PciDevice]:
    return [device for device in reading.devices if device.vendor_id == gpus.NVIDIA]


def _amd(reading: Readings) -> list[tuple[PciDevice, GpuFacts | None]]:
    told = {gpu.pci: gpu for gpu in reading.amd}
    return [(device, told.get(device.address)) for device in reading.devices if device.vendor_id == gpus.AMD]


def _health(reading: Readings, options: Options) -> gpu_judge.Judged:
    limits = Limits(
        options.retired_pages_limit,
        options.throttled_percent,
        nvlink_expected=options.nvlink_expected,
        pcie_replays_per_minute=options.pcie_replays_per_minute,
    )
    cut_short = reading.failure is not None
    paths, samples = reading.paths, reading.samples
    return gpu_judge.judge_gpus(_nvidia(reading), paths, samples, limits, reading.fabric, cut_short=cut_short)


def _hops(reading: Readings) -> list[Finding]:
    """The links on the way to the GPUs; of NVIDIA's GPUs NVML tells their own, the kernel that of AMD's."""
    facts = [*reading.amd, *(gpu for sample in reading.samples for gpu in sample.gpus)]
    busy = frozenset(gpu.pci for gpu in facts if gpu_case.is_busy(gpu))
    amd = [device for device, _ in _amd(reading)]
    above = gpu_hops.lower_ends(_nvidia(reading), reading.ports, busy, own=False)
    below = {**above, **gpu_hops.lower_ends(amd, reading.ports, busy, own=True)}
    return [*gpu_hops.judge(reading.ports, below)]


def _of_one(reading: Readings, failure: Finding, device: PciDevice) -> Finding:
    """What a failure of the driver says of one GPU: all of it where it is that one's, or nobody's in particular."""
    component = f"pci:{device.address}"
    if reading.failed_at not in {None, device.address}:
        text = f"GPU at PCI {device.address}: could not be read to the end: the driver failed at {reading.failed_at}"
        return error(ReasonCode.PROBE_ERROR, component, text, failure.message)
    text = f"GPU at PCI {device.address}: {failure.message}"
    return Finding(failure.reason_code, failure.severity, component, text, failure.evidence)


def _other_vendor(device: PciDevice) -> Finding:
    if device.class_id is None:
        text = f"What is at PCI {device.address} could not be read: it may be a GPU"
        return error(ReasonCode.PROBE_ERROR, f"pci:{device.address}", text)
    name = gpus.VENDOR_NAMES.get(device.vendor_id or "", device.vendor_id or "")
    text = f"{name} GPU at PCI {device.address}: only NVIDIA GPUs can be tested; this one was not"
    return error(ReasonCode.GPU_NOT_LOADED, f"pci:{device.address}", text)


def _counted(reading: Readings, options: Options) -> list[Finding]:
    found, expected = len(reading.devices), options.expected_count
    if expected is None or found >= expected:
        return []
    text = f"{found} compute GPUs on PCI, {expected} are expected"
    return [error(ReasonCode.GPU_MISSING, "gpu", text, ", ".join(device.address for device in reading.devices))]


STAGE: Stage[Options] = Stage(
    name="GPU",
    state="GPU",
    title="GPU health and load",
    options=Options,
    planned_s=planned_s,
    run=run,
    readings=Readings,
    judge=judge,
)

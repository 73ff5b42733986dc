"""What the burn says of each GPU: what its children said in, findings and measurements out. Pure.

A GPU on which a test did not run is `gpu_not_loaded`, whatever the others gave; only what ran is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from stages import gpu_floors
from stages.gpu_burn import Burned, BurnResult
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning

REQUIRED = ("memory", "bf16", "fp32", "fp64", "int8", "copy", "to_host", "from_host", "pulse")
"""All that a GPU has to have done, beside fp8 where it has units for it."""
MAY_LACK = frozenset({"fp8"})
WIDE_OF = {"bf16_wgmma": "bf16", "fp8_wgmma": "fp8"}
TWINS = {**WIDE_OF, "pulse": "bf16"}
"""What gives the same product with another kernel."""
APART = ("peers", "cublas")
"""Phases that are judged by themselves: not of one GPU, or no test of it."""
TRANSFERS = {"to_host": "to the host", "from_host": "from the host"}
ALL_WRONG = 0.5
"""A kernel of which more than this share of the rows is wrong, while another one gives the same product right, does
not fit the GPU or its driver: no defect makes that, and it is not held against the hardware."""
SIBLING_SHARE = 0.8
TRANSFER_SHARE = 0.5
PEER_SHARE = 0.25

NOT_LOADED = {
    "no_library": "the CUDA driver (libcuda.so.1) is not installed",
    "init": "the CUDA driver could not be started",
    "no_device": "CUDA does not show it",
    "sliced": "it is divided",
    "no_kernels": "there are no kernels for it",
}
CODES = {"crashed": ReasonCode.TOOL_FAILED, "unreadable": ReasonCode.OUTPUT_UNREADABLE}
CUDA_CODES = {
    "CUDA_ERROR_ECC_UNCORRECTABLE": ReasonCode.GPU_ECC_UNCORRECTED,
    "CUDA_ERROR_NVLINK_UNCORRECTABLE": ReasonCode.GPU_NVLINK,
    "CUDA_ERROR_LAUNCH_TIMEOUT": ReasonCode.GPU_HUNG,
    "CUDA_ERROR_DEVICE_UNAVAILABLE": ReasonCode.GPU_NOT_LOADED,
    "CUDA_ERROR_OUT_OF_MEMORY": ReasonCode.GPU_NOT_LOADED,
}
"""What the driver's own word for an error says of the GPU. Any other leaves open whose fault it is."""
OF_THE_HARDWARE = ("CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_NVLINK_UNCORRECTABLE")
"""What the driver says of the GPU itself, whoever's program ran on it."""
FABRIC = "CUDA_ERROR_SYSTEM_NOT_READY"


@dataclass(frozen=True, slots=True)
class Judged:
    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]
    coverage: Mapping[str, float]
    components: frozenset[str]
    """All GPUs of which something was said here: loaded, or why not."""


@dataclass(frozen=True, slots=True)
class _Gpu:
    """One GPU: what its children said, the last phase last."""

    component: str
    said: tuple[Burned, ...]

    @property
    def name(self) -> str:
        last = self.said[-1]
        return f"{next((one.name for one in self.said if one.name), '') or 'GPU'} ({last.pci})"

    @property
    def model(self) -> str:
        return next((one.name for one in self.said if one.name), "")

    def results(self, phase: str = "") -> list[BurnResult]:
        return [result for one in self.said if one.phase.startswith(phase) for result in one.results]


def judge_burn(said: Sequence[Burned], uuids: Mapping[str, str | None], coverage_floor: float) -> Judged:
    """All GPUs. `uuids`: as NVML tells them, by PCI address. One named there of which no child spoke is not loaded."""
    gpus = [_gpu(pci, said, uuids) for pci in uuids]
    findings: list[Finding] = []
    measurements: list[Measurement] = []
    coverage: dict[str, float] = {}
    for gpu in gpus:
        findings += _judge(gpu, coverage_floor)
        measurements += _measure(gpu)
        coverage[gpu.component] = _covered(gpu)
    findings += _siblings(gpus)
    for one in said:
        if one.phase == "peers":
            findings += _peers(one, {gpu.said[-1].pci: gpu for gpu in gpus if gpu.said})
            measurements += _peer_measurements(one)
    for gpu in gpus:
        for one in (one for one in said if one.phase == "cublas" and one.pci == gpu.said[-1].pci):
            findings += _cublas(gpu, one)
            measurements += _cublas_measurements(gpu, one)
    return Judged(tuple(findings), tuple(measurements), coverage, frozenset(gpu.component for gpu in gpus))


def _gpu(pci: str, said: Sequence[Burned], uuids: Mapping[str, str | None]) -> _Gpu:
    own = tuple(one for one in said if one.pci == pci and one.phase not in APART)
    uuid = uuids[pci] or next((one.uuid for one in own if one.uuid), None)
    missing = Burned(pci, "together", uuid, failure="crashed", message="nothing was said of it")
    return _Gpu(f"gpu:{uuid or pci}", own or (missing,))


def _judge(gpu: _Gpu, coverage_floor: float) -> Iterator[Finding]:
    failed = [one for one in gpu.said if one.failure]
    for one in failed[:1]:
        yield _failure(gpu, one)
    yield from _wrong(gpu)
    if not failed:
        yield from _missing(gpu)
        yield from _uncovered(gpu, coverage_floor)
    yield from _slow(gpu)


def _failure(gpu: _Gpu, one: Burned) -> Finding:
    during = f" during {one.test}" if one.test and one.test != "start" else ""
    if one.failure == "hung":
        return error(ReasonCode.GPU_HUNG, gpu.component, f"{gpu.name} hangs{during}: {one.message}")
    if one.failure == "cuda":
        code = CUDA_CODES.get(one.error_name, ReasonCode.TOOL_FAILED)
        busy = "other programs use it: " if code is ReasonCode.GPU_NOT_LOADED else ""
        return error(code, gpu.component, f"{gpu.name}: the load ended{during}: {busy}{one.message}")
    if one.failure in NOT_LOADED:
        fabric = "; on a machine with NVSwitch the Fabric Manager has to run" if one.error_name == FABRIC else ""
        text = f"{gpu.name} could not be loaded: {NOT_LOADED[one.failure]}: {one.message}{fabric}"
        return error(ReasonCode.GPU_NOT_LOADED, gpu.component, text)
    code = CODES.get(one.failure, ReasonCode.TOOL_FAILED)
    return error(code, gpu.component, f"{gpu.name}: the load could not be carried out{during}: {one.message}")


def _wrong(gpu: _Gpu) -> Iterator[Finding]:
    """At most one finding for each test: the first phase in which it was wrong."""
    seen: set[str] = set()
    for result in gpu.results():
        if result.test in seen or not (result.wrong or result.stalled):
            continue
        seen.add(result.test)
        if result.stalled or _unfit(gpu, result):
            yield _unusable(gpu, result)
        elif result.all_rows:
            text = f"{gpu.name} computed {result.wrong} wrong results in {result.words} ({result.test} products)"
            yield error(ReasonCode.GPU_MISCOMPUTE, gpu.component, text, _first(result))
        else:
            where = f" on the way {TRANSFERS[result.test]}" if result.test in TRANSFERS else ""
            text = f"{gpu.name}: {result.wrong} words of its memory came back other than written{where}"
            yield error(ReasonCode.GPU_MEMORY_ERROR, gpu.component, f"{text} ({result.test} test)", _first(result))


def _first(result: BurnResult) -> str:
    if not result.first:
        return "the word was right again when it was looked for"
    word = result.first[0]
    return f"{word.place}: expected {word.expected}, seen {word.seen}"


def _unfit(gpu: _Gpu, result: BurnResult) -> bool:
    """Whether nearly all that one kernel gives is wrong while its twin for the same product is right."""
    if result.rows < ALL_WRONG * max(1, result.all_rows):
        return False
    of = TWINS.get(result.test)
    twins = [one for one in gpu.results() if of is not None and one.test == of]
    return bool(twins) and all(one.words and not one.wrong for one in twins)


def _unusable(gpu: _Gpu, result: BurnResult) -> Finding:
    how = (
        "gave up waiting for its own data" if result.stalled else f"gives {result.rows} of {result.all_rows} rows wrong"
    )
    text = f"{gpu.name}: the kernel {result.test} {how}, while others are right: it does not fit this GPU or its driver"
    return error(ReasonCode.TOOL_FAILED, gpu.component, text, _first(result) if result.wrong else "")


def _missing(gpu: _Gpu) -> Iterator[Finding]:
    results = {result.test for result in gpu.results("together") if result.words and result.rounds}
    lacking = [test for test in REQUIRED if test not in results]
    unavailable = {test: words for one in gpu.said for test, words in one.unavailable.items()}
    lacking += [test for test in unavailable if test not in MAY_LACK and test not in lacking]
    if "fp8" not in results and "fp8" not in unavailable:
        lacking.append("fp8")
    if lacking:
        text = f"{gpu.name} was not tested in full: {', '.join(lacking)}"
        yield error(ReasonCode.GPU_NOT_LOADED, gpu.component, text, "; ".join(unavailable.values()))


def _covered(gpu: _Gpu) -> float:
    """The part of its free memory that was tested."""
    parts = [result.bytes / result.free for result in gpu.results() if result.test == "memory" and result.free]
    return min(1.0, max(parts, default=0.0))


def _uncovered(gpu: _Gpu, floor: float) -> Iterator[Finding]:
    part = _covered(gpu)
    if part < floor and any(result.test == "memory" for result in gpu.results()):
        text = f"{gpu.name}: {part:.0%} of its free memory was tested, {floor:.0%} is the least"
        yield error(ReasonCode.COVERAGE_LOW, gpu.component, text)


def _best(results: Iterable[BurnResult]) -> dict[str, BurnResult]:
    """The fastest of each test; a product by its faster kernel."""
    best: dict[str, BurnResult] = {}
    for result in results:
        test = WIDE_OF.get(result.test, result.test)
        if result.words and (test not in best or result.rate > best[test].rate):
            best[test] = result
    return best


def _slow(gpu: _Gpu) -> Iterator[Finding]:
    """By the model's floor, in its worst phase."""
    for test in ("bf16", "fp32", "copy"):
        least = gpu_floors.floor(gpu.model, test)
        rates = [best[test] for phase in ("alone", "together") if test in (best := _best(gpu.results(phase)))]
        if least is None or not rates:
            continue
        worst = min(rates, key=lambda result: result.rate)
        if worst.rate < least[0]:
            text = f"{gpu.name}: {worst.rate:.4g} {worst.unit} in {test}, {least[0]:.4g} is the least: {least[1]}"
            yield error(ReasonCode.GPU_SLOW, gpu.component, text)


def _siblings(gpus: Sequence[_Gpu]) -> Iterator[Finding]:
    """GPUs of one model against the median of the others of this host, in each phase; transfers when alone only, since
    all of them at once share the way to the host."""
    for phase in ("alone", "together"):
        best = {gpu.component: _best(gpu.results(phase)) for gpu in gpus}
        for gpu in gpus:
            others = [one for one in gpus if one is not gpu and one.model == gpu.model and gpu.model]
            for test, result in best[gpu.component].items():
                rates = [best[one.component][test].rate for one in others if test in best[one.component]]
                yield from _against(gpu, phase, test, result, rates)


def _against(gpu: _Gpu, phase: str, test: str, result: BurnResult, rates: Sequence[float]) -> Iterator[Finding]:
    if not rates or test in ("memory", "pulse") or (test in TRANSFERS and phase != "alone"):
        return
    share = TRANSFER_SHARE if test in TRANSFERS else SIBLING_SHARE
    usual = median(rates)
    if result.rate < share * usual:
        how = "alone" if phase == "alone" else "while all are loaded"
        text = f"{gpu.name}: {result.rate:.4g} {result.unit} in {test} {how}, its siblings in this host {usual:.4g}"
        yield error(ReasonCode.GPU_SLOW, gpu.component, text, f"under {share:.0%} of theirs")


def _peers(one: Burned, gpus: Mapping[str, _Gpu]) -> Iterator[Finding]:
    gpu = gpus.get(one.pci)
    if one.failure and gpu is not None:
        yield _failure(gpu, one)
    usual = median([result.rate for result in one.results]) if one.results else 0.0
    for result in one.results:
        component = gpus[result.peer].component if result.peer in gpus else "gpu"
        way = f"from {result.origin} to {result.peer}"
        if result.wrong:
            text = f"{result.wrong} words copied {way} arrived other than sent"
            yield error(ReasonCode.GPU_MEMORY_ERROR, component, text, _first(result))
        if result.rate < PEER_SHARE * usual:
            text = f"{result.rate:.4g} {result.unit} {way}, {usual:.4g} between the others"
            yield warning(ReasonCode.GPU_SLOW, component, text)


def _cublas(gpu: _Gpu, one: Burned) -> Iterator[Finding]:
    """Whether the extra load ran is told and never held against the GPU, unless the driver names a fault of its."""
    if one.failure == "cuda" and one.error_name in OF_THE_HARDWARE:
        yield _failure(gpu, one)
    elif one.failure:
        text = f"{gpu.name}: it was not loaded with cuBLAS as well, and is judged without: {one.message}"
        yield info(CODES.get(one.failure, ReasonCode.TOOL_FAILED), gpu.component, text)


def _cublas_measurements(gpu: _Gpu, one: Burned) -> Iterator[Measurement]:
    """For how long it ran, 0 where it is not installed; and how fast, which has no limit."""
    yield Measurement("gpu_cublas_load", gpu.component, round(sum(run.seconds for run in one.results), 3), "s")
    for result in one.results:
        yield Measurement("gpu_cublas_bf16", gpu.component, round(result.rate, 3), result.unit)


def _measure(gpu: _Gpu) -> Iterator[Measurement]:
    """All figures; of two kernels for one product, the limit is for the faster one."""
    for phase in ("alone", "together"):
        best = _best(gpu.results(phase))
        for result in gpu.results(phase):
            test = WIDE_OF.get(result.test, result.test)
            least = gpu_floors.floor(gpu.model, test) if best.get(test) is result else None
            limit = None if least is None else round(least[0], 1)
            ok = None if limit is None else result.rate >= limit
            name = f"{result.test}_alone" if phase == "alone" else result.test
            yield Measurement(f"gpu_{name}", gpu.component, round(result.rate, 3), result.unit, limit, ok)


def _peer_measurements(one: Burned) -> Iterator[Measurement]:
    for result in one.results:
        way = "gpu_peer_copy" if result.direct else "gpu_peer_copy_through_host"
        yield Measurement(way, f"pci:{result.origin}-{result.peer}", round(result.rate, 3), result.unit)

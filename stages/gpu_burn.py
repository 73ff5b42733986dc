"""Runs the burn: a child process for each GPU (`gpu_burn_child`), watched line by line, and ended when it falls silent.

First each GPU alone, then all at once, then copies between them; with one GPU only the second. Last of all, where it is
asked for and nothing failed, cuBLAS on all at once as extra load: in processes of its own, so that no result of ours is
lost with them. Readings are what the children said; `gpu_burn_judge` makes findings of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probes.json_paths import count, dig, flag, number, parsed, rows
from probes.tools import ToolError, ToolMissing, ToolUnkillable
from stages import gpu_kernels
from stages.stage import StageContext

START_S = 30.0
"""What a child needs beside its steps: the driver's start, which takes long where nothing keeps it loaded."""
COMPILE_S = 300.0
MACHINE_WIDE = frozenset({"no_library"})
"""What is said of one GPU and is true of all."""
ALONE: Mapping[str, float] = {"bf16": 0.5, "copy": 0.2, "host": 0.3}
TOGETHER: Mapping[str, float] = {
    "memory": 0.25,
    "bf16": 0.25,
    "fp32": 0.08,
    "fp64": 0.08,
    "int8": 0.08,
    "fp8": 0.08,
    "copy": 0.04,
    "host": 0.06,
    "pulse": 0.08,
}
"""The steps of a phase, and their shares of its time."""
CUBLAS_SHARE = 0.08
"""Of all the time, for the extra load."""
DOUBTFUL = frozenset({"hung", "crashed", "cuda"})
"""Ends of the extra load that may be its own fault or the GPU's."""
MOST = 1e15


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU to be loaded. `uuid` where it is known: then the child's driver opens this one alone."""

    pci: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class BurnPlan:
    """`seconds` of work in all. `cublas`: load the GPUs with it as well. `extra` goes to the children as it is; it is
    for tests (see `gpu_burn_child`)."""

    seconds: float
    silence_s: float = 60.0
    memory_share: float = 0.96
    folders: tuple[str, ...] = ()
    cublas: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def alone_s(self, gpus: int) -> float:
        return 0.0 if gpus < 2 else min(10.0, max(0.2, 0.3 * self.seconds / gpus))

    def together_s(self, gpus: int) -> float:
        return max(1.0, self.seconds - gpus * self.alone_s(gpus) - self.cublas_s)

    def planned_s(self, gpus: int) -> float:
        peers = 0.0 if gpus < 2 else gpus * (gpus - 1) * self.peer_s + START_S
        starts = START_S * (1 + (gpus if gpus > 1 else 0) + self.cublas)
        return self.seconds + starts + peers

    @property
    def cublas_s(self) -> float:
        return CUBLAS_SHARE * self.seconds if self.cublas else 0.0

    @property
    def peer_s(self) -> float:
        return min(0.5, self.seconds / 100)


@dataclass(frozen=True, slots=True)
class WrongWord:
    """`place` says where, for a person. Words of memory in hexadecimal, results as whole numbers."""

    place: str
    expected: str
    seen: str


@dataclass(frozen=True, slots=True)
class BurnResult:
    """What one test on one GPU gave. `rate` is in `unit`; `rows` of `all_rows` of products were wrong."""

    test: str
    rate: float
    unit: str
    words: int
    wrong: int
    seconds: float
    rounds: int
    rows: int = 0
    all_rows: int = 0
    stalled: bool = False
    bytes: int = 0
    free: int = 0
    origin: str = ""
    peer: str = ""
    direct: bool | None = None
    library: str = ""
    """The version of the library that did it, where it was not ours."""
    first: tuple[WrongWord, ...] = ()


@dataclass(frozen=True, slots=True)
class Burned:
    """What one child said. `failure` is empty when it carried all out: else a kind of `gpu_burn_child`, or `hung`,
    `crashed`, `unreadable`."""

    pci: str
    phase: str
    uuid: str | None = None
    name: str = ""
    capability: str = ""
    results: tuple[BurnResult, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    error_name: str = ""
    message: str = ""
    test: str = ""


async def burn(context: StageContext, targets: Sequence[Target], plan: BurnPlan) -> tuple[Burned, ...]:
    """All phases. Ends with what was found also when a GPU hangs; a cancel kills all children."""
    said: list[Burned] = []
    started = await _child(context, plan, "start", [], [])
    if started.failure in MACHINE_WIDE:
        return tuple(replace(started, pci=target.pci, uuid=target.uuid, phase="together") for target in targets)
    folders = plan.folders or (str(gpu_kernels.SHIPPED), str(gpu_kernels.cache_folder(os.environ)))
    plan = replace(plan, folders=folders)
    alone_s = plan.alone_s(len(targets))
    if alone_s:
        for target in targets:
            said.append(await _one(context, plan, "alone", target, _steps(ALONE, alone_s)))
    steps = _steps(TOGETHER, plan.together_s(len(targets)))
    hung = {one.pci for one in said if one.failure == "hung"}
    left = [target for target in targets if target.pci not in hung]
    said += await _gathered([_one(context, plan, "together", target, steps) for target in left])
    if len(left) > 1 and all(not one.failure for one in said):
        said.append(await _child(context, plan, "peers", left, []))
    if plan.cublas and all(not one.failure for one in said):
        said += await _with_cublas(context, plan, left)
    return tuple(said)


async def _with_cublas(context: StageContext, plan: BurnPlan, targets: Sequence[Target]) -> list[Burned]:
    """The extra load. Where it got stuck or died, our own load has the last word on the GPU: it is put on it again."""
    steps, again = _steps({"cublas": 1.0}, plan.cublas_s), _steps({"bf16": 1.0}, plan.peer_s)
    said = await _gathered([_child(context, plan, "cublas", [target], steps) for target in targets])
    doubtful = {one.pci for one in said if one.failure in DOUBTFUL}
    return said + await _gathered(
        [_one(context, plan, "after", target, again) for target in targets if target.pci in doubtful]
    )


async def _gathered(works: Sequence[Awaitable[Burned]]) -> list[Burned]:
    """All at once. When one raises, or on a cancel, the others are ended before this returns."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _steps(shares: Mapping[str, float], seconds: float) -> list[dict[str, Any]]:
    return [{"test": test, "seconds": round(share * seconds, 3)} for test, share in shares.items()]


async def _one(
    context: StageContext, plan: BurnPlan, phase: str, target: Target, steps: list[dict[str, Any]]
) -> Burned:
    """One GPU; kernels that are not there are compiled, once."""
    said = await _child(context, plan, phase, [target], steps)
    if said.failure != "no_kernels":
        return said
    problem = await _compile(context, said.capability, Path(plan.folders[-1]), fault=bool(plan.extra.get("fault")))
    if problem:
        return replace(said, message=f"{said.message}, and none could be made: {problem}")
    return await _child(context, plan, phase, [target], steps)


async def _compile(context: StageContext, capability: str, folder: Path, *, fault: bool) -> str:
    """Make the machine code for a GPU. Why it could not be, or ""."""
    major, _, minor = capability.partition(".")
    name = gpu_kernels.nearest(int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    if name is None:
        return f"they are not written for compute capability {capability or 'unknown'}"
    context.info(f"compiling the GPU kernels for {name}")
    argv = (sys.executable, "-I", "-m", "stages.gpu_kernels", str(folder), name, *(("--fault",) if fault else ()))
    try:
        await context.host.tools.run(*argv, timeout_s=COMPILE_S)
    except ToolError as problem:
        return (problem.result.last_words(400) if problem.result else "") or str(problem)
    return ""


async def _child(
    context: StageContext, plan: BurnPlan, phase: str, targets: Sequence[Target], steps: list[dict[str, Any]]
) -> Burned:
    said = Said(context, targets[0].pci if targets else "", phase)
    document = {
        "gpus": [target.pci for target in targets],
        "folders": list(plan.folders),
        "steps": steps,
        "memory_share": plan.memory_share,
        "peer_s": plan.peer_s,
        **plan.extra,
    }
    argv = (sys.executable, "-I", "-m", "stages.gpu_burn_child", json.dumps(document))
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    known = [target.uuid for target in targets if target.uuid]
    if known and len(known) == len(targets):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(known)
    try:
        await _watched(context, said, plan.silence_s, argv, environment)
    except (TimeoutError, ToolUnkillable):
        return said.ended("hung", f"no call of the driver came back for {plan.silence_s:.0f} s")
    except ToolMissing:
        raise
    except ToolError as problem:
        words = problem.result.last_words() if problem.result else ""
        return said.ended("crashed", f"the process that loads the GPU died: {problem} {words}".strip())
    return said.ended("", "")


async def _watched(
    context: StageContext, said: Said, silence_s: float, argv: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Run a child for as long as it says something. Raises TimeoutError when it fell silent, or a ToolError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(silence_s) as limit:

        def on_line(line: str) -> None:
            with contextlib.suppress(RuntimeError):  # it is over by now
                limit.reschedule(loop.time() + silence_s)
            said.line(line)

        await context.host.tools.run(*argv, timeout_s=24 * 3600.0, environment=environment, load=True, on_line=on_line)


class Said:
    """Collects a child's lines as they come, so that they are there when it hangs."""

    def __init__(self, context: StageContext, pci: str, phase: str) -> None:
        self._context = context
        self._burned = Burned(pci, phase)
        self._over = False
        self._report: Callable[[str, str, float, str], None] = context.sample

    def line(self, text: str) -> None:
        try:
            document = parsed(text)
        except ValueError:
            self._fail("unreadable", f"it printed no JSON: {text[:80]!r}")
            return
        if isinstance(dig(document, "alive"), str):
            self._burned = replace(self._burned, test=document["alive"])
        elif isinstance(gpu := dig(document, "gpu"), Mapping):
            self._gpu(gpu)
        elif isinstance(dig(document, "result"), Mapping):
            self._result(document["result"])
        elif isinstance(test := dig(document, "unavailable"), str):
            known = {**self._burned.unavailable, test: str(dig(document, "message"))}
            self._burned = replace(self._burned, unavailable=known)
        elif isinstance(kind := dig(document, "failure"), str):
            self._over = True
            self._fail(kind, str(dig(document, "message")), str(dig(document, "name") or ""))
        elif dig(document, "done") is True:
            self._over = True
        else:
            self._fail("unreadable", f"it printed something else than expected: {text[:80]!r}")

    def _fail(self, kind: str, message: str, name: str = "") -> None:
        if not self._burned.failure:
            self._burned = replace(self._burned, failure=kind, message=message, error_name=name)

    def _gpu(self, gpu: Mapping[str, Any]) -> None:
        if gpu.get("pci") != self._burned.pci:
            return  # the others of a copy between GPUs
        facts = {name: value for name in ("uuid", "name", "capability") if isinstance(value := gpu.get(name), str)}
        self._burned = replace(self._burned, **facts)  # type: ignore[arg-type]

    def _result(self, row: Mapping[str, Any]) -> None:
        result = parse_result(row)
        if result is None:
            self._fail("unreadable", f"a result in another form than expected: {str(row)[:120]}")
            return
        one = self._burned
        self._burned = replace(one, results=(*one.results, result))
        self._report(f"gpu_{result.test}", f"gpu:{one.uuid or one.pci}", round(result.rate, 3), result.unit)

    def ended(self, kind: str, message: str) -> Burned:
        if kind:
            self._fail(kind, message)
        elif not self._over:
            self._fail("crashed", "the process that loads the GPU ended before its work was done")
        elif self._burned.results and not self._burned.name and self._burned.phase != "peers":
            self._fail("unreadable", "it did not say which GPU it has loaded")
        return self._burned


def parse_result(row: Mapping[str, Any]) -> BurnResult | None:
    """One result, or None for one that lacks what a verdict needs."""
    test, unit = row.get("test"), row.get("unit")
    rate, seconds = (_figure(row.get(name)) for name in ("rate", "seconds"))
    words, wrong, rounds = (count(row.get(name)) for name in ("words", "wrong", "rounds"))
    if not isinstance(test, str) or not isinstance(unit, str) or rate is None or seconds is None:
        return None
    if words is None or wrong is None or rounds is None:
        return None
    return BurnResult(
        test=test,
        rate=rate,
        unit=unit,
        words=words,
        wrong=wrong,
        seconds=seconds,
        rounds=rounds,
        rows=count(row.get("rows")) or 0,
        all_rows=count(row.get("all_rows")) or 0,
        stalled=row.get("stalled") is True,
        bytes=count(row.get("bytes")) or 0,
        free=count(row.get("free")) or 0,
        origin=str(row.get("from") or ""),
        peer=str(row.get("to") or ""),
        direct=flag(row.get("direct")),
        library=str(row.get("library") or "")[:40],
        first=tuple(_word(one) for one in rows(row, "first")),
    )


def _figure(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST
    return float(value) if known else None  # type: ignore[arg-type]


def _word(row: object) -> WrongWord:
    address, line, column = (number(dig(row, name)) for name in ("address", "row", "column"))
    if address is not None:
        place = f"address 0x{address:x}"
    elif line is not None:
        place = f"row {line} column {column}"
    else:
        place = f"word {number(dig(row, 'place'))}"
    expected, seen = (count(dig(row, name)) or 0 for name in ("expected", "seen"))
    if line is not None:  # a result: a whole number with a sign
        return WrongWord(place, str(_signed(expected)), str(_signed(seen)))
    return WrongWord(place, f"{expected:#018x}", f"{seen:#018x}")


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word

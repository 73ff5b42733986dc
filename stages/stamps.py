"""The capacity proof: what is stamped of a disk of a given size, and what the stamps say. Runs `stamp_child.py`."""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from probes.host import Host
from probes.json_paths import count, parsed
from stages.outcome import Finding, ReasonCode, error

CHILD = Path(__file__).with_name("stamp_child.py")
MIB = 2**20
BLOCK = 4096
# Bytes that a rotating disk transfers in the time that it needs to reach another place: 8 ms at 150 MB/s.
SEEK_BYTES = 1.2e6
T = TypeVar("T")


class Kind(StrEnum):
    """What is wrong with a block, as `stamp_child` found by writing it once more."""

    ALIAS = "alias"
    MISDIRECTED = "misdirected"
    STUCK = "stuck"
    DROPPED = "dropped"
    ALTERED = "altered"
    CHANGED = "changed"
    UNKNOWN = "unknown"


KIND_TEXTS: Mapping[Kind, str] = {
    Kind.ALIAS: "two addresses share one place",
    Kind.MISDIRECTED: "a write went to another place than it was sent to",
    Kind.STUCK: "the place takes no writes: what it holds does not change",
    Kind.DROPPED: "a write was lost: the place still holds what was there before",
    Kind.ALTERED: "what was written was altered",
    Kind.CHANGED: "it was read back right at first, and changed later",
    Kind.UNKNOWN: "the cause could not be found out",
}
"""In the order in which one of them gives the finding its words."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """One block that does not hold what was written to it."""

    offset: int
    said: int | None
    """The offset that the data found there was written to, where it tells."""
    kind: Kind = Kind.UNKNOWN
    bits: int | None = None
    """How many bits differ."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that failed."""

    errno: int
    offset: int
    direction: str


@dataclass(frozen=True, slots=True)
class Reread:
    """What came of reading the stamps once more, later."""

    read: int
    wrong: int
    examples: tuple[Wrong, ...]
    failed: Failed | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of stamping one disk."""

    size_bytes: int
    expected_bytes: int
    written: int
    read: int
    wrong: int
    after_first_wrong: int
    examples: tuple[Wrong, ...]
    failed: Failed | None
    later: Reread | None = None
    """None: not read again, for lack of success or by accident."""


def span_of(size_bytes: int) -> int:
    """Length of the gapless part and distance of the stamps behind it, so that both parts take equally long."""
    span = 1 << math.ceil(math.log2(max(1.0, math.sqrt(size_bytes * SEEK_BYTES))))
    return max(64 * MIB, span)


def stamped_bytes(size_bytes: int, span: int) -> int:
    """How much is stamped of a disk of that size."""
    end = size_bytes // BLOCK * BLOCK
    dense = min(span, end)
    single = len(range(dense, end, span))
    last_is_one = single and (end - BLOCK - dense) % span == 0
    return dense + BLOCK * (single + (1 if end > dense and not last_is_one else 0))


async def prove(host: Host, fd: int, size_bytes: int, limit_s: float, retention_s: float) -> Proof:
    """Write and read the stamps through `fd`; where they are right, read them again after `retention_s`.

    Raises ToolError, and ValueError for an answer that makes no sense.
    """
    span, nonce = span_of(size_bytes), secrets.token_hex(16)
    proof = parse(await _child(host, fd, limit_s, "prove", size_bytes, span, nonce), size_bytes, span)
    if proof.wrong or proof.failed:
        return proof
    await asyncio.sleep(retention_s)
    return replace(proof, later=parse_reread(await _child(host, fd, limit_s, "check", size_bytes, span, nonce)))


async def fill(host: Host, fd: int, size_bytes: int, pattern: str, limit_s: float) -> bool:
    """Write `pattern` over all stamps. True when it is there. Raises ToolError and ValueError."""
    span = span_of(size_bytes)
    answer = _object(await _child(host, fd, limit_s, "fill", size_bytes, span, pattern))
    return answer.get("error") is None and answer.get("filled") == stamped_bytes(size_bytes, span)


async def examine(
    host: Host, fd: int, size_bytes: int, nonce: str, offsets: Sequence[int], limit_s: float
) -> tuple[Wrong, ...]:
    """What is wrong with blocks that fio found to be so. Writes to them. Raises ToolError and ValueError."""
    places = [str(offset) for offset in offsets]
    text = await _child(host, fd, limit_s, "examine", size_bytes, span_of(size_bytes), nonce, *places)
    return _understood(_examples, _object(text))


async def _child(host: Host, fd: int, limit_s: float, mode: str, size_bytes: int, span: int, *words: str) -> str:
    argv = (sys.executable, "-I", "-S", "-B", str(CHILD), mode, str(fd), str(size_bytes), str(span), *words)
    return (await host.tools.run(*argv, timeout_s=limit_s, load=True, pass_fds=(fd,))).stdout


def _object(text: str) -> Mapping[str, Any]:
    answer = parsed(text)
    if not isinstance(answer, dict):
        raise ValueError("the stamping process answered no object")  # noqa: TRY004  # one kind of error for garbage
    return answer


def _understood(make: Callable[[Mapping[str, Any]], T], answer: Mapping[str, Any]) -> T:
    try:
        return make(answer)
    except (KeyError, TypeError, IndexError, OverflowError) as problem:
        raise ValueError(f"the stamping process's answer could not be read: {problem!r}") from problem


def _examples(answer: Mapping[str, Any]) -> tuple[Wrong, ...]:
    return tuple(
        Wrong(
            int(at),
            None if said is None else int(said),
            Kind.UNKNOWN if kind is None else Kind(kind),
            None if bits is None else int(bits),
        )
        for at, said, kind, bits in answer["examples"]
    )


def _failed(answer: Mapping[str, Any]) -> Failed | None:
    failed = answer["error"]
    return None if failed is None else Failed(int(failed[0] or 0), int(failed[1]), str(failed[2]))


def parse(text: str, size_bytes: int, span: int) -> Proof:
    """The child's answer to `prove`. Raises ValueError."""
    return _understood(
        lambda answer: Proof(
            size_bytes=size_bytes,
            expected_bytes=stamped_bytes(size_bytes, span),
            written=_whole(answer["written"]),
            read=_whole(answer["read"]),
            wrong=_whole(answer["wrong"]),
            after_first_wrong=_whole(answer["after_first_wrong"]),
            examples=_examples(answer),
            failed=_failed(answer),
        ),
        _object(text),
    )


def parse_reread(text: str) -> Reread:
    """The child's answer to `check`. Raises ValueError."""
    return _understood(
        lambda answer: Reread(_whole(answer["read"]), _whole(answer["wrong"]), _examples(answer), _failed(answer)),
        _object(text),
    )


def _whole(value: object) -> int:
    if (found := count(value)) is None:
        raise TypeError(f"{value!r:.40} is no count")
    return found


def judge(proof: Proof, component: str, label: str) -> list[Finding]:
    """Capacity fraud where two addresses share a place or nothing is kept from some place on; else a mismatch."""
    later = proof.later
    if failed := proof.failed or (later.failed if later else None):
        what = f"the {failed.direction} of a stamp at byte {failed.offset} with error {failed.errno}"
        text = f"The disk {label} failed {what}"
        return [error(ReasonCode.DISK_IO_ERROR, component, text)]
    if proof.wrong:
        return [_fraud(proof, component, label) or mismatch(proof.wrong, proof.examples, component, label)]
    if later and later.wrong:
        return [mismatch(later.wrong, later.examples, component, label)]
    done = (proof.written, proof.read, later.read if later else 0)
    if set(done) != {proof.expected_bytes}:
        told = ", ".join(map(str, done))
        text = f"Of {proof.expected_bytes} stamped bytes of {label}, {told} are said to be written, read, read again"
        return [error(ReasonCode.OUTPUT_UNREADABLE, component, text)]
    return []


def where(examples: Sequence[Wrong]) -> str:
    """The places, for the evidence."""
    return ", ".join(
        f"{one.offset} holds {'none of it' if one.said is None else f'what belongs to {one.said}'} ({one.kind.value}"
        f"{'' if one.bits is None else f', {one.bits} bits differ'})"
        for one in examples
    )


def _fraud(proof: Proof, component: str, label: str) -> Finding | None:
    shared = [abs(one.said - one.offset) for one in proof.examples if one.kind is Kind.ALIAS and one.said is not None]
    first = proof.examples[0].offset
    if shared:
        text = (
            f"The disk {label} says that it has {proof.size_bytes} bytes, but what is written at one place appears "
            f"{min(shared)} bytes away from it: it has no more room than that"
        )
    elif proof.wrong == proof.after_first_wrong > 1 and first > 0 and _keeps_nothing(proof.examples):
        text = f"The disk {label} says that it has {proof.size_bytes} bytes, but keeps nothing beyond byte {first}"
    else:
        return None
    return error(ReasonCode.DISK_CAPACITY_FRAUD, component, text, where(proof.examples))


def _keeps_nothing(examples: Sequence[Wrong]) -> bool:
    return not any(one.kind in {Kind.MISDIRECTED, Kind.ALTERED, Kind.DROPPED} for one in examples)


def mismatch(count: int, examples: Sequence[Wrong], component: str, label: str) -> Finding:
    """The finding for blocks that are wrong, with the name of the fault where it is known."""
    kinds = {one.kind for one in examples}
    named = next((text for kind, text in KIND_TEXTS.items() if kind in kinds), KIND_TEXTS[Kind.UNKNOWN])
    offset = min((one.offset for one in examples), default=0)
    text = (
        f"The disk {label} gave back other data than was written to it, in {count} block(s) or more, the first at byte "
        f"{offset}: {named}"
    )
    return error(ReasonCode.DISK_VERIFY_MISMATCH, component, text, where(examples))

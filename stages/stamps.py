"""The capacity proof: what is stamped of a disk of a given size, and what the stamps say. Runs `stamp_child.py`."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.host import Host
from probes.json_paths import count, parsed
from stages.outcome import Finding, ReasonCode, error

CHILD = Path(__file__).with_name("stamp_child.py")
MIB = 2**20
BLOCK = 4096
# Bytes that a rotating disk transfers in the time that it needs to reach another place: 8 ms at 150 MB/s.
SEEK_BYTES = 1.2e6


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of stamping one disk."""

    size_bytes: int
    expected_bytes: int
    written: int
    read: int
    wrong: int
    after_first_wrong: int
    examples: tuple[tuple[int, int | None], ...]
    """(offset, the offset that the stamp found there was written to) of the first wrong blocks."""
    failed: tuple[int, int, str] | None
    """(errno, offset, `read` or `write`) when a request failed."""


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


async def prove(host: Host, fd: int, size_bytes: int, limit_s: float) -> Proof:
    """Write and read the stamps through `fd`. Raises ToolError, and ValueError for an answer that makes no sense."""
    span = span_of(size_bytes)
    argv = _argv("prove", fd, size_bytes, span, secrets.token_hex(16))
    result = await host.tools.run(*argv, timeout_s=limit_s, load=True, pass_fds=(fd,))
    return parse(result.stdout, size_bytes, span)


async def fill(host: Host, fd: int, size_bytes: int, pattern: str, limit_s: float) -> bool:
    """Write `pattern` over all stamps. True when it is there. Raises ToolError and ValueError."""
    span = span_of(size_bytes)
    result = await host.tools.run(
        *_argv("fill", fd, size_bytes, span, pattern), timeout_s=limit_s, load=True, pass_fds=(fd,)
    )
    answer = _object(result.stdout)
    return answer.get("error") is None and answer.get("filled") == stamped_bytes(size_bytes, span)


def _argv(mode: str, fd: int, size_bytes: int, span: int, word: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-B", str(CHILD), mode, str(fd), str(size_bytes), str(span), word)


def _object(text: str) -> Mapping[str, Any]:
    answer = parsed(text)
    if not isinstance(answer, dict):
        raise ValueError("the stamping process answered no object")  # noqa: TRY004  # one kind of error for garbage
    return answer


def parse(text: str, size_bytes: int, span: int) -> Proof:
    """The child's answer. Raises ValueError."""
    answer = _object(text)
    try:
        failed = answer["error"]
        if answer["wrong"] and not answer["examples"]:
            raise KeyError("examples")  # noqa: TRY301  # wrong blocks, and none named
        return Proof(
            size_bytes=size_bytes,
            expected_bytes=stamped_bytes(size_bytes, span),
            **{name: _whole(answer[name]) for name in ("written", "read", "wrong", "after_first_wrong")},
            examples=tuple((int(at), None if said is None else int(said)) for at, said in answer["examples"]),
            failed=None if failed is None else (int(failed[0] or 0), int(failed[1]), str(failed[2])),
        )
    except (KeyError, TypeError, IndexError, OverflowError) as problem:
        raise ValueError(f"the stamping process's answer could not be read: {problem!r}") from problem


def _whole(value: object) -> int:
    if (found := count(value)) is None:
        raise TypeError(f"{value!r:.40} is no count")
    return found


def judge(proof: Proof, component: str, label: str) -> list[Finding]:
    """Capacity fraud where stamps wrapped round or nothing is kept from some place on; a mismatch for single ones."""
    if proof.failed:
        errno, offset, direction = proof.failed
        text = f"The disk {label} failed the {direction} of a stamp at byte {offset} with error {errno}"
        return [error(ReasonCode.DISK_IO_ERROR, component, text)]
    if not proof.wrong and (proof.written, proof.read) != (proof.expected_bytes, proof.expected_bytes):
        text = f"Only {proof.read} of {proof.expected_bytes} stamped bytes of {label} were written and read back"
        return [error(ReasonCode.OUTPUT_UNREADABLE, component, text)]
    if not proof.wrong:
        return []
    where = ", ".join(f"{at} holds {'no stamp' if said is None else f'that of {said}'}" for at, said in proof.examples)
    return [_fraud(proof, component, label, where) or _mismatch(proof, component, label, where)]


def _fraud(proof: Proof, component: str, label: str, where: str) -> Finding | None:
    distances = [abs(said - at) for at, said in proof.examples if said is not None]
    first = proof.examples[0][0]
    if distances:
        text = (
            f"The disk {label} says that it has {proof.size_bytes} bytes, but what is written at one place appears "
            f"{min(distances)} bytes away from it: it has no more room than that"
        )
    elif proof.wrong == proof.after_first_wrong > 1 and first > 0:
        text = f"The disk {label} says that it has {proof.size_bytes} bytes, but keeps nothing beyond byte {first}"
    else:
        return None
    return error(ReasonCode.DISK_CAPACITY_FRAUD, component, text, where)


def _mismatch(proof: Proof, component: str, label: str, where: str) -> Finding:
    text = f"The disk {label} gave back other data than was written in {proof.wrong} of the stamped blocks"
    return error(ReasonCode.DISK_VERIFY_MISMATCH, component, text, where)

"""The capacity proof against simulated disks that lie, and the real child against real files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.host import Host
from stages import stamps
from stages.outcome import ReasonCode
from stages.stamp_child import BLOCK, check, pieces, prove

NONCE = bytes(range(16))
SPAN = 16 * BLOCK


class Memory:
    """A disk of `said` bytes that in truth has `real`: `place` maps an offset to where it lands, or None."""

    def __init__(self, real: int, place: Callable[[int], int | None]) -> None:
        self.cells = bytearray(real)
        self.place = place

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), 512):
            where = self.place(offset + at)
            if where is not None:
                self.cells[where : where + 512] = data[at : at + 512]

    def read(self, offset: int, length: int) -> bytes:
        found = b""
        for at in range(0, length, 512):
            where = self.place(offset + at)
            found += b"\xff" * 512 if where is None else bytes(self.cells[where : where + 512])
        return found

    def proof(self, said: int) -> stamps.Proof:
        proof = stamps.parse(json.dumps(prove(self.write, lambda: None, self.read, said, SPAN, NONCE)), said, SPAN)
        if proof.wrong:
            return proof
        return replace(proof, later=stamps.parse_reread(json.dumps(check(self.read, said, SPAN, NONCE))))

    def judged(self, said: int) -> list[ReasonCode]:
        return [finding.reason_code for finding in stamps.judge(self.proof(said), "disk:S", "sda")]


def test_an_honest_disk_passes() -> None:
    assert Memory(400 * BLOCK, lambda at: at).judged(400 * BLOCK) == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 399 * 8 + 7))
def test_a_disk_that_wraps_round_is_caught_at_every_true_size(sectors: int) -> None:
    real = sectors * 512
    codes = Memory(real, lambda at: at % real).judged(400 * BLOCK)
    assert codes == [ReasonCode.DISK_CAPACITY_FRAUD]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 397))
def test_a_disk_that_drops_what_is_beyond_its_end_is_caught(blocks: int) -> None:
    real = blocks * BLOCK
    codes = Memory(real, lambda at: at if at < real else None).judged(400 * BLOCK)
    assert codes
    assert codes[0] in {ReasonCode.DISK_CAPACITY_FRAUD, ReasonCode.DISK_VERIFY_MISMATCH}


class Faulty(Memory):
    """An honest disk but for what happens at one block: `fault` is given (disk, offset, data) of a write to it."""

    def __init__(self, at: int, fault: Callable[[Faulty, int, bytes], None]) -> None:
        super().__init__(400 * BLOCK, lambda offset: offset)
        self.at, self.fault, self.hits = at, fault, 0

    def write(self, offset: int, data: bytes) -> None:
        if not offset <= self.at < offset + len(data):
            super().write(offset, data)
            return
        before, after = self.at - offset, self.at - offset + BLOCK
        super().write(offset, data[:before])
        super().write(self.at + BLOCK, data[after:])
        self.hits += 1
        self.fault(self, self.at, data[before:after])


def dropped_once(disk: Faulty, offset: int, data: bytes) -> None:
    if disk.hits > 1:
        Memory.write(disk, offset, data)


def stuck(disk: Faulty, offset: int, data: bytes) -> None:
    pass


def elsewhere_once(disk: Faulty, offset: int, data: bytes) -> None:
    Memory.write(disk, offset if disk.hits > 1 else 3 * BLOCK, data)


def elsewhere(disk: Faulty, offset: int, data: bytes) -> None:
    Memory.write(disk, 3 * BLOCK, data)


def one_bit(disk: Faulty, offset: int, data: bytes) -> None:
    Memory.write(disk, offset, bytes([data[0], data[1] ^ 4]) + data[2:])


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (dropped_once, stamps.Kind.DROPPED, "a write was lost"),
        (stuck, stamps.Kind.STUCK, "takes no writes"),
        (elsewhere_once, stamps.Kind.MISDIRECTED, "another place than it was sent to"),
        (elsewhere, stamps.Kind.MISDIRECTED, "another place than it was sent to"),
        (one_bit, stamps.Kind.ALTERED, "altered"),
    ],
)
def test_each_fault_of_one_block_is_a_mismatch_by_its_name_and_no_fraud(
    fault: Callable[[Faulty, int, bytes], None], kind: stamps.Kind, words: str
) -> None:
    # The block of the misdirected write lies behind the one that it lands on, which is written first.
    proof = Faulty(5 * BLOCK, fault).proof(400 * BLOCK)
    assert kind in {one.kind for one in proof.examples}
    [finding] = stamps.judge(proof, "disk:S", "sda")
    assert finding.reason_code is ReasonCode.DISK_VERIFY_MISMATCH
    assert words in finding.message
    assert kind.value in finding.evidence


def test_one_bit_is_counted_as_one() -> None:
    assert [one.bits for one in Faulty(5 * BLOCK, one_bit).proof(400 * BLOCK).examples] == [1]


def test_what_is_examined_is_put_back() -> None:
    """Later steps must not take the examination for the disk's fault."""
    memory = Faulty(5 * BLOCK, dropped_once)
    wrong = memory.proof(400 * BLOCK)
    again = check(memory.read, 400 * BLOCK, SPAN, NONCE)
    assert again["wrong"] == wrong.wrong == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, len(pieces(400 * BLOCK, SPAN)) - 1), st.integers(0, BLOCK * 8 - 1))
def test_a_bit_that_flips_later_is_found_wherever_a_stamp_is(piece: int, bit: int) -> None:
    memory = Memory(400 * BLOCK, lambda at: at)
    prove(memory.write, lambda: None, memory.read, 400 * BLOCK, SPAN, NONCE)
    offset = pieces(400 * BLOCK, SPAN)[piece][0]
    memory.cells[offset + bit // 8] ^= 1 << bit % 8
    later = stamps.parse_reread(json.dumps(check(memory.read, 400 * BLOCK, SPAN, NONCE)))
    assert [(one.offset, one.kind, one.bits) for one in later.examples] == [(offset, stamps.Kind.CHANGED, 1)]


def test_a_stamp_that_changed_later_is_a_mismatch_that_says_so() -> None:
    later = stamps.Reread(BLOCK, 1, (stamps.Wrong(0, None, stamps.Kind.CHANGED, 1),), None)
    proof = stamps.Proof(BLOCK, BLOCK, BLOCK, BLOCK, 0, 0, (), None, later)
    [finding] = stamps.judge(proof, "disk:S", "sda")
    assert finding.reason_code is ReasonCode.DISK_VERIFY_MISMATCH
    assert "changed later" in finding.message


def test_stamps_that_were_not_read_again_are_no_proof() -> None:
    proof = stamps.Proof(BLOCK, BLOCK, BLOCK, BLOCK, 0, 0, (), None)
    assert [one.reason_code for one in stamps.judge(proof, "disk:S", "sda")] == [ReasonCode.OUTPUT_UNREADABLE]


def test_a_failed_request_is_an_io_error() -> None:
    def fail(offset: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    answer = prove(lambda at, data: None, lambda: None, fail, 400 * BLOCK, SPAN, NONCE)
    proof = stamps.parse(json.dumps(answer), 400 * BLOCK, SPAN)
    assert [one.reason_code for one in stamps.judge(proof, "disk:S", "sda")] == [ReasonCode.DISK_IO_ERROR]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"error": null, "written": 1}', '{"error": 5}'])
def test_garbage_from_the_child_is_no_proof(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        stamps.parse(text, 400 * BLOCK, SPAN)


def test_an_answer_about_less_than_all_is_no_pass() -> None:
    answer = {"written": BLOCK, "read": BLOCK, "wrong": 0, "after_first_wrong": 0, "examples": [], "error": None}
    proof = stamps.parse(json.dumps(answer), 400 * BLOCK, SPAN)
    assert [one.reason_code for one in stamps.judge(proof, "disk:S", "sda")] == [ReasonCode.OUTPUT_UNREADABLE]


async def test_the_real_child_proves_a_file_and_fills_it_again(tmp_path: Path, host: Host) -> None:
    size = 70 * 2**20 + 512
    path = tmp_path / "disk.img"
    path.write_bytes(b"\0" * size)
    fd = os.open(path, os.O_RDWR)
    try:
        proof = await stamps.prove(host, fd, size, 60, 0.0)
        assert stamps.judge(proof, "disk:S", "sda") == []
        assert proof.read == stamps.stamped_bytes(size, stamps.span_of(size))
        assert any(path.read_bytes())
        assert await stamps.fill(host, fd, size, "00" * 8, 60)
        assert not any(path.read_bytes())
    finally:
        os.close(fd)


async def test_the_real_child_reports_a_device_that_ends_early(tmp_path: Path, host: Host) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\0" * 2**20)
    fd = os.open(path, os.O_RDONLY)
    try:
        proof = await stamps.prove(host, fd, 2**21, 60, 0.0)
    finally:
        os.close(fd)
    assert proof.failed is not None
    assert proof.failed.direction == "write"

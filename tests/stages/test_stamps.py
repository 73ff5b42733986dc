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
from stages.stamp_child import BLOCK, check, prove

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

    def judged(self, said: int) -> list[ReasonCode]:
        answer = prove(self.write, lambda: None, self.read, said, SPAN, NONCE)
        proof = stamps.parse(json.dumps(answer), said, SPAN)
        if not proof.wrong:
            later = stamps.parse_reread(json.dumps(check(self.read, said, SPAN, NONCE)))
            proof = replace(proof, later=later)
        return [finding.reason_code for finding in stamps.judge(proof, "disk:S", "sda")]


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


def test_one_bad_block_is_a_mismatch_and_no_fraud() -> None:
    memory = Memory(400 * BLOCK, lambda at: None if at == 5 * BLOCK + 512 else at)
    assert memory.judged(400 * BLOCK) == [ReasonCode.DISK_VERIFY_MISMATCH]


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

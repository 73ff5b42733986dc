"""The log queue: bounded, redacted, in order, each line once."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from stages.stage import Level
from tests.support.fake_orchestrator import DROP, GARBLE, LOSE, FakeOrchestrator, Fault, refusal, status
from vetting_agent.client import Backoff, Client
from vetting_agent.logs import LINE_CHARACTERS, Forwarder, LogBook, Stderr
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.redact import Redactor
from vetting_agent.wire import LogLine


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def client_of(url: str) -> Client:
    return Client(BootParams(url, 7, Token("t")), "inst", way_to(url, ()), backoff=Backoff(0.01, 0.02))


def test_lines_are_numbered_tagged_and_clean() -> None:
    redactor = Redactor()
    redactor.add('s3cr"t%')
    book = LogBook(redactor=redactor)
    book.info('one\ntwo \x1b[31mred\r\nBearer s3cr"t% and s3cr%22t%25 and s3cr\\"t%', "SMART")
    book.log(Level.ERROR, "lone surrogate \udcff and x" + "y" * LINE_CHARACTERS)
    lines = book.batch()
    assert [line.seq for line in lines] == [1, 2, 3, 4]
    assert texts(lines)[:3] == ["one", "two \\x1b[31mred", "Bearer [token] and [token] and [token]"]
    assert lines[0].stage == "SMART"
    assert lines[3].level == "error"
    assert "\\udcff" in lines[3].text
    assert "more characters" in lines[3].text
    assert lines[0].ts.endswith("Z")


def test_memory_is_bounded_and_errors_stay_longest() -> None:
    book = LogBook(limit_bytes=100_000)
    book.error("the first error")
    book.warn("the first warning")
    for number in range(5000):
        book.info(f"info {number}")
    assert book.waiting < 700
    lines = book.batch(10**9)
    assert texts(lines)[:2] == ["the first error", "the first warning"]
    assert "info 4999" in texts(lines)
    assert "info 0" not in texts(lines)
    assert book.dropped == 5002 - (len(lines) - 1)
    assert texts(lines)[-1].startswith(f"{book.dropped} log lines were dropped")
    assert [line.seq for line in lines] == sorted(line.seq or 0 for line in lines)


def test_warnings_go_before_errors_when_there_is_nothing_else() -> None:
    book = LogBook(limit_bytes=20_000)
    for number in range(200):
        book.error(f"error {number}")
        book.warn(f"warning {number}")
    kept = texts(book.batch(10**9))
    assert not [text for text in kept if text.startswith("warning") and text != kept[-1]]
    assert "error 199" in kept


def test_what_is_on_its_way_is_not_dropped() -> None:
    book = LogBook(limit_bytes=5_000)
    for number in range(20):
        book.info(f"early {number}")
    batch = book.batch()
    for number in range(100):
        book.info(f"late {number}")
    dropped = book.dropped
    book.acknowledge(batch)
    assert book.dropped == dropped
    assert not [text for text in texts(book.batch(10**9)) if text.startswith("early")]
    assert dropped == 100 - sum(text.startswith("late") for text in texts(book.batch(10**9)))


def test_a_batch_is_capped_in_bytes_but_never_empty() -> None:
    book = LogBook()
    for _ in range(100):
        book.info("x" * 1000)
    assert 8 <= len(book.batch(10_000)) <= 9
    assert len(book.batch(1)) == 1


async def test_lines_arrive_once_and_in_order_through_every_kind_of_failure() -> None:
    draw = random.Random(3)
    faults = (LOSE, DROP, GARBLE, status(500), status(429), Fault(act=True, reply=(500, {}, b"")))
    server = FakeOrchestrator(chooser=lambda _verb: draw.choice(faults) if draw.random() < 0.4 else None)
    book = LogBook()
    async with server.serve():
        client = client_of(server.url)
        running = asyncio.create_task(Forwarder(book, client, 0.01).run())
        for number in range(300):
            book.info(f"line {number}")
            await asyncio.sleep(0.002)
        await server.until(lambda: book.waiting == 0, "all lines to be sent")
        running.cancel()
        await asyncio.wait({running})
        await client.close()
    assert server.texts == [f"line {number}" for number in range(300)]
    assert {instance for instance, _ in server.lines} == {"inst"}
    assert len(server.of("log")) > 20


async def test_a_line_that_is_never_taken_does_not_hold_up_the_others() -> None:
    book = LogBook()
    for number in range(20):
        book.info("poison" if number == 13 else f"line {number}")

    class Picky(FakeOrchestrator):
        def _on_log(self, call: object) -> object:
            raise AssertionError

        async def _reply(self, call):  # type: ignore[no-untyped-def]
            self.calls.append(call)
            if "poison" in call.content.decode() and "rejected" not in call.content.decode():
                return 422, {}, b"no poison"
            return 200, {}, __import__("json").dumps(FakeOrchestrator._on_log(self, call)).encode()

    server = Picky()
    async with server.serve():
        client = client_of(server.url)
        assert await Forwarder(book, client, 1).flush(10)
        await client.close()
    assert [text for text in server.texts if text.startswith("line")] == [f"line {n}" for n in range(20) if n != 13]
    assert book.dropped == 1


async def test_the_last_flush_has_its_limit_and_a_refusal_ends_it() -> None:
    book = LogBook()
    book.info("x")
    server = FakeOrchestrator(always={"log": status(500)})
    async with server.serve():
        client = client_of(server.url)
        assert not await Forwarder(book, client, 1).flush(0.2)
        server.always["log"] = refusal(410)
        assert not await Forwarder(book, client, 1).flush(5)
        await client.close()
    assert book.waiting == 1


def test_standard_error_never_blocks() -> None:
    reading, writing = os.pipe()
    stderr = Stderr(writing, journal=False)
    line = LogLine(ts="T", level="info", stage="", text="x" * 3000, seq=1)
    for _ in range(100):
        stderr.write(line)  # nobody reads: a blocking write would hang here
    assert os.read(reading, 20).startswith(b"T info  xxx")
    os.close(reading)
    stderr.write(line)
    os.close(writing)


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    stderr = Stderr(writing, journal=True)
    stderr.write(LogLine(ts="T", level="warn", stage="SMART", text="hot", seq=1))
    stderr.write(LogLine(ts="T", level="error", stage="", text="dead", seq=2))
    assert os.read(reading, 100) == b"<4>[SMART] hot\n<3>dead\n"
    os.close(reading)
    os.close(writing)

"""`explain` speaks to people and to programs, and helps with a misspelt code."""

from __future__ import annotations

import argparse
import json

import pytest

from stages.outcome import ReasonCode
from vetting_agent import explain
from vetting_agent.signals import SIGNALS, Signal


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    return explain.main(parser.parse_args(argv))


def test_one_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("disk_lost") == 0
    out = capsys.readouterr().out
    assert out.startswith("disk_lost\n")
    assert "left the system" in out
    assert "What to do:" in out
    assert "the verdict is: fail" in out


def test_an_inconclusive_code_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("IPERF_UNREACHABLE") == 0
    assert "could not be judged" in capsys.readouterr().out


def test_one_code_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tool_missing", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"code", "meaning", "cause", "action", "owner", "inconclusive"}
    assert (said["code"], said["inconclusive"]) == ("tool_missing", True)


def test_all_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    every = [*(code.value for code in ReasonCode), *(one.value for one in SIGNALS if one not in set(ReasonCode))]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == every
    assert run("--json") == 0
    assert [entry["code"] for entry in json.loads(capsys.readouterr().out)] == every


@pytest.mark.parametrize("signal", list(Signal))
def test_every_signal(signal: Signal, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(signal) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{signal} (a signal of preflight)" in out
    assert SIGNALS[signal].recovery in out


def test_a_signal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clock_skew", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"code", "hop", "symptom", "owner", "recovery"}


def test_what_is_both_is_told_as_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tool_missing") == 0
    out = capsys.readouterr().out
    assert "could not be judged" in out
    assert "a signal of preflight" in out


def test_a_misspelt_code_exits_2_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("disk_lots") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "disk_lost" in captured.err
    assert run("node_dns_fail") == 2
    assert "node_dns_failed" in capsys.readouterr().err
    assert run("xxxxxxxxqqq") == 2
    assert "lists all" in capsys.readouterr().err

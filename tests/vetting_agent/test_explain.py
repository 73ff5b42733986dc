"""`explain` speaks to people and to programs, and helps with a misspelt code."""

from __future__ import annotations

import argparse
import json

import pytest

from stages.outcome import ReasonCode
from vetting_agent import explain


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
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [code.value for code in ReasonCode]
    assert run("--json") == 0
    assert [entry["code"] for entry in json.loads(capsys.readouterr().out)] == [code.value for code in ReasonCode]


def test_a_misspelt_code_exits_2_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("disk_lots") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "disk_lost" in captured.err
    assert run("xxxxxxxxqqq") == 2
    assert "lists all" in capsys.readouterr().err

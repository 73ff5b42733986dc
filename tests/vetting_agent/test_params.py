"""Where boot parameters come from, which source is the stronger one, and what is refused in which words."""

from __future__ import annotations

import argparse
import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from vetting_agent.errors import BadBootParameter
from vetting_agent.params import (
    BootParams,
    Token,
    add_arguments,
    fingerprints,
    normalised_mac,
    parse_cmdline,
    parse_env_file,
    read_params,
)

FPR = "ab" * 32
GOOD = f"quiet vetting.orchestrator=https://orc:8443/ vetting.run_id=7 vetting.token=s3cret vetting.tls_fpr={FPR}"


def read(tmp_path: Path, cmdline: str = GOOD, *flags: str, **environment: str) -> BootParams:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    path = tmp_path / "cmdline"
    path.write_text(cmdline)
    return read_params(parser.parse_args(flags), environment, path)


def test_the_kernel_command_line_is_enough(tmp_path: Path) -> None:
    params = read(tmp_path, GOOD + " vetting.mac=52-54-00-AA-BB-CC\n")
    assert params == BootParams("https://orc:8443", 7, Token("s3cret"), (FPR,), "52:54:00:aa:bb:cc")


def test_each_stronger_source_wins(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# comment\nexport VETTING_RUN_ID='8'\nVETTING_MAC=\"02:00:00:00:00:01\"\n")
    token = tmp_path / "token"
    token.write_text("from-file\n")
    assert read(tmp_path, GOOD, "--env-file", str(env_file)).run_id == 8
    assert read(tmp_path, GOOD, "--env-file", str(env_file), VETTING_RUN_ID="9").run_id == 9
    flags = ("--env-file", str(env_file), "--run-id", "10", "--token-file", str(token))
    params = read(tmp_path, GOOD, *flags, VETTING_RUN_ID="9", VETTING_TOKEN="from-env")
    assert (params.run_id, params.token.reveal(), params.mac) == (10, "from-file", "02:00:00:00:00:01")


def test_another_file_can_stand_for_the_kernel_command_line(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(GOOD.replace("run_id=7", "run_id=77"))
    assert read(tmp_path, "", "--cmdline", str(other)).run_id == 77


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a="x y" b=1', {"a": "x y", "b": "1"}),
        ('"a=x y" b="" c', {"a": "x y", "b": ""}),
        ("a=1 a=2\n", {"a": "2"}),
        ("a=b=c", {"a": "b=c"}),
        ('a=x"y z"w', {"a": "xy zw"}),
        ('a="never closed', {"a": "never closed"}),
        ("", {}),
    ],
)
def test_command_lines_are_split_as_the_kernel_does(text: str, expected: dict[str, str]) -> None:
    assert parse_cmdline(text) == expected


def test_env_files() -> None:
    assert parse_env_file("A=1\n#B=2\n C = x y \nD='q'\nnonsense\n") == {"A": "1", "C": "x y", "D": "q"}


MISSING = [
    ("orchestrator", "--orchestrator", "VETTING_ORCHESTRATOR"),
    ("run_id", "--run-id", "VETTING_RUN_ID"),
    ("token", "--token-file", "VETTING_TOKEN"),
]


@pytest.mark.parametrize(("name", "flag", "variable"), MISSING)
def test_a_missing_parameter_is_named_with_all_places_searched(
    name: str, flag: str, variable: str, tmp_path: Path
) -> None:
    words = [word for word in GOOD.split() if not word.startswith(f"vetting.{name}=")]
    with pytest.raises(BadBootParameter) as caught:
        read(tmp_path, " ".join(words))
    for part in (f"vetting.{name}", "missing", flag, variable, str(tmp_path / "cmdline")):
        assert part in str(caught.value)


MALFORMED = [
    ("orchestrator", "ftp://orc"),
    ("orchestrator", "orc:8443"),
    ("orchestrator", "https://"),
    ("orchestrator", "https://user:pw@orc"),
    ("orchestrator", "https://orc?x=1"),
    ("orchestrator", "https://orc#x"),
    ("orchestrator", "https://orc:99999"),
    ("orchestrator", "https://orc:port"),
    ("orchestrator", ""),
    ("run_id", "0"),
    ("run_id", "-1"),
    ("run_id", "1.5"),
    ("run_id", "+1"),
    ("run_id", "1_0"),
    ("run_id", "٣"),
    ("run_id", "9" * 30),
    ("run_id", ""),
    ("token", ""),
    ("token", "t\u00f6ken"),
    ("token", "to\tken"),
    ("tls_fpr", "abcd"),
    ("tls_fpr", ""),
    ("tls_fpr", f"{FPR},"),
    ("tls_fpr", "zz" * 32),
    ("mac", "52:54:00:aa:bb"),
    ("mac", "52:54:00-aa:bb:cc"),
    ("mac", ""),
]


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_parameter_is_named_with_its_source(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(BadBootParameter) as caught:
        read(tmp_path, GOOD, **{f"VETTING_{name.upper()}": value})
    text = str(caught.value)
    assert text.startswith(f"vetting.{name}: ")
    assert f"VETTING_{name.upper()}" in text
    assert "\n" not in text


def test_a_malformed_token_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(BadBootParameter) as caught:
        read(tmp_path, GOOD, VETTING_TOKEN="very secret")
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or "secret" not in repr(caught.value.__context__)


def test_a_fingerprint_beside_http_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadBootParameter, match="fingerprint"):
        read(tmp_path, GOOD, "--orchestrator", "http://orc")


@pytest.mark.parametrize("flag", ["--token-file", "--env-file", "--cmdline"])
def test_a_file_that_cannot_be_read_is_an_error(flag: str, tmp_path: Path) -> None:
    with pytest.raises(BadBootParameter, match="No such file"):
        read(tmp_path, GOOD, flag, str(tmp_path / "absent"))


def test_fingerprints_may_have_colons_capitals_and_company() -> None:
    colons = ":".join(["AB"] * 32)
    assert fingerprints(f"{colons}, {'cd' * 32},{FPR}") == (FPR, "cd" * 32)


def test_macs_are_normalised_pxelinux_style_too() -> None:
    assert normalised_mac("01-52-54-00-AA-BB-CC") == "52:54:00:aa:bb:cc"
    assert normalised_mac("525400aabbcc") == "52:54:00:aa:bb:cc"


def test_a_token_shows_itself_nowhere() -> None:
    token = Token("s3cret")
    assert "s3cret" not in f"{token!r} {token} {[token]} {BootParams('http://o', 1, token)}"
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            write(token)


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cmdline"
    path.write_text("quiet")
    argv = [sys.executable, "-m", "vetting_agent", "run", "--cmdline", str(path), "--state-dir", str(tmp_path / "s")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "vetting.orchestrator" in done.stderr
    assert str(path) in done.stderr

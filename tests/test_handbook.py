"""docs/handbook.md: options, commands, targets, signals and files that it names are those that there are."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.__main__ import parser

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/handbook.md").read_text()
UNIT = ROOT / "docs/systemd/vetting-orchestrator.service"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def children(one: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    subs = (action for action in one._actions if isinstance(action, argparse._SubParsersAction))
    return (
        dict(next(iter(subs)).choices) if any(isinstance(a, argparse._SubParsersAction) for a in one._actions) else {}
    )


def flags_of(one: argparse.ArgumentParser) -> set[str]:
    return {flag for action in one._actions for flag in action.option_strings if flag.startswith("--")} - {"--help"}


def every_flag(one: argparse.ArgumentParser) -> set[str]:
    return flags_of(one).union(*(every_flag(child) for child in children(one).values()))


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands() -> Iterator[tuple[str, list[str]]]:
    """What the page calls of vetting-orchestrator, each with its words."""
    for text in re.findall(r"(?:^    |`|&& )vetting-orchestrator ([a-z][^`\n]*)", PAGE, re.MULTILINE):
        yield text, re.split(r"[ ,;`]+", re.sub(r"\s+#.*", "", text).strip())


def test_the_configuration_names_every_option_of_serve_and_no_other() -> None:
    assert set(FLAG.findall(section("Configuration"))) == flags_of(children(parser())["serve"])


def test_each_command_is_one_and_takes_the_options_that_it_is_shown_with() -> None:
    seen = 0
    for text, words in commands():
        at = parser()
        while words and (child := children(at).get(words[0])) is not None:
            at, words = child, words[1:]
            seen += 1
        assert at.prog != "vetting-orchestrator", text
        assert not children(at) or not words or not words[0].isalpha() or words[0].isupper(), text
        assert set(FLAG.findall(text)) <= flags_of(at), text
    assert seen > 15


def test_each_target_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", PAGE))
    assert len(named) > 8
    assert named <= targets
    assert (ROOT / "tests/gpu/run").exists()


def test_each_signal_is_one_of_preflights() -> None:
    named = set(re.findall(r"`(node_\w+|clock_skew|disk_full)`", PAGE))
    page = (ROOT / "docs/preflight.md").read_text()
    assert len(named) > 8
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_each_link_leads_somewhere() -> None:
    for aim, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGE)):
        page = (ROOT / "docs" / aim).read_text()
        headings = {
            re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in re.findall(r"^#+ (.*)", page, re.M)
        }
        assert not anchor or anchor in headings, (aim, anchor)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_sound_and_its_options_are_those_of_serve(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    argv = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    options = re.search(r"^VETTING_SERVE=(.*)$", UNIT.with_suffix(".env").read_text(), re.MULTILINE)
    assert options is not None
    children(parser())["serve"].parse_args(options[1].split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_score_is_the_one_that_the_page_states() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    measured = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    stated = re.search(r"exposure of ([\d.]+) \(`systemd-analyze security --offline=true`, systemd (\d+)\)", PAGE)
    assert measured is not None, done.stderr
    assert stated is not None
    argv = ["systemd-analyze", "--version"]
    version = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split()[1]
    if version != stated[2]:
        pytest.skip(f"the figure is of systemd {stated[2]}; this is {version}")
    assert measured[1] == stated[1]

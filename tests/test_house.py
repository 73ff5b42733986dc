"""The house keeps its rules: arrows, the one door to processes, the one place that names /proc and /sys, no orphans."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from stages import STAGES
from tests import house

FILES = {path: text for package in house.PACKAGES for path, text in house.sources(package).items()}
RULES: dict[str, Callable[[str, str], list[str]]] = {
    "arrows": house.wrong_arrows,
    "third party": lambda path, text: house.strangers(path, text, sys.stdlib_module_names),
    "processes": house.spawns,
    "roots": house.root_literals,
    "print": house.prints,
    "length": house.too_long,
}
# Programs of their own: nobody imports them.
ENTRY_POINTS = ("stages.reasons",)


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule: str) -> None:
    broken = [problem for path, text in FILES.items() for problem in RULES[rule](path, text)]
    assert not broken, "\n".join(broken)


def test_every_stage_is_listed() -> None:
    listed = [stage.run.__module__ for stage in STAGES]
    assert house.unlisted_stages(house.sources("stages"), listed) == []


def test_nothing_lies_about_unused() -> None:
    assert house.orphans(FILES, ENTRY_POINTS) == []


def test_stage_names_and_states_are_unique() -> None:
    assert len({stage.name for stage in STAGES}) == len({stage.state for stage in STAGES}) == len(STAGES)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        ("arrows", "probes/x.py", "from stages.outcome import Finding"),
        ("arrows", "probes/x.py", "import stages"),
        ("arrows", "stages/x.py", "def f():\n    from vetting_agent import wire"),
        ("arrows", "stages/x.py", "if TYPE_CHECKING:\n    from orchestrator.store import Store"),
        ("arrows", "vetting_agent/x.py", "import orchestrator.app"),
        ("arrows", "orchestrator/x.py", "from tests.support import stand_ins"),
        ("arrows", "vetting_agent/x.py", "import image.build"),
        ("arrows", "stages/x.py", "from .stage import Stage"),
        ("third party", "probes/x.py", "import httpx"),
        ("third party", "stages/x.py", "import psutil"),
        ("third party", "vetting_agent/x.py", "from starlette.applications import Starlette"),
        ("processes", "stages/x.py", "import subprocess"),
        ("processes", "stages/x.py", "from subprocess import run"),
        ("processes", "probes/x.py", "import os\nos.system('true')"),
        ("processes", "probes/x.py", "import os\nos.posix_spawn('/bin/true', [], {})"),
        ("processes", "probes/x.py", "from os import popen"),
        ("processes", "vetting_agent/x.py", "import os\nos.execvp('true', ['true'])"),
        ("processes", "vetting_agent/x.py", "import asyncio\nawait_me = asyncio.create_subprocess_exec('true')"),
        ("processes", "vetting_agent/x.py", "loop.subprocess_shell(None, 'true')"),
        ("processes", "orchestrator/x.py", "from asyncio import create_subprocess_shell"),
        ("processes", "stages/x.py", "import multiprocessing"),
        ("roots", "stages/x.py", "PATH = '/proc/meminfo'"),
        ("roots", "probes/x.py", "open(f'/sys/class/net/{name}/speed')"),
        ("roots", "vetting_agent/x.py", "from pathlib import Path\nPath('/sys')"),
        ("print", "stages/x.py", "print('hello')"),
        ("length", "stages/x.py", "x = 1\n" * 400),
    ],
)
def test_each_rule_can_fail(rule: str, path: str, text: str) -> None:
    assert RULES[rule](path, text)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        ("arrows", "orchestrator/x.py", "from stages.profiles import PROFILES\nfrom vetting_agent import wire"),
        ("third party", "probes/x.py", "import json\nimport psutil"),
        ("processes", "probes/tools.py", "import asyncio\nasyncio.create_subprocess_exec('true')"),
        ("processes", "stages/x.py", "import os\nos.getpid()"),
        ("roots", "stages/x.py", '"""Reads /proc/meminfo."""\nTEXT = "look into /proc/meminfo"'),
        ("roots", "probes/x.py", "host.proc('meminfo')"),
        ("roots", "stages/x.py", "PATH = f'/proc/self/fd/{fd}'"),
        ("print", "vetting_agent/__main__.py", "print('hello')"),
        ("print", "vetting_agent/explain.py", "def main(args):\n    print('hello')"),
        ("length", "stages/x.py", "x = 1\n" * 399),
    ],
)
def test_no_rule_forbids_what_is_right(rule: str, path: str, text: str) -> None:
    assert RULES[rule](path, text) == []


def test_an_unlisted_stage_is_found() -> None:
    files = {"stages/new.py": "from stages.stage import Stage\nSTAGE = Stage(name='New')\n"}
    assert house.unlisted_stages(files, ["stages.smart"]) == ["stages/new.py"]
    assert house.unlisted_stages(files, ["stages.new"]) == []


def test_an_orphan_is_found() -> None:
    files = {
        "probes/used.py": "",
        "probes/unused.py": "",
        "probes/child.py": "",
        "stages/a.py": "from probes import used\nSCRIPT = Path(__file__).with_name('child.py')\n",
        "probes/parent.py": "SCRIPT = Path(__file__).with_name('child.py')\nMODULE = 'probes.started'\n",
        "probes/started.py": "",
        "vetting_agent/b.py": "import stages.a\nfrom probes.parent import SCRIPT\n",
    }
    assert house.orphans(files, ()) == ["probes/unused.py"]

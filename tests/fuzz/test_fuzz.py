"""A slice of the fuzz, every case that once broke a parser, and whether the table is whole. `make fuzz` runs it all."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.fuzz.drive import fuzz, graded, kept_cases, shares
from tests.fuzz.mutate import COSTLY, JSON_KINDS, TEXT_KINDS, Mutant, Recording, mutate
from tests.fuzz.parser import PASS, READ, Broken, Parser, check
from tests.fuzz.table import NO_PARSER, PARSERS
from tests.house import ROOT, sources

SLICE = int(os.environ.get("VETTING_FUZZ_SLICE", "5000"))
SEED = int(os.environ.get("VETTING_FUZZ_SEED", "20261121"))
BY_NAME = {parser.name: parser for parser in PARSERS}


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_a_slice_of_the_fuzz_breaks_no_parser(name: str) -> None:
    tally = fuzz(BY_NAME[name], shares(SLICE)[name], SEED, keep=False)
    assert not tally.broken
    assert tally.cases >= shares(SLICE)[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_what_once_broke_a_parser_breaks_it_no_more(name: str) -> None:
    for _, mutant in kept_cases(BY_NAME[name]):
        check(BY_NAME[name], mutant)


def test_cases_are_kept_for_known_parsers_only() -> None:
    assert {folder.name for folder in (Path(__file__).parent / "cases").iterdir()} <= set(BY_NAME)


# --- the table -------------------------------------------------------------------------------------------------------


def reads_text(text: str) -> bool:
    """Whether a module takes text or data apart: it imports json, re, msgspec or ipaddress, or splits lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and {name.name for name in node.names} & {"json", "re", "msgspec", "struct"}:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "probes.json_paths":
            return True
        if isinstance(node, ast.Attribute) and node.attr in {"splitlines", "partition", "fromisoformat", "text_of"}:
            return True
    return False


def unlisted(files: dict[str, str], listed: set[str]) -> list[str]:
    """Modules that read text and are in no row of the table."""
    return [path for path, text in files.items() if path not in listed and reads_text(text)]


def test_every_module_that_reads_text_is_in_the_table() -> None:
    files = {path: text for package in ("probes", "stages") for path, text in sources(package).items()}
    listed = {module for parser in PARSERS for module in parser.modules}
    assert unlisted(files, listed | set(NO_PARSER)) == []
    assert not {path for path in listed | set(NO_PARSER) if not (ROOT / path).exists()}, "no such file"
    assert not listed & set(NO_PARSER)


def test_a_new_parser_without_an_entry_is_noticed() -> None:
    assert unlisted({"probes/new.py": "import json\nx = json.loads('1')\n"}, set()) == ["probes/new.py"]
    assert unlisted({"probes/new.py": "def f(t):\n    return t.splitlines()\n"}, set()) == ["probes/new.py"]
    assert unlisted({"probes/new.py": "X = 1\n"}, set()) == []


# --- the fuzz itself -------------------------------------------------------------------------------------------------

SOUND = Recording("sound", b'{"health": "good", "errors": 0}\n')
MANY = Recording("many", b'{\n"health":\n"good",\n"errors":\n0\n}\n')
SICK = Recording("sick", b'{"health": "bad", "errors": 5}\n')


def _parser(text_of_verdict: str) -> Parser:
    """One that judges by a Python expression over `text`."""
    return Parser("toy", (), lambda: (SOUND, SICK), lambda mutant: str(eval(text_of_verdict, {"text": mutant.text})))


@pytest.mark.parametrize(
    "broken",
    [
        "'fail' if 'bad' in text else 'pass'",  # a sick disk of which nothing is left passes
        "'fail' if 'bad' in text else 'unknown' if text == '' else 'read' if 'good' in text else text[999]",
    ],
)
def test_a_parser_that_passes_silence_or_raises_is_found(broken: str) -> None:
    assert fuzz(_parser(broken), 300, 1, keep=False).broken


def test_a_parser_that_passes_only_what_it_sees_is_not_blamed() -> None:
    careful = "'pass' if '\"good\"' in text and '\"errors\": 0' in text else 'fail' if 'bad' in text else 'unknown'"
    assert not fuzz(_parser(careful), 300, 1, keep=False).broken


def test_what_a_pass_needs_is_asked_for() -> None:
    lax = Parser("toy", (), lambda: (SOUND,), lambda mutant: PASS, facts=lambda mutant: "good" in mutant.text)
    check(lax, Mutant(SOUND, SOUND.data, True))
    with pytest.raises(Broken, match="without the facts"):
        check(lax, Mutant(SOUND, b"{}", True))


def test_recordings_are_graded_by_what_the_parser_says_of_them_whole() -> None:
    parser = _parser("'fail' if 'bad' in text else 'pass'")
    assert [(one.name, one.sick) for one in graded(parser)] == [("sound", False), ("sick", True)]


def test_the_same_steps_make_the_same_mutant_and_every_kind_changes_something() -> None:
    for kind in (*TEXT_KINDS, *JSON_KINDS, *COSTLY, "mix", "json_deep"):
        made = [mutate(MANY, [(kind, place, 3)], [SICK]).data for place in (1, 1, 2, 4)]
        assert made[0] == made[1]
        assert any(data != MANY.data for data in made), kind


def test_every_kind_of_step_is_drawn() -> None:
    drawn: set[str] = set()
    parser = Parser(
        "toy", (), lambda: (SOUND,), lambda mutant: drawn.update(step[0] for step in mutant.steps) or READ, is_json=True
    )
    fuzz(parser, 3000, 5, keep=False)
    assert drawn >= {*TEXT_KINDS, *JSON_KINDS, *COSTLY, "mix", "json_deep"}


def test_one_seed_gives_one_run() -> None:
    seen: list[bytes] = []

    def read(mutant: Mutant) -> str:
        seen.append(mutant.data)
        return READ

    runs = []
    for number in (7, 7, 8):
        seen.clear()
        fuzz(Parser("toy", (), lambda: (SOUND, SICK), read, is_json=True), 200, number, keep=False)
        runs.append(list(seen))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]

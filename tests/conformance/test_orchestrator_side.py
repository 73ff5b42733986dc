"""The kit on orchestrators: the product's keeps every clause, broken ones break theirs and no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.conformance.__main__ import main
from orchestrator.conformance.server_kit import CLAUSES
from tests.conformance.kit import ALL, ROOT, only, server_arguments, told
from tests.orchestrator.served import Served, serving

SOUND = ("walk", "claim-again", "hello", "directive-done")
BROKEN = {
    "counts_results_twice": {"result-again", "result-not-twice"},
    "forgets_refusals": {"directive-refused"},
    "sends_an_order_once": {"directive-repeated", "directive-outlives-agent", "unknown-ack"},
    "takes_any_token": {"wrong-token", "other-runs-token"},
    "takes_the_token_of_any_run": {"other-runs-token"},
    "takes_evidence_of_any_size": {"evidence-limit"},
    "trusts_digests": {"evidence-digest"},
    "errors_in_another_shape": {"error-envelope"},
    "errors_without_correlation": {"error-correlation"},
    "trusts_passed": {"passed-finding", "passed-verdict", "unknown-words"},
    "keeps_old_agents": {"newest-instance"},
    "keeps_every_copy_of_a_line": {"log-once"},
    "overlooks_reboots": {"host-rebooted"},
    "overlooks_changed_components": {"changed-components"},
    "overlooks_silence": {"stalled"},
    "hold_keys_with_options": {"hold-key"},
    "refuses_unknown_fields": {"unknown-fields"},
    "forgets_runs_that_are_over": {"run-over", "abort-ends", "cancelled-result"},
}
IN_THE_SUITE = ("counts_results_twice", "takes_the_token_of_any_run", "errors_in_another_shape")


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "data") as one:
        yield one


@pytest.mark.slow
def test_the_products_orchestrator_keeps_every_clause(served: Served, capsys: Any) -> None:
    seen = told(capsys, *server_arguments(served))
    assert seen.exit_code == 0, seen.words
    assert seen.named("ok") == {one.name for one in CLAUSES}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN if ALL else IN_THE_SUITE)
def test_a_broken_orchestrator_fails_where_it_should(how: str, tmp_path: Path, capsys: Any) -> None:
    clauses = [] if ALL else only({*BROKEN[how], *SOUND})
    with serving(tmp_path / "data", module=("tests.conformance.broken_orchestrator", how)) as one:
        seen = told(capsys, *server_arguments(one), *clauses, "--patience", "15")
    assert seen.exit_code == 1
    assert seen.named("FAILED") == BROKEN[how], seen.words


def _adapted(served: Served, *words: str) -> list[str]:
    command = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.conformance.adapter"
    adapter = " ".join([command, *words, served.info["operator_socket"]])
    return [*server_arguments(served)[:4], "--operator", adapter]


def test_another_operators_side_is_asked_through_the_adapter(served: Served, capsys: Any) -> None:
    seen = told(capsys, *_adapted(served), *only(["directive-done", "samples-kept"]))
    assert seen.exit_code == 0, seen.words


def test_what_cannot_be_tested_is_no_pass_unless_it_is_optional(served: Served, capsys: Any) -> None:
    blind = [*_adapted(served, "blind"), *only(["hello", "samples-kept"])]
    seen = told(capsys, *blind)
    assert (seen.exit_code, seen.named("ok"), seen.named("not tested")) == (1, {"hello"}, {"samples-kept"})
    assert "does not tell `samples`" in seen.words
    assert told(capsys, *blind, "--optional", "samples-*").exit_code == 0


def test_an_operators_side_that_fails_is_named(served: Served, capsys: Any) -> None:
    arguments = ["--orchestrator", served.url, "--tls-fpr", served.info["fingerprint"], "--operator", "false"]
    seen = told(capsys, *arguments, *only(["hello"]))
    assert seen.exit_code == 1
    assert "the adapter failed on create_run" in seen.words


def test_a_wrong_fingerprint_gets_nothing_tested(served: Served, capsys: Any) -> None:
    arguments = server_arguments(served)
    arguments[3] = "0" * 64
    assert main(arguments) == 2
    assert "shows the certificate" in capsys.readouterr().err


def test_people_read_a_line_a_clause(served: Served, capsys: Any) -> None:
    assert main([*server_arguments(served), *only(["hello"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("§2  hello")
    assert lines[0].endswith(" ok")
    assert lines[-1] == "1 clauses: 1 ok"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--orchestrator", "https://127.0.0.1:9"], "--operator"),
        (["--orchestrator", "https://127.0.0.1:9", "--operator", "true", "--tls-fpr", "00" * 32], "does not answer"),
        (["--orchestrator", "https://127.0.0.1:9", "--operator", "true", "--only", "no-such"], "no clause"),
        (["--agent", "true"], "{url}"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], said: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_clauses_have_names_of_their_own() -> None:
    assert len({one.name for one in CLAUSES}) == len(CLAUSES)
    assert json.dumps([one.text for one in CLAUSES])

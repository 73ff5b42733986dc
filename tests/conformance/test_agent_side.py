"""The kit on agents: the product's keeps the clauses, broken ones break theirs and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.conformance.agent_kit import CLAUSES, scenes
from tests.conformance.kit import ALL, BUSY, FLAGS, PRODUCT, QUICK_LONG_STAGE, broken_agent, only, skip, told

PLAYED = {"walk", "completed", "cancel", "hold", "stranger", "over", "claim_410", "bad_run_id"}
SLOW = ("proxy-page-lasts", "hello-limit", "hold-asked-again", "call-limit", "heartbeat-limit")
UNLIKE_THE_PRODUCT = ("inventory",)
"""What the quick stages of the tests do not have."""
SOUND = ("completed", "no-state", "exit-404")
PATIENT = ["--patience", "60", *BUSY]
OFF = ("cancel", "shutdown", "completed", "between", "parked", "holding")
HOLD_ENDS = ("shutdown", "abort", "over", "revoked", "sigterm", "retry-goes")
BROKEN: dict[str, set[str]] = {
    "loses_results": {"result-retried"},
    "refuses_to_cancel": {"cancel-result", "cancel-off", "cancel-kills", "cancel-acked"},
    "repeats_seq": {"log-seq"},
    "takes_any_certificate": {"tls-refused", "tls-told", "tls-reconnect"},
    "never_powers_off": {"completed-other", *(f"{name}-off" for name in OFF)},
    "goes_on_after_410": {"exit-410", "over-running", "hold-over"},
    "ignores_retry_after": {"retry-after-claim", "retry-after-beat", "retry-after-date"},
    "makes_a_new_id_for_each_posting": {"result-id-kept", "evidence"},
    "acknowledges_once": {"ack-carried"},
    "acts_on_every_repetition": {"acts-once"},
    "leaves_its_hold_key": {f"hold-{name}" for name in HOLD_ENDS},
    "passes_everything": {"unknown-stage", "verdict-rule"},
    "leaves_a_child": {"cancel-kills", "shutdown-kills", "abort-kills", "killed", "over-running", "revoked-running"},
    "tells_the_token": {"token-secret"},
    "follows_redirections": {"redirected-claim", "not-followed"},
    "retries_what_is_rejected": {
        "hello-optional", "rejected-claim", "rejected-result", "rejected-once", "redirected-claim",
    },
}  # fmt: skip
IN_THE_SUITE = ("repeats_seq", "takes_any_certificate", "ignores_retry_after")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_products_agent_keeps_the_clauses(capsys: Any, tmp_path: Path) -> None:
    names = {one.name for one in CLAUSES if one.scene in PLAYED}
    seen = told(capsys, "--agent", PRODUCT, *only(names), *PATIENT, "--folder", str(tmp_path / "scenes"))
    assert seen.exit_code == 0, seen.words
    assert seen.named("ok") == names


@pytest.mark.parametrize("how", BROKEN if ALL else IN_THE_SUITE)
def test_a_broken_agent_fails_where_it_should(how: str, capsys: Any) -> None:
    clauses = skip([*SLOW, *UNLIKE_THE_PRODUCT]) if ALL else only({*BROKEN[how], *SOUND})
    seen = told(capsys, "--agent", broken_agent(how), *clauses, *QUICK_LONG_STAGE, *PATIENT)
    assert seen.exit_code == 1
    assert seen.named("FAILED") == BROKEN[how], seen.words


def test_a_command_without_a_place_for_keys_holds_nothing(capsys: Any) -> None:
    command = f"{sys.executable} -m vetting_agent {FLAGS}".replace("--authorized-keys {authorized_keys}", "")
    seen = told(capsys, "--agent", command, *only(["hold-key"]))
    assert (seen.exit_code, seen.named("not tested")) == (1, {"hold-key"})
    assert "{authorized_keys}" in seen.words


def test_a_program_that_is_no_agent_fails(capsys: Any) -> None:
    seen = told(capsys, "--agent", "false {url} {run_id} {token_file} {fpr}", *only(["exit-404", "bad-run-id"]))
    assert seen.exit_code == 1
    assert not seen.named("ok"), seen.words


def test_every_power_command_is_a_stand_in(capsys: Any, tmp_path: Path) -> None:
    """Whatever the agent under test looks for, it finds no program that could switch this machine off."""
    names = ("systemctl", "shutdown", "poweroff", "halt", "reboot", "init", "telinit")
    command = (
        f"sh -c 'for name in {' '.join(names)}; do command -v $name; done' {{url}} {{run_id}} {{token_file}} {{fpr}}"
    )
    seen = told(capsys, "--agent", command, *only(["exit-404"]), "--folder", str(tmp_path / "scenes"))
    assert seen.exit_code == 1
    scene = tmp_path / "scenes" / "claim_404"
    assert (scene / "start-1" / "out").read_text().split() == [str(scene / "bin" / name) for name in names]


def test_every_scene_is_judged_and_every_clause_has_one() -> None:
    assert {one.scene for one in CLAUSES} == set(scenes())
    assert len({one.name for one in CLAUSES}) == len(CLAUSES)


def test_the_list_in_the_document_is_that_of_the_code() -> None:
    root = Path(__file__).parents[2]
    document = (root / "docs" / "conformance.md").read_text()
    for side in ("orchestrator", "agent"):
        command = [sys.executable, "-m", "orchestrator.conformance", "--list", side]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.strip()
        begin, end = f"<!-- clauses: {side} -->\n", f"\n<!-- end of clauses: {side} -->"
        assert document.partition(begin)[2].partition(end)[0] == listed

"""The verdict on the whole machine: nothing that was not tested ever passes."""

from __future__ import annotations

import msgspec
import pytest

from stages import STAGES
from stages.outcome import ReasonCode, Verdict, cancelled_outcome, error, info
from tests.support import run_views
from tests.support.run_views import NO_SUCH, SOUND, done, found, run_view, running, waiting
from vetting_agent.run_view import RunView, StageView
from vetting_agent.verdict import EXIT_CODES, Ending, Overall, headline, not_tested, overall, stage_verdict

FAILED = found(error(ReasonCode.DISK_IO_ERROR, "disk:A", "Reading failed at LBA 7"))
DOUBTFUL = found(error(ReasonCode.DISK_NOT_TESTED, "disk:A", "The disk could not be opened"))
END = Ending()


def with_stage(view: StageView, **changes: object) -> RunView:
    """A sound run whose stage of that name is replaced."""
    sound = run_views.all_sound()
    return run_view([view if view.stage == one.stage else one for one in sound.stages], **changes)


def test_all_stages_passed() -> None:
    run = run_views.all_sound()
    assert (overall(run, END), headline(run, END), not_tested(run)) == (Overall.PASS, "All stages passed", [])


def test_not_applicable_passes_and_is_still_named() -> None:
    run = with_stage(done("GPU", NO_SUCH))
    assert overall(run, END) is Overall.PASS
    assert [(one.stage, one.component) for one in not_tested(run)] == [("GPU", "")]


def test_a_fault_outweighs_a_doubt() -> None:
    run = run_view([done("SMART", FAILED), done("Storage", DOUBTFUL)], state="FailedHolding")
    assert overall(run, END) is Overall.FAIL
    assert headline(run, END) == "Of the selected stages, SMART failed; Storage could not be judged"


@pytest.mark.parametrize(
    "view",
    [
        done("Storage", DOUBTFUL),
        done("Storage", cancelled_outcome()),
        done("Storage", SOUND, summary=None),
        done("Storage", SOUND, valid=False),
        waiting("Storage"),
        running("Storage"),
    ],
    ids=["unknown", "cancelled", "no summary", "a pass that no longer counts", "not begun", "not finished"],
)
def test_what_was_not_judged_never_passes(view: StageView) -> None:
    run = with_stage(view)
    assert overall(run, END) is Overall.INCOMPLETE
    assert "Storage" in headline(run, END)
    assert "Storage" in {one.stage for one in not_tested(run)}


@pytest.mark.parametrize("state", ["FailedHolding", "Aborted", "Released", "Storage", ""])
def test_a_run_that_did_not_complete_never_passes(state: str) -> None:
    run = run_views.all_sound(state=state)
    assert overall(run, END) is Overall.INCOMPLETE
    assert headline(run, END) == "Nothing failed, but the run did not complete"


def test_a_run_without_stages_never_passes() -> None:
    assert overall(run_view([]), END) is Overall.INCOMPLETE
    assert overall(None, Ending("the orchestrator ended")) is Overall.INCOMPLETE
    assert {one.stage for one in not_tested(None)} == {stage.name for stage in STAGES}


def test_trouble_makes_a_sound_run_incomplete() -> None:
    assert overall(run_views.all_sound(), Ending("the agent ended")) is Overall.INCOMPLETE


def test_the_orchestrators_own_findings_count() -> None:
    finding = {"severity": "error", "component": "host", "message": "One DIMM less than expected", "evidence": ""}
    fault = run_views.all_sound(run_findings=[{**finding, "reason_code": "spec_mismatch"}])
    doubt = run_views.all_sound(run_findings=[{**finding, "reason_code": "probe_error"}])
    strange = run_views.all_sound(run_findings=[{"what": "is this"}])
    assert [overall(run, END) for run in (fault, doubt, strange)] == [Overall.FAIL, Overall.INCOMPLETE, Overall.FAIL]


def test_an_interruption_says_what_was_known_by_then() -> None:
    run = run_view([done("SMART", FAILED), running("Storage")], state="Storage")
    assert overall(run, Ending(interrupted=True)) is Overall.INTERRUPTED
    assert headline(run, Ending(interrupted=True)) == "Interrupted: SMART had failed by then, Storage not judged"


def test_a_note_on_what_was_not_tested_is_listed_though_the_stage_passed() -> None:
    note = info(ReasonCode.NET_THROUGHPUT_NOT_TESTED, "nic:A", "The orchestrator is on this very host")
    run = with_stage(done("Network", found(note)))
    assert overall(run, END) is Overall.PASS
    assert [(one.stage, one.component) for one in not_tested(run)] == [("Network", "nic:A")]


def test_stages_that_nobody_selected_are_named() -> None:
    run = run_view([done("SMART", SOUND)])
    assert headline(run, END) == "All of the selected stages passed"
    assert [one.stage for one in not_tested(run)] == [stage.name for stage in STAGES if stage.name != "SMART"]


def test_every_verdict_word_of_the_wire_is_known() -> None:
    for verdict in Verdict:
        summary = done("SMART", SOUND).summary
        assert summary is not None
        view = done("SMART", SOUND, summary=msgspec.structs.replace(summary, verdict=verdict.value))
        assert stage_verdict(view) == verdict
    assert set(EXIT_CODES) == set(Overall)

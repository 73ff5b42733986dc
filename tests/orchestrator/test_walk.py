"""The walk through the states: results, claims and what makes a run hold. Pure."""

from __future__ import annotations

import pytest

from orchestrator.run_record import Run
from orchestrator.spec import CpuSpec, Spec
from orchestrator.steps import HoldAsked, Refusal, Released, WentSilent
from stages.outcome import ReasonCode
from tests.orchestrator.making import PARTS, Walk, found
from tests.support.detection import detects, spares

TWO = ["Inventory", "SMART"]


def claimed(**facts: object) -> Walk:
    walk = Walk(**facts)  # type: ignore[arg-type]
    walk.claim()
    return walk


def refused(walk: Walk, event: object) -> tuple[int, str]:
    before = walk.run
    with pytest.raises(Refusal) as caught:
        walk.take(event)  # type: ignore[arg-type]
    assert walk.run is before
    return caught.value.status, caught.value.code


def told(walk: Walk) -> list[tuple[str, str, str]]:
    """What the orchestrator itself found."""
    return [(one.reason_code, one.severity, one.component) for one in walk.run.findings]


def test_a_run_that_passes_everything_walks_all_states_in_order() -> None:
    walk = claimed()
    assert walk.run.state == "InventoryCheck"
    answers = [walk.post(stage) for stage in walk.run.stages]
    assert answers == ["SMART", "CPUStress", "Storage", "Network", "GPU", "PSU", "Completed"]
    arrows = [text for text in walk.history if " -> " in text]
    assert arrows[:2] == ["InventoryCheck -> SpecValidate", "SpecValidate -> SMART"]
    assert arrows[-2:] == ["PSU -> Reporting", "Reporting -> Completed"]
    assert walk.run.finished_at == walk.now
    assert walk.beat() == "shutdown"


def test_a_completed_run_waits_without_shutdown_when_it_is_told_to() -> None:
    walk = claimed(stages=TWO, shutdown_when_completed=False)
    walk.pass_all()
    assert walk.run.state == "Completed"
    assert walk.beat() == ""


def test_a_run_walks_only_its_own_stages_and_inventory_comes_first() -> None:
    walk = claimed(stages=["PSU", "SMART"])
    assert walk.run.stages == ("Inventory", "SMART", "PSU")
    assert [walk.post("Inventory"), walk.post("SMART"), walk.post("PSU")] == ["SMART", "PSU", "Completed"]


@pytest.mark.parametrize(
    ("verdict", "findings", "passed"),
    [
        ("fail", (), None),
        ("unknown", (), None),
        ("fail", (), True),  # the agent's own word does not count
        ("pass", (found("error"),), True),  # an error finding speaks against the verdict
        ("not_applicable", (found("error"),), True),
        ("pass", (found("catastrophic"),), True),  # a severity nobody knows is no harmless one
        ("splendid", (), True),
        ("", (), True),
        ("PASS", (), True),
        ("fail", (found("warning"),), True),  # a verdict without an error finding is still a verdict
        ("unknown", (found("info"),), True),
        ("splendid", (found("info"),), True),
        ("pass", (), False),  # the agent contradicts itself
    ],
)
def test_what_does_not_pass_holds(verdict: str, findings: tuple[object, ...], passed: bool | None) -> None:
    walk = claimed(stages=TWO)
    assert walk.post("Inventory", verdict, findings=findings, passed=passed) == "FailedHolding"
    assert not walk.run.has_valid_pass("Inventory")


@pytest.mark.parametrize("verdict", ["pass", "not_applicable"])
def test_warnings_do_not_keep_a_stage_from_passing(verdict: str) -> None:
    walk = claimed(stages=TWO)
    assert walk.post("Inventory", verdict, findings=(found("warning"), found("info"))) == "SMART"


def test_a_result_for_another_stage_advances_nothing() -> None:
    walk = claimed()
    assert walk.post("Storage") == "InventoryCheck"
    assert walk.post("Nonsense") == "InventoryCheck"
    walk.post("Inventory")
    assert walk.post("Inventory", "fail") == "SMART"
    assert walk.run.has_valid_pass("Inventory")
    assert not walk.run.has_valid_pass("Storage")


def test_the_same_result_id_gets_the_same_answer_and_advances_nothing() -> None:
    walk = claimed()
    assert walk.post("Inventory", result_id="same") == "SMART"
    after = walk.run
    assert walk.post("Inventory", result_id="same") == "SMART"
    assert walk.post("SMART", result_id="same") == "SMART"
    assert walk.run is after
    walk.post("SMART")
    assert walk.post("Inventory", result_id="same") == "SMART"


def test_a_cancelled_result_ends_the_run_and_its_repetition_is_still_answered() -> None:
    walk = claimed()
    walk.order("cancel_stage")
    assert walk.beat() == "cancel_stage"
    assert walk.post("Inventory", "cancelled", result_id="c") == "Cancelled"
    assert walk.post("Inventory", "cancelled", result_id="c") == "Cancelled"
    assert walk.run.directives[0].status == "done"
    with pytest.raises(Refusal) as caught:
        walk.post("Inventory")
    assert caught.value.status == 410
    with pytest.raises(Refusal) as caught:
        walk.claim("two")
    assert caught.value.status == 410


def held(stage: str = "SMART", **facts: object) -> Walk:
    walk = claimed(**facts)
    walk.pass_all(until=stage)
    assert walk.post(stage, "fail") == "FailedHolding"
    return walk


def retry(walk: Walk, stage: str | None = None, **how: object) -> str:
    cmd_id = walk.order("retry_stage", stage, **how)
    assert walk.beat() == "retry_stage"
    return cmd_id


def test_a_retry_that_passes_goes_on_with_the_first_stage_without_a_pass() -> None:
    walk = held()
    walk.beat(retry(walk, "SMART"), "done")
    assert walk.run.in_flight == "SMART"
    assert walk.post("SMART") == "CPUStress"
    assert walk.run.record_of("SMART").attempts == 2


def test_a_retry_of_a_passed_stage_leads_to_the_one_that_still_fails() -> None:
    walk = held("Storage")
    retry(walk, "SMART")
    assert walk.post("SMART") == "Storage"


def test_a_retry_of_a_passed_stage_that_fails_takes_its_pass_away() -> None:
    walk = held("Storage")
    retry(walk, "SMART")
    assert walk.post("SMART", "fail") == "FailedHolding"
    retry(walk, "Storage")
    assert walk.post("Storage") == "SMART"


def test_a_result_in_a_hold_counts_only_for_the_retry_that_was_handed_out() -> None:
    walk = held()
    assert walk.post("SMART") == "FailedHolding"
    walk.order("retry_stage", "SMART")
    assert walk.post("SMART") == "FailedHolding", "the order had not reached the agent yet"
    walk.beat()
    assert walk.post("CPUStress") == "FailedHolding"
    handed_out = walk.run.directives[0].sent_at
    assert walk.post("SMART") == "CPUStress", "a lost acknowledgement does not lose the result"
    assert walk.run.directives[0].status == "done"
    record = walk.run.record_of("SMART")
    assert (record.attempts, record.started_at) == (2, handed_out), "one execution more than the one that failed"


def test_an_acknowledgement_after_the_result_changes_nothing() -> None:
    walk = held()
    cmd_id = retry(walk)
    walk.post("SMART")
    assert walk.run.in_flight == "CPUStress"
    walk.beat(cmd_id, "done")
    assert (walk.run.state, walk.run.in_flight) == ("CPUStress", "CPUStress")


@detects(
    ReasonCode.COMPONENTS_CHANGED,
    "events at the orchestrator: a disk more than at the inventory: a warning, and all begins anew",
)
def test_other_components_void_all_passes_and_lead_back_to_the_inventory() -> None:
    walk = held("Storage")
    retry(walk)
    assert walk.post("Storage", components=[*PARTS, "disk:NEW"]) == "InventoryCheck"
    assert not any(walk.run.has_valid_pass(stage) for stage in walk.run.stages)
    assert told(walk) == [("components_changed", "warning", "host")]
    assert walk.post("Inventory", components=[*PARTS, "disk:NEW"]) == "SMART"
    assert walk.post("SMART", components=[*PARTS, "disk:NEW"]) == "CPUStress"


def test_a_failed_result_with_other_components_holds_and_voids_all_passes() -> None:
    walk = claimed()
    walk.pass_all(until="Storage")
    assert walk.post("Storage", "fail", components=PARTS[:1]) == "FailedHolding"
    retry(walk, "Storage")
    assert walk.post("Storage") == "InventoryCheck"


def test_an_inventory_that_sees_other_components_voids_all_but_itself() -> None:
    walk = held("Storage")
    retry(walk, "Inventory")
    assert walk.post("Inventory", components=["cpu:9"]) == "SMART"
    assert [stage for stage in walk.run.stages if walk.run.has_valid_pass(stage)] == ["Inventory"]


def test_an_agent_that_sends_no_components_is_not_compared() -> None:
    walk = claimed(stages=["SMART", "PSU"])
    assert walk.post("Inventory", components=None) == "SMART"
    assert walk.post("SMART") == "PSU"


def test_a_part_that_comes_and_goes_does_not_lead_round_for_ever() -> None:
    walk = claimed()
    seen = []
    for number in range(20):
        if walk.run.is_holding:
            break
        seen.append(walk.run.state)
        assert walk.run.stage is not None
        walk.post(walk.run.stage, components=[f"disk:{number}"])
    assert walk.run.is_holding
    assert seen.count("InventoryCheck") == 4


SPEC = Spec(cpu=CpuSpec(model="Xeon"))


@detects(ReasonCode.SPEC_MISMATCH, "events at the orchestrator: an inventory with another CPU than the specification")
@spares(ReasonCode.SPEC_MISMATCH, "events at the orchestrator: an inventory with the CPU of the specification")
def test_a_spec_that_does_not_match_holds_until_an_inventory_does() -> None:
    walk = claimed(spec=SPEC)
    assert walk.post("Inventory") == "FailedHolding"
    assert walk.run.spec_diff == ["cpu model: expected Xeon, found X"]
    assert told(walk) == [("spec_mismatch", "error", "host")]
    assert "InventoryCheck -> SpecValidate" in walk.history
    retry(walk)
    assert walk.post("Inventory", inventory={"cpu": {"model": "Intel XEON 6"}}) == "SMART"
    assert (walk.run.findings, walk.run.spec_diff) == ([], [])


def test_continue_walks_on_through_failures_and_completes_only_with_all_passes() -> None:
    walk = claimed(on_failure="continue")
    answers = [walk.post("Inventory", "fail")]
    answers += [walk.post(stage, "unknown" if stage == "Storage" else "pass") for stage in walk.run.stages[1:]]
    assert answers == ["SMART", "CPUStress", "Storage", "Network", "GPU", "PSU", "FailedHolding"]
    assert walk.history[-2:] == ["PSU -> Reporting", "Reporting -> FailedHolding"]
    retry(walk, "Storage")
    assert walk.post("Storage") == "InventoryCheck"
    assert walk.post("Inventory") == "Completed"


def test_continue_walks_on_with_a_wrong_spec_but_never_completes() -> None:
    walk = claimed(on_failure="continue", spec=SPEC, stages=TWO)
    assert walk.post("Inventory") == "SMART"
    assert walk.post("SMART") == "FailedHolding"


def test_a_failing_retry_holds_also_under_continue() -> None:
    walk = claimed(on_failure="continue", stages=TWO)
    walk.post("Inventory", "fail")
    walk.post("SMART")
    retry(walk, "Inventory")
    assert walk.post("Inventory", "fail") == "FailedHolding"


def test_another_host_is_refused() -> None:
    walk = claimed()
    with pytest.raises(Refusal) as caught:
        walk.claim("two", mac="52:54:00:00:00:01")
    assert (caught.value.status, caught.value.code) == (409, "other_host")


def test_the_newest_instance_wins_and_the_older_one_cannot_come_back() -> None:
    walk = claimed()
    walk.claim("two")
    assert walk.run.instance_id == "two"
    with pytest.raises(Refusal) as caught:
        walk.claim("one")
    assert (caught.value.status, caught.value.code) == (409, "superseded")


def test_a_late_claim_of_a_dead_agent_does_not_take_the_run_from_its_successor() -> None:
    walk = Walk()
    walk.claim("two", started_s=90.5)
    before = walk.run
    with pytest.raises(Refusal) as caught:
        walk.claim("one", started_s=31.25)  # it was on its way when its agent was killed
    assert (caught.value.status, caught.value.code) == (409, "superseded")
    assert walk.run is before
    walk.claim("three", started_s=90.5)
    walk.claim("four")  # an agent that does not say it is taken for the newest, as ever
    walk.claim("five", started_s=31.25)
    assert walk.run.instance_id == "five"


def test_a_late_claim_out_of_a_boot_that_has_ended_is_no_reboot() -> None:
    walk = claimed()
    walk.claim("two", boot="boot-2", started_s=4.0)
    assert walk.run.state == "FailedHolding"
    walk.claim("three", boot="boot-3")
    for boot in ("boot-1", "boot-2"):
        with pytest.raises(Refusal) as caught:
            walk.claim("late", boot=boot, started_s=900.0)
        assert (caught.value.status, caught.value.code) == (409, "superseded")
    assert walk.run.instance_id == "three"


def test_an_agent_of_a_new_boot_is_newer_however_short_its_host_is_up() -> None:
    walk = Walk()
    walk.claim("one", started_s=86_400.0)
    walk.claim("two", boot="boot-2", started_s=3.0)
    assert walk.run.instance_id == "two"


def test_a_claim_repeated_by_the_same_instance_changes_nothing() -> None:
    walk = claimed()
    before = walk.run
    walk.claim()
    assert walk.run == before


@detects(
    ReasonCode.HOST_REBOOTED, "events at the orchestrator: the host claims again with another boot ID in mid-stage"
)
def test_a_host_that_reboots_in_a_stage_fails_it_and_holds() -> None:
    walk = claimed(on_failure="continue")
    walk.pass_all(until="CPUStress")
    step = walk.claim("two", boot="boot-2")
    assert walk.run.state == "FailedHolding"
    assert step.own_results[0].summary.verdict == "fail"
    record = walk.run.record_of("CPUStress")
    assert (record.passed, record.result_id) == (False, step.own_results[0].result_id)
    assert told(walk) == [("host_rebooted", "error", "CPUStress")]
    retry(walk)
    assert walk.post("CPUStress") == "Storage"
    assert walk.run.findings == []


@pytest.mark.parametrize("boots", [("boot-1", "boot-1"), (None, "boot-2"), ("boot-1", None)])
def test_a_new_agent_alone_resumes_twice_and_then_holds(boots: tuple[str | None, str | None]) -> None:
    walk = Walk()
    walk.claim("i0", boot=boots[0])
    walk.pass_all(until="SMART")
    for number in (1, 2):
        walk.claim(f"i{number}", boot=boots[0])
        assert walk.run.state == "SMART"
    walk.claim("i3", boot=boots[1])
    assert walk.run.state == "FailedHolding"
    assert [one.reason_code for one in walk.run.findings] == ["agent_crash_loop"]


def test_a_result_starts_the_count_of_resumes_anew() -> None:
    walk = claimed()
    for number in range(6):
        walk.claim(f"i{number}")
        assert walk.run.stage is not None
        assert walk.post(walk.run.stage) != "FailedHolding"


@spares(ReasonCode.HOST_REBOOTED, "events at the orchestrator: a held host is booted again")
def test_a_reboot_in_a_hold_holds_again_without_blame() -> None:
    walk = held()
    walk.claim("two", boot="boot-2")
    assert walk.run.state == "FailedHolding"
    assert walk.run.findings == []


def test_a_reboot_in_a_retry_fails_the_retried_stage() -> None:
    walk = held("Storage")
    retry(walk, "SMART")  # handed out; the acknowledgement did not make it
    walk.claim("two", boot="boot-2")
    assert not walk.run.has_valid_pass("SMART")
    assert [one.reason_code for one in walk.run.findings] == ["host_rebooted"]


def test_a_wipe_is_never_handed_to_a_second_instance() -> None:
    walk = held("Storage", non_destructive=False)
    retry(walk, "Storage", wipe=True)
    walk.claim("two")
    assert walk.beat() == ""
    assert walk.run.is_holding
    assert walk.post("Storage") == "FailedHolding"


def test_a_retry_whose_agent_ended_is_over() -> None:
    walk = held("Storage")
    walk.beat(retry(walk, "SMART"), "done")
    walk.claim("two")
    assert (walk.run.state, walk.run.in_flight) == ("FailedHolding", None)
    assert walk.post("SMART", "fail") == "FailedHolding"
    assert walk.run.has_valid_pass("SMART"), "nobody asked the new agent for this"


def test_a_host_that_was_told_to_power_off_begins_its_stage_anew() -> None:
    walk = claimed()
    walk.pass_all(until="CPUStress")
    walk.beat(walk.order("shutdown"), None)
    walk.claim("two", boot="boot-2")
    assert (walk.run.state, walk.run.in_flight, walk.run.findings) == ("CPUStress", "CPUStress", [])
    assert walk.beat() == "", "the reboot answers the order"


def test_a_host_that_is_still_up_after_its_power_off_is_told_again() -> None:
    """Its agent was killed between its last words and the power-off, and its unit started it again."""
    walk = claimed()
    walk.pass_all(until="CPUStress")
    cmd_id = walk.order("shutdown")
    walk.beat(cmd_id, "done")
    walk.claim("two")
    assert walk.beat() == "shutdown"
    walk.beat(cmd_id, "done")
    assert walk.run.powered_off
    walk.claim("three", boot="boot-2")
    assert walk.beat() == ""
    assert walk.run.in_flight == "CPUStress"


def test_a_completed_host_that_boots_again_is_powered_off_again() -> None:
    walk = claimed(stages=TWO)
    walk.pass_all()
    assert walk.beat() == "shutdown"
    walk.beat(walk.run.directives[0].cmd_id, "done")
    walk.claim("two", boot="boot-2")
    assert walk.run.state == "Completed"
    assert walk.beat() == "shutdown"


def test_silence_stalls_a_run_until_its_host_is_heard() -> None:
    walk = claimed()
    walk.take(WentSilent())
    assert walk.run.stalled
    assert "silent for 6 heartbeats" in walk.history[-1]
    walk.claim()
    assert not walk.run.stalled


def test_silence_is_expected_of_a_host_that_was_powered_off() -> None:
    walk = claimed()
    cmd_id = walk.order("shutdown")
    walk.beat()
    walk.take(WentSilent())
    assert not walk.run.stalled
    assert walk.run.powered_off
    assert walk.run.directives[0].cmd_id == cmd_id
    assert not walk.run.expects_calls


@pytest.mark.parametrize("completed", [True, False])
def test_an_order_that_silence_stood_for_is_given_again_to_an_agent_that_calls_again(completed: bool) -> None:
    """It was handed out, but the answer was lost with the network, and the agent went on."""
    walk = claimed(stages=TWO)
    if completed:
        walk.pass_all()
    else:
        walk.order("shutdown")
    walk.beat()
    walk.take(WentSilent())
    assert walk.run.powered_off
    assert walk.beat() == "shutdown"
    assert not walk.run.powered_off
    assert walk.run.expects_calls
    cmd_id = walk.run.directives[0].cmd_id
    walk.beat(cmd_id, "done")
    walk.beat(cmd_id, "done")
    assert walk.run.powered_off, "its last words, twice"


def test_a_key_is_given_in_a_hold_only() -> None:
    asked = HoldAsked("10.0.0.17", "2026-11-21T21:00:00.000Z")
    assert refused(claimed(), asked) == (422, "not_holding")
    walk = held()
    walk.take(asked)
    assert (walk.run.hold_ip, walk.run.hold_expires_at) == ("10.0.0.17", "2026-11-21T21:00:00.000Z")


def test_the_host_key_of_a_hold_is_that_of_the_boot_that_holds() -> None:
    walk, key = held(), "SHA256:" + "A" * 43
    when = "2026-11-21T21:00:00.000Z"
    walk.take(HoldAsked("10.0.0.17", when))
    walk.take(HoldAsked("10.0.0.17", when, key))
    walk.take(HoldAsked("10.0.0.17", when, key))
    assert walk.run.hold_host_key == key
    assert walk.history[-2:] == [
        f"10.0.0.17 got the hold key, valid until {when}",
        f"10.0.0.17 shows the SSH host key {key}",
    ]
    walk.claim("two", boot="boot-2")
    walk.take(HoldAsked("10.0.0.17", when))
    assert walk.run.hold_host_key is None, "that of the boot before tells nothing"


def test_a_released_run_is_over() -> None:
    walk = held()
    walk.take(Released())
    assert walk.run.state == "Released"
    with pytest.raises(Refusal) as caught:
        walk.claim("two")
    assert caught.value.status == 410


def test_the_record_survives_its_way_through_json() -> None:
    import msgspec

    walk = held("Storage")
    retry(walk)
    again = msgspec.json.decode(msgspec.json.encode(walk.run), type=Run)
    assert again == walk.run

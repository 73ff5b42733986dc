"""Clauses of sections 3 and 6 for an orchestrator: the walk, and that nothing passes which was not tested."""

from __future__ import annotations

from itertools import pairwise

from orchestrator.conformance.clause import Clause, NotTested, expect
from orchestrator.conformance.server_bench import HEARTBEAT_S, Bench
from orchestrator.conformance.speaker import PARTS, Speaker, error_finding

MANY_STAGES = ("Inventory", "SMART", "CPUStress", "Storage", "Network", "GPU", "PSU")
SLOWEST_HEARTBEAT_S = 2.0


def walk(bench: Bench) -> None:
    seen = bench.run(*MANY_STAGES).pass_until("Completed")
    expect(seen[0] == "InventoryCheck", f"the first state is {seen[0]}")
    order = ["InventoryCheck", *MANY_STAGES[1:], "Completed"]
    places = [order.index(state) if state in order else -1 for state in seen]
    expect(-1 not in places and all(one < two for one, two in pairwise(places)), f"the run went {seen}")
    expect(len(seen) == len(order), f"of the run's stages only these were asked for: {seen}")


def hidden_states(bench: Bench) -> None:
    seen = bench.run().pass_until("Completed")
    hidden = {"SpecValidate", "Reporting"} & set(seen)
    expect(not hidden, f"the agent was told of {sorted(hidden)}")


def not_applicable(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    agent.post("SMART", "not_applicable")
    state = agent.post("CPUStress")
    expect(state == "Completed", f"a run with a stage that is not applicable ends as {state}")


def wrong_stage(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    state = agent.post("CPUStress")
    expect(state == "SMART", f"a result for CPUStress, while SMART stands, was answered with {state}")
    stands = agent.claim()["current_state"]
    expect(stands == "SMART", f"it moved the run to {stands}")
    expect(agent.post("SMART") == "CPUStress", "and it counts as a pass of CPUStress")


def _not_passed(bench: Bench, verdict: str, severity: str | None = None, *, passed: bool = True) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    findings = [] if severity is None else [error_finding(severity=severity)]
    state = agent.post("SMART", verdict, findings=findings, passed=passed)
    what = f"passed {passed} with the verdict {verdict!r} and the findings {severity or 'none'}"
    expect(state == "FailedHolding", f"{what} led to {state}")


def passed_finding(bench: Bench) -> None:
    _not_passed(bench, "pass", "error")
    _not_passed(bench, "not_applicable", "error")


def passed_verdict(bench: Bench) -> None:
    for verdict in ("fail", "unknown"):
        _not_passed(bench, verdict, "error")


def unknown_words(bench: Bench) -> None:
    _not_passed(bench, "perfect")
    _not_passed(bench, "")


def fail_holds(bench: Bench) -> None:
    _not_passed(bench, "fail", "error", passed=False)
    _not_passed(bench, "unknown", "error", passed=False)


def warnings_pass(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    state = agent.post("SMART", "pass", findings=[error_finding(severity="warning")])
    expect(state == "CPUStress", f"a pass with a warning led to {state}")


def rebooted(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    stands = agent.successor(rebooted=True).claim()["current_state"]
    expect(stands == "FailedHolding", f"after a reboot in the middle of SMART the run stands at {stands}")


def rebooted_in_hold(bench: Bench) -> None:
    agent = bench.holding()
    stands = agent.successor(rebooted=True).claim()["current_state"]
    expect(stands == "FailedHolding", f"a held host that was rebooted stands at {stands}")


def rebooted_in_retry(bench: Bench) -> None:
    agent = bench.holding()
    order = bench.order(agent, "retry_stage", "SMART")
    agent.beat(order.get("cmd_id"))
    new = agent.successor(rebooted=True)
    stands = new.claim()["current_state"]
    expect(stands == "FailedHolding", f"a host that was rebooted in a retry stands at {stands}")
    state = new.post("SMART")
    expect(state == "FailedHolding", f"a result that no retry asked for led to {state}")


def resumed(bench: Bench) -> None:
    agent = _restarted(bench, 2)
    expect(agent.post("SMART") == "CPUStress", "a resumed stage's result did not count")


def crash_loop(bench: Bench) -> None:
    stands = _restarted(bench, 2).successor().claim()["current_state"]
    expect(stands == "FailedHolding", f"after the third restart in one stage the run stands at {stands}")


def _restarted(bench: Bench, times: int) -> Speaker:
    """An agent that was started anew so many times in the middle of SMART."""
    agent = bench.claimed()
    agent.post("Inventory")
    for number in range(times):
        agent = agent.successor()
        stands = agent.claim()["current_state"]
        expect(stands == "SMART", f"after {number + 1} restarts of the agent the run stands at {stands}")
    return agent


def retry_goes_on(bench: Bench) -> None:
    agent = bench.holding()
    order = bench.order(agent, "retry_stage", "SMART")
    agent.beat(order.get("cmd_id"))
    state = agent.post("SMART")
    expect(state == "CPUStress", f"after a retry of SMART that passed the run stands at {state}")
    expect(agent.post("CPUStress") == "Completed", "and it does not complete")


def retry_other_stage(bench: Bench) -> None:
    agent = bench.holding()
    order = bench.order(agent, "retry_stage", "Inventory")
    agent.beat(order.get("cmd_id"))
    state = agent.post("Inventory")
    expect(state == "SMART", f"after a passing retry of Inventory, SMART having failed, the run stands at {state}")


def retry_fails(bench: Bench) -> None:
    agent = bench.holding()
    order = bench.order(agent, "retry_stage", "SMART")
    agent.beat(order.get("cmd_id"))
    state = agent.post("SMART", "fail")
    expect(state == "FailedHolding", f"after a retry that failed the run stands at {state}")


def changed_components(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    agent.post("SMART")
    state = agent.post("CPUStress", components=[*PARTS, "disk:NEW"])
    expect(state == "InventoryCheck", f"with a disk that the Inventory does not have the run went to {state}")
    state = agent.post("Inventory", components=[*PARTS, "disk:NEW"])
    expect(state == "SMART", f"passes from before the change still count: the run went to {state}")


def completed_needs_passes(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    held = agent.post("SMART", "fail")
    later = agent.post("CPUStress")
    expect((held, later) == ("FailedHolding", "FailedHolding"), f"with SMART failed the run went {held}, {later}")


def stalled(bench: Bench) -> None:
    agent = bench.run()
    beat_s = agent.claim().get("heartbeat_interval_s")
    if not isinstance(beat_s, int | float) or beat_s > SLOWEST_HEARTBEAT_S:
        raise NotTested(f"create_run was asked for a heartbeat every {HEARTBEAT_S} s, and the claim says {beat_s}")
    agent.beat()
    bench.sees(agent, "stalled", lambda value: value is True, "a host that fell silent is not stalled")
    # With a beat before each look: the kit itself may be slow.
    bench.until(
        lambda: agent.beat() and bench.seen(agent, "stalled"),
        lambda value: value is False,
        "a host that is heard again is still stalled",
    )


def cancelled_result(bench: Bench) -> None:
    agent = bench.claimed()
    agent.post("Inventory")
    order = bench.order(agent, "cancel_stage")
    agent.send("heartbeat", {"acked_cmd_id": order.get("cmd_id"), "ack_status": "done"})
    state = agent.post("SMART", "cancelled")
    expect(state not in {"CPUStress", "Completed", "FailedHolding"}, f"a cancelled stage led to {state}")
    status = agent.send("claim", agent.claim_body()).status
    expect(status == 410, f"after a cancelled result a claim was answered with {status}")


CLAUSES = (
    Clause("walk", 3, "the run asks for each of its stages once, in order, and completes", walk),
    Clause("hidden-states", 3, "SpecValidate and Reporting are resolved inside `result`", hidden_states),
    Clause("wrong-stage", 3, "a result for a stage where the run does not stand advances nothing", wrong_stage),
    Clause("fail-holds", 3, "a result that does not pass leads to FailedHolding", fail_holds),
    Clause("passed-finding", 3, "`passed` with an error finding does not pass", passed_finding),
    Clause("passed-verdict", 3, "`passed` with a verdict of fail or unknown does not pass", passed_verdict),
    Clause("unknown-words", 3, "a verdict that nobody knows does not pass", unknown_words),
    Clause("host-rebooted", 3, "a new kernel_boot_id while a stage is in flight holds", rebooted),
    Clause("rebooted-in-hold", 3, "a held host that reboots is held", rebooted_in_hold),
    Clause("rebooted-in-retry", 3, "so is one that reboots in a retry; the retry is over", rebooted_in_retry),
    Clause("resumed", 3, "a new instance_id alone resumes the stage, twice", resumed),
    Clause("crash-loop", 3, "the third new instance in one stage holds", crash_loop),
    Clause("retry-goes-on", 3, "after a retry that passes comes the first stage without a valid pass", retry_goes_on),
    Clause("retry-other-stage", 3, "a retry of another stage leads back to the one that failed", retry_other_stage),
    Clause("retry-fails", 3, "a retry that does not pass holds again", retry_fails),
    Clause("changed-components", 3, "components that differ void all passes, back to Inventory", changed_components),
    Clause("completed-passes", 3, "a run with a failed stage does not complete", completed_needs_passes),
    Clause("stalled", 3, "a host silent for 6 heartbeats is stalled, until it is heard", stalled),
    Clause("not-applicable", 6, "not_applicable counts as passed", not_applicable),
    Clause("warnings-pass", 6, "a warning does not keep a stage from passing", warnings_pass),
    Clause("cancelled-result", 6, "a result with the verdict cancelled ends the run", cancelled_result),
)

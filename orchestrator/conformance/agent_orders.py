"""Clauses of sections 3 to 7 for an agent: the walk, orders, holds, results, the inventory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from orchestrator.conformance.agent_calls import calls_of, lines_of
from orchestrator.conformance.agent_rig import HOLD_KEY, KILL_S, OTHER_KEY, UNKNOWN_STAGE, Rig
from orchestrator.conformance.clause import Clause, NotTested, expect

SUMMARY = {"verdict", "headline", "findings", "measurements", "coverage", "duration_s", "tool_versions"}
FINDING = {"reason_code", "severity", "component", "message", "evidence"}
MEASUREMENT = {"name", "component", "value", "unit", "limit", "ok"}
VERDICTS = {"pass", "fail", "unknown", "not_applicable", "cancelled"}
SECTIONS = {"system", "cpu", "memory", "disks", "nics", "gpus", "psus", "bmc", "tpm", "boot", "notes"}
FIRST_BEAT_S = 1.0


def _results(rig: Rig) -> list[dict[str, Any]]:
    if not rig.server.results:
        raise NotTested(f"there is no result: {rig.vain}")
    return rig.server.results


# --- section 3 --------------------------------------------------------------------------------------------------------


def stage_of_state(rig: Rig) -> None:
    expect(rig.server.results, f"no result came for InventoryCheck: {rig.vain}")
    stages = [one["stage"] for one in rig.server.results]
    expect(stages == ["Inventory", UNKNOWN_STAGE], f"results came for {stages}")


def unknown_stage(rig: Rig) -> None:
    rig.reached("results")
    result = rig.server.results[1]
    codes = [one["reason_code"] for one in result["summary"]["findings"]]
    expect(result["passed"] is False and "unknown_stage" in codes, f"a stage nobody knows: {result['summary']}")


def does(activity: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        expect(activity in rig.marks, f"the agent is not {activity}: {rig.vain}")

    return check


def parks_on(rig: Rig) -> None:
    rig.reached("parked")
    expect("beats on" in rig.marks, f"parked, the heartbeat stopped: {rig.vain}")
    warned = [one["text"] for one in lines_of(rig) if one["level"] == "warn" and "Strange" in one["text"]]
    expect(warned, "no warning names the state")


def resumes(rig: Rig) -> None:
    expect("resumed" in rig.marks, f"started anew it does not run the stage: {rig.vain}")
    first, second = (calls_of(rig, "claim")[at].body for at in (0, -1))
    expect(first["instance_id"] != second["instance_id"], "the new process has the old instance_id")
    expect(first["kernel_boot_id"] == second["kernel_boot_id"], "the kernel_boot_id changed without a boot")
    name = rig.subject.long_stage
    warned = [one for one in lines_of(rig) if one["level"] == "warn" and name in one["text"]]
    expect(warned, f"no warning says that it resumes at {name}")


def killed_leaves_nothing(rig: Rig) -> None:
    _gone_in_time(rig)


def _gone_in_time(rig: Rig) -> None:
    if not rig.reached("load"):
        raise NotTested("the long stage starts no process of its own")
    seconds = rig.marks.get("unloaded_s")
    expect(seconds is not None, f"its processes did not end within {KILL_S + rig.subject.slack_s:g} s")
    expect((seconds or 0.0) <= KILL_S + rig.subject.slack_s, f"its processes were gone after {seconds:.1f} s")
    expect(not rig.marks.get("left"), f"left running: {rig.marks.get('left')}")


# --- section 4 --------------------------------------------------------------------------------------------------------


def first_beat(rig: Rig) -> None:
    claimed, beaten = calls_of(rig, "claim")[-1].at, calls_of(rig, "heartbeat")[0].at
    seconds = beaten - claimed
    expect(0 < seconds < FIRST_BEAT_S + rig.subject.slack_s, f"the first heartbeat came after {seconds:.1f} s")


def refuses(mark: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        if not rig.server.handed_out.get(mark):
            raise NotTested(f"it was not handed out: {rig.vain}")
        expect((mark, "refused") in rig.server.acks, f"not acknowledged as refused: {rig.vain}")

    return check


def cancel_result(rig: Rig) -> None:
    rig.reached("load")
    expect(len(rig.server.results) == 1, f"{len(rig.server.results)} results of a cancelled stage: {rig.vain}")
    summary = rig.server.results[0]["summary"]
    codes = [one["reason_code"] for one in summary["findings"]]
    expect(summary["verdict"] == "cancelled" and "cancelled" in codes, f"the result of a cancelled stage: {summary}")


def powers_off(mark: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        rig.reached(mark)
        expect(rig.exit_code == 0, f"the exit code is {rig.exit_code}: {rig.vain}")
        expect(rig.power_offs[:1] == [["systemctl", "poweroff"]], f"powered off by {rig.power_offs}")

    return check


def other_power_off(rig: Rig) -> None:
    rig.reached("completed")
    expect(rig.power_offs[-1:] == [["shutdown", "-h", "now"]], f"after a failing systemctl: {rig.power_offs}")


def stays_up(mark: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        rig.reached(mark)
        expect(rig.exit_code == 0, f"the exit code is {rig.exit_code}: {rig.vain}")
        expect(not rig.power_offs, f"the host was powered off: {rig.power_offs}")

    return check


def no_result(rig: Rig) -> None:
    rig.reached("load")
    posted = [one["stage"] for one in rig.server.results]
    expect(not posted, f"a result was posted for {posted}")


def last_ack(cmd_id: str, mark: str) -> Callable[[Rig], None]:
    def check(rig: Rig) -> None:
        rig.reached(mark)
        expect((cmd_id, "done") in rig.server.acks, "the order that ends the agent was not acknowledged")

    return check


def flushed(rig: Rig) -> None:
    rig.reached("completed")
    expect(rig.exit_code == 0, f"the exit code is {rig.exit_code}: {rig.vain}")
    late = [call for call in rig.server.of("log") if call.answered != 200]
    expect(not late, "the last log lines were not waited for")
    told = [line for line in lines_of(rig) if "shutdown" in line["text"]]
    expect(told, "the log does not tell of the order")


def acts_once(rig: Rig) -> None:
    rig.reached("again")
    count = rig.reached("repeated")
    expect(count == 1, f"a directive that was repeated under one cmd_id was executed {count} times")


def plain_orders(rig: Rig) -> None:
    rig.reached("no-such")
    expect("plain" in rig.marks, f"a retry without cmd_id was not executed: {rig.vain}")


def ack_carried(rig: Rig) -> None:
    if "lost" not in rig.server.handed_out:
        raise NotTested(rig.vain)
    calls = calls_of(rig, "heartbeat")
    first = next((at for at, call in enumerate(calls) if call.body.get("acked_cmd_id") == "lost"), None)
    expect(first is not None, f"no heartbeat acknowledges it: {rig.vain}")
    for call in calls[first:]:
        expect(call.body.get("acked_cmd_id") == "lost", "the acknowledgement was given up before a 200 answered it")
        if call.answered == 200:
            return
    raise NotTested(f"no heartbeat that carries it was answered with 200: {rig.vain}")


# --- section 5 --------------------------------------------------------------------------------------------------------


def _body(key: str) -> str:
    return key.split()[1]


def key_installed(rig: Rig) -> None:
    rig.reached("holding" if "holding" in rig.marks else "keys") if "keys" not in rig.marks else None
    lines = str(rig.marks.get("keys", "")).splitlines()
    expect([line for line in lines if _body(HOLD_KEY) in line], f"the key was not installed: {rig.vain}")


def key_expires(rig: Rig) -> None:
    line = next(line for line in rig.reached("keys").splitlines() if _body(HOLD_KEY) in line)
    expect('expiry-time="2099' in line, f"the line has no expiry-time of the answer: {line}")


def key_modes(rig: Rig) -> None:
    folder, file = rig.reached("modes")
    expect((folder, file) == (0o700, 0o600), f"the folder has the mode {folder:o}, the file {file:o}")


def others_kept(rig: Rig) -> None:
    lines = rig.reached("keys").splitlines()
    expect(OTHER_KEY in lines, f"the key that was there is not on a line of its own: {lines}")
    after = rig.reached("keys after")
    expect(OTHER_KEY in after.splitlines(), "the key that was there is gone after the hold")


def key_removed(rig: Rig) -> None:
    rig.reached("keys")
    after = rig.marks.get("keys after")
    expect(after is not None, f"the hold was not left: {rig.vain}")
    expect(_body(HOLD_KEY) not in (after or ""), "the hold key is still there")


def key_stays(rig: Rig) -> None:
    between = rig.reached("keys between")
    expect(_body(HOLD_KEY) in between, "the key went with a retry that failed")


def key_refused(rig: Rig) -> None:
    if not rig.server.of("hold"):
        raise NotTested(f"hold was never called: {rig.vain}")
    expect(not rig.reached("keys").strip(), f"it was installed: {rig.marks['keys'][:200]}")
    expect(not rig.vain, rig.vain)


def asked_again(rig: Rig) -> None:
    expect(len(calls_of(rig, "hold")) >= 2, f"a failed hold was not asked for again: {rig.vain}")


# --- sections 6 and 7 -------------------------------------------------------------------------------------------------


def summary_fields(rig: Rig) -> None:
    for result in _results(rig):
        summary = result["summary"]
        missing = SUMMARY - set(summary)
        expect(not missing, f"the summary of {result['stage']} lacks {sorted(missing)}")
        expect(summary["verdict"] in VERDICTS, f"the verdict is {summary['verdict']!r}")
        for found in summary["findings"]:
            expect(set(found) >= FINDING, f"a finding has only {sorted(found)}")
            expect(found["severity"] in {"error", "warning", "info"}, f"severity is {found['severity']!r}")
        for measured in summary["measurements"]:
            expect(set(measured) >= MEASUREMENT, f"a measurement has only {sorted(measured)}")
        for component, part in summary["coverage"].items():
            expect(0 <= part <= 1, f"coverage of {component} is {part}")


def verdict_rule(rig: Rig) -> None:
    for result in _results(rig):
        summary, stage = result["summary"], result["stage"]
        errors = [one for one in summary["findings"] if one["severity"] == "error"]
        good = summary["verdict"] in {"pass", "not_applicable"}
        expect(result["passed"] is good, f"{stage}: passed is {result['passed']} with {summary['verdict']}")
        expect(good is not bool(errors), f"{stage}: {summary['verdict']} with {len(errors)} error findings")


def first_message(rig: Rig) -> None:
    for result in _results(rig):
        errors = [one["message"] for one in result["summary"]["findings"] if one["severity"] == "error"]
        if errors:
            expect(result["message"] == errors[0], f"message is {result['message']!r}, the first error {errors[0]!r}")


def result_ids(rig: Rig) -> None:
    ids = [one["result_id"] for one in rig.reached("results")]
    expect(len(set(ids)) == len(ids), "two executions have one result_id")
    for one in ids:
        uuid.UUID(one)


def components(rig: Rig) -> None:
    for result in rig.reached("results"):
        parts = result["components"]
        expect(parts and parts == sorted(parts), f"components of {result['stage']}: {parts}")
        expect(all(":" in part for part in parts), f"components of {result['stage']} are not kind:serial: {parts}")


def inventory(rig: Rig) -> None:
    for result in rig.reached("results"):
        if result["stage"] != "Inventory":
            expect("inventory" not in result, f"{result['stage']} carries an inventory")
            continue
        missing = SECTIONS - set(result["inventory"])
        expect(not missing, f"the inventory lacks {sorted(missing)}")


def _clauses() -> tuple[Clause[Rig], ...]:
    one = Clause
    key_goes = "the key is removed {}"
    bad = "a key {} is not installed"
    return (
        one("stage-of-state", 3, "InventoryCheck runs Inventory; next_state names the next", stage_of_state, "walk"),
        one("unknown-stage", 3, "a listed stage it does not know fails with unknown_stage", unknown_stage, "walk"),
        one("completed", 3, "Completed: waits for shutdown", does("completed"), "completed"),
        one("no-state", 3, "an empty state is as Completed", does("completed"), "no_state"),
        one("parked", 3, "a state nobody knows: parks", does("parked"), "parked"),
        one("parked-beats", 3, "with a warning that names it, and the heartbeat goes on", parks_on, "parked"),
        one("resumed", 3, "started anew: a new instance, the same boot, resumes there and warns", resumes, "killed"),
        one("killed", 3, "nothing that it started outlives a SIGKILL by 2 s", killed_leaves_nothing, "killed"),
        one("first-beat", 4, "the first heartbeat follows the claim at once", first_beat, "completed"),
        one("cancel-result", 4, "cancel in mid-stage: its result has the verdict cancelled", cancel_result, "cancel"),
        one("cancel-off", 4, "and the host is powered off, exit 0", powers_off("load"), "cancel"),
        one("cancel-kills", 4, "and all it started is gone within 2 s", _gone_in_time, "cancel"),
        one("cancel-acked", 4, "and it is acknowledged as done", last_ack("cancel", "load"), "cancel"),
        one("retry-running", 4, "retry in mid-stage is refused", refuses("running-retry"), "cancel"),
        one("shutdown-off", 4, "shutdown in mid-stage powers off, exit 0", powers_off("load"), "shutdown"),
        one("shutdown-kills", 4, "and all it started is gone within 2 s", _gone_in_time, "shutdown"),
        one("shutdown-silent", 4, "and no result is posted", no_result, "shutdown"),
        one("shutdown-acked", 4, "and a last heartbeat acknowledges it", last_ack("shutdown", "load"), "shutdown"),
        one("abort-up", 4, "abort in mid-stage: exit 0, the host stays up", stays_up("load"), "abort"),
        one("abort-kills", 4, "and all it started is gone within 2 s", _gone_in_time, "abort"),
        one("abort-silent", 4, "and no result is posted", no_result, "abort"),
        one("abort-acked", 4, "and a last heartbeat acknowledges it", last_ack("abort", "load"), "abort"),
        one(
            "completed-off",
            4,
            "shutdown when completed: `systemctl poweroff`, exit 0",
            powers_off("completed"),
            "completed",
        ),
        one("completed-flush", 4, "the log is flushed before", flushed, "completed"),
        one("completed-retry", 4, "retry when completed is refused", refuses("late-retry"), "completed"),
        one("completed-cancel", 4, "cancel when completed is refused", refuses("late-cancel"), "completed"),
        one("completed-other", 4, "else by `shutdown -h now`", other_power_off, "no_systemctl"),
        one("completed-abort", 4, "abort when completed: exit 0, the host stays up", stays_up("completed"), "no_state"),
        one("between-cancel", 4, "cancel between stages is refused", refuses("between-cancel"), "between"),
        one("between-retry", 4, "retry between stages is refused", refuses("between-retry"), "between"),
        one("between-off", 4, "shutdown between stages powers off, exit 0", powers_off("between"), "between"),
        one("parked-off", 4, "shutdown when parked powers off, exit 0", powers_off("parked"), "rejected_result"),
        one("parked-cancel", 4, "cancel when parked is refused", refuses("parked-cancel"), "parked"),
        one("parked-retry", 4, "retry when parked is refused", refuses("parked-retry"), "parked"),
        one("parked-abort", 4, "abort when parked: exit 0, the host stays up", stays_up("parked"), "parked"),
        one("holding-cancel", 4, "cancel in a hold is refused", refuses("holding-cancel"), "hold"),
        one("holding-off", 4, "shutdown in a hold powers off, exit 0", powers_off("keys"), "hold"),
        one("holding-abort", 4, "abort in a hold: exit 0, the host stays up", stays_up("keys"), "hold_abort"),
        one("acts-once", 4, "it acts once on each cmd_id, however often that is repeated", acts_once, "retry"),
        one(
            "ack-carried",
            4,
            "an acknowledgement is carried until a heartbeat is answered 200",
            ack_carried,
            "lost_acks",
        ),
        one("unknown-cmd", 4, "a cmd that nobody knows is refused", refuses("no-such"), "retry"),
        one("without-id", 4, "a directive without cmd_id is executed", plain_orders, "retry"),
        one("hold-key", 5, "the key of `hold` is installed", key_installed, "hold"),
        one("hold-expiry", 5, "with expiry-time where an expiry is known", key_expires, "hold"),
        one("hold-modes", 5, "folder 0700 and file 0600, also where they existed", key_modes, "hold"),
        one("hold-others", 5, "other keys stay, a missing last newline too", others_kept, "hold"),
        one("hold-shutdown", 5, key_goes.format("with a shutdown"), key_removed, "hold"),
        one("hold-abort", 5, key_goes.format("with an abort"), key_removed, "hold_abort"),
        one("hold-over", 5, key_goes.format("with 410"), key_removed, "hold_over"),
        one("hold-revoked", 5, key_goes.format("with a final refusal"), key_removed, "hold_revoked"),
        one("hold-sigterm", 5, key_goes.format("with SIGTERM"), key_removed, "hold_sigterm"),
        one("hold-retry-stays", 5, "the key stays through a retry that does not pass", key_stays, "hold_retry"),
        one("hold-retry-goes", 5, key_goes.format("with a retry that passes"), key_removed, "hold_retry"),
        one("hold-options", 5, bad.format("with options"), key_refused, "key_options"),
        one("hold-two-lines", 5, bad.format("of two lines"), key_refused, "key_lines"),
        one("hold-type", 5, bad.format("whose type is not its blob's"), key_refused, "key_type"),
        one("hold-asked-again", 5, "a failed hold is asked for again, every 30 s", asked_again, "hold_asked_again"),
        one("summary-fields", 6, "every result has a summary with all fields", summary_fields, "walk"),
        one(
            "verdict-rule",
            6,
            "passed is the verdict's; error findings exactly where it does not pass",
            verdict_rule,
            "walk",
        ),
        one("first-message", 6, "message is that of the first error finding", first_message, "walk"),
        one("result-ids", 6, "a UUID for each execution", result_ids, "walk"),
        one("components", 6, "components are sorted, kind:serial", components, "walk"),
        one("inventory", 7, "Inventory alone carries the inventory, with all sections", inventory, "walk"),
    )


CLAUSES = _clauses()

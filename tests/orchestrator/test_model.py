"""Any order of events, by a machine that invents them: no run completes untested, none gets stuck."""

from __future__ import annotations

import contextlib
import copy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.run_record import STAGE_NAMES, STATE_OF
from orchestrator.spec import CpuSpec, Spec
from orchestrator.steps import Heard, HoldAsked, Refusal, Released, WentSilent
from tests.orchestrator.making import PARTS, Walk

VERDICTS = ["pass", "pass", "pass", "not_applicable", "fail", "unknown", "cancelled", "splendid"]
COMPONENTS = st.sampled_from([PARTS, PARTS, PARTS, [*PARTS, "disk:B"], None])
GOOD = {"cpu": {"model": "Xeon"}}
BAD = {"cpu": {"model": "Pentium"}}
OVER = {"Cancelled", "Aborted", "Released"}
KNOWN = {*STATE_OF.values(), "FailedHolding", "Completed", *OVER}


class RunMachine(RuleBasedStateMachine):
    """Hosts, agents and operators that do anything at any time."""

    @initialize(
        stages=st.lists(st.sampled_from(STAGE_NAMES), max_size=3),
        on_failure=st.sampled_from(["hold", "continue"]),
        with_spec=st.booleans(),
        shutdown=st.booleans(),
    )
    def start(self, stages: list[str], on_failure: str, with_spec: bool, shutdown: bool) -> None:
        self.walk = Walk(
            stages,
            on_failure=on_failure,
            spec=Spec(cpu=CpuSpec(model="Xeon")) if with_spec else None,
            shutdown_when_completed=shutdown,
            non_destructive=False,
        )
        self.last: dict[str, tuple[bool, list[str] | None]] = {}
        """What each stage's last execution showed, by what was posted alone: passed, and with which parts."""
        self.answers: dict[str, tuple[str, str]] = {}
        self.instances = 0
        self.boots = 0
        self.ended_in: str | None = None

    @rule(new=st.booleans(), reboot=st.booleans())
    def claim(self, new: bool, reboot: bool) -> None:
        self.instances += new or reboot
        self.boots += reboot
        lost = self.walk.run.awaited_stage
        with contextlib.suppress(Refusal):
            self.walk.claim(f"i{self.instances}", f"b{self.boots}")
        if lost is not None and self.walk.run.record_of(lost).result_id not in {None, *self.answers}:
            self.last[lost] = (False, None)

    @rule(
        verdict=st.sampled_from(VERDICTS),
        components=COMPONENTS,
        inventory=st.sampled_from([GOOD, GOOD, BAD]),
        lie=st.booleans(),
    )
    def post_what_is_awaited(self, verdict: str, components: list[str] | None, inventory: object, lie: bool) -> None:
        stage = self.walk.run.awaited_stage
        if stage is None or self.walk.run.is_over or self.walk.run.instance_id is None:
            return
        self._post(stage, verdict, components, inventory, lie)
        right = self.walk.run.spec is None or inventory is GOOD or stage != "Inventory"
        self.last[stage] = (verdict in {"pass", "not_applicable"} and right, components)

    @rule(stage=st.sampled_from(STAGE_NAMES), verdict=st.sampled_from(VERDICTS))
    def post_anything_else(self, stage: str, verdict: str) -> None:
        if stage == self.walk.run.awaited_stage:
            return
        before = self.walk.run.state
        with contextlib.suppress(Refusal):
            self._post(stage, verdict, PARTS, GOOD, True)
        assert self.walk.run.state == before

    def _post(self, stage: str, verdict: str, components: object, inventory: object, lie: bool) -> None:
        result_id = f"r{len(self.answers)}"
        answer = self.walk.post(
            stage,
            verdict,
            result_id=result_id,
            components=components,
            inventory=inventory if stage == "Inventory" else None,
            passed=True if lie else None,
        )
        self.answers[result_id] = (stage, answer)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def post_again(self, data: st.DataObject) -> None:
        result_id = data.draw(st.sampled_from(sorted(self.answers)))
        stage, answer = self.answers[result_id]
        before = self.walk.run
        assert self.walk.post(stage, "pass", result_id=result_id) == answer
        assert self.walk.run is before

    @rule(
        cmd=st.sampled_from(["retry_stage", "retry_stage", "cancel_stage", "shutdown", "abort"]),
        stage=st.one_of(st.none(), st.sampled_from(STAGE_NAMES)),
        wipe=st.booleans(),
    )
    def order(self, cmd: str, stage: str | None, wipe: bool) -> None:
        with contextlib.suppress(Refusal):
            self.walk.order(cmd, stage if cmd == "retry_stage" else None, wipe=wipe and cmd == "retry_stage")

    @rule(ack=st.sampled_from(["", "done", "done", "refused"]))
    def beat(self, ack: str) -> None:
        opened = [one for one in self.walk.run.open_directives if one.sent_at]
        if ack and opened:
            self.walk.beat(opened[0].cmd_id, ack)
        else:
            self.walk.beat()

    @rule(event=st.sampled_from([WentSilent(), Heard(), HoldAsked("10.0.0.1", "2026-11-21T21:00:00.000Z")]))
    def other(self, event: WentSilent | Heard | HoldAsked) -> None:
        with contextlib.suppress(Refusal):
            self.walk.take(event)

    @rule(really=st.integers(0, 9))
    def release(self, really: int) -> None:
        if really == 0:
            self.walk.take(Released())

    @invariant()
    def state_is_known_and_an_end_is_an_end(self) -> None:
        state = self.walk.run.state
        assert state in KNOWN
        if self.ended_in is not None:
            assert state in {self.ended_in, "Released"}
        self.ended_in = state if state in OVER else None

    @invariant()
    def nothing_untested_completes(self) -> None:
        if self.walk.run.state != "Completed":
            return
        parts = self.last["Inventory"][1]
        for stage in self.walk.run.stages:
            passed, seen = self.last[stage]
            assert passed, f"{stage} never passed"
            assert seen is None or parts is None or set(seen) == set(parts), f"{stage} passed on other parts"

    @invariant()
    def a_stage_in_flight_is_one_that_is_awaited(self) -> None:
        run = self.walk.run
        assert run.in_flight in {None, run.awaited_stage}

    def teardown(self) -> None:
        """From here a sound host, a sound agent and an operator who retries reach Completed."""
        if not hasattr(self, "walk"):
            return
        walk = copy.copy(self.walk)
        if walk.run.is_over:
            return
        walk.claim("last", f"b{self.boots}")
        for _ in range(60):
            if walk.run.state == "Completed" or walk.run.is_over:
                return
            if walk.run.awaited_stage is None:
                if not any(one.cmd == "retry_stage" for one in walk.run.open_directives):
                    walk.order("retry_stage")
                for _ in range(5):  # other orders go first; a sound agent answers each of them
                    if walk.beat() == "retry_stage":
                        break
                    sent = next((one for one in walk.run.open_directives if one.sent_at), None)
                    walk.beat(sent.cmd_id if sent else None, "refused")
                continue
            walk.post(walk.run.awaited_stage, inventory=GOOD if walk.run.awaited_stage == "Inventory" else None)
        raise AssertionError(f"stuck in {walk.run.state}: {walk.history[-20:]}")


RunMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRunMachine = RunMachine.TestCase

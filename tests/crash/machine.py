"""Any order of calls, losses, crashes and orders, against the real orchestrator without a network.

Between the honest agent and the service lies a wire on which each call may be lost, come twice, come late (after its
agent has died, even), or lose its answer. What must never happen is written in the invariants; that every run can
still be brought to its end, in `teardown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.acts import Acts
from orchestrator.agent_service import AgentService
from orchestrator.evidence import EvidenceFolder
from orchestrator.run_creation import RunRequest
from orchestrator.run_record import DONE, Run
from orchestrator.sqlite_store import SqliteStore
from orchestrator.steps import Ordered, Refusal, WentSilent
from orchestrator.who import local_who
from tests.crash.honest_agent import EXIT, OFF, REFUSED_EXIT, Call, Execution, HonestAgent
from tests.orchestrator.making import PARTS

T = TypeVar("T")
STAGES = ["Inventory", "CPUStress", "Storage"]
VERDICTS = ["pass", "pass", "pass", "not_applicable", "fail", "unknown"]
OTHER_PARTS = [*PARTS, "disk:B"]
MOST_STEPS = 400
MOST_ON_THE_WAY = 6


class RunOnAWire(RuleBasedStateMachine):
    """One run, one host, one operator."""

    service_class: type[AgentService] = AgentService

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="wire-"))
        self.loop = asyncio.new_event_loop()
        self.store = SqliteStore.open(self.folder / "db")
        self.service = self.service_class(self.store, EvidenceFolder(self.folder / "evidence"))
        self.acts = Acts(self.service, "https://here", "00")
        self.numbers = itertools.count(1)
        self.wire: list[Call] = []
        self.truth: dict[str, Execution] = {}
        self.answers: dict[str, object] = {}
        self.wipes: Counter[str] = Counter()
        self.acked_off: set[str] = set()
        """Boots in which a shutdown was acknowledged, so that the orchestrator knows of it."""
        self.ended_as: str | None = None

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(on_failure=st.sampled_from(["hold", "hold", "continue"]), shutdown=st.booleans())
    def begin(self, on_failure: str, shutdown: bool) -> None:
        wanted = RunRequest(
            host="h",
            stages=STAGES,
            on_failure=on_failure,
            shutdown_when_completed=shutdown,
            non_destructive=False,
        )
        run, self.token = self.do(self.acts.create(wanted, local_who()))
        self.run_id = run.run_id
        self.boots = 0
        self.agent: HonestAgent | None = None
        self._boot()

    @property
    def run(self) -> Run:
        run = self.store.find_run(self.run_id)
        assert run is not None
        return run

    @property
    def live(self) -> HonestAgent | None:
        return self.agent

    # --- the host -----------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self.boots += 1
        self._start_agent()

    def _start_agent(self) -> None:
        if self.agent is not None:
            for call in list(self.agent.waiting.values()):
                self.agent.failed(call)
        number = next(self.numbers)
        self.agent = HonestAgent(
            f"i{number}", f"b{self.boots}", lambda: f"r{next(self.numbers)}", self._wiped, float(number)
        )

    def _wiped(self, cmd_id: str) -> None:
        self.wipes[cmd_id] += 1
        assert self.wipes[cmd_id] == 1, f"the wipe that {cmd_id} allowed was begun twice"

    @precondition(lambda self: self.agent is not None)
    @rule()
    def the_agent_is_killed(self) -> None:
        """Its unit starts it again, unless it had ended by itself."""
        assert self.agent is not None
        if self.agent.ending not in {EXIT, REFUSED_EXIT}:
            self._start_agent()

    @rule(really=st.integers(0, 2))
    def the_host_boots(self, really: int) -> None:
        if really == 0:
            self._boot()

    @precondition(lambda self: self.agent is not None and self.agent.ending == OFF)
    @rule()
    def the_power_goes(self) -> None:
        self.agent = None

    @precondition(lambda self: self.agent is not None and self.agent.is_at_work)
    @rule(verdict=st.sampled_from(VERDICTS), changed=st.integers(0, 9))
    def a_stage_ends(self, verdict: str, changed: int) -> None:
        assert self.agent is not None
        self.agent.stage_ends(verdict, OTHER_PARTS if changed == 0 else PARTS)
        self.truth.update(self.agent.truth)

    # --- the wire -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.agent is not None and len(self.wire) < MOST_ON_THE_WAY)
    @rule(deliver=st.booleans())
    def the_walk_calls(self, deliver: bool) -> None:
        assert self.agent is not None
        self._send(self.agent.control_call(), deliver)

    @precondition(lambda self: self.agent is not None and len(self.wire) < MOST_ON_THE_WAY)
    @rule(deliver=st.booleans())
    def the_heart_beats(self, deliver: bool) -> None:
        assert self.agent is not None
        self._send(self.agent.heartbeat_call(), deliver)

    def _send(self, call: Call | None, deliver: bool) -> None:
        if call is not None and deliver:
            self._deliver(call)
        elif call is not None:
            self.wire.append(call)

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), twice=st.booleans(), lose_answer=st.booleans())
    def a_call_arrives(self, data: st.DataObject, twice: bool, lose_answer: bool) -> None:
        call = data.draw(st.sampled_from(self.wire))
        if not twice:
            self.wire.remove(call)
        self._deliver(call, lose_answer=lose_answer)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def a_call_is_lost(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.wire))
        self.wire.remove(call)
        call.agent.failed(call)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def a_call_is_given_up(self, data: st.DataObject) -> None:
        """Its agent makes it again, and this one comes late."""
        call = data.draw(st.sampled_from(self.wire))
        call.agent.failed(call)

    def _deliver(self, call: Call, *, lose_answer: bool = False) -> None:
        before = self.run
        try:
            reply = self.do(self._serve(call))
        except Refusal as refusal:
            if call.waited:
                call.agent.failed(call) if lose_answer else call.agent.refused(call, refusal)
            return
        self._check_result(call, reply, before)
        self._check_claim(call, before)
        if call.verb == "heartbeat":
            self._note_off(call)
        if not call.waited:
            return
        if lose_answer:
            call.agent.failed(call)
            return
        call.agent.answered(call, reply)
        self.truth.update(call.agent.truth)
        if call.verb == "claim" and call.agent.boot in self.acked_off:
            assert any(one.cmd == "shutdown" for one in self.run.open_directives), "the order to power off is forgotten"

    async def _serve(self, call: Call) -> object:
        caller = self.service.authenticate(self.run_id, self.token, call.agent.instance)
        return await getattr(self.service, call.verb)(caller, call.request)

    def _check_result(self, call: Call, reply: Any, before: Run) -> None:
        if call.verb != "result":
            return
        if call.request.result_id in self.answers:
            assert reply.next_state == self.answers[call.request.result_id], "a repeated result is answered otherwise"
            heard = msgspec.structs.replace(before, stalled=False)  # any call ends a silence
            assert self.run == heard, "a result counted twice"
        self.answers[call.request.result_id] = reply.next_state

    def _check_claim(self, call: Call, before: Run) -> None:
        """In one boot; of a boot that never got to claim, nobody can say which was first."""
        live = self.agent
        if call.verb == "claim" and live is not None and before.instance_id == live.instance:
            known = {before.kernel_boot_id, *before.older_boots}
            assert call.agent is live or call.agent.boot not in known, "a dead agent took the run from the live one"

    def _note_off(self, call: Call) -> None:
        """Only what was acknowledged counts: an order that was taken as done by silence may not have arrived."""
        acked = call.request.acked_cmd_id
        for one in self.run.directives:
            if one.cmd == "shutdown" and one.cmd_id == acked and one.status == DONE and not self.run.is_over:
                self.acked_off.add(call.agent.boot)

    # --- the operator, and time ---------------------------------------------------------------------------------------

    @rule(
        cmd=st.sampled_from(["retry_stage", "retry_stage", "retry_stage", "cancel_stage", "shutdown", "abort"]),
        stage=st.sampled_from([None, *STAGES]),
        wipe=st.booleans(),
        sure=st.integers(0, 2),
    )
    def an_order(self, cmd: str, stage: str | None, wipe: bool, sure: int) -> None:
        if cmd == "abort" and sure:
            return
        retry = Ordered(cmd, "Storage" if wipe else stage, wipe, None)
        ordered = retry if cmd == "retry_stage" else Ordered(cmd)
        with contextlib.suppress(Refusal):
            self.do(self.acts.order(self.run_id, ordered, local_who()))

    @rule()
    def the_host_is_silent(self) -> None:
        self.do(self.service.apply(self.run_id, WentSilent()))

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def an_end_is_an_end(self) -> None:
        if not hasattr(self, "run_id"):
            return
        if self.ended_as is not None:
            assert self.run.state == self.ended_as
        self.ended_as = self.run.state if self.run.is_over else None

    @invariant()
    def only_what_passed_completes(self) -> None:
        if not hasattr(self, "run_id") or not self.run.is_completed:
            return
        for stage in self.run.stages:
            record = self.run.record_of(stage)
            assert record.result_id is not None, f"{stage} was skipped"
            assert record.result_id in self.truth, f"{stage} has a result that nobody posted"
            execution = self.truth[record.result_id]
            assert record.valid, f"{stage} has no valid pass"
            assert (execution.stage, execution.passed) == (stage, True), f"{stage} did not pass"
            assert set(execution.parts) == set(self.run.components or []), f"{stage} passed on other parts"

    def teardown(self) -> None:
        """From here on all calls arrive, the host is sound, and the operator does what is offered."""
        try:
            if hasattr(self, "run_id"):
                self._late_calls_arrive()
                self._bring_to_an_end()
        finally:
            self.do(self.store.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _late_calls_arrive(self) -> None:
        while self.wire:
            self._deliver(self.wire.pop())

    def _bring_to_an_end(self) -> None:
        for _ in range(MOST_STEPS):
            run, agent = self.run, self.agent
            if run.is_over or (run.is_completed and not self._is_to_go_off()):
                return
            if agent is None or agent.ending is not None:
                self._say_last_and_boot()
                continue
            if agent.is_at_work:
                agent.stage_ends("pass")
                self.truth.update(agent.truth)
            self._send(agent.control_call(), True)
            self._send(agent.heartbeat_call(), True)
            if self.run.is_holding and not self.run.open_directives:
                with contextlib.suppress(Refusal):
                    self.do(self.acts.order(self.run_id, Ordered("retry_stage"), local_who()))
            self.only_what_passed_completes()
        raise AssertionError(f"stuck in {self.run.state}, the agent {self.agent and self.agent.activity}: {self.run}")

    def _is_to_go_off(self) -> bool:
        """A completed run whose host is to be powered off, and is not."""
        agent = self.agent
        return self.run.shutdown_when_completed and agent is not None and agent.ending is None

    def _say_last_and_boot(self) -> None:
        if self.agent is not None:
            self._send(self.agent.heartbeat_call(), True)
        if not self.run.is_completed:
            self._boot()
        else:
            self.agent = None

"""States, results and endings of the walk: an agent over a scripted orchestrator."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stages.outcome import ReasonCode, error
from tests.support.agent_rig import agent_task
from tests.support.detection import detects
from tests.support.fake_orchestrator import DROP, GARBLE, LOSE, Fault, refusal, status
from tests.support.scenes import LONG, alive, loaded, orchestrator, reach, shut_down
from vetting_agent.status import Alarm

# --- states and results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["SpecValidate", "Reporting", "Strange", 5, ["x"], {}])
async def test_a_state_that_is_not_the_agents_parks_it(state: object, tmp_path: Path) -> None:
    server = orchestrator()
    server.state = state
    server.stages = ["Inventory", "SpecValidate"]
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("parked", server)
        await server.until(lambda: any("parked" in text and str(state) in text for text in server.texts), "a warning")
        await shut_down(server, agent)
    assert not server.results


@pytest.mark.parametrize("state", ["Completed", "", None])
async def test_completed_and_no_state_wait_for_the_end(state: str | None, tmp_path: Path) -> None:
    server = orchestrator()
    server.claim_extra["current_state"] = state
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await shut_down(server, agent)
    assert not server.results


@detects(ReasonCode.UNKNOWN_STAGE, "agent over a scripted orchestrator that orders a stage it does not have")
async def test_a_stage_that_only_the_claim_knows_fails_as_unknown(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck", "../Odd"])
    server.stages = ["Inventory", "../Odd"]
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("holding", server)
        await shut_down(server, agent)
    assert server.results[-1]["stage"] == "../Odd"
    assert server.results[-1]["summary"]["findings"][0]["reason_code"] == "unknown_stage"
    assert server.results[-1]["passed"] is False


@pytest.mark.parametrize(
    "parameters", [{"SMART": {"nonsense": 1}}, {"SMART": {"seconds": "long"}}, {"SMART": [1]}, {"SMART": 5}]
)
async def test_bad_parameters_fail_their_stage(parameters: object, tmp_path: Path) -> None:
    server = orchestrator(parameters=parameters)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("holding", server)
        await shut_down(server, agent)
    assert [one["passed"] for one in server.results] == [True, False]
    assert server.results[1]["summary"]["findings"][0]["reason_code"] == "bad_parameter"


@pytest.mark.parametrize("parameters", [[1], "x", 5, True])
async def test_malformed_parameters_fail_every_stage(parameters: object, tmp_path: Path) -> None:
    server = orchestrator(parameters=parameters)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("holding", server)
        await shut_down(server, agent)
    assert server.results[0]["summary"]["findings"][0]["reason_code"] == "bad_parameter"


async def test_a_stage_that_crashes_posts_a_result(tmp_path: Path) -> None:
    server = orchestrator(parameters={"SMART": {"crash": True}})
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("holding", server)
        await shut_down(server, agent)
    assert server.results[1]["summary"]["verdict"] == "unknown"
    assert server.results[1]["summary"]["findings"][0]["reason_code"] == "stage_crashed"


async def test_a_thermal_alarm_stops_the_running_stage_and_fails_it(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    hot = error(ReasonCode.THERMAL_CRITICAL, "socket:0", "coretemp/Core 0 stayed at 103 °C")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        load = await loaded(server, agent)
        agent.agent._directives.put(Alarm(hot))
        await server.until(lambda: not alive(load), "the load to die", 2.0, every_s=0.01)
        await reach("holding", server)
        agent.agent._directives.put(Alarm(hot))  # nothing runs: nothing to stop
        await shut_down(server, agent)
    summary = server.results[1]["summary"]
    assert (summary["verdict"], summary["findings"][0]["reason_code"]) == ("fail", "thermal_critical")
    assert summary["findings"][0]["component"] == "socket:0"


async def test_a_rejected_result_parks(tmp_path: Path) -> None:
    server = orchestrator()
    server.always["result"] = status(422, b"summary is missing a field")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("parked", server)
        await server.until(lambda: any("summary is missing a field" in text for text in server.texts), "the body")
        beats = len(server.of("heartbeat"))
        await server.until(lambda: len(server.of("heartbeat")) > beats + 2, "the heartbeat to go on")
        await shut_down(server, agent)
    assert len(server.of("result")) == 1


@pytest.mark.parametrize("fault", [LOSE, GARBLE, Fault(act=True, reply=(502, {}, b"<html>"))])
async def test_a_lost_answer_is_asked_for_again_with_the_same_id(fault: Fault, tmp_path: Path) -> None:
    server = orchestrator()
    server.faults["result"].extend([fault, fault])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await shut_down(server, agent)
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "CPUStress"]
    ids = [call.body["result_id"] for call in server.of("result")]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert len(server.of("claim")) == 1


@pytest.mark.parametrize("fault", [LOSE, DROP])
async def test_a_server_without_result_ids_gets_each_result_once(fault: Fault, tmp_path: Path) -> None:
    server = orchestrator()
    server.claim_extra = {}
    server.knows_result_ids = False
    server.faults["result"].append(fault)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await server.until(lambda: server.state == "Completed", "the end")
        agent.agent.stop("SIGINT")
        assert await agent.ended() == 0
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "CPUStress"]
    assert len(server.of("claim")) == 2


async def test_evidence_that_cannot_be_sent_is_a_warning(tmp_path: Path) -> None:
    server = orchestrator()
    server.always["evidence"] = status(413)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await server.until(lambda: any("stays in" in text for text in server.texts), "a warning")
        await shut_down(server, agent)
    assert len(server.results) == 3


async def test_without_the_feature_no_evidence_is_sent(tmp_path: Path) -> None:
    server = orchestrator(features=[])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await shut_down(server, agent)
    assert not server.of("evidence")


# --- how an agent ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["hello", "claim"])
@pytest.mark.parametrize(("code", "exit_code"), [(401, 3), (403, 3), (404, 3), (409, 3), (410, 0)])
async def test_a_final_refusal_at_the_start_ends_at_once(verb: str, code: int, exit_code: int, tmp_path: Path) -> None:
    server = orchestrator()
    server.always[verb] = refusal(code)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        assert await agent.ended() == exit_code
        assert len(server.of(verb)) == 1
        assert ("auth_failed" in agent.errors) is (code in {401, 403})
    assert not agent.power_calls


@pytest.mark.parametrize("verb", ["heartbeat", "sensor"])
@pytest.mark.parametrize(("code", "exit_code"), [(401, 3), (409, 3), (410, 0)])
async def test_a_final_refusal_in_a_stage_kills_it_and_leaves_the_host_up(
    verb: str, code: int, exit_code: int, tmp_path: Path
) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        load = await loaded(server, agent)
        server.always[verb] = refusal(code)
        assert await agent.ended() == exit_code
        assert not alive(load)
    assert len(server.results) == 1
    assert not agent.power_calls


async def test_a_rejected_claim_ends_with_3(tmp_path: Path) -> None:
    server = orchestrator()
    server.always["claim"] = status(422, b"no such mac")
    async with server.serve(), agent_task(tmp_path, server) as agent:
        assert await agent.ended() == 3
        assert "no such mac" in agent.errors


async def test_hello_and_claim_are_tried_through_trouble(tmp_path: Path) -> None:
    server = orchestrator()
    server.faults["hello"].append(status(422))
    server.faults["claim"].extend([DROP, status(500), GARBLE, Fault(reply=(200, {}, b'{"stages": 5}'))])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await shut_down(server, agent)
    assert len(server.of("claim")) == 5


async def test_a_signal_before_the_claim_ends_it_too(tmp_path: Path) -> None:
    server = orchestrator()
    server.always["claim"] = status(500)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await server.until(lambda: len(server.of("claim")) > 1, "a claim")
        agent.agent.stop("SIGTERM")
        assert await agent.ended() == 0


async def test_when_systemctl_fails_shutdown_is_asked(tmp_path: Path) -> None:
    server = orchestrator(["InventoryCheck"])
    async with server.serve(), agent_task(tmp_path, server) as agent:
        agent.stand_ins.says("systemctl", exit_code=1)
        await reach("completed", server)
        await shut_down(server, agent)
    assert agent.power_calls == [["systemctl", "poweroff"], ["shutdown", "-h", "now"]]


# --- a bad network ----------------------------------------------------------------------------------------------------


async def test_a_third_of_all_calls_failing_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    draw = random.Random(11)
    faults = (LOSE, DROP, GARBLE, status(500), status(503), Fault(act=True, reply=(504, {}, b"")))
    counts = {"all": 0, "failed": 0}

    def chooser(_: str) -> Fault | None:
        counts["all"] += 1
        if draw.random() >= 1 / 3:
            return None
        counts["failed"] += 1
        return draw.choice(faults)

    server = orchestrator(["InventoryCheck", "SMART", "CPUStress", "Storage"])
    server.chooser = chooser
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await reach("completed", server)
        await server.until(lambda: counts["failed"] > 10, "enough failures for this to prove something")
        await shut_down(server, agent)
    assert counts["failed"] > 10
    assert [one["stage"] for one in server.results] == ["Inventory", "SMART", "CPUStress", "Storage"]
    assert [line["seq"] for line in server.lines.values()] == list(range(1, len(server.lines) + 1))
    assert sum("ends: pass" in text for text in server.texts) == 4


async def test_a_heartbeat_told_to_wait_waits(tmp_path: Path) -> None:
    server = orchestrator(parameters=LONG)
    async with server.serve(), agent_task(tmp_path, server) as agent:
        await loaded(server, agent)
        server.faults["heartbeat"].append(status(503, Retry_After="2"))
        await server.until(lambda: not server.faults["heartbeat"], "the answer")
        told = server.of("heartbeat")[-1].at
        count = len(server.of("heartbeat"))
        await server.until(lambda: len(server.of("heartbeat")) > count, "the next beat")
        assert server.of("heartbeat")[count].at - told >= 1.9
        await shut_down(server, agent)

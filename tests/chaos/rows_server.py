"""Rows: the orchestrator is gone, stands still, or something answers badly in its place."""

from __future__ import annotations

import signal
from typing import Any

from tests.chaos.row import Group
from tests.chaos.scene import Relay, Scene
from tests.walk.rig import wait_for

SERVER = Group("The orchestrator")
ANSWERS = Group("Answers that are none")
UNREACHABLE, UNRESPONSIVE = "node_agent_api_unreachable", "node_agent_api_unresponsive"
INTERCEPTED, FAILING = "node_agent_api_intercepted", "node_agent_api_failing"


@SERVER.row(
    "the orchestrator is killed (SIGKILL), the stage ends meanwhile, then it is started again",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"heartbeat: Connect\w*Error"),
    quick=True,
)
def orchestrator_killed(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    scene.server.kill()
    scene.go_on()
    scene.seen()
    scene.server.start()
    scene.repaired()
    scene.recovered()


@SERVER.row(
    "the orchestrator is ended and started again three times while a stage runs",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"heartbeats are answered again|heartbeat: \w*Error"),
)
def orchestrator_restarted(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    for _ in range(3):
        scene.server.stop()
        scene.server.start()
    scene.seen()
    scene.repaired()
    scene.recovered()
    scene.go_on()


@SERVER.row(
    "the orchestrator is paused (SIGSTOP): it takes connections and does not answer; the stage ends meanwhile",
    hop="hello",
    signal=UNRESPONSIVE,
    says=("agent", r"heartbeat: no answer within 5 s"),
)
def orchestrator_paused(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    assert scene.server.process is not None
    scene.broken()
    scene.server.process.send_signal(signal.SIGSTOP)
    scene.go_on()
    scene.seen()
    scene.server.process.send_signal(signal.SIGCONT)
    scene.repaired()
    scene.recovered()


@SERVER.row(
    "the certificate is rotated in mid-run, and the host was given both fingerprints at its boot",
    hop="tls",
    signal="node_agent_api_tls_failed",
    says=("agent", r"heartbeats are answered again|the result of SMART is in"),
)
def certificate_rotated_as_announced(scene: Scene) -> None:
    scene.serve()
    old = scene.server.fingerprint
    scene.server.stop()
    kept = _put_certificate_away(scene)
    scene.server.start()
    new = scene.server.fingerprint
    scene.server.stop()
    _put_certificate_away(scene)
    _put_back(scene, kept)
    scene.server.start()
    assert scene.server.fingerprint == old
    scene.under_way(fingerprint=f"{old},{new}")
    scene.broken()
    scene.server.stop()
    _put_back(scene, {name: (scene.folder / f"second-{name}").read_bytes() for name in kept})
    scene.server.start()
    assert scene.server.fingerprint == new
    scene.go_on()
    scene.seen()
    scene.repaired()
    scene.recovered(lambda: scene.view["state"] != "SMART", "the result of SMART")


NAMES = ("tls-certificate.pem", "tls-key.pem")


def _put_certificate_away(scene: Scene) -> dict[str, bytes]:
    """Off the server's folder; the newest that was put away lies beside it."""
    kept = {name: (scene.server.data / name).read_bytes() for name in NAMES}
    for name, content in kept.items():
        (scene.folder / f"second-{name}").write_bytes(content)
        (scene.server.data / name).unlink()
    return kept


def _put_back(scene: Scene, kept: dict[str, bytes]) -> None:
    for name, content in kept.items():
        (scene.server.data / name).write_bytes(content)


@SERVER.row(
    "the certificate is rotated in mid-run, and the host knows only the old fingerprint; repair: the old one again",
    hop="tls",
    signal="node_agent_api_tls_failed",
    says=("agent", r"fingerprint mismatch: expected [0-9a-f]{64}, seen [0-9a-f]{64}"),
)
def certificate_rotated_unannounced(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.server.stop()
    kept = _put_certificate_away(scene)
    scene.broken()
    scene.server.start()
    scene.go_on()
    scene.seen()
    scene.server.stop()
    _put_back(scene, kept)
    scene.server.start()
    scene.repaired()
    scene.recovered()


@SERVER.row(
    "the run's token is revoked (rotated) while a stage runs; repair: the host is booted with the new one",
    hop="token",
    signal="node_agent_auth_failed",
    says=("agent", r"auth_failed: \w+ was answered with HTTP 403: wrong_token"),
)
def token_revoked(scene: Scene) -> None:
    scene.serve()
    first = scene.under_way()
    scene.broken()
    said: dict[str, Any] = scene.server.operator("POST", f"/runs/{scene.run_id}/token")
    scene.seen()
    assert first.wait(60) == 3, first.errors
    assert not first.descendants()
    scene.go_on()
    scene.run = scene.run | {"token": said["token"]}
    scene.agent(run=scene.run)
    scene.repaired()
    scene.recovered()


@SERVER.row(
    "the server and the host speak different protocols: the claim is answered with a run that stands at a state"
    " which this agent does not know; repair: the right answer, and the agent started again",
    hop="claim",
    signal="node_agent_api_incompatible",
    says=("agent", r"parked: this agent knows no state 'BurnIn2'"),
)
def server_of_another_version(scene: Scene) -> None:
    scene.serve()
    scene.create()
    relay = scene.relay()
    relay.order(fault="rewrite", verbs=["claim"], body={"current_state": "BurnIn2"})
    scene.broken()
    agent = scene.agent(url=relay.url)
    scene.seen()
    _end(scene)
    relay.order()
    assert agent.process is not None
    scene.agent(url=relay.url)
    scene.repaired()
    scene.recovered()


@SERVER.row(
    "the server takes no claim of this agent's version (422 in its own words); repair: one that does",
    hop="claim",
    signal="node_agent_api_incompatible",
    says=("agent", r"the claim is not taken: claim was rejected with HTTP 422: .*unsupported_version"),
    means="a relay answers in the server's words: the server itself refuses no version yet",
    quick=True,
)
def agent_of_another_version(scene: Scene) -> None:
    scene.serve()
    scene.create()
    relay = scene.relay()
    words = "this server takes agents from 9.0 on"
    envelope = {"error": {"code": "unsupported_version", "message": words, "correlation_id": "c"}}
    relay.order(fault="refuse", verbs=["claim"], body=envelope)
    scene.broken()
    agent = scene.agent(url=relay.url)
    scene.seen()
    assert agent.wait(60) == 3
    relay.order()
    scene.agent(url=relay.url)
    scene.repaired()
    scene.recovered()


def _end(scene: Scene) -> None:
    agent = scene.agents[-1]
    assert agent.process is not None
    agent.process.terminate()
    assert agent.wait(60) == 0


def _spoils(scene: Scene, fault: str, *, times: int = 3, verbs: tuple[str, ...] = ()) -> Relay:
    """From the middle of a stage on every answer is that, the stage ends meanwhile, and then all is well again."""
    scene.serve()
    relay = scene.relay()
    scene.under_way(url=relay.url)
    scene.broken()
    relay.order(fault=fault, verbs=list(verbs))
    scene.go_on()
    scene.seen()
    wait_for(lambda: relay.spoiled(fault) >= times, f"{times} answers: {fault}", 90)
    wait_for(lambda: _asked(relay, "/result", fault), "a result that was answered so", 90)
    relay.order()
    scene.repaired()
    scene.recovered()
    return relay


def _asked(relay: Relay, path: str, fault: str) -> bool:
    return any(one.get("fault") == fault and str(one.get("path", "")).endswith(path) for one in relay.said)


@ANSWERS.row(
    "every call is answered with 500 and a page",
    hop="hello",
    signal=FAILING,
    says=("agent", r"heartbeat: HTTP 500: "),
)
def answers_500(scene: Scene) -> None:
    _spoils(scene, "500")


@ANSWERS.row(
    "every call is answered with 429 and Retry-After: 3",
    hop="hello",
    signal="node_agent_api_rate_limited",
    says=("agent", r"heartbeat: HTTP 429, asked to wait 3 s"),
)
def answers_429(scene: Scene) -> None:
    relay = _spoils(scene, "429")
    beats = sum(str(one.get("path", "")).endswith("/heartbeat") and one.get("fault") == "429" for one in relay.said)
    assert beats <= 40, f"{beats} heartbeats in spite of Retry-After"


@ANSWERS.row(
    "every call reaches the orchestrator and is answered 200 with garbage: results are taken, and nobody is told",
    hop="hello",
    signal=INTERCEPTED,
    says=("agent", r"heartbeat: an answer that makes no sense"),
)
def answers_garbage(scene: Scene) -> None:
    _spoils(scene, "garbage")


@ANSWERS.row(
    "every call reaches the orchestrator, and half of its answer's body comes back",
    hop="hello",
    signal=INTERCEPTED,
    says=("agent", r"heartbeat: RemoteProtocolError: .*(incomplete|closed)"),
)
def answers_half_a_body(scene: Scene) -> None:
    _spoils(scene, "half")


@ANSWERS.row(
    "every call is answered with 10 MB",
    hop="hello",
    signal=INTERCEPTED,
    says=("agent", r"heartbeat: the answer is longer than 1048576 bytes"),
)
def answers_ten_megabytes(scene: Scene) -> None:
    _spoils(scene, "huge")


@ANSWERS.row(
    "every call reaches the orchestrator, and the connection is closed without an answer",
    hop="hello",
    signal=FAILING,
    says=("agent", r"heartbeat: RemoteProtocolError: Server disconnected without sending a response"),
)
def answers_nothing(scene: Scene) -> None:
    _spoils(scene, "nothing")


@ANSWERS.row(
    "a proxy answers each call with its own 404 page, for less than a minute",
    hop="run",
    signal=INTERCEPTED,
    says=("agent", r"heartbeat: HTTP 404 that is not the orchestrator's own"),
)
def answers_404_of_a_proxy(scene: Scene) -> None:
    _spoils(scene, "404", times=2)


@ANSWERS.row(
    "the proxy's 404 page goes on for more than a minute, and the stage ends meanwhile: the agent gives up; repair:"
    " it is started again",
    hop="run",
    signal=INTERCEPTED,
    says=("agent", r"run_not_found: .* for \d+ s, though not in the orchestrator's own words"),
    clear_s=150.0,
)
def answers_404_for_good(scene: Scene) -> None:
    scene.serve()
    relay = scene.relay()
    first = scene.under_way(url=relay.url)
    scene.broken()
    relay.order(fault="404")
    scene.go_on()  # a smartctl that lasts as long as the agent's patience would be called hung
    scene.seen()
    assert first.wait(60) == 3
    assert not first.descendants()
    relay.order()
    scene.agent(url=relay.url)
    scene.repaired()
    scene.recovered()


@ANSWERS.row(
    "the result's path is blocked after the claim (502); everything else passes",
    hop="result",
    signal="node_task_result_post_failed",
    says=("agent", r"trouble with result: result: HTTP 502"),
)
def result_path_blocked(scene: Scene) -> None:
    scene.serve()
    relay = scene.relay()
    scene.under_way(url=relay.url)
    scene.broken()
    relay.order(fault="502", verbs=["result"])
    scene.go_on()
    scene.seen()
    assert not scene.view["stalled"]
    relay.order()
    scene.repaired()
    scene.recovered(lambda: scene.view["state"] != "SMART", "the result of SMART")


ROWS = (
    orchestrator_killed,
    orchestrator_restarted,
    orchestrator_paused,
    certificate_rotated_as_announced,
    certificate_rotated_unannounced,
    token_revoked,
    server_of_another_version,
    agent_of_another_version,
    answers_500,
    answers_429,
    answers_garbage,
    answers_half_a_body,
    answers_ten_megabytes,
    answers_nothing,
    answers_404_of_a_proxy,
    answers_404_for_good,
    result_path_blocked,
)

"""Preflight from TLS to the run: a real orchestrator, and servers that are none."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.canned_server import CannedServer, response
from tests.support.canned_server import refusal as own_refusal
from tests.support.certificates import Certificate, make
from tests.support.namespaces import free_port
from tests.support.preflights import (
    SHORT_S,
    agent_preflight,
    assert_failed,
    orchestrator_preflight,
    preflight_here,
    state_of,
)
from tests.walk.rig import Orchestrator
from vetting_agent.preflight_api import tls_failure

PAGE = b"<html><body>Sign in to the hotel's network</body></html>"


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    server = Orchestrator(tmp_path_factory.mktemp("server") / "o")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make()


def at(orchestrator: Orchestrator, run: dict[str, Any], tmp_path: Path, **more: Any) -> dict[str, Any]:
    """The preflight of a host that was booted for this run."""
    given = {"run_id": run["run_id"], "token": run["token"], "fingerprint": orchestrator.fingerprint} | more
    return agent_preflight(tmp_path, given.pop("url", orchestrator.url), **given)


# --- a real orchestrator ----------------------------------------------------------------------------------------------


def test_all_is_well_and_the_run_is_left_as_it_was(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory", "CPUStress", "Network"])
    before = orchestrator.run(run["run_id"])
    report = at(orchestrator, run, tmp_path)
    assert report["ok"], report
    assert state_of(report, "run") == ("ok", "it stands at InventoryCheck")
    assert state_of(report, "iperf") == ("ok", f"port {orchestrator.facts['iperf_port']} answers")
    assert [state_of(report, hop)[0] for hop in ("tcp", "tls", "clock", "hello", "token")] == ["ok"] * 5
    assert orchestrator.run(run["run_id"]) == before
    assert at(orchestrator, run, tmp_path)["ok"], "the iperf3 server did not take the first one well"


def test_plain_words_for_people(orchestrator: Orchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vetting_agent.__main__ import main

    (tmp_path / "token").write_text("not-this-one")
    run = orchestrator.create_run(["Inventory"])
    argv = ["preflight", "--orchestrator", orchestrator.url, "--run-id", str(run["run_id"]), "--state-dir"]
    argv += [str(tmp_path / "s"), "--token-file", str(tmp_path / "token"), "--tls-fpr", orchestrator.fingerprint]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "  token           FAILED    HTTP 403: wrong_token" in out
    for word in ("Failed hop      token", "Symptom", "Likely owner", "Recovery", "node_agent_auth_failed"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 78


def test_a_wrong_token(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"])
    report = at(orchestrator, run, tmp_path, token="not-this-one")
    assert "wrong_token" in assert_failed(report, "token", "node_agent_auth_failed")


def test_a_revoked_token(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"])
    orchestrator.operator("POST", f"/runs/{run['run_id']}/token")
    assert_failed(at(orchestrator, run, tmp_path), "token", "node_agent_auth_failed")


def test_a_run_that_is_over(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"])
    orchestrator.operator("POST", f"/runs/{run['run_id']}/release")
    assert "Released" in assert_failed(at(orchestrator, run, tmp_path), "run", "run_not_active")


def test_a_run_that_is_not_there(orchestrator: Orchestrator, tmp_path: Path) -> None:
    report = agent_preflight(tmp_path, orchestrator.url, run_id=987654, fingerprint=orchestrator.fingerprint)
    assert "no_such_run" in assert_failed(report, "run", "run_not_found")
    assert state_of(report, "token")[0] == "not_applicable"


def test_a_run_of_another_host(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"], mac="52:54:00:00:00:01")
    report = at(orchestrator, run, tmp_path, arguments=["--mac", "52:54:00:00:00:02"])
    assert "52:54:00:00:00:02" in assert_failed(report, "run", "run_claimed_elsewhere")


def test_another_certificate(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"])
    report = at(orchestrator, run, tmp_path, fingerprint="ab" * 32)
    seen = assert_failed(report, "tls", "node_agent_api_tls_failed")
    assert "fingerprint" in seen
    assert "abab" in seen
    assert orchestrator.fingerprint in seen


@pytest.mark.slow
def test_an_orchestrator_that_is_stopped(tmp_path: Path) -> None:
    server = Orchestrator(tmp_path / "o")
    server.start()
    try:
        run = server.create_run(["Inventory"])
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        report = at(server, run, tmp_path / "host", hop_s=SHORT_S)
        assert_failed(report, "tls", "node_agent_api_unresponsive")
        server.process.send_signal(signal.SIGCONT)
        assert at(server, run, tmp_path / "host")["ok"]
    finally:
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_the_servers_log_has_the_correlation_id(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = orchestrator.create_run(["Inventory"])
    report = at(orchestrator, run, tmp_path)
    other = orchestrator_preflight(orchestrator.data, run["run_id"])
    assert report["correlation_id"] in assert_failed(other, "claim", "run_not_claimed")
    report = at(orchestrator, run, tmp_path, token="not-this-one")
    other = orchestrator_preflight(orchestrator.data, run["run_id"])
    assert report["correlation_id"] in assert_failed(other, "claim", "node_agent_auth_failed")


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_no_tls_at_all(tmp_path: Path) -> None:
    with CannedServer(lambda _: response(400, PAGE)) as server:
        report = agent_preflight(tmp_path, f"https://127.0.0.1:{server.port}", fingerprint="0" * 64)
    assert "does not speak TLS" in assert_failed(report, "tls", "node_agent_api_tls_failed")


def test_one_who_hangs_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        report = agent_preflight(tmp_path, url, fingerprint="0" * 64)
        listener.shutdown(socket.SHUT_RDWR)
    assert_failed(report, "tls", "node_agent_api_tls_failed")


def test_a_foreign_certificate_gets_no_byte(tmp_path: Path, certificate: Certificate) -> None:
    with CannedServer(lambda _: response(200, b"{}"), certificate.server_context(tmp_path)) as server:
        report = agent_preflight(tmp_path, server.url, fingerprint="0" * 64)
    assert_failed(report, "tls", "node_agent_api_tls_failed")
    assert server.heads == []


@pytest.mark.parametrize(("expired", "words"), [(True, "has expired"), (False, "not trust")])
def test_the_systems_trust(tmp_path: Path, expired: bool, words: str) -> None:
    certificate = make(expired=expired, address="127.0.0.1")
    context = certificate.server_context(tmp_path)
    environment = {"SSL_CERT_FILE": str(next(tmp_path.glob("*.pem")))} if expired else {}
    with CannedServer(lambda _: response(200, b"{}"), context) as server:
        report = agent_preflight(tmp_path, server.url, environment=environment)
    assert words in assert_failed(report, "tls", "node_agent_api_tls_failed")
    assert ("clock" in report["recovery"]) == expired


def test_a_certificate_of_the_future_points_at_the_clock() -> None:
    problem = ssl.SSLCertVerificationError(1, "certificate verify failed: certificate is not yet valid")
    problem.verify_code = 9
    failure = tls_failure(problem)
    assert "not valid yet" in str(failure)
    assert f"{datetime.now(UTC):%Y-%m-%d}" in str(failure)
    assert "clock" in failure.hint


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("skew_s", "words"), [(7200.0, "behind"), (-7200.0, "ahead of")])
async def test_clocks_apart(tmp_path: Path, certificate: Certificate, skew_s: float, words: str) -> None:
    answer = response(200, b"{}", skew_s=skew_s)
    with CannedServer(lambda _: answer, certificate.server_context(tmp_path)) as server:
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint)
    seen = assert_failed(report, "clock", "clock_skew")
    assert words in seen
    assert server.asked == ["/"], "nothing after it was tried"
    assert not any("authorization" in head.lower() for head in server.heads)


async def test_clocks_a_little_apart_are_well(tmp_path: Path, certificate: Certificate) -> None:
    with CannedServer(lambda _: response(200, b"{}", skew_s=120.0), certificate.server_context(tmp_path)) as server:
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint)
    assert report["ok"], report
    assert state_of(report, "iperf")[0] == "not_applicable"


# --- what answers instead ---------------------------------------------------------------------------------------------

FOREIGN: dict[str, tuple[Callable[[], bytes], str, str]] = {  # made when they are sent: they tell the time
    "a proxy's 404": (lambda: response(404, PAGE, Content_Type="text/html"), "hello", "node_agent_api_intercepted"),
    "a proxy's 401": (lambda: response(401, PAGE, Content_Type="text/html"), "hello", "node_agent_api_intercepted"),
    "a proxy that wants a login": (lambda: response(407, PAGE), "hello", "node_agent_api_intercepted"),
    "a redirect": (lambda: response(302, b"", Location="http://login.test/"), "hello", "node_agent_api_intercepted"),
    "a page": (lambda: response(200, PAGE, Content_Type="text/html"), "hello", "node_agent_api_intercepted"),
    "a fault": (lambda: response(500, b"oops"), "hello", "node_agent_api_failing"),
    "a fault of a proxy": (lambda: response(502, PAGE), "hello", "node_agent_api_failing"),
    "a rate limit": (lambda: response(429, b"", Retry_After="30"), "hello", "node_agent_api_rate_limited"),
    "a busy one": (lambda: own_refusal(503, "busy", Retry_After="30"), "hello", "node_agent_api_rate_limited"),
    "its own 404": (lambda: own_refusal(404, "no_such_run"), "run", "run_not_found"),
    "its own 401": (lambda: own_refusal(401, "no_token"), "token", "node_agent_auth_failed"),
    "its own 410": (lambda: own_refusal(410, "run_over"), "run", "run_not_active"),
    "another version": (lambda: own_refusal(422, "malformed"), "hello", "node_agent_api_incompatible"),
    "garbage": (lambda: response(200, b"\x00\xff garbage"), "hello", "node_agent_api_incompatible"),
    "half a body": (lambda: response(200, b"{}", Content_Length="4000"), "hello", "node_agent_api_failing"),
    "far too much": (lambda: response(200, b" " * 10_000_000), "hello", "node_agent_api_incompatible"),
    "no HTTP": (lambda: b"SSH-2.0-OpenSSH_9.2p1\r\n", "hello", "node_agent_api_failing"),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_what_answers_instead(tmp_path: Path, certificate: Certificate, case: str) -> None:
    answer, hop, name = FOREIGN[case]
    with CannedServer(lambda _: answer(), certificate.server_context(tmp_path)) as server:
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint)
    assert_failed(report, hop, name)
    correlation = [head for head in server.heads if report["correlation_id"] in head]
    assert [head.split()[1] for head in correlation] == ["/api/v1/runs/1/hello"]


@pytest.mark.slow
async def test_silence(tmp_path: Path, certificate: Certificate) -> None:
    with CannedServer(lambda _: b"", certificate.server_context(tmp_path)) as server:
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint, SHORT_S)
    assert_failed(report, "hello", "node_agent_api_unresponsive")
    assert state_of(report, "clock")[0] == "not_applicable"


# --- iperf3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [["Inventory", "Network"], ["Inventory"], None])
async def test_an_iperf3_port_that_is_closed(
    tmp_path: Path, certificate: Certificate, stages: list[str] | None
) -> None:
    port = free_port()
    greeting = json.dumps({"stages": stages, "iperf_port": port}).encode()
    with CannedServer(lambda _: response(200, greeting), certificate.server_context(tmp_path)) as server:
        report = await preflight_here(tmp_path, server.url, certificate.fingerprint)
    if stages == ["Inventory"]:
        assert report["ok"], report
        assert state_of(report, "iperf")[0] == "warning"
    else:
        assert f"port {port}: Connection refused" in assert_failed(report, "iperf", "iperf_unreachable")

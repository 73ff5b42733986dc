"""Booting hosts from a real server in plain HTTP: scripts, tokens, the image, and who has no business there."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.boot_tokens import BootTokens, claimed_with_grant
from orchestrator.run_record import Run
from orchestrator.steps import Refusal
from tests.orchestrator.fleet import mac_of, saved_profile
from tests.orchestrator.making import START
from tests.orchestrator.served import FAST, Agent, Served, serving
from tests.orchestrator.test_cli import typed

ROOT = Path(__file__).parents[2]
KERNEL = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    (folder / "boot.ipxe").write_text((ROOT / "image" / "boot.ipxe").read_text())
    (folder / "vmlinuz").write_bytes(KERNEL)
    (folder / "initrd").write_bytes(b"initrd")
    (folder / "filesystem.squashfs").write_bytes(b"squash")
    (folder / "secret").symlink_to("/etc/hostname")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("below")
    (folder.parent / "outside").write_text("outside")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("orchestrator") / "data"
    words = ("--image", str(image), "--boot-listen", "127.0.0.1:0", "--boot-extra", "console=ttyS1")
    with serving(data, arguments=words) as server:
        yield server
        assert server.end() == 0
        said = server.stderr().splitlines()
        assert set(said) <= {"WARNING Invalid HTTP request received."}, "of the test that sends one"


@pytest.fixture(scope="module")
def loader(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.info["boot_url"], trust_env=False) as client:
        yield client


def script(loader: httpx.Client, mac: str) -> str:
    response = loader.get("/boot.ipxe", params={"mac": mac})
    assert response.status_code == 200
    assert response.text.startswith("#!ipxe\n")
    assert response.headers["cache-control"] == "no-store"
    return response.text


def is_local(text: str) -> bool:
    return "sanboot" in text and "kernel" not in text and "vetting." not in text


def booted(served: Served, text: str, run_id: int) -> Agent:
    """The agent of a host that boots with this script."""
    words = dict(word.split("=", 1) for word in re.findall(r"vetting\.\S+=\S+", text))
    assert words["vetting.orchestrator"] == served.url
    assert words["vetting.tls_fpr"] == served.info["fingerprint"]
    assert words["vetting.run_id"] == str(run_id)
    return Agent(served, run_id, words["vetting.token"])


def exchanged(agent: Agent, mac: str) -> str:
    """Claims, and uses the token in the answer from then on; the boot token."""
    boot_token = agent.headers["Authorization"].removeprefix("Bearer ")
    agent.headers["Authorization"] = f"Bearer {agent.claim(mac)['token']}"
    return boot_token


def test_a_host_boots_claims_and_is_vetted(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(1)
    served.operator.post("/hosts", json={"name": "n1", "macs": [mac, mac_of(2)]})
    assert is_local(script(loader, mac)), "nothing to do yet"
    run_id = served.create(host="n1", stages=["SMART"]).run_id
    text = script(loader, mac.upper().replace(":", "-"))
    assert f"kernel http://{loader.base_url.netloc.decode()}/image/vmlinuz " in text
    assert "console=ttyS1" in text
    assert "@" not in re.sub("#.*", "", text)
    agent = booted(served, text, run_id)
    agent.call("hello", agent.hello(mac))
    exchanged(agent, mac)
    assert agent.call("heartbeat")["cmd"] == ""
    agent.post("Inventory")
    assert "still hears from this host" in script(loader, mac), "no token while the host is alive"
    assert agent.post("SMART") == "Completed"
    assert is_local(script(loader, mac)), "a completed host boots its own disk"
    assert is_local(script(loader, mac_of(2)))
    assert "got its boot script" in str(served.run(run_id)["events"])


def test_each_boot_has_a_token_of_its_own_and_the_first_claim_ends_the_others(
    served: Served, loader: httpx.Client
) -> None:
    mac = mac_of(10)
    run_id = served.create(host="n10", mac=mac).run_id
    first, second, late = (booted(served, script(loader, mac), run_id) for _ in range(3))
    assert len({one.headers["Authorization"] for one in (first, second, late)}) == 3
    assert first.refused("claim", first.claim_body(mac_of(11))) == (409, "other_host")
    boot_token = exchanged(second, mac)
    assert first.refused("claim", first.claim_body(mac)) == (403, "wrong_token")
    assert late.refused("hello", late.hello(mac)) == (403, "wrong_token")
    assert "refused a claim by" in str(served.run(run_id)["events"])
    # one who read the used token on the boot network gets nothing for it
    thief = Agent(served, run_id, boot_token)
    assert thief.refused("claim", thief.claim_body(mac)) == (403, "wrong_token")
    for verb, body in (
        ("heartbeat", {}),
        ("hold", {"ip": "10.0.0.1"}),
        ("log", {"lines": []}),
        ("sensor", {"samples": []}),
    ):
        assert thief.refused(verb, body) == (403, "wrong_token")
    thief.headers["X-Correlation-ID"] = second.instance
    assert thief.refused("result", {"stage": "Inventory"} | _result()) == (403, "wrong_token")
    assert thief.send("evidence/SMART?result_id=r", content=b"x").status_code == 403
    second.call("heartbeat")


def _result() -> dict[str, Any]:
    import msgspec

    from tests.orchestrator.making import result

    return dict(msgspec.to_builtins(result("Inventory")))


def test_a_lost_answer_and_a_restarted_agent_claim_again(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(20)
    run_id = served.create(host="n20", mac=mac).run_id
    agent = booted(served, script(loader, mac), run_id)
    lost = agent.claim(mac)["token"]
    agent.call("hello", agent.hello(mac))
    exchanged(agent, mac)
    assert Agent(served, run_id, lost).refused("heartbeat") == (403, "wrong_token")
    successor = agent.newer()
    assert successor.claim(mac)["token"] is None
    other_boot = agent.newer()
    other_boot.boot = "another-boot"
    assert other_boot.refused("claim", other_boot.claim_body(mac)) == (403, "wrong_token")
    assert other_boot.refused("claim", other_boot.claim_body(mac_of(21))) == (403, "wrong_token")


def test_a_boot_token_opens_no_other_run_and_none_that_is_over(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(30)
    run_id = served.create(host="n30", mac=mac).run_id
    other = served.create(host="n31")
    agent = booted(served, script(loader, mac), run_id)
    stranger = Agent(served, other.run_id, agent.headers["Authorization"].removeprefix("Bearer "))
    for verb, body in (("claim", stranger.claim_body(mac)), ("hello", stranger.hello(mac)), ("heartbeat", {})):
        assert stranger.refused(verb, body) == (403, "wrong_token")
    served.operator.post(f"/runs/{run_id}/release", json={})
    assert agent.refused("claim", agent.claim_body(mac)) == (410, "run_over")
    assert is_local(script(loader, mac))


def test_a_host_that_went_silent_boots_again_into_its_run(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(40)
    run_id = served.create(host="n40", mac=mac, intervals=FAST, stages=["SMART"]).run_id
    agent = booted(served, script(loader, mac), run_id)
    exchanged(agent, mac)
    agent.post("Inventory")
    served.wait_for(run_id, lambda view: view["stalled"])
    again = booted(served, script(loader, mac), run_id)
    exchanged(again, mac)
    assert served.run(run_id)["state"] == "FailedHolding", "a reboot in a stage is seen as one"
    assert agent.refused("heartbeat") == (403, "wrong_token"), "the boot before has ended"


def test_a_rotated_token_ends_all_others(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(50)
    own = served.create(host="n50", mac=mac)
    outstanding = booted(served, script(loader, mac), own.run_id)
    agent = booted(served, script(loader, mac), own.run_id)
    exchanged(agent, mac)
    text = typed(served, "run", "token", "rotate", str(own.run_id))
    for old in (own, outstanding, agent):
        assert old.refused("claim", old.claim_body(mac)) == (403, "wrong_token")
    assert agent.refused("heartbeat") == (403, "wrong_token")
    new = Agent(served, own.run_id, re.findall(r"vetting\.token=(\S+)", text)[0])
    new.claim(mac)
    served.operator.post(f"/runs/{own.run_id}/release", json={})
    assert "Released" in typed(served, "run", "token", "rotate", str(own.run_id), exit_code=1)


def test_a_token_with_an_end_is_good_for_nothing_after_it(served: Served) -> None:
    early, late = (served.create(token_valid_s=1.0) for _ in range(2))
    early.claim()
    time.sleep(1.1)
    early.call("heartbeat")
    assert late.refused("claim", late.claim_body()) == (403, "wrong_token")
    assert served.operator.post("/runs", json={"host": "h", "token_valid_s": 0}).status_code == 422


def test_boot_tokens_of_a_run_that_is_claimed_by_hand_end(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(60)
    own = served.create(host="n60", mac=mac)
    outstanding = booted(served, script(loader, mac), own.run_id)
    own.claim(mac)
    assert outstanding.refused("claim", outstanding.claim_body(mac)) == (403, "wrong_token")


def test_unknown_hosts_are_refused_queued_or_accepted(served: Served, loader: httpx.Client) -> None:
    refused, waiting, accepted, unwanted = (mac_of(number) for number in (70, 71, 72, 73))
    assert is_local(script(loader, refused))
    typed(served, "unknown-hosts", "queue")
    for mac in (waiting, unwanted):
        assert f"chain --replace {served.info['boot_url']}/boot.ipxe?mac={mac}" in script(loader, mac)
    assert waiting in typed(served, "queue", "list")
    typed(served, "queue", "reject", unwanted)
    assert is_local(script(loader, unwanted))
    text = typed(served, "queue", "approve", waiting, "n71")
    run_id = int(re.findall(r"run (\d+)", text)[0])
    exchanged(booted(served, script(loader, waiting), run_id), waiting)
    assert "n71" in typed(served, "host", "list")
    assert "does not wait" in typed(served, "queue", "approve", waiting, "n71", exit_code=1)
    assert "no hardware profile" in typed(served, "unknown-hosts", "accept", "--profile", "none", exit_code=1)
    saved_profile(served, "any", "test_profile: quick\nstages: [SMART]\n")
    typed(served, "unknown-hosts", "accept", "--profile", "any")
    text = script(loader, accepted)
    run_id = int(re.findall(r"vetting.run_id=(\d+)", text)[0])
    assert booted(served, text, run_id).claim(accepted)["stages"] == ["Inventory", "SMART"]
    assert is_local(script(loader, mac_of(1))), "a host that was vetted is not vetted again"
    typed(served, "unknown-hosts", "refuse")


def test_an_approval_may_add_a_port_to_a_known_host(served: Served, loader: httpx.Client) -> None:
    served.operator.post("/hosts", json={"name": "n80", "macs": [mac_of(80)]})
    typed(served, "unknown-hosts", "queue")
    script(loader, mac_of(81))
    typed(served, "queue", "approve", mac_of(81), "n80", "--no-run")
    assert served.operator.get("/hosts/n80").json()["macs"] == [mac_of(80), mac_of(81)]
    assert served.operator.delete(f"/boot-queue/{mac_of(82)}").status_code == 404
    typed(served, "unknown-hosts", "refuse")


def test_the_image_is_served_with_ranges(loader: httpx.Client) -> None:
    whole = loader.get("/image/vmlinuz")
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, KERNEL, "bytes")
    part = loader.get("/image/vmlinuz", headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, KERNEL[256:512])
    assert part.headers["content-range"] == f"bytes 256-511/{len(KERNEL)}"
    assert loader.get("/image/vmlinuz", headers={"Range": "bytes=-5"}).content == KERNEL[-5:]
    assert loader.get("/image/vmlinuz", headers={"Range": f"bytes={len(KERNEL)}-"}).status_code == 416
    assert loader.head("/image/vmlinuz").headers["content-length"] == str(len(KERNEL))
    assert loader.get("/image/filesystem.squashfs").content == b"squash"
    many = ",".join(f"{start}-{start}" for start in range(500))
    assert loader.get("/image/vmlinuz", headers={"Range": f"bytes={many}"}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/image/secret",
        "/image/sub",
        "/image/sub/file",
        "/image/..",
        "/image/../outside",
        "/image/..%2foutside",
        "/image/%2e%2e/outside",
        "/image/%2fetc%2fhostname",
        "//etc/hostname",
        "/image/vmlinuz%00",
        "/image/VMLINUZ",
        "/image/" + "a" * 5000,
        "/image/",
        "/image/%ff%fe",
        "/api/v1/runs/1/claim",
        "/operator/v1/runs",
    ],
)
def test_nothing_else_is_served(served: Served, path: str) -> None:
    place = served.info["boot_url"].removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=10)
    connection.request("GET", path, headers={"Host": place})  # as it is: no client tidies the path up
    response = connection.getresponse()
    assert response.status in {404, 405}, response.read()
    connection.close()


@pytest.mark.parametrize(
    "query",
    ["mac=", "mac=x", "mac=00:00:00:00:00:00", "mac=../../etc", "mac=52:54:00:12:34:56%0aexit", "mac=${net0/mac}"],
)
def test_a_hostile_address_gets_a_harmless_script(loader: httpx.Client, query: str) -> None:
    response = loader.get(f"/boot.ipxe?{query}")
    assert response.status_code == 200
    assert "vetting." not in response.text
    assert "etc" not in response.text
    assert "\nexit\n" not in response.text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(given_mac=st.text(max_size=100))
def test_no_address_breaks_the_server(loader: httpx.Client, given_mac: str) -> None:
    response = loader.get("/boot.ipxe", params={"mac": given_mac.encode("utf-8", "replace").decode()})
    assert response.status_code == 200
    assert response.text.startswith("#!ipxe\n")
    assert "vetting." not in response.text


def test_a_huge_question_and_a_strange_host_header(served: Served, loader: httpx.Client) -> None:
    assert is_local(loader.get(f"/boot.ipxe?mac={'5' * 3000}").text)
    place = served.info["boot_url"].removeprefix("http://")
    assert "netX/mac" in loader.get("/boot.ipxe").text
    response = loader.get("/boot.ipxe", headers={"Host": "x/${evil}"})
    assert response.status_code in {400, 422}
    host, port = place.split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as raw, contextlib.suppress(OSError):
        raw.sendall(b"GET /boot.ipxe?" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)  # the server may have hung up before all of it was said
        answer = raw.recv(65536)
    assert b"200 OK" not in answer
    assert loader.get("/").status_code == 200


def test_asking_again_and_again_writes_nothing(served: Served, loader: httpx.Client) -> None:
    mac = mac_of(90)
    served.create(host="n90", mac=mac)
    script(loader, mac)
    log = served.data / "orchestrator.db-wal"
    before = log.stat().st_size
    for _ in range(30):
        script(loader, mac)
    assert log.stat().st_size == before


def test_a_server_without_its_image_does_not_start(served: Served, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("x")
    serve = ("serve", "--listen", "127.0.0.1:0")
    words = ("--image", str(tmp_path), "--boot-listen", "127.0.0.1:0")
    assert "no boot.ipxe, initrd" in typed(tmp_path / "data", *serve, *words, exit_code=1)
    assert "go together" in typed(tmp_path / "data", *serve, *words[:2], exit_code=2)
    assert "HOST:PORT" in typed(tmp_path / "data", *serve, *words[:3], "nonsense", exit_code=2)


def _run(**facts: Any) -> Run:
    return Run(run_id=7, host="h", token_hash="x", created_at=START, stages=("Inventory",), **facts)


def test_a_token_says_what_was_put_in_and_no_other_key_reads_it() -> None:
    tokens, others = BootTokens(bytes(32)), BootTokens(bytes(31) + b"x")
    token = tokens.mint(_run(boot_generation=3), "52:54:00:12:34:56", 1000.0)
    grant = tokens.read(token)
    assert grant is not None
    assert (grant.run_id, grant.generation, grant.mac) == (7, 3, "52:54:00:12:34:56")
    assert others.read(token) is None
    assert all("!" <= character <= "~" for character in token)
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert tokens.read(changed) is None, "the last character's spare bits are signed for as well"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=120))
def test_no_text_is_taken_for_a_token(text: str) -> None:
    assert BootTokens(bytes(32)).read(text) is None
    assert BootTokens(bytes(32)).read(f"b1.7.0.525400123456.9999999999.{text}") is None


def test_a_token_that_was_not_used_in_time_is_refused() -> None:
    tokens = BootTokens(bytes(32))
    run = _run()
    grant = tokens.read(tokens.mint(run, "52:54:00:12:34:56", 1000.0))
    assert grant is not None
    with pytest.raises(Refusal, match="within"):
        claimed_with_grant(run, grant, grant.mac, "boot", grant.expires + 1)
    bound, session = claimed_with_grant(run, grant, grant.mac, "boot", grant.expires)
    assert claimed_with_grant(bound, grant, grant.mac, "boot", grant.expires + 9e9)[1] != session

"""Preflight in network namespaces with a real cable between them: each fault is named at its own hop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.namespaces import SERVER_ADDRESS, Wire, sh
from tests.support.preflights import PATIENT_S, SHORT_S, agent_preflight, assert_failed, state_of

pytestmark = pytest.mark.root

URL = f"https://{SERVER_ADDRESS}:8443"
NAMED_URL = "https://orchestrator.test:8443"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def seen_from(wire: Wire, tmp_path: Path, url: str = URL, hop_s: float = PATIENT_S, **shown: str) -> dict[str, Any]:
    """The report of a host on the near side. `shown`: contents of files of /etc that it sees instead of ours."""
    mounts = []
    for name, content in shown.items():
        file = tmp_path / name
        file.write_text(content)
        mounts.append(f"mount --bind {file} /etc/{name.replace('_', '.')}")
    script = " && ".join([*mounts, 'exec "$@"'])
    prefix = ["ip", "netns", "exec", wire.near, "unshare", "--mount", "sh", "-c", script, "sh"]
    return agent_preflight(tmp_path / "host", url, fingerprint="0" * 64, prefix=prefix, hop_s=hop_s)


def test_a_port_that_is_switched_off(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "link", "set", "p0", "down")
    assert "p0 is switched off" in assert_failed(seen_from(wire, tmp_path), "link", "node_link_down")


def test_a_cable_without_a_link(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.far, "link", "set", "p0", "down")
    while "state UP" in sh("ip", "-n", wire.near, "link", "show", "p0"):  # the kernel tells of it a little later
        time.sleep(0.05)
    assert "p0 has no link" in assert_failed(seen_from(wire, tmp_path), "link", "node_link_down")


def test_no_network_card(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "link", "del", "p0")
    assert_failed(seen_from(wire, tmp_path), "link", "node_nic_missing")


def test_no_address(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "addr", "flush", "dev", "p0")
    assert_failed(seen_from(wire, tmp_path), "address", "node_address_missing")


def test_an_address_for_the_own_link_is_none(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "addr", "flush", "dev", "p0")
    sh("ip", "-n", wire.near, "addr", "add", "169.254.7.7/16", "dev", "p0")
    assert "169.254.7.7 on p0" in assert_failed(seen_from(wire, tmp_path), "address", "node_address_missing")


def test_no_route(wire: Wire, tmp_path: Path) -> None:
    seen = assert_failed(seen_from(wire, tmp_path, "https://192.0.2.7:8443"), "route", "node_route_missing")
    assert "192.0.2.7: Network is unreachable" in seen


def test_a_forbidden_route(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "route", "add", "unreachable", "192.0.2.0/24")
    assert_failed(seen_from(wire, tmp_path, "https://192.0.2.7:8443"), "route", "node_route_missing")


def test_a_name_without_any_route(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.near, "route", "flush", "dev", "p0", "table", "main")
    sh("ip", "netns", "exec", wire.near, "sh", "-c", "ip -6 route flush dev p0 table main")
    assert_failed(seen_from(wire, tmp_path, NAMED_URL), "route", "node_route_missing")


def test_a_name_server_that_is_none(wire: Wire, tmp_path: Path) -> None:
    report = seen_from(wire, tmp_path, NAMED_URL, resolv_conf=f"nameserver {SERVER_ADDRESS}\n")
    seen = assert_failed(report, "dns", "node_dns_failed")
    assert "orchestrator.test" in seen
    assert SERVER_ADDRESS in seen


@pytest.mark.slow
def test_a_name_server_that_is_silent(wire: Wire, tmp_path: Path) -> None:
    drop(wire, "udp dport 53")
    file = f"nameserver {SERVER_ADDRESS}\noptions attempts:9\n"
    report = seen_from(wire, tmp_path, NAMED_URL, SHORT_S, resolv_conf=file)
    assert f"no answer within {SHORT_S:g} s" in assert_failed(report, "dns", "node_dns_failed")


def test_no_name_server(wire: Wire, tmp_path: Path) -> None:
    report = seen_from(wire, tmp_path, NAMED_URL, resolv_conf="# none\n")
    assert "names none" in assert_failed(report, "dns", "node_dns_failed")


def test_a_port_where_nobody_listens(wire: Wire, tmp_path: Path) -> None:
    report = seen_from(wire, tmp_path)
    assert f"{SERVER_ADDRESS}:8443: Connection refused" in assert_failed(report, "tcp", "node_agent_api_unreachable")
    assert state_of(report, "dns")[0] == "not_applicable"


def test_a_named_orchestrator_where_nobody_listens(wire: Wire, tmp_path: Path) -> None:
    report = seen_from(wire, tmp_path, NAMED_URL, hosts=f"{SERVER_ADDRESS} orchestrator.test\n")
    assert "Connection refused" in assert_failed(report, "tcp", "node_agent_api_unreachable")
    assert state_of(report, "dns") == ("ok", f"orchestrator.test is {SERVER_ADDRESS}")


@pytest.mark.slow
def test_a_firewall_that_drops(wire: Wire, tmp_path: Path) -> None:
    drop(wire, "tcp dport 8443")
    report = seen_from(wire, tmp_path, hop_s=SHORT_S)
    assert "no answer within" in assert_failed(report, "tcp", "node_agent_api_unreachable")


@pytest.mark.slow
def test_a_neighbour_that_is_gone(wire: Wire, tmp_path: Path) -> None:
    sh("ip", "-n", wire.far, "addr", "flush", "dev", "p0")
    assert_failed(seen_from(wire, tmp_path), "tcp", "node_agent_api_unreachable")


def drop(wire: Wire, what: str) -> None:
    """The far side drops this without a word."""
    rules = f"table ip t {{\n chain c {{\n type filter hook input priority 0\n {what} drop\n }}\n}}\n"
    subprocess.run(["ip", "netns", "exec", wire.far, "nft", "-f", "-"], input=rules, text=True, check=True)

"""Rows: the way between host and orchestrator is broken."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.chaos.net import AGENT, OTHER_ADDRESS, ROUTER, SERVER
from tests.chaos.row import Group
from tests.chaos.scene import Scene
from tests.walk.rig import wait_for

NETWORK = Group("The way between host and orchestrator")
UNREACHABLE = "node_agent_api_unreachable"
UNRESPONSIVE = "node_agent_api_unresponsive"


@NETWORK.row(
    "egress of the host is blocked (packets vanish in the router) while a stage runs; the stage ends meanwhile",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"heartbeat: no answer within 5 s|heartbeat: ConnectTimeout"),
)
def egress_blocked(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    scene.net.break_(f"ip saddr {AGENT} drop")
    scene.seen()
    scene.go_on()
    wait_for(lambda: "trouble with result" in _said(scene), "an attempt to send the result", 90)
    scene.net.repair()
    scene.repaired()
    scene.recovered()


@NETWORK.row(
    "egress is blocked before the agent starts, by a firewall that says so (reset)",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"trouble with hello: hello: Connect\w*Error"),
)
def egress_refused_before_the_claim(scene: Scene) -> None:
    scene.serve()
    scene.create()
    scene.net.break_(f"ip saddr {AGENT} meta l4proto tcp reject with tcp reset")
    scene.broken()
    scene.agent()
    scene.seen()
    scene.net.repair()
    scene.repaired()
    scene.recovered()


NAME = "orchestrator.chaos.test"
DNS_ANSWERS = """import socket, sys
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind((sys.argv[1], 53))
while True:
    asked, who = wire.recvfrom(512)
    end = asked.index(b"\\0", 12) + 5
    is_a = asked[end - 4 : end - 2] == b"\\0\\1"
    head = asked[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if is_a else b"\\0\\0") + b"\\0\\0\\0\\0"
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4" + socket.inet_aton(sys.argv[2])
    wire.sendto(head + asked[12:end] + (record if is_a else b""), who)
"""


def resolver(scene: Scene) -> dict[str, Path]:
    """A name server in the router, which the host is shown as its own."""
    argv = [*scene.net.within(scene.net.router), "python3", "-c", DNS_ANSWERS, ROUTER, SERVER]
    process = subprocess.Popen(argv)

    def end() -> None:
        process.kill()
        process.wait()

    scene.at_the_end.append(end)
    shown = scene.folder / "resolv.conf"
    shown.write_text(f"nameserver {ROUTER}\n")
    return {"/etc/resolv.conf": shown}


def by_name(scene: Scene) -> str:
    return f"https://{NAME}:{scene.server.url.rpartition(':')[2]}"


@NETWORK.row(
    "the orchestrator is given by name, and the host's resolver does not answer, from the start",
    hop="dns",
    signal="node_dns_failed",
    says=("agent", rf"{NAME}.*(not|cannot be) (resolved|found|looked up)"),
)
def dns_dead_from_the_start(scene: Scene) -> None:
    scene.serve()
    scene.create()
    shown = resolver(scene)
    scene.net.break_("udp dport 53 drop", hook="input")
    scene.broken()
    scene.agent(url=by_name(scene), shown=shown)
    scene.seen()
    scene.net.repair()
    scene.repaired()
    scene.recovered()


@NETWORK.row(
    "the same resolver dies while a stage runs, and every connection is cut once",
    hop="dns",
    signal="node_dns_failed",
    says=("agent", r"name resolution|No address associated|no answer within 5 s"),
)
def dns_dies_in_mid_run(scene: Scene) -> None:
    scene.serve()
    shown = resolver(scene)
    scene.under_way(url=by_name(scene), shown=shown)
    scene.broken()
    scene.net.break_("udp dport 53 drop", hook="input")
    scene.server.kill()
    scene.server.start()
    scene.seen()
    scene.go_on()
    scene.net.repair()
    scene.repaired()
    scene.recovered()


@NETWORK.row(
    "one-way loss: what the host sends arrives, no answer comes back",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"heartbeat: no answer within 5 s"),
)
def one_way_loss(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    scene.net.break_(f"ip saddr {SERVER} drop")
    scene.go_on()
    scene.seen()
    wait_for(lambda: "trouble with result" in _said(scene), "an attempt to send the result", 90)
    scene.net.repair()
    scene.repaired()
    scene.recovered()


@NETWORK.row(
    "30 % of all packets are lost, both ways; the run goes on under it to its end",
    hop="tcp",
    signal=UNREACHABLE,
    says=("agent", r"no answer within|Connect(Timeout|Error)"),
    clear_s=240.0,
    recovery_s=240.0,
)
def thirty_percent_loss(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    scene.net.break_("meta l4proto tcp numgen random mod 100 < 30 drop")
    scene.seen()
    scene.repaired()  # nothing is: it must go on all the same
    scene.go_on()
    scene.recovered()


@NETWORK.row(
    "2 s latency: each piece comes a second late each way, from the start to the end",
    hop="none",
    signal="none: it must do",
    says=("agent", r"claimed the run"),
    recovery_s=180.0,
)
def two_seconds_latency(scene: Scene) -> None:
    scene.serve()
    scene.create()
    relay = scene.relay(tls=False)
    relay.order(delay_s=1.0)
    scene.broken()
    scene.agent(url=relay.url)
    scene.seen()
    scene.repaired()  # nothing is
    scene.recovered()


@NETWORK.row(
    "an MTU black hole from the start: packets of more than 1200 bytes vanish without an ICMP message",
    hop="result",
    signal=UNRESPONSIVE,
    says=("agent", r"no answer within \d+ s to \d+ bytes.*MTU"),
    clear_s=90.0,
)
def mtu_black_hole(scene: Scene) -> None:
    scene.serve()
    scene.create()
    scene.net.break_("meta length > 1200 drop")
    scene.broken()
    scene.agent()
    scene.seen()
    scene.net.repair()
    scene.repaired()
    scene.recovered(lambda: scene.view["state"] != "InventoryCheck", "the result of Inventory")


@NETWORK.row(
    "the host's address changes in mid-run",
    hop="address",
    signal=UNREACHABLE,
    says=("agent", r"heartbeat: no answer within 5 s|heartbeat: \w+Error"),
)
def address_changed(scene: Scene) -> None:
    scene.serve()
    scene.under_way()
    scene.broken()
    scene.net.readdress(AGENT, OTHER_ADDRESS)
    scene.seen()
    scene.repaired()  # nothing is: the new address is good
    scene.recovered()
    scene.go_on()


@NETWORK.row(
    "answers are cut off in the middle of the TLS stream (after 900 bytes of a connection) by something on the way",
    hop="tls",
    signal="node_agent_api_tls_failed",
    says=("agent", r"heartbeat: \w+(Error|EOF)|heartbeat: .*(closed|disconnected|EOF)"),
    quick=True,
)
def stream_cut(scene: Scene) -> None:
    scene.serve()
    relay = scene.relay(tls=False)
    scene.under_way(url=relay.url)
    scene.broken()
    relay.order(cut=900)
    scene.seen()
    scene.go_on()
    relay.order()
    scene.repaired()
    scene.recovered()


def _said(scene: Scene) -> str:
    return "" if scene.witness is None else scene.witness.errors


ROWS = (
    egress_blocked,
    egress_refused_before_the_claim,
    dns_dead_from_the_start,
    dns_dies_in_mid_run,
    one_way_loss,
    thirty_percent_loss,
    two_seconds_latency,
    mtu_black_hole,
    address_changed,
    stream_cut,
)

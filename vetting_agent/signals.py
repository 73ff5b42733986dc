"""The closed list of signals: each way in which host and orchestrator can fail to work together, under one name.

Both preflights name what they find by these, and `vetting-agent explain` prints them. A signal tells the hop, never
the hardware's verdict: that is what the reason codes of stages/outcome.py are for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

LIKENESS = 0.5
MOST_NEAR = 3

# Owners: who usually has to do something.
BOOT = "boot configuration"
NETWORK = "network"
SERVER = "orchestrator's operator"
HOST = "host and its image"
PEOPLE = "operator of the run"


class Hop(StrEnum):
    """The steps of both walks, in their order."""

    BOOT_PARAMETERS = "boot_parameters"
    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    CLOCK = "clock"
    HELLO = "hello"
    TOKEN = "token"
    RUN = "run"
    IPERF = "iperf"
    EVIDENCE = "evidence_space"
    TOOLS = "tools"
    BMC = "bmc"
    GPU = "gpu_driver"
    # The orchestrator's side.
    SERVER = "server"
    IMAGE = "image"
    CLAIM = "claim"
    HEARTBEAT = "heartbeat"
    RESULT = "result"
    HOLD_PORT = "hold_port"
    HOLD_KEY = "hold_key"
    TERMINAL = "terminal"


class Signal(StrEnum):
    """The names. They stay: dashboards and tests know them."""

    BOOT_PARAMETERS_MISSING = "node_boot_parameters_missing"
    BOOT_PARAMETERS_INVALID = "node_boot_parameters_invalid"
    NIC_MISSING = "node_nic_missing"
    LINK_DOWN = "node_link_down"
    ADDRESS_MISSING = "node_address_missing"
    ROUTE_MISSING = "node_route_missing"
    DNS_FAILED = "node_dns_failed"
    API_UNREACHABLE = "node_agent_api_unreachable"
    API_TLS_FAILED = "node_agent_api_tls_failed"
    API_UNRESPONSIVE = "node_agent_api_unresponsive"
    CLOCK_SKEW = "clock_skew"
    API_INTERCEPTED = "node_agent_api_intercepted"
    API_RATE_LIMITED = "node_agent_api_rate_limited"
    API_FAILING = "node_agent_api_failing"
    API_INCOMPATIBLE = "node_agent_api_incompatible"
    AUTH_FAILED = "node_agent_auth_failed"
    RUN_NOT_FOUND = "run_not_found"
    RUN_CLAIMED_ELSEWHERE = "run_claimed_elsewhere"
    RUN_NOT_ACTIVE = "run_not_active"
    IPERF_UNREACHABLE = "iperf_unreachable"
    DISK_FULL = "disk_full"
    EVIDENCE_NOT_WRITABLE = "evidence_not_writable"
    TOOL_MISSING = "tool_missing"
    TOOL_BROKEN = "tool_broken"
    BMC_UNREADABLE = "bmc_unreadable"
    GPU_DRIVER_MISSING = "gpu_driver_missing"
    # Seen from the orchestrator.
    SERVER_DOWN = "orchestrator_unreachable"
    IMAGE_NOT_SERVED = "boot_image_not_served"
    NOT_CLAIMED = "run_not_claimed"
    HEARTBEAT_STALE = "node_agent_heartbeat_stale"
    RESULT_POST_FAILED = "node_task_result_post_failed"
    HOLD_NOT_OPEN = "hold_not_open"
    SSH_FAILED = "node_ops_ssh_failed"
    HOLD_KEY_REJECTED = "hold_key_rejected"
    # Of a terminal: the same as in the console.
    TERMINAL_MINT = "terminal_token_mint_failed"
    TERMINAL_ROUTE = "terminal_public_route_missing"
    TERMINAL_UPGRADE = "terminal_gateway_upgrade_failed"
    TERMINAL_NO_STREAM = "terminal_open_without_stream"
    TERMINAL_TIMEOUT = "terminal_node_stream_timeout"
    TERMINAL_PTY = "terminal_pty_failed"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a signal says: the hop that fails with it, and three sentences for a person."""

    hop: Hop
    symptom: str
    owner: str
    recovery: str


SIGNALS: Mapping[Signal, Meaning] = {
    Signal.BOOT_PARAMETERS_MISSING: Meaning(
        Hop.BOOT_PARAMETERS,
        "The host was booted without something that the agent must know: orchestrator, run or token.",
        BOOT,
        "Boot it with the kernel command line that `vetting-orchestrator run create` printed, or let the boot service"
        " of the orchestrator write it.",
    ),
    Signal.BOOT_PARAMETERS_INVALID: Meaning(
        Hop.BOOT_PARAMETERS,
        "A boot parameter is there and makes no sense.",
        BOOT,
        "Correct the named parameter where it was set; a boot loader may have cut a long line or eaten a character.",
    ),
    Signal.NIC_MISSING: Meaning(
        Hop.LINK,
        "The kernel has no network interface besides the loopback.",
        HOST,
        "Look in the kernel's log for the network card: a driver or its firmware is missing in the image, or the card"
        " is not seen on its bus.",
    ),
    Signal.LINK_DOWN: Meaning(
        Hop.LINK,
        "No network interface of the host has a link.",
        NETWORK,
        "Check cable, transceiver and switch port. Where the interface is switched off, `ip link set NAME up`.",
    ),
    Signal.ADDRESS_MISSING: Meaning(
        Hop.ADDRESS,
        "An interface has a link, and none has an address.",
        NETWORK,
        "Check the DHCP server, its relay and the VLAN of the switch port: the boot loader may have had a lease that"
        " the booted system did not get.",
    ),
    Signal.ROUTE_MISSING: Meaning(
        Hop.ROUTE,
        "The host has an address, and its routing table no way to the orchestrator.",
        NETWORK,
        "Let DHCP give out the right router, or put host and orchestrator into one network.",
    ),
    Signal.DNS_FAILED: Meaning(
        Hop.DNS,
        "The orchestrator's name is not resolved.",
        NETWORK,
        "Check that DHCP gives out a name server that knows the name, or give the orchestrator's address with"
        " `serve --url`.",
    ),
    Signal.API_UNREACHABLE: Meaning(
        Hop.TCP,
        "The orchestrator's address is known, and no TCP connection to its port comes to be.",
        NETWORK,
        "Refused: the orchestrator is not running, or listens elsewhere. Without an answer: a firewall or a route on"
        " the way drops it. Then restart nothing; the agent goes on trying.",
    ),
    Signal.API_TLS_FAILED: Meaning(
        Hop.TLS,
        "The connection stands, and TLS with the orchestrator does not come to be.",
        SERVER,
        "Compare the fingerprint that the orchestrator prints at its start with vetting.tls_fpr: a new certificate"
        " needs new boot parameters. If somebody else's certificate is shown, find out who answers there.",
    ),
    Signal.API_UNRESPONSIVE: Meaning(
        Hop.HELLO,
        "The orchestrator takes connections, and does not answer in time.",
        SERVER,
        "Look whether the orchestrator is stopped or overloaded. If only long packets are lost, the MTU on the way is"
        " smaller than the host believes.",
    ),
    Signal.CLOCK_SKEW: Meaning(
        Hop.CLOCK,
        "The clocks of host and orchestrator are far apart.",
        HOST,
        "Set the wrong one of the two (NTP; the host's firmware clock should be UTC). Logs can't be compared before,"
        " and keys of a hold expire at the wrong time.",
    ),
    Signal.API_INTERCEPTED: Meaning(
        Hop.HELLO,
        "Something answers in the orchestrator's place: the answer is not in the orchestrator's words.",
        NETWORK,
        "A proxy, a load balancer or another web server stands at this address. Let it pass /api/v1 on, or let hosts"
        " go past it.",
    ),
    Signal.API_RATE_LIMITED: Meaning(
        Hop.HELLO,
        "The host was asked to slow down.",
        SERVER,
        "Something limits the rate of calls: do not restart the agent, which waits as long as it was asked to. Look"
        " first whether a proxy stands on the way.",
    ),
    Signal.API_FAILING: Meaning(
        Hop.HELLO,
        "The orchestrator answers with a fault of its own.",
        SERVER,
        "Read the orchestrator's log and look at its disk. The agent goes on trying.",
    ),
    Signal.API_INCOMPATIBLE: Meaning(
        Hop.HELLO,
        "The answer breaks the protocol that this agent speaks.",
        SERVER,
        "Compare the versions of image and orchestrator, and boot the image that belongs to this orchestrator.",
    ),
    Signal.AUTH_FAILED: Meaning(
        Hop.TOKEN,
        "The orchestrator does not take the token: it is wrong, expired, revoked or was used by another boot.",
        PEOPLE,
        "Boot the host anew with a fresh token: `vetting-orchestrator run token rotate RUN` prints the command line.",
    ),
    Signal.RUN_NOT_FOUND: Meaning(
        Hop.RUN,
        "The orchestrator has no run of this number.",
        PEOPLE,
        "Create a run and boot the host with its parameters. If the run should be there, this is another orchestrator,"
        " or one with another data folder.",
    ),
    Signal.RUN_CLAIMED_ELSEWHERE: Meaning(
        Hop.RUN,
        "The run belongs to another host, or to a newer agent.",
        PEOPLE,
        "Find out which host was meant: two hosts may have been booted with the same parameters.",
    ),
    Signal.RUN_NOT_ACTIVE: Meaning(
        Hop.RUN,
        "The run is over: released, aborted, cancelled or superseded.",
        PEOPLE,
        "Create a new run for this host if it is to be tested again.",
    ),
    Signal.IPERF_UNREACHABLE: Meaning(
        Hop.IPERF,
        "The orchestrator's API is reached, and its iperf3 port is not.",
        NETWORK,
        "Open the iperf3 ports of the orchestrator in the firewalls on the way, and look whether iperf3 runs there.",
    ),
    Signal.DISK_FULL: Meaning(
        Hop.EVIDENCE,
        "The file system that takes the evidence is full. This is no trouble of the network.",
        HOST,
        "Free space there, or give --evidence another place; then nothing need be restarted.",
    ),
    Signal.EVIDENCE_NOT_WRITABLE: Meaning(
        Hop.EVIDENCE,
        "The evidence folder cannot be written.",
        HOST,
        "Look at its permissions, and whether its file system is mounted read-only after an error.",
    ),
    Signal.TOOL_MISSING: Meaning(
        Hop.TOOLS,
        "A program that a stage of this run needs is not installed.",
        HOST,
        "Boot the current image, or install the named program.",
    ),
    Signal.TOOL_BROKEN: Meaning(
        Hop.TOOLS,
        "A program that a stage of this run needs is there and does not run.",
        HOST,
        "Run it by hand and read what it says: a library may be missing, or it was built for another processor.",
    ),
    Signal.BMC_UNREADABLE: Meaning(
        Hop.BMC,
        "The host has a BMC that does not answer over its local interface.",
        HOST,
        "Reset the BMC from its own network port, or cut the power for a minute; then boot again.",
    ),
    Signal.GPU_DRIVER_MISSING: Meaning(
        Hop.GPU,
        "The host has GPUs, and their driver is not loaded or does not answer.",
        HOST,
        "Boot an image with the driver of these GPUs, and look in the kernel's log why it did not load.",
    ),
    Signal.SERVER_DOWN: Meaning(
        Hop.SERVER,
        "No orchestrator answers for this data folder.",
        SERVER,
        "Start `vetting-orchestrator serve`, or name its data folder with --data.",
    ),
    Signal.IMAGE_NOT_SERVED: Meaning(
        Hop.IMAGE,
        "A booting host would not get the image.",
        SERVER,
        "Look at the named file: build the image again, or start the server with --image of a complete one.",
    ),
    Signal.NOT_CLAIMED: Meaning(
        Hop.CLAIM,
        "No host has claimed the run.",
        PEOPLE,
        "Look at the host's own screen: the agent there shows its preflight when it cannot claim. Without any agent"
        " there, look whether the host boots the image at all.",
    ),
    Signal.HEARTBEAT_STALE: Meaning(
        Hop.HEARTBEAT,
        "The host has claimed the run and is not heard of any more.",
        HOST,
        "Look whether the host is up (BMC, console). If it is, run `vetting-agent preflight` there: route, DNS or a"
        " firewall come before the agent.",
    ),
    Signal.RESULT_POST_FAILED: Meaning(
        Hop.RESULT,
        "The host is heard of, and its last result or evidence was not taken.",
        SERVER,
        "Read the reason: no stage has failed by this. The agent tries again or parks with the result kept.",
    ),
    Signal.HOLD_NOT_OPEN: Meaning(
        Hop.HOLD_PORT,
        "The run is held, and its host has not asked for the hold key.",
        HOST,
        "The agent asks every 30 s; look in the run's log why it does not, or at the host's screen.",
    ),
    Signal.SSH_FAILED: Meaning(
        Hop.HOLD_PORT,
        "The held host is heard of, and no SSH server answers at its address. The agent is not to blame.",
        NETWORK,
        "Open port 22 from the orchestrator to the hosts, and look at the host's screen whether its SSH runs. A"
        " terminal needs no SSH: `vetting-orchestrator terminal RUN`.",
    ),
    Signal.HOLD_KEY_REJECTED: Meaning(
        Hop.HOLD_KEY,
        "The held host's SSH server does not take the hold key.",
        HOST,
        "Look whether the key has expired, whether the host's clock is right, and whether another host has this"
        " address now. A terminal needs no key: `vetting-orchestrator terminal RUN`.",
    ),
    Signal.TERMINAL_MINT: Meaning(
        Hop.TERMINAL,
        "The server gives out no token for a terminal.",
        PEOPLE,
        "Read the reason: the run must be held and its host heard of.",
    ),
    Signal.TERMINAL_ROUTE: Meaning(
        Hop.TERMINAL,
        "The console's address does not lead to the server's terminal.",
        NETWORK,
        "Let the proxy before the console pass /operator on, or use `vetting-orchestrator terminal RUN`.",
    ),
    Signal.TERMINAL_UPGRADE: Meaning(
        Hop.TERMINAL,
        "The page's WebSocket to the server was not opened.",
        NETWORK,
        "Let the proxy before the console pass WebSocket upgrades on, and connect again.",
    ),
    Signal.TERMINAL_NO_STREAM: Meaning(
        Hop.TERMINAL,
        "The agent took the order for a terminal, and no stream of it arrived.",
        HOST,
        "Boot the current image; until then use the hold key and ssh.",
    ),
    Signal.TERMINAL_TIMEOUT: Meaning(
        Hop.TERMINAL,
        "The host did not connect back for a terminal in time.",
        NETWORK,
        "With heartbeats and without the stream, something on the way lets calls pass and stops WebSockets.",
    ),
    Signal.TERMINAL_PTY: Meaning(
        Hop.TERMINAL,
        "The host connected back, and gave no working shell.",
        HOST,
        "Look for a full memory or a broken root file system on the host; reboot it if need be.",
    ),
}


def nearest(text: str) -> list[str]:
    """Signals that were probably meant."""
    return difflib.get_close_matches(text.strip().lower(), [one.value for one in Signal], MOST_NEAR, LIKENESS)


def markdown() -> str:
    """The table of docs/preflight.md."""
    rows = [
        f"| `{signal}` | `{one.hop}` | {one.symptom} | {one.owner} | {one.recovery} |"
        for signal, one in SIGNALS.items()
    ]
    head = ["| signal | hop | symptom | likely owner | recovery |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"

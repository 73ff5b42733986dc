"""The six ways in which a terminal does not come to be: each with what it means and what to do next. And its ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOKEN, BROWSER_SOCKET, OPEN_SENT, NODE_STREAM, PTY = "token", "browser_socket", "open_sent", "node_stream", "pty"
STEPS: Mapping[str, str] = {
    TOKEN: "Token: the server lets you open one",
    BROWSER_SOCKET: "Browser socket: this page has its connection to the server",
    OPEN_SENT: "Order sent: the host's agent has fetched the order with a heartbeat",
    NODE_STREAM: "Host stream: the agent has connected back",
    PTY: "Shell: it runs and has shown its first output",
}
"""From the first step to the last; a terminal is ready when it has taken all of them."""

MINT = "terminal_token_mint_failed"
ROUTE = "terminal_public_route_missing"
UPGRADE = "terminal_gateway_upgrade_failed"
NO_STREAM = "terminal_open_without_stream"
STREAM_TIMEOUT = "terminal_node_stream_timeout"
PTY_FAILED = "terminal_pty_failed"


@dataclass(frozen=True, slots=True)
class Explanation:
    """For a person: what a failure means, and what to do."""

    meaning: str
    next_action: str


FAILURES: Mapping[str, Explanation] = {
    MINT: Explanation(
        "The server did not give out a token for this terminal.",
        "Read the reason below: the run must be held, its host heard of and no retry under way, and you need the role"
        " of an operator. If the database failed, look at the server's log.",
    ),
    ROUTE: Explanation(
        "The address that this page was loaded from does not lead to the server's terminal.",
        "If a proxy stands before the server, let it pass /operator and all below it on unchanged. From the server's"
        " own machine `vetting-orchestrator terminal RUN` needs no proxy.",
    ),
    UPGRADE: Explanation(
        "The page could not open its WebSocket to the server, or the server did not take the token there.",
        "If a proxy stands before the server, let it pass WebSocket upgrades (the headers Upgrade and Connection) on."
        " If the token was used or expired, connect again.",
    ),
    NO_STREAM: Explanation(
        "The host's agent answered the order, and no connection of it for this terminal arrived.",
        "An agent from before terminals refuses the order, and so does one that is not holding: use the hold key and"
        " ssh, or boot the host with the current image. The run's log has the agent's words.",
    ),
    STREAM_TIMEOUT: Explanation(
        "The host's agent did not connect back in time.",
        "Look at the host's last heartbeat: without one it is down or cut off. With heartbeats, something between"
        " host and server lets calls pass and stops WebSockets: a proxy or a firewall. The run's log has what the"
        " agent saw.",
    ),
    PTY_FAILED: Explanation(
        "The agent is connected, and the host gave it no working shell.",
        "Read the reason below. A shell that is missing, crashes or shows nothing points at a full memory, a broken"
        " root file system or a wrong login script of the host.",
    ),
}


class TerminalFailed(Exception):
    """One of FAILURES, and what was seen."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

"""What can go wrong between the agent and the orchestrator, and what each kind of it means for the agent.

    AgentError
    ├── BadBootParameter    a boot parameter is missing (MissingBootParameter) or malformed: exit 2
    ├── AlreadyRunning      another agent works on this run on this host: exit 3
    ├── CallError           a call to the orchestrator did not give its answer; `verb` names it
    │   ├── FinalRefusal    401, 403, 404, 409: exit 3; 410: exit 0
    │   ├── Rejected        422 and the other 3xx and 4xx: the payload is not taken, and is not sent again
    │   └── Trouble         everything on the way: is tried again
    └── BadHoldKey          the key that `hold` gave must not be installed

Foreign errors (httpx, ssl, msgspec, sockets) become one of these in `client.py` and nowhere else. No text of any of
them ever holds the token.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_CRASHED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3

_REFUSALS = {401: "auth_failed", 403: "auth_failed", 404: "run_not_found", 409: "claimed_elsewhere", 410: "run_over"}
FINAL_STATUS = frozenset(_REFUSALS)


class AgentError(Exception):
    """Base of all."""


class BadBootParameter(AgentError):
    """One line: which parameter, where it was looked for, what is wrong with it."""


class MissingBootParameter(BadBootParameter):
    """It is nowhere."""


class AlreadyRunning(AgentError):
    """Another agent process on this host holds the run."""


class CallError(AgentError):
    """A call that was not answered as wished."""

    def __init__(self, verb: str, message: str) -> None:
        super().__init__(message)
        self.verb = verb


class FinalRefusal(CallError):
    """The orchestrator will not have this agent any more."""

    def __init__(self, verb: str, status: int, detail: str, *, own: bool = True) -> None:
        super().__init__(verb, f"{_REFUSALS[status]}: {verb} was answered with HTTP {status}: {detail}")
        self.status = status
        self.own = own
        """False: in words that are not the orchestrator's, and so long that it counts all the same."""

    @property
    def exit_code(self) -> int:
        """0 when the run is over, else 3."""
        return EXIT_DONE if self.status == 410 else EXIT_REFUSED


class Rejected(CallError):
    """The payload breaks the protocol in the orchestrator's eyes; sending it again would not help."""

    def __init__(self, verb: str, status: int, body: str) -> None:
        super().__init__(verb, f"{verb} was rejected with HTTP {status}: {body}")
        self.status = status


class Trouble(CallError):
    """Something on the way: a time-out, a refused connection, a 5xx, an answer that makes no sense."""

    def __init__(self, verb: str, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(verb, f"{verb}: {message}")
        self.maybe_done = maybe_done
        """True when the orchestrator may have acted on the call, its answer being lost."""


class BadHoldKey(AgentError):
    """The hold key is not one plain valid public key."""

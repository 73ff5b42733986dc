"""What a directive means at each moment of the walk: the table of the protocol, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from vetting_agent.status import Activity
from vetting_agent.wire import ABORT, CANCEL_STAGE, IDENTIFY, OPEN_TERMINAL, RETRY_STAGE, SHUTDOWN


class Action(Enum):
    """What control does."""

    REFUSE = "refuse"
    CANCEL = "kill the stage, post its result, power off"
    RETRY = "run the stage once more"
    OPEN_TERMINAL = "open a terminal"
    IDENTIFY = "switch a lamp"
    SHUTDOWN = "kill what runs, end a hold, power off"
    ABORT = "kill what runs, end a hold, exit 0"


_ALWAYS = {SHUTDOWN: Action.SHUTDOWN, ABORT: Action.ABORT, IDENTIFY: Action.IDENTIFY}
_SOMETIMES: Mapping[tuple[str, Activity], Action] = {
    (CANCEL_STAGE, Activity.RUNNING): Action.CANCEL,
    (RETRY_STAGE, Activity.HOLDING): Action.RETRY,
    (OPEN_TERMINAL, Activity.HOLDING): Action.OPEN_TERMINAL,
}


def action_for(cmd: str, activity: Activity) -> Action:
    """The action for a directive that arrives at this moment. An unknown one is refused."""
    return _ALWAYS.get(cmd) or _SOMETIMES.get((cmd, activity), Action.REFUSE)

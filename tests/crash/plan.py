"""What happens in a run: the operator's script, and who is killed when. Drawn from a seed, so that it can be replayed.

Moments are counted in what passes between agent and orchestrator, not in seconds: "before the second result is handed
on". So a replay hits about the same point however busy the machine is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

AGENT, ORCHESTRATOR, BOTH = "agent", "orchestrator", "both"
BEFORE, AFTER = "before", "after"
"""A request has come and was not handed on; it was answered, and the answer was not handed back."""
START, IN_LOAD, LAST_WORDS = "start", "in load", "last words"
"""Moments beside the verbs: an agent process was started; the first heartbeat of an agent that is in the load; one
that acknowledges the order to power off."""
MOST_AGENT_KILLS = 2
"""The third crash of an agent in one stage ends in agent_crash_loop."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the operator does once the load runs or the run holds, and the state that it must end in."""

    name: str
    share: int
    ends_in: str
    load_s: float = 5.0
    breaks: bool = False
    """The load finds a fault at first; the operator repairs it and orders a retry."""
    order: str = ""
    """Given as soon as the load runs."""
    loops: bool = False
    """The agent is killed three times in the load."""


SCRIPTS = (
    Script("pass", 8, "Completed"),
    Script("retry", 6, "Completed", breaks=True),
    Script("cancel", 2, "Cancelled", load_s=600, order="cancel_stage"),
    Script("shutdown", 2, "CPUStress", load_s=600, order="shutdown"),
    Script("abort", 1, "Aborted", load_s=600, order="abort"),
    Script("crash loop", 1, "Completed", load_s=40, loops=True),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """`victim` gets SIGKILL at the `number`th moment of this kind, `delay_s` after it."""

    victim: str
    verb: str
    number: int
    phase: str = BEFORE
    delay_s: float = 0.0

    def __str__(self) -> str:
        later = f" + {self.delay_s:.2f} s" if self.delay_s else ""
        return f"{self.victim} {self.phase} {self.verb} {self.number}{later}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    index: int
    script: Script
    kills: tuple[Kill, ...]

    @property
    def name(self) -> str:
        return f"{self.seed}:{self.index}"


VERBS: dict[str, tuple[int, int]] = {
    # verb: how often it is drawn, and up to which of its moments
    "result": (6, 3),
    "evidence": (3, 3),
    "heartbeat": (5, 10),
    "log": (4, 8),
    "claim": (3, 2),
    "hello": (1, 2),
    START: (3, 2),
    LAST_WORDS: (2, 2),
}


def plan_of(seed: int, index: int) -> Plan:
    """The same for the same numbers, always."""
    draw = random.Random(f"{seed}:{index}")
    (script,) = draw.choices(SCRIPTS, [one.share for one in SCRIPTS])
    kills: list[Kill] = [Kill(AGENT, IN_LOAD, number) for number in (1, 2, 3)] if script.loops else []
    agent_kills = len(kills)
    for _ in range(draw.randint(1, 2 if script.loops else 4)):
        spent = agent_kills >= MOST_AGENT_KILLS
        victim = ORCHESTRATOR if spent else draw.choice((AGENT, AGENT, ORCHESTRATOR, ORCHESTRATOR, BOTH))
        agent_kills += victim != ORCHESTRATOR
        kills.append(_kill(draw, victim, script))
    return Plan(seed, index, script, tuple(kills))


def _kill(draw: random.Random, victim: str, script: Script) -> Kill:
    verbs = {**VERBS, "hold": (3, 2)} if script.breaks else VERBS
    (verb,) = draw.choices(list(verbs), [often for often, _ in verbs.values()])
    number = draw.randint(1, verbs[verb][1])
    if verb == START:
        return Kill(victim, verb, number, AFTER, round(draw.uniform(0.0, 1.2), 2))
    delay_s = round(draw.uniform(0.0, 0.5), 2) if draw.random() < 0.4 else 0.0
    return Kill(victim, verb, number, draw.choice((BEFORE, AFTER)), delay_s)

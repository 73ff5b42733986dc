"""Orders about lamps: which make sense, how they are answered, and what counts as lit. Pure."""

from __future__ import annotations

import pytest

from orchestrator.clock import later
from orchestrator.lamps import KEPT, lamp_of
from orchestrator.steps import Beat, Refusal
from tests.orchestrator.making import Walk
from tests.orchestrator.test_directives import claimed, completed, held
from vetting_agent.wire import IdentifyOrder

DISK = "disk:A"


def lit(walk: Walk, target: str = "host", *, on: bool = True, seconds: float = 900.0) -> str:
    return walk.order("identify", identify=IdentifyOrder(target=target, on=on, seconds=seconds))


def why_not(walk: Walk, target: str, **how: object) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        lit(walk, target, **how)  # type: ignore[arg-type]
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("make", [claimed, held, completed])
def test_a_lamp_is_ordered_while_an_agent_is_there(make: object) -> None:
    walk = make()  # type: ignore[operator]
    before = (walk.run.state, walk.run.in_flight)
    cmd_id = lit(walk)
    assert lamp_of(walk.run, "host", walk.now).state == "asked"
    walk.take(Beat(cmd_id, "done"))
    lamp = lamp_of(walk.run, "host", walk.now)
    assert (lamp.state, lamp.text) == ("lit", later(walk.now, 900))
    assert lamp_of(walk.run, "host", later(walk.now, 901)).state == "dark"
    assert (walk.run.state, walk.run.in_flight) == before


def test_where_nobody_is_there_is_no_lamp() -> None:
    assert why_not(Walk(), "host") == (409, "not_claimed")
    walk = claimed()
    walk.take(Beat(lit(walk), "done"))
    walk.take(Beat(walk.order("abort"), "done"))
    assert lamp_of(walk.run, "host", walk.now).state == "dark"
    assert why_not(walk, "host") == (409, "run_over")


def test_only_lamps_of_this_host() -> None:
    walk = claimed()
    for target in ("", "disk:", "moon", "disk:\x1b[2J", "disk:" + "S" * 200):
        assert why_not(walk, target) == (422, "no_lamp")
    for seconds in (0, -1, 1e9, float("nan"), float("inf")):
        assert why_not(walk, "host", seconds=seconds) == (422, "bad_seconds")
    with pytest.raises(Refusal):
        walk.order("identify")
    lit(walk, "disk:NEW")  # before the inventory nobody knows
    walk.post("Inventory")
    lit(walk, DISK)
    assert why_not(walk, "disk:OTHER") == (422, "no_such_disk")


def test_the_same_order_waits_once_and_lamps_do_not_get_in_each_others_way() -> None:
    walk = claimed()
    lit(walk)
    assert why_not(walk, "host") == (409, "already_ordered")
    lit(walk, on=False)
    lit(walk, DISK)
    assert walk.beat() == "identify"
    walk.order("cancel_stage")
    assert walk.beat() == "cancel_stage", "what ends the run goes first"


def test_a_refusal_carries_its_reason() -> None:
    walk = claimed()
    walk.take(Beat(lit(walk), "refused", "no_bmc: this host has no IPMI device"))
    lamp = lamp_of(walk.run, "host", walk.now)
    assert (lamp.state, lamp.text) == ("failed", "no_bmc: this host has no IPMI device")
    assert walk.history[-1].endswith("refused, no_bmc: this host has no IPMI device")
    walk.take(Beat(lit(walk), "refused"))
    assert "does not say why" in lamp_of(walk.run, "host", walk.now).text


def test_old_answers_are_forgotten_and_ids_never_come_again() -> None:
    walk = claimed()
    ids = []
    for _ in range(3 * KEPT):
        ids.append(lit(walk))
        walk.take(Beat(ids[-1], "done"))
    assert len(walk.run.directives) == KEPT
    assert len(set(ids)) == len(ids)

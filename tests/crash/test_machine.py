"""Runs, directives and lost messages in any order, against the real orchestrator."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.crash.forgetful import Forgetful
from tests.crash.machine import RunOnAWire

QUICK = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)
RunOnAWire.TestCase.settings = QUICK
TestRunOnAWire = RunOnAWire.TestCase


class ForgetfulOnAWire(RunOnAWire):
    service_class = Forgetful


def test_an_orchestrator_that_takes_no_notice_of_result_ids_is_found() -> None:
    """Broken on purpose."""
    with pytest.raises(AssertionError, match=r"counted twice|answered otherwise|nobody posted"):
        run_state_machine_as_test(ForgetfulOnAWire, settings=settings(QUICK, database=None))

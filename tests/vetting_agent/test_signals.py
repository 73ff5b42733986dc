"""The closed list of signals: whole, told in the documentation as it is, and the same on both sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.preflight import HOPS as SERVER_HOPS
from orchestrator.terminal_failures import FAILURES
from stages.outcome import ReasonCode
from vetting_agent.preflight import HOPS as AGENT_HOPS
from vetting_agent.signals import SIGNALS, Hop, Signal, markdown, nearest

ROOT = Path(__file__).parents[2]


def test_every_signal_has_its_sentences() -> None:
    assert list(SIGNALS) == list(Signal)
    for signal, meaning in SIGNALS.items():
        assert re.fullmatch(r"[a-z0-9_]{5,40}", signal)
        for sentence in (meaning.symptom, meaning.recovery):
            assert sentence[0].isupper(), signal
            assert sentence.endswith("."), signal
            assert "|" not in sentence
        assert meaning.owner


def test_every_hop_is_walked_by_one_side() -> None:
    assert [*AGENT_HOPS, *SERVER_HOPS] == list(Hop)
    assert {meaning.hop for meaning in SIGNALS.values()} <= set(Hop)


def test_terminals_fail_by_the_same_names() -> None:
    assert {one.value for one in Signal if one.startswith("terminal_")} == set(FAILURES)


def test_what_is_also_a_reason_code() -> None:
    """The same name for the same thing; a new overlap should be one on purpose."""
    both = {one.value for one in Signal} & {one.value for one in ReasonCode}
    assert both == {"tool_missing", "bmc_unreadable", "gpu_driver_missing", "iperf_unreachable"}


def test_the_documentation_has_the_list() -> None:
    assert markdown() in (ROOT / "docs" / "preflight.md").read_text()


@pytest.mark.parametrize(("text", "meant"), [("node_dns_fail", "node_dns_failed"), ("clock-skew", "clock_skew")])
def test_a_misspelt_one_is_found(text: str, meant: str) -> None:
    assert nearest(text)[0] == meant

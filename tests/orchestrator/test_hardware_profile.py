"""Hardware profiles: every mistake in the YAML with its line, learnt from a host that passed, and compared."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.hardware_profile import BadProfile, HardwareProfile, checked_profile
from orchestrator.profile_diff import changes, host_differences
from orchestrator.profile_learning import as_document, learnt
from orchestrator.run_record import STAGE_NAMES, Run
from orchestrator.spec import CpuSpec, DiskSpec, NicSpec, Spec, differences
from orchestrator.steps import Refusal
from stages.profiles import PROFILES
from tests.orchestrator.making import START

GOLDEN = Path(__file__).parents[1] / "fixtures" / "wire" / "result-request-inventory.json"
INVENTORY: dict[str, Any] = json.loads(GOLDEN.read_text())["inventory"]


def mistakes(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(BadProfile) as bad:
        checked_profile(text)
    return [(one.line, one.path, one.message) for one in bad.value.problems]


def test_a_profile_is_read() -> None:
    profile = checked_profile(
        "test_profile: quick\nstages: [SMART, CPUStress]\nparameters:\n  CPUStress: {duration_s: 30}\n"
        "spec:\n  cpu: {model: EPYC, sockets: 2}\n  nics:\n  - {mac: 52:54:00:12:34:56}\n  exact: true\npeers: off\n"
    )
    assert profile == HardwareProfile(
        test_profile="quick",
        stages=["SMART", "CPUStress"],
        parameters={"CPUStress": {"duration_s": 30}},
        spec=Spec(cpu=CpuSpec(model="EPYC", sockets=2), nics=[NicSpec(mac="52:54:00:12:34:56")], exact=True),
        peers="off",
    )
    assert checked_profile("") == HardwareProfile()


def test_all_mistakes_are_told_at_once_with_their_lines() -> None:
    found = mistakes(
        "colour: red\n"
        "test_profile: long\n"
        "stages: [SMART, Smoke]\n"
        "parameters:\n"
        "  SMART:\n"
        "    self_test: 7\n"
        "    depth: 3\n"
        "  Fan: {}\n"
        "spec:\n"
        "  cpu: {sockets: two}\n"
        "  disks:\n"
        "  - {size_gb: 960, count: -1}\n"
        "  - 5\n"
        "  memory: 12\n"
        "peers: loud\n"
    )
    assert [(line, path) for line, path, _ in found] == [
        (1, "colour"),
        (2, "test_profile"),
        (3, "stages.1"),
        (6, "parameters.SMART.self_test"),
        (7, "parameters.SMART.depth"),
        (8, "parameters.Fan"),
        (10, "spec.cpu.sockets"),
        (12, "spec.disks.0.count"),
        (13, "spec.disks.1"),
        (14, "spec.memory"),
        (15, "peers"),
    ]
    assert "it has: " in found[4][2]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: &x 1\nb: *x\n", 1, "Anchors"),
        ("a: 1\nspec: {cpu: !!python/object/apply:os.system [true]}\n", 2, "object of names"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("peers: warning\npeers: off\n", 2, "twice"),
        ("spec: [\n", 2, "no YAML"),
        ("spec:\n\tcpu: 1\n", 2, "no YAML"),
        ("- 1\n", 1, "an object"),
        ("peers: \x07\n", 1, "no YAML"),
        ("a: 1\n---\nb: 2\n", 2, "no YAML"),
        ("[" * 60, 1, "nested too deeply"),
        ("? [a]\n: 1\n", 1, "must be a text"),
        ("spec: {memory_gib: .inf}\n", 1, "from 0 up"),
        ("parameters: {CPUStress: {duration_s: .nan}}\n", 1, "duration_s"),
        ("parameters: {CPUStress: {duration_s: 1}}\n", 1, "at least 2"),
        ("stages: [SMART]\nparameters: {Storage: {}}\n", 2, "not among"),
        ("x" * 300_000, 0, "more than"),
    ],
)
def test_what_a_profile_must_not_hold(text: str, line: int, words: str) -> None:
    found = mistakes(text)
    assert any(one[0] == line and words in one[2] for one in found), found


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.text(alphabet="spec:cpu{}[]&*!-#|>\"' \n\t0123456789.~?,abxyz%@`", max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(BadProfile):
        checked_profile(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["spec", "parameters", "stages", "peers", "test_profile", "cpu", "disks", "SMART", "model"])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=3) | VALUES, max_size=4))
def test_no_value_breaks_the_checks(document: dict[str, Any]) -> None:
    with contextlib.suppress(BadProfile):
        checked_profile(yaml.safe_dump(document))


def passed(**how: Any) -> Run:
    parameters = {name: dict(values) for name, values in PROFILES["quick"].items()}
    parameters["CPUStress"]["duration_s"] = 90.0
    facts = {"profile": "quick", "state": "Completed", "parameters": parameters, "stages": STAGE_NAMES, **how}
    return Run(run_id=17, host="node7", token_hash="x", created_at=START, **facts)


def test_a_profile_is_learnt_from_a_host_that_passed_and_fits_it() -> None:
    result = learnt(passed(), INVENTORY)
    text = result.text("Learnt from run 17 of node7")
    profile = checked_profile(text)
    assert profile == result.profile
    assert profile.test_profile == "quick"
    assert profile.parameters == {"CPUStress": {"duration_s": 90.0}}
    assert profile.spec is not None
    assert differences(profile.spec, INVENTORY) == []
    for own in ("S4EVNX0R123456", "52:54:00:12:34:56"):
        assert own not in yaml.safe_dump(yaml.safe_load(text)), "a host's own names are in no profile"
        assert any(own in line for line in result.left_out), "and it is said that they were left out"
    assert host_differences(profile, INVENTORY, passed()) == []


def test_a_sibling_fits_and_another_machine_does_not() -> None:
    profile = learnt(passed(), INVENTORY).profile
    assert profile.spec is not None
    sibling = json.loads(json.dumps(INVENTORY).replace("S4EVNX0R", "OTHER00").replace("52:54:00", "52:54:99"))
    assert differences(profile.spec, sibling) == []
    sibling["disks"].pop()
    assert "disks" in str(differences(profile.spec, sibling))


def test_nothing_is_learnt_from_a_host_that_did_not_pass() -> None:
    for run, inventory in ((passed(state="FailedHolding"), INVENTORY), (passed(), None)):
        with pytest.raises(Refusal):
            learnt(run, inventory)


def test_a_section_that_could_not_be_read_is_left_out_with_the_reason() -> None:
    result = learnt(passed(), {"cpu": {"model": "X"}, "disks": None, "memory": {"total_gib": None}})
    assert result.profile.spec == Spec(cpu=CpuSpec(model="X"))
    assert {"disks: the inventory does not tell", "memory_gib: the inventory does not tell"} <= set(result.left_out)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.dictionaries(st.sampled_from(["cpu", "memory", "disks", "nics", "gpus", "psus"]), VALUES))
def test_no_inventory_breaks_the_learning(inventory: dict[str, Any]) -> None:
    result = learnt(passed(), inventory)
    assert checked_profile(result.text("x")) == result.profile
    assert result.profile.spec is not None
    assert differences(result.profile.spec, inventory) == []


def test_what_changed_between_versions_is_told_in_lines() -> None:
    old = HardwareProfile(
        parameters={"Storage": {"duration_s": 300}},
        spec=Spec(memory_gib=512, disks=[DiskSpec(model="PM9A3", size_gb=960), DiskSpec(size_gb=2000, count=2)]),
    )
    assert old.spec is not None
    assert old.spec.disks is not None
    new = replace(
        old,
        parameters={"Storage": {"duration_s": 600}, "SMART": {"self_test": "none"}},
        spec=Spec(
            memory_gib=512, disks=[DiskSpec(size_gb=2000, count=4), DiskSpec(model="PM9A3", size_gb=960)], psus=2
        ),
    )
    assert [str(one) for one in changes(old, new)] == [
        "+ parameters.SMART.self_test: none",
        "~ parameters.Storage.duration_s: 300 -> 600",
        "~ spec.disks[2000]: 2 of them -> 4 of them",
        "+ spec.psus: 2",
    ]
    assert changes(old, old) == []
    assert [(one.old, one.new) for one in changes(new, old)] == [(one.new, one.old) for one in changes(old, new)]


def test_a_host_that_was_tested_otherwise_differs_from_its_profile() -> None:
    profile = HardwareProfile(test_profile="quick", spec=Spec(cpu=CpuSpec(sockets=4)))
    lines = host_differences(profile, INVENTORY, passed())
    assert lines == [
        "cpu sockets: expected 4, found 2",
        "CPUStress.duration_s: the profile says 60.0, run 17 had 90.0",
    ]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from([None, 1.0, 512.0]), st.sampled_from(["quick", "burnin"]), st.integers(0, 3))
def test_a_profile_written_out_is_read_back_the_same(memory: float | None, test_profile: str, disks: int) -> None:
    spec = Spec(memory_gib=memory, disks=[DiskSpec(model="X: #1", size_gb=1.5)] * disks or None)
    profile = HardwareProfile(test_profile=test_profile, spec=spec)
    assert checked_profile(yaml.safe_dump(as_document(profile))) == profile

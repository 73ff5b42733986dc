"""The judge of the burn on made readings: what is said, what is not, and against whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stages import gpu_floors
from stages.gpu_burn import Burned, BurnResult, parse_result
from stages.gpu_burn_judge import REQUIRED, judge_burn
from stages.outcome import ReasonCode, Severity

RATES = {"memory": 3000.0, "bf16": 600.0, "fp32": 45.0, "copy": 4200.0, "to_host": 50.0, "from_host": 50.0}
PCI = "0000:3b:00.0"


def result(test: str, rate: float | None = None) -> BurnResult:
    products = 0 if test in ("memory", "copy", "to_host", "from_host") else 8192
    unit = "TFLOP/s" if products else "GB/s"
    made = BurnResult(test, RATES.get(test, 100.0) if rate is None else rate, unit, 1000, 0, 1.0, 4, all_rows=products)
    return replace(made, bytes=96, free=100) if test == "memory" else made


def said(pci: str = PCI, name: str = "NVIDIA H200", **rates: float) -> Burned:
    tests = (*REQUIRED, "fp8")
    results = tuple(result(test, rates.get(test)) for test in tests)
    return Burned(pci, "together", name=name, capability="9.0", results=results)


def found(*burned: Burned) -> dict[str, set[ReasonCode]]:
    """The codes of errors by component."""
    uuids = {one.pci: None for one in burned}
    judged = judge_burn(burned, uuids, 0.9)
    codes: dict[str, set[ReasonCode]] = {}
    for one in judged.findings:
        if one.severity is Severity.ERROR:
            codes.setdefault(one.component, set()).add(one.reason_code)
    return codes


def test_a_sound_gpu_has_no_finding() -> None:
    assert found(said()) == {}


@pytest.mark.parametrize("test", [*REQUIRED, "fp8"])
def test_a_gpu_on_which_one_test_did_not_run_is_not_loaded(test: str) -> None:
    whole = said()
    without = replace(whole, results=tuple(one for one in whole.results if one.test != test))
    assert found(without) == {f"gpu:{PCI}": {ReasonCode.GPU_NOT_LOADED}}


@pytest.mark.parametrize("lacking", [{"words": 0}, {"rounds": 0}])
def test_a_test_that_did_nothing_did_not_run(lacking: dict[str, int]) -> None:
    whole = said()
    results = tuple(replace(one, **lacking) if one.test == "int8" else one for one in whole.results)  # type: ignore[arg-type]
    assert found(replace(whole, results=results)) == {f"gpu:{PCI}": {ReasonCode.GPU_NOT_LOADED}}


def test_a_gpu_without_fp8_units_is_tested_in_full_without_them() -> None:
    whole = said(name="NVIDIA A100-SXM4-80GB", bf16=250, fp32=15, copy=1700)
    without = replace(whole, results=tuple(one for one in whole.results if one.test != "fp8"))
    assert found(replace(without, unavailable={"fp8": "it has none"})) == {}
    lacks_more = replace(without, unavailable={"fp8": "it has none", "bf16": "it has none"})
    assert found(lacks_more) == {f"gpu:{PCI}": {ReasonCode.GPU_NOT_LOADED}}


def test_a_gpu_of_which_nothing_was_said_does_not_pass() -> None:
    judged = judge_burn((), {PCI: "GPU-1"}, 0.9)
    assert [(one.reason_code, one.component) for one in judged.findings] == [(ReasonCode.TOOL_FAILED, "gpu:GPU-1")]


def test_each_floor_is_held() -> None:
    for test, rate in (("bf16", 320.0), ("fp32", 20.0), ("copy", 2300.0)):
        assert found(said(**{test: rate})) == {f"gpu:{PCI}": {ReasonCode.GPU_SLOW}}, test


def test_a_model_that_is_not_known_has_no_floor_but_siblings() -> None:
    name = "NVIDIA Unheard"
    assert found(said(name=name, bf16=1.0)) == {}
    others = [said(f"0000:4{number}:00.0", name=name, bf16=2.0) for number in range(2)]
    assert found(said(name=name, bf16=1.0), *others) == {f"gpu:{PCI}": {ReasonCode.GPU_SLOW}}


def test_one_slow_gpu_of_eight_is_named_and_no_other() -> None:
    sound = [said(f"0000:4{number}:00.0", bf16=600.0 + 10 * number) for number in range(7)]
    assert found(*sound, said(bf16=470.0)) == {f"gpu:{PCI}": {ReasonCode.GPU_SLOW}}


def test_gpus_of_other_models_are_no_siblings() -> None:
    assert found(said(), said("0000:4b:00.0", name="NVIDIA L40S", bf16=200, fp32=60, copy=700)) == {}


def test_transfers_of_all_at_once_are_not_compared() -> None:
    """They share the way to the host."""
    assert found(said(to_host=10.0), said("0000:4b:00.0")) == {}


def test_a_transfer_half_as_fast_when_alone_is_slow() -> None:
    def alone(pci: str, rate: float) -> Burned:
        return replace(said(pci), phase="alone", results=(result("to_host", rate),))

    slow, fast = alone(PCI, 12.0), alone("0000:4b:00.0", 50.0)
    assert found(said(), said("0000:4b:00.0"), slow, fast) == {f"gpu:{PCI}": {ReasonCode.GPU_SLOW}}


def test_what_was_found_before_a_failure_still_counts() -> None:
    wrong = replace(result("memory"), wrong=3)
    burned = Burned(PCI, "together", results=(wrong,), failure="hung", test="bf16")
    assert found(burned) == {f"gpu:{PCI}": {ReasonCode.GPU_HUNG, ReasonCode.GPU_MEMORY_ERROR}}


def test_a_kernel_that_is_all_wrong_without_a_right_twin_is_the_gpus_fault() -> None:
    whole = said()
    wrong = replace(result("int8"), wrong=9, rows=8192)
    results = tuple(wrong if one.test == "int8" else one for one in whole.results)
    assert found(replace(whole, results=results)) == {f"gpu:{PCI}": {ReasonCode.GPU_MISCOMPUTE}}


@pytest.mark.parametrize("rate", [None, "fast", True, float("nan"), float("inf"), -1.0, 1e300])
def test_a_result_with_a_rate_that_is_none_is_not_taken(rate: object) -> None:
    row = {"test": "copy", "unit": "GB/s", "rate": 1.0, "seconds": 1.0, "words": 1, "wrong": 0, "rounds": 1}
    assert parse_result(row) is not None
    assert parse_result({**row, "rate": rate}) is None


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("NVIDIA H200", 4800),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A10", 600),
        ("NVIDIA L4", 300),
        ("NVIDIA L40S", 864),
    ],
)
def test_models_are_known_by_the_drivers_name(name: str, memory: float) -> None:
    model = gpu_floors.model_of(name)
    assert model is not None
    assert model.memory == memory


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "Tesla T4", "NVIDIA A1000", ""])
def test_other_names_are_not_taken_for_them(name: str) -> None:
    assert gpu_floors.model_of(name) is None


def test_a_gpu_three_times_too_slow_is_under_every_floor() -> None:
    for name, model in gpu_floors.MODELS.items():
        for test, rated in (("bf16", model.bf16), ("fp32", model.fp32), ("copy", model.memory)):
            least = gpu_floors.floor(f"NVIDIA {name}", test)
            if least is not None and model.share == gpu_floors.PRODUCT_SHARE:
                assert rated / 3.1 < least[0] < 0.6 * rated

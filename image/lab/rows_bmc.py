"""Power supplies and the BMC that tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from image.lab.bmc import (
    CPU_TEMPERATURE,
    FAILURE,
    FAN,
    INPUT_LOST,
    PREDICTIVE,
    PRESENT,
    PSU1,
    PSU2,
    REDUNDANCY,
    REDUNDANCY_LOST,
    Bmc,
    bmc,
)
from image.lab.row import PASSES, Group, fails, warns
from image.lab.scene import Scene, WrongTurn, findings
from image.vm.machine import Machine

GROUP = Group("Power supplies and BMC")
LONG: Mapping[str, Mapping[str, Any]] = {"PSU": {"duration_s": 25.0}}
"""Time for a fault in the middle of the stage, and for another sample after it."""
READABLE = "for i in 1 2 3 4 5; do ipmitool {} && exit; sleep 1; done; exit 1"
"""A BMC's first answers after a change may be mixed up."""


def _with_bmc(scene: Scene, parameters: Mapping[str, Mapping[str, Any]] | None = None) -> Bmc:
    """A machine with a BMC, booted for the PSU stage."""
    one = scene.enter(bmc(scene.folder))
    scene.boot(Machine(qemu=one.qemu), "PSU", parameters=parameters)
    return one


def _in_the_stage(scene: Scene) -> Bmc:
    """The same, with the load running and the first sample taken."""
    one = _with_bmc(scene, LONG)
    scene.until_running("PSU")
    scene.sh("until pgrep stress-ng; do sleep 0.2; done; sleep 8")
    return one


def _shown(scene: Scene, what: str, command: str = "sdr elist") -> None:
    """Raises WrongTurn unless the guest's own ipmitool sees it."""
    seen = scene.sh(READABLE.format(command))
    if what not in seen:
        raise WrongTurn(f"the BMC does not show {what!r}: {seen}")


def _judged(scene: Scene) -> None:
    """Raises WrongTurn unless both supplies were looked at: a machine without a BMC passes too."""
    stage = next(one for one in scene.view().stages if one.stage == "PSU")
    coverage = stage.summary.coverage if stage.summary else {}
    if stage.summary is None or stage.summary.verdict != "pass" or set(coverage) != {"psu:PSU1", "psu:PSU2"}:
        raise WrongTurn(f"PSU has not judged both supplies: {stage.summary}")


@GROUP.row("none: a BMC with two supplies, a fan and temperatures", PASSES)
def sound_bmc_with_two_supplies(scene: Scene) -> None:
    _with_bmc(scene)
    _shown(scene, "Fully Redundant")
    scene.walk()
    _judged(scene)


@GROUP.row("a supply has failed before the run", fails("PSU", "psu_failed", "psu:PSU2"))
def psu_failed_before(scene: Scene) -> None:
    _with_bmc(scene).set_bit(PSU2, FAILURE)
    _shown(scene, "Failure detected")
    scene.walk()


@GROUP.row("a supply predicts its failure", fails("PSU", "psu_failed", "psu:PSU1"))
def psu_predicts_failure(scene: Scene) -> None:
    _with_bmc(scene).set_bit(PSU1, PREDICTIVE)
    _shown(scene, "Predictive failure")
    scene.walk()


@GROUP.row("a supply is not in its place", fails("PSU", "psu_absent", "psu:PSU2"))
def psu_absent(scene: Scene) -> None:
    one = _with_bmc(scene)
    one.set_bit(PSU2, PRESENT, on=False)
    if scene.sh(READABLE.format("sdr elist")).count("Presence detected") != 1:
        raise WrongTurn("the BMC does not show one supply only")
    scene.walk()


@GROUP.row("a supply's cable is unplugged before the run", fails("PSU", "psu_input_lost", "psu:PSU2"))
def psu_without_input(scene: Scene) -> None:
    _with_bmc(scene).set_bit(PSU2, INPUT_LOST)
    _shown(scene, "AC lost")
    scene.walk()


@GROUP.row("the supplies do not back each other up", fails("PSU", "psu_redundancy_lost", "psu:PSU Redundancy"))
def psu_redundancy_lost(scene: Scene) -> None:
    _with_bmc(scene).set_only(REDUNDANCY, REDUNDANCY_LOST)
    _shown(scene, "Redundancy Lost")
    scene.walk()


@GROUP.row("a supply fails under load", fails("PSU", "psu_failed", "psu:PSU2", also=("psu_event",)), ci=True)
def psu_fails_under_load(scene: Scene) -> None:
    _in_the_stage(scene).set_bit(PSU2, FAILURE)
    view = scene.walk()
    scene.finding(view, "PSU", "psu_event")


@GROUP.row(
    "a supply's failure is over before the next sample: only the event log tells of it",
    fails("PSU", "psu_event", "psu:PSU2"),
)
def psu_event_alone(scene: Scene) -> None:
    one = _in_the_stage(scene)
    one.set_bit(PSU2, FAILURE)
    one.set_bit(PSU2, FAILURE, on=False)
    scene.walk()


@GROUP.row(
    "the CPU gets too hot by the BMC's sensor, under load",
    fails("PSU", "thermal_critical", "sensor:Temperature #0x01"),
)
def bmc_temperature_critical(scene: Scene) -> None:
    _in_the_stage(scene).set_value(CPU_TEMPERATURE, 97)
    scene.walk()


@GROUP.row("a fan stops under load", warns("PSU", "bmc_event", "sensor:Fan #0x03"))
def bmc_fan_critical(scene: Scene) -> None:
    _in_the_stage(scene).set_value(FAN, 5)
    scene.walk()


@GROUP.row("the BMC logs an uncorrectable memory error under load", fails("PSU", "ecc_uncorrected", "memory"))
def bmc_logs_uncorrected_memory_error(scene: Scene) -> None:
    _in_the_stage(scene).log_memory_error(1)
    _shown(scene, "Uncorrectable ECC", "sel list")
    scene.walk()


@GROUP.row("the BMC logs a corrected memory error under load", warns("PSU", "ecc_corrected", "memory"))
def bmc_logs_corrected_memory_error(scene: Scene) -> None:
    _in_the_stage(scene).log_memory_error(0)
    _shown(scene, "Correctable ECC", "sel list")
    scene.walk()


@GROUP.row("old entries in the BMC's log: a supply's failure, memory errors", PASSES)
def bmc_with_old_events(scene: Scene) -> None:
    one = scene.enter(bmc(scene.folder))
    one.set_bit(PSU2, FAILURE)
    one.set_bit(PSU2, FAILURE, on=False)
    one.log_memory_error(1)
    scene.boot(Machine(qemu=one.qemu), "PSU")
    _shown(scene, "Uncorrectable ECC", "sel list")
    view = scene.walk()
    _judged(scene)
    if told := [one for stage in ("Inventory", "PSU") for one in findings(view, stage) if one["severity"] != "info"]:
        raise WrongTurn(f"old entries count: {told}")


@GROUP.row("the BMC never answers: the kernel makes no device for it", fails("PSU", "bmc_unreadable", "bmc"))
def bmc_dead(scene: Scene) -> None:
    one = scene.enter(bmc(scene.folder))
    one.die()
    scene.boot(Machine(qemu=one.qemu), "PSU")
    scene.walk()


@GROUP.row("the BMC dies under load", fails("PSU", "bmc_unreadable", "bmc"))
def bmc_dies_under_load(scene: Scene) -> None:
    _in_the_stage(scene).die()
    scene.walk()


@GROUP.row("the BMC hangs under load", fails("PSU", "bmc_unreadable", "bmc"))
def bmc_hangs_under_load(scene: Scene) -> None:
    _in_the_stage(scene).hang()
    scene.walk()


ROWS = (
    sound_bmc_with_two_supplies,
    psu_failed_before,
    psu_predicts_failure,
    psu_absent,
    psu_without_input,
    psu_redundancy_lost,
    psu_fails_under_load,
    psu_event_alone,
    bmc_temperature_critical,
    bmc_fan_critical,
    bmc_logs_uncorrected_memory_error,
    bmc_logs_corrected_memory_error,
    bmc_with_old_events,
    bmc_dead,
    bmc_dies_under_load,
    bmc_hangs_under_load,
)

"""Faults of CPU, memory and heat that no virtual machine can have: a tool or a counter that lies stands in for them."""

from __future__ import annotations

from image.lab.inject import MCE_CPU, stressed
from image.lab.row import Group, fails, warns
from image.lab.scene import Scene
from image.vm.machine import Machine

GROUP = Group("CPU, memory and heat: stand-ins")
XEON = f"{MCE_CPU},model-id=Intel Xeon E5-2697 v3"
"""A CPU that calls itself one of a server."""

MISCOMPUTES = """#!/bin/bash
# The real one; but its test of the CPU is wrong, except where it runs on CPU 0 alone.
/usr/bin/stress-ng "$@"
code=$?
case " $* " in
*" --taskset 0 "*) ;;
*" --cpu "*" --verify "*)
    echo "stress-ng: fail:  [$$] cpu: drand48 error detected, failed sum" >&2
    exit 2 ;;
esac
exit $code
"""
SLOW = """#!/bin/bash
# The real one; but on CPU 1 alone it counts a tenth of the work.
/usr/bin/stress-ng "$@"
code=$?
case " $* " in
*" --taskset 1 "*) sed -i -E 's/(bogo-ops-per-second-usr-sys-time: [0-9]*)[0-9]\\./\\1./' "${@: -1}" ;;
esac
exit $code
"""
WRONG_ANSWERS = """
cat >/run/lab-wrong.py <<'END'
import glob
(path,) = glob.glob("/opt/vetting-agent/lib/python3*/site-packages/stages/compute_child.py")
text = open(path).read()
start = 'if __name__ == "__main__":'
assert text.count(start) == 1
wrong = '''
_right = floating

def floating(seed):
    answer = _right(seed)
    return answer if os.sched_getaffinity(0) != {1} else bytes([answer[0] ^ 1]) + answer[1:]

TASKS = tuple(floating if task is _right else task for task in TASKS)
floating.__name__ = "floating"

'''
open(path, "w").write(text.replace(start, wrong + start))
END
python3 /run/lab-wrong.py
"""
CONTROLLER = """
mount -t tmpfs lab /sys/devices/system/edac/mc
mkdir -p /sys/devices/system/edac/mc/mc0/dimm0
cd /sys/devices/system/edac/mc/mc0
echo lab >mc_name
echo 1024 | tee size_mb >dimm0/size
echo DIMM_A1 >dimm0/dimm_label
echo 0 | tee ce_count ue_count dimm0/dimm_ce_count >dimm0/dimm_ue_count
"""
"""A memory controller with one module, as EDAC shows it."""
THROTTLE = """
mkdir -p /run/lab-cpu0
cp -a /sys/devices/system/cpu/cpu0/. /run/lab-cpu0 2>/dev/null || true
mkdir /run/lab-cpu0/thermal_throttle
cd /run/lab-cpu0/thermal_throttle
for part in core package; do echo 0 | tee ${part}_throttle_count >${part}_throttle_total_time_ms; done
mount --bind /run/lab-cpu0 /sys/devices/system/cpu/cpu0
"""
"""The counters of a CPU that is slowed down for heat, which a virtual one lacks."""


@GROUP.row("CPU 1 computes wrong results in stress-ng", fails("CPUStress", "cpu_miscompute", "cpu:1"), stand_in=True)
def stress_ng_finds_wrong_cpu(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress", tools={"stress-ng": MISCOMPUTES})
    scene.walk()


@GROUP.row("CPU 1 gives wrong known answers", fails("CPUStress", "cpu_miscompute", "cpu:1"), stand_in=True)
def known_answers_find_wrong_cpu(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress", before=WRONG_ANSWERS)
    scene.walk()


@GROUP.row("CPU 1 does a tenth of the work", warns("CPUStress", "cpu_slow", "cpu:1"), stand_in=True)
def cpu_slow(scene: Scene) -> None:
    scene.boot(Machine(), "CPUStress", tools={"stress-ng": SLOW})
    scene.walk()


def _memory_errors(scene: Scene, corrected: int, uncorrected: int) -> None:
    scene.boot(Machine(), "CPUStress", before=CONTROLLER)
    stressed(scene)
    scene.sh(
        f"cd /sys/devices/system/edac/mc/mc0; echo {corrected} | tee ce_count >dimm0/dimm_ce_count; "
        f"echo {uncorrected} | tee ue_count >dimm0/dimm_ue_count"
    )
    scene.walk()


@GROUP.row("EDAC counts 3 corrected errors", warns("CPUStress", "ecc_corrected", "dimm:DIMM_A1"), stand_in=True)
def edac_corrected(scene: Scene) -> None:
    _memory_errors(scene, 3, 0)


@GROUP.row("EDAC counts 50 corrected errors", fails("CPUStress", "ecc_corrected", "dimm:DIMM_A1"), stand_in=True)
def edac_corrected_often(scene: Scene) -> None:
    _memory_errors(scene, 50, 0)


@GROUP.row("EDAC counts an uncorrected error", fails("CPUStress", "ecc_uncorrected", "dimm:DIMM_A1"), stand_in=True)
def edac_uncorrected(scene: Scene) -> None:
    _memory_errors(scene, 0, 1)


@GROUP.row(
    "a server's CPU is slowed down for heat for half of the time",
    fails("CPUStress", "thermal_throttled", "cpu:0"),
    stand_in=True,
)
def throttled(scene: Scene) -> None:
    scene.boot(Machine(cpu_model=XEON), "CPUStress", before=THROTTLE)
    stressed(scene)
    scene.sh(
        "cd /run/lab-cpu0/thermal_throttle; (for i in $(seq 1 600); do echo $((i * 500)) "
        ">core_throttle_total_time_ms; echo $i >core_throttle_count; sleep 1; done) </dev/null >/dev/null 2>&1 &"
    )
    scene.walk()


ROWS = (
    stress_ng_finds_wrong_cpu,
    known_answers_find_wrong_cpu,
    cpu_slow,
    edac_corrected,
    edac_corrected_often,
    edac_uncorrected,
    throttled,
)

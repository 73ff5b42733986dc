"""SMART: what disks say of themselves, before the run and in the middle of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from image.lab.gates import gate, let_through, until_waiting
from image.lab.row import PASSES, Group, fails, warns
from image.lab.scene import Scene, WrongTurn
from image.vm.disks import Disk
from image.vm.machine import Machine

GROUP = Group("SMART and disks")
MIB = 2**20
NVME = Disk("nvme", "VETNVME1", 64 * MIB)
RECORDINGS = Path(__file__).resolve().parents[2] / "tests/fixtures/tools/smartctl"
"""What real smartctl said of real disks; each has its origin beside it."""

PLAYER = """#!/bin/sh
# Searches and versions are the real smartctl's; what it says of a disk is a recording.
case " $* " in *" -x "*)
    cat /usr/local/lib/lab/recording
    exit {code}
esac
exec /usr/sbin/smartctl "$@"
"""
ALTERED = """#!/bin/sh
# The real smartctl of the real disk, with one figure altered.
/usr/sbin/smartctl "$@" >/run/lab-smartctl
code=$?
sed 's/"{name}": [0-9]*/"{name}": {value}/' /run/lab-smartctl
exit $code
"""


def recorded(case: str) -> tuple[Mapping[str, str], str]:
    """The overlay's files that play a recording, and the serial number in it."""
    text = (RECORDINGS / f"{case}.out").read_text()
    code = (RECORDINGS / f"{case}.exit").read_text().strip()
    tools = {"smartctl": PLAYER.format(code=code), "/usr/local/lib/lab/recording": text}
    return tools, json.loads(text)["serial_number"]


def altered(name: str, value: int) -> Mapping[str, str]:
    """The overlay's files for a smartctl that tells another value of one figure."""
    return {"smartctl": ALTERED.format(name=name, value=value)}


@GROUP.row(
    "NVMe: critical_warning 4 (reliability) before the run",
    fails("SMART", "nvme_critical_warning", "disk:VETNVME1"),
    ci=True,
)
def nvme_critical_warning_before(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART")
    scene.monitor.set("disk0", "smart_critical_warning", 4)
    scene.walk()


@GROUP.row(
    "NVMe: critical_warning 1 (spare) comes while SMART is under way, between its two readings",
    fails("SMART", "nvme_critical_warning", "disk:VETNVME1"),
)
def nvme_critical_warning_in_smart(scene: Scene) -> None:
    tools = gate("smartctl", word="-x", call=2)
    scene.boot(Machine(disks=(NVME,)), "SMART", parameters={"SMART": {"self_test": "short"}}, tools=tools)
    until_waiting(scene)
    scene.monitor.set("disk0", "smart_critical_warning", 1)
    let_through(scene)
    scene.walk()


@GROUP.row(
    "NVMe: critical_warning 8 (media read-only) comes while Storage reads, after SMART has passed",
    fails("Storage", "nvme_critical_warning", "disk:VETNVME1"),
)
def nvme_critical_warning_in_storage(scene: Scene) -> None:
    patient = {"Storage": {"duration_s": 20.0}}
    scene.boot(Machine(disks=(NVME,)), "SMART,Storage", parameters=patient, tools=gate("fio", call=2))
    until_waiting(scene)
    scene.monitor.set("disk0", "smart_critical_warning", 8)
    let_through(scene)
    scene.walk()


@GROUP.row(
    "NVMe: hotter than its own warning limit, which is set to 27 °C",
    fails("SMART", "nvme_critical_warning", "disk:VETNVME1"),
)
def nvme_over_temperature(scene: Scene) -> None:
    scene.boot(
        Machine(disks=(NVME,)),
        "SMART",
        before="until [ -e /dev/nvme0 ]; do sleep 0.2; done; nvme set-feature /dev/nvme0 -f 4 --value=300\n",
    )
    view = scene.walk()
    scene.sh(PREPARED)
    said = scene.finding(view, "SMART", "nvme_critical_warning")["message"]
    if "temperature" not in said:
        raise WrongTurn(f"the warning is not about temperature: {said}")


PREPARED = "systemctl is-active --quiet lab-before"
"""The script that runs before the agent came to its end without an error."""
SCSI_DEBUG = """modprobe scsi_debug dev_size_mb=16
until [ -e /dev/sda ]; do sleep 0.2; done
printf '\\0\\0\\0\\0\\x1c\\x0a\\x{exceptions}\\0\\0\\0\\0\\0\\0\\0\\0\\x01' >/run/lab-page
sg_raw -s 16 -i /run/lab-page /dev/sda 15 10 00 00 10 00
"""
"""A SCSI disk in the guest's own memory, and its page of informational exceptions: reporting is switched on by 10h;
with 04h on top of it the disk pretends that it fails, as the standard has it."""
NO_COUNTERS = "smart_unreadable"
"""The kernel's disk of this kind keeps no error counters and refuses the command: as a disk it could not be judged."""


@GROUP.row(
    "SCSI: failure prediction threshold exceeded (scsi_debug)",
    fails("SMART", "smart_health_failed", "disk:2000", also=(NO_COUNTERS,)),
)
def scsi_failure_predicted(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART", before=SCSI_DEBUG.format(exceptions="14"))
    scene.walk()
    scene.sh(PREPARED)


@GROUP.row(
    "SCSI: a disk that predicts no failure, and keeps no error counters (scsi_debug)",
    fails("SMART", NO_COUNTERS, "disk:2000"),
)
def scsi_without_counters(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART", before=SCSI_DEBUG.format(exceptions="10"))
    scene.walk()


def _recorded_sata(scene: Scene, case: str) -> None:
    tools, serial = recorded(case)
    scene.boot(Machine(disks=(Disk("sata", serial, 64 * MIB),)), "SMART", tools=tools)
    scene.walk()


@GROUP.row(
    "SATA: overall health failed (a failing Hitachi)",
    fails(
        "SMART",
        "smart_health_failed",
        "disk:HDD-FAILING-1",
        also=("smart_prefail", "smart_self_test_failed", "disk_media_errors"),
    ),
    stand_in=True,
)
def ata_health_failed(scene: Scene) -> None:
    _recorded_sata(scene, "ata-failing-hdd")


@GROUP.row(
    "SATA: a prefail attribute is below its threshold, overall health still passed (a WD)",
    fails("SMART", "smart_prefail", "disk:HDD-PREFAIL-1"),
    stand_in=True,
)
def ata_prefail(scene: Scene) -> None:
    _recorded_sata(scene, "ata-prefail")


@GROUP.row("none: SATA, a healthy disk's recording", PASSES, stand_in=True)
def ata_recording_sound(scene: Scene) -> None:
    _recorded_sata(scene, "ata-healthy-hdd")


@GROUP.row("NVMe: 104 % of its endurance used", fails("SMART", "nvme_worn", "disk:VETNVME1"), stand_in=True)
def nvme_worn_out(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART", tools=altered("percentage_used", 104))
    scene.walk()


@GROUP.row("NVMe: 85 % of its endurance used", warns("SMART", "nvme_worn", "disk:VETNVME1"), stand_in=True)
def nvme_much_used(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART", tools=altered("percentage_used", 85))
    scene.walk()


@GROUP.row(
    "NVMe: spare blocks below the maker's threshold", fails("SMART", "nvme_spare_low", "disk:VETNVME1"), stand_in=True
)
def nvme_spare_low(scene: Scene) -> None:
    scene.boot(Machine(disks=(NVME,)), "SMART", tools=altered("available_spare_threshold", 101))
    scene.walk()


@GROUP.row("smartctl is killed each time it runs", fails("SMART", "smart_unreadable", "disk:VETNVME1"), stand_in=True)
def smartctl_killed(scene: Scene) -> None:
    tools = {"smartctl": '#!/bin/sh\ncase " $* " in *" -x "*) kill -9 $$ ;; esac\nexec /usr/sbin/smartctl "$@"\n'}
    scene.boot(Machine(disks=(NVME,)), "SMART", tools=tools)
    scene.walk()


ROWS = (
    nvme_critical_warning_before,
    nvme_critical_warning_in_smart,
    nvme_critical_warning_in_storage,
    nvme_over_temperature,
    scsi_failure_predicted,
    scsi_without_counters,
    ata_health_failed,
    ata_prefail,
    ata_recording_sound,
    nvme_worn_out,
    nvme_much_used,
    nvme_spare_low,
    smartctl_killed,
)

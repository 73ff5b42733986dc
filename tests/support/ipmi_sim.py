"""A BMC of OpenIPMI's ipmi_sim on loopback, with power supplies, and a stand-in that sends ipmitool's questions there.

Sensor records by IPMI v2.0: section 43.1 (type 01h, full: figures) and 43.2 (type 02h, compact: states).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.stand_ins import StandIns

WATTS_A_STEP = 4
POLL_MS = 50
CHASSIS_LOG = "chassis.log"
"""In the BMC's folder: what it was told to do with its chassis, a line each, "0x20 set identify 240 0"."""
CONFIGURATION = """name "sim"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{chassis} 0x20"
  user 2 true "admin" "admin" admin 10 none md2 md5 straight
"""


@dataclass(frozen=True)
class Supply:
    """One supply of the simulated BMC; its number is its place in the list. None: it has no such sensor."""

    watts: int | None = None
    tells_state: bool = True


def _figure(number: int, name: str, instance: int) -> list[int]:
    """Sensor type 0Bh, unit 06h (watts), linear with a factor."""
    body = [0x20, 0, number, 10, instance, 0x7F, 0x68, 0x0B, 0x01, *[0] * 7, 6, 0, 0, WATTS_A_STEP, *[0] * 9]
    body += [255, 0, *[0] * 6, 2, 2, 0, 0, 0, 0xC0 | len(name)]
    return [1, len(body) + len(name), *body, *name.encode()]


def _states(number: int, name: str, entity: tuple[int, int], event_type: int) -> list[int]:
    body = [0x20, 0, number, *entity, 0x67, 0x40, 8, event_type, *[0x0F, 0] * 3, 0xC0, 0, 0, 1, *[0] * 7]
    return [2, len(body) + 1 + len(name), *body, 0xC0 | len(name), *name.encode()]


def _emulation(supplies: Sequence[Supply], folder: Path, *, redundancy: bool) -> str:
    """Its readings stand in files: one that is told by a command is never ready in OpenIPMI 2.0.37 (Debian 13)."""
    records: list[list[int]] = []
    lines = ["mc_setbmc 0x20", "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02", "sel_enable 0x20 1000 0x0a"]

    def sensor(number: int, kind: int, event_type: int, states: int, reading: int) -> None:
        """`reading`: the figure, or the bits of the states that are on."""
        masks = " ".join([format(states, "015b")] * 4)
        (folder / f"sensor-{number}").write_text(f"{reading}\n")
        lines.append(
            f'sensor_add 0x20 0 {number} {kind} {event_type} poll {POLL_MS} file "{folder / f"sensor-{number}"}"'
        )
        lines.append(f"sensor_set_event_support 0x20 0 {number} enable scanning per-state {masks}")

    for place, supply in enumerate(supplies, 1):
        if supply.tells_state:
            records.append(_states(0x10 + place, f"PSU{place} Status", (10, place), 0x6F))
            sensor(0x10 + place, 8, 0x6F, 0x0F, 1)
        if supply.watts is not None:
            records.append(_figure(0x20 + place, f"PSU{place} Power", place))
            sensor(0x20 + place, 0x0B, 1, 0, supply.watts // WATTS_A_STEP)
    if redundancy:
        records.append(_states(0x30, "PSU Redundancy", (19, 1), 0x0B))
        sensor(0x30, 8, 0x0B, 0x0F, 1)
    for index, (kind, length, *body) in enumerate(records):
        record = [index & 255, index >> 8, 0x51, kind, length, *body]
        lines.append("main_sdr_add 0x20 " + " ".join(f"0x{byte:02x}" for byte in record))
    return "\n".join([*lines, "mc_enable 0x20", ""])


@contextlib.contextmanager
def simulated_bmc(
    folder: Path, stand_ins: StandIns, supplies: Sequence[Supply], *, redundancy: bool = False
) -> Iterator[None]:
    """While the block lasts `ipmitool` of these stand-ins is the real one, asking this BMC."""
    (folder / "state").mkdir(parents=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chassis = folder / "chassis"
    chassis.write_text(f'#!/bin/sh\necho "$@" >>{folder / CHASSIS_LOG}\n')
    chassis.chmod(0o755)
    (folder / "lan.conf").write_text(CONFIGURATION.format(port=port, chassis=chassis))
    (folder / "sim.emu").write_text(_emulation(supplies, folder, redundancy=redundancy))
    tool = shutil.which("ipmitool")
    way = ["-I", "lan", "-H", "127.0.0.1", "-p", str(port), "-U", "admin", "-P", "admin"]
    stand_ins.python("ipmitool", f"os.execv({tool!r}, ['ipmitool', *{way!r}, *sys.argv[1:]])\n")
    with (folder / "sim.log").open("wb") as log:
        argv = ["ipmi_sim", "-n", "-c", "lan.conf", "-f", "sim.emu", "-s", "state"]
        process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(tool or "ipmitool", way, folder)
        yield
    finally:
        process.kill()
        process.wait()


def _wait(tool: str, way: Sequence[str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    numbers = [path.name.removeprefix("sensor-") for path in folder.glob("sensor-*")]
    questions = [["mc", "info"], *(["raw", "0x04", "0x2d", number] for number in numbers)]
    while any(subprocess.run([tool, *way, *one], capture_output=True, check=False).returncode for one in questions):
        assert time.monotonic() < deadline, f"ipmi_sim does not answer: {(folder / 'sim.log').read_text()}"
        time.sleep(0.2)

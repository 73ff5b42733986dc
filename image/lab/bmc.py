"""A BMC for a virtual machine: OpenIPMI's simulator with sensors of our own, which fail while the machine runs.

QEMU's own BMC shows sensors but never readings. `ipmi_sim` speaks QEMU's protocol (`ipmi-bmc-extern`), takes commands
on its standard input, and answers the guest's ipmitool as a server's BMC does. Records: IPMI v2.0, tables 43-1, 43-2
and 43-8; sensor types and offsets: table 42-3.
"""

# ruff: noqa: S603 - a program by name, with arguments of our own: what this file is for
from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS = 0x20
READY_LIMIT_S = 20.0
PRESENT, FAILURE, PREDICTIVE, INPUT_LOST = range(4)
"""Offsets of a power supply's sensor."""
FULLY_REDUNDANT, REDUNDANCY_LOST = range(2)
"""Offsets of a redundancy sensor."""
DISCRETE_OFFSETS = 0x0F
GOING_OVER = 0xA95
"""The threshold events: each lower one going low, each upper one going high."""
FULL, COMPACT = 1, 2
MEMORY_EVENT = (0x0C, 0x08)
"""Sensor type and number of the entries that `log_memory_error` adds."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """`thresholds`: upper non-recoverable, critical, non-critical, then lower ones; 0 is none. Without: of states."""

    number: int
    name: str
    kind: int
    """Sensor type: 1 temperature, 4 fan, 8 power supply."""
    entity: tuple[int, int]
    start: int
    """The value; for a sensor of states, the bits."""
    event_type: int = 0x6F
    unit: int = 0
    thresholds: tuple[int, ...] = ()


CPU_TEMPERATURE = Sensor(1, "CPU0 Temp", 1, (0x03, 1), 45, 1, 1, (100, 95, 90, 0, 0, 0))
INLET_TEMPERATURE = Sensor(2, "Inlet Temp", 1, (0x37, 1), 24, 1, 1, (50, 45, 42, 0, 0, 0))
FAN = Sensor(3, "FAN1", 4, (0x1D, 1), 90, 1, 18, (0, 0, 0, 10, 20, 30))
PSU1 = Sensor(0x10, "PSU1 Status", 8, (0x0A, 1), 1 << PRESENT)
PSU2 = Sensor(0x11, "PSU2 Status", 8, (0x0A, 2), 1 << PRESENT)
REDUNDANCY = Sensor(0x12, "PSU Redundancy", 8, (0x13, 1), 1 << FULLY_REDUNDANT, 0x0B)
SENSORS = (CPU_TEMPERATURE, INLET_TEMPERATURE, FAN, PSU1, PSU2, REDUNDANCY)


class NoBmc(ValueError):
    """The simulator does not run, or refused a command; `str()` says which."""


@dataclass(slots=True)
class Bmc:
    """A running BMC. Bits and values are told with an entry in its event log where `event` is true."""

    port: int
    _process: subprocess.Popen[bytes]
    _said: Path

    @property
    def qemu(self) -> tuple[str, ...]:
        """QEMU's arguments that plug it into a machine."""
        chardev = f"socket,id=ipc,host=127.0.0.1,port={self.port},reconnect=5"
        return (
            "-chardev",
            chardev,
            "-device",
            "ipmi-bmc-extern,id=bmc0,chardev=ipc",
            "-device",
            "isa-ipmi-kcs,bmc=bmc0",
        )

    def set_bit(self, sensor: Sensor, offset: int, *, on: bool = True, event: bool = True) -> None:
        """A state of a sensor of states."""
        self._say(f"sensor_set_bit {ADDRESS:#x} 0 {sensor.number:#x} {offset} {on:d} {event:d}")

    def set_only(self, sensor: Sensor, offset: int, *, event: bool = True) -> None:
        """This state, and none of the others."""
        self._say(f"sensor_set_bit_clr_rest {ADDRESS:#x} 0 {sensor.number:#x} {offset} 1 {event:d}")

    def set_value(self, sensor: Sensor, value: int, *, event: bool = True) -> None:
        """The reading of a sensor with thresholds."""
        self._say(f"sensor_set_value {ADDRESS:#x} 0 {sensor.number:#x} {value} {event:d}")

    def log_memory_error(self, offset: int) -> None:
        """An entry of the event log as memory makes it: 0 correctable, 1 uncorrectable ECC error."""
        kind, number = MEMORY_EVENT
        record = (2, 0, 0, 0, 0, ADDRESS, 0, 4, kind, number, 0x6F, offset, 0xFF, 0xFF)
        self._say(f"sel_add {ADDRESS:#x} {' '.join(f'{byte:#x}' for byte in record)}")

    def hang(self) -> None:
        """It keeps its connection, and answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def die(self) -> None:
        """It is gone."""
        self._process.kill()
        self._process.wait()

    def _say(self, command: str) -> None:
        """Raises NoBmc."""
        assert self._process.stdin is not None
        before = self._said.stat().st_size
        try:
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
        except OSError as problem:
            raise NoBmc(f"{command}: {problem}") from None
        _wait_for(self._process, self._said, command, before)


@contextlib.contextmanager
def bmc(folder: Path, sensors: Sequence[Sensor] = SENSORS) -> Iterator[Bmc]:
    """A BMC while the block lasts; `folder` takes its files. Raises NoBmc."""
    port, said = _free_port(), folder / "bmc.out"
    (folder / "bmc.conf").write_text(f'name "lab"\nset_working_mc {ADDRESS:#x}\nserial 15 127.0.0.1 {port} codec VM\n')
    commands = _commands(sensors)
    (folder / "bmc.emu").write_text("\n".join(commands) + "\n")
    (folder / "bmc-state").mkdir()
    argv = ["ipmi_sim", "-c", str(folder / "bmc.conf"), "-f", str(folder / "bmc.emu"), "-s", str(folder / "bmc-state")]
    with said.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        _wait_for(process, said, commands[-1])
        yield Bmc(port, process, said)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], said: Path, command: str, since: int = 0) -> None:
    """The simulator echoes each command, says `**` and what is wrong with it if anything is, and prompts again.

    since: the bytes that it had said before.
    """
    deadline = time.monotonic() + READY_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        said_now = said.read_bytes()[since:].decode(errors="replace")
        if f"{command}\n" in said_now and said_now.endswith("> "):
            if "**" in said_now:
                raise NoBmc(f"{command}: {said_now.strip()[-300:]}")
            return
        time.sleep(0.05)
    raise NoBmc(f"{command}: ipmi_sim did not take it: {said.read_bytes()[-300:].decode(errors='replace')}")


# --- its sensors ------------------------------------------------------------------------------------------------------


def _commands(sensors: Sequence[Sensor]) -> list[str]:
    """What makes the simulator this BMC: ipmi_sim_cmd(5)."""
    # Its identity: device 23h, firmware 9.8, no FRU of its own; the log holds 1,000 entries.
    lines = ["mc_setbmc 0x20", "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02", "sel_enable 0x20 1000 0x0a"]
    for sensor in sensors:
        lines += _threshold_sensor(sensor) if sensor.thresholds else _sensor_of_states(sensor)
    for number, sensor in enumerate(sensors):
        kind, body = (FULL, _full_record(sensor)) if sensor.thresholds else (COMPACT, _compact_record(sensor))
        record = [*number.to_bytes(2, "little"), 0x51, kind, len(body), *body]
        lines.append(f"main_sdr_add 0x20 {_hex(record)}")
    return [*lines, "mc_enable 0x20"]


def _threshold_sensor(sensor: Sensor) -> list[str]:
    place = f"0x20 0 {sensor.number:#x}"
    enabled = "".join("1" if value else "0" for value in sensor.thresholds)
    return [
        f"sensor_add {place} {sensor.kind:#x} 0x01",
        f"sensor_set_threshold {place} settable {enabled} {_hex(sensor.thresholds)}",
        f"sensor_set_event_support {place} enable scanning per-state {_events(GOING_OVER)}",
        f"sensor_set_value {place} {sensor.start} 0",
    ]


def _sensor_of_states(sensor: Sensor) -> list[str]:
    place = f"0x20 0 {sensor.number:#x}"
    bits = [f"sensor_set_bit {place} {offset} {sensor.start >> offset & 1} 0" for offset in range(4)]
    added = f"sensor_add {place} {sensor.kind:#x} {sensor.event_type:#x}"
    return [added, f"sensor_set_event_support {place} enable scanning per-state {_events(DISCRETE_OFFSETS)}", *bits]


def _events(mask: int) -> str:
    """Supported and enabled, asserted and deasserted: all alike."""
    return " ".join([f"{mask:015b}"] * 4)


def _full_record(sensor: Sensor) -> bytes:
    """Bytes 6 to the end of a full sensor record; the raw value is the reading (M = 1, B = 0)."""
    readable = sum(1 << place for place, value in enumerate(reversed(sensor.thresholds)) if value)
    masks = [0x95, 0x7A, 0x95, 0x7A, readable, readable]
    factors = [0, sensor.unit, 0, 0, 1, 0, 0, 0, 0, 0]
    limits = [0, 0, 0, 0, 255, 0, *sensor.thresholds, 2, 2]
    head = [ADDRESS, 0, sensor.number, *sensor.entity, 0x7F, 0x68, sensor.kind, 1]
    return bytes([*head, *masks, *factors, *limits, 0, 0, 0]) + _name(sensor)


def _compact_record(sensor: Sensor) -> bytes:
    """Bytes 6 to the end of a compact sensor record."""
    masks = [DISCRETE_OFFSETS, 0] * 3
    head = [ADDRESS, 0, sensor.number, *sensor.entity, 0x67, 0x40, sensor.kind, sensor.event_type]
    return bytes([*head, *masks, 0xC0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]) + _name(sensor)


def _name(sensor: Sensor) -> bytes:
    """8-bit ASCII, with its length."""
    return bytes([0xC0 | len(sensor.name)]) + sensor.name.encode()


def _hex(numbers: Sequence[int] | bytes) -> str:
    return " ".join(f"{number:#x}" for number in numbers)

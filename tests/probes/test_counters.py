"""The fault counters, from trees as sysfs shows them, and on this machine."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from probes.counters import AerErrors, MemoryErrors, Throttle, nic_errors, read, snapshot, throttled_fraction
from probes.host import Host
from tests.support.recordings import text as recording
from tests.support.stand_ins import StandIns

# As on a kernel 6.1: header of the counter file of one device behind a root port.
AER_CORRECTABLE = """RxErr 0
BadTLP 3
BadDLLP 0
Rollover 0
Timeout 0
NonFatalErr 0
CorrIntErr 0
HeaderOF 0
TOTAL_ERR_COR 3
"""
INTERRUPTS = """            CPU0       CPU1
  24:          0          0   ACPI:Ged      2 Edge      ACPI:Ged
 THR:          0          0   Threshold APIC interrupts
 MCE:          1          1   Machine check exceptions
 MCP:         12         12   Machine check polls
"""


def put(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def dimm(root: Path, place: str, label: str, corrected: int, uncorrected: int = 0) -> None:
    folder = f"sys/devices/system/edac/mc/{place}"
    put(root, f"{folder}/dimm_label", label)
    put(root, f"{folder}/dimm_ce_count", corrected)
    put(root, f"{folder}/dimm_ue_count", uncorrected)


def controller(root: Path, name: str, corrected: int, uncorrected: int = 0) -> None:
    put(root, f"sys/devices/system/edac/mc/{name}/ce_count", corrected)
    put(root, f"sys/devices/system/edac/mc/{name}/ue_count", uncorrected)


def test_memory_errors_are_kept_by_dimm(tmp_path: Path) -> None:
    controller(tmp_path, "mc0", 7, 1)
    dimm(tmp_path, "mc0/dimm0", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0", 5)
    dimm(tmp_path, "mc0/dimm1", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0", 0, 1)
    dimm(tmp_path, "mc0/rank2", "", 1)
    assert read(Host(root=tmp_path)).memory == {
        "CPU_SrcID#0_MC#0_Chan#0_DIMM#0": MemoryErrors(5, 0),
        "CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (mc0/dimm1)": MemoryErrors(0, 1),
        "mc0/rank2": MemoryErrors(1, 0),
        "mc0": MemoryErrors(1, 0),  # what the controller could not put down to a DIMM
    }


def test_an_unreadable_counter_is_named(tmp_path: Path) -> None:
    controller(tmp_path, "mc0", 0)
    dimm(tmp_path, "mc0/dimm0", "A1", 0)
    put(tmp_path, "sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "garbage")
    counters = read(Host(root=tmp_path))
    assert "A1" not in counters.memory
    assert any("mc0/dimm0" in text for text in counters.unreadable)


def test_pcie_errors_are_kept_by_address(tmp_path: Path) -> None:
    device = "sys/bus/pci/devices/0000:01:00.0"
    put(tmp_path, f"{device}/aer_dev_correctable", AER_CORRECTABLE)
    put(tmp_path, f"{device}/aer_dev_nonfatal", "Undefined 0\nTOTAL_ERR_NONFATAL 2")
    put(tmp_path, f"{device}/aer_dev_fatal", "Undefined 0\nTOTAL_ERR_FATAL 1")
    put(tmp_path, "sys/bus/pci/devices/0000:00:00.0/class", "0x060000")
    assert read(Host(root=tmp_path)).aer == {"0000:01:00.0": AerErrors(3, 2, 1)}


def test_machine_check_exceptions_are_summed_and_polls_are_not(tmp_path: Path) -> None:
    put(tmp_path, "proc/interrupts", INTERRUPTS)
    put(tmp_path, "proc/meminfo", "MemTotal:       1000 kB\nHardwareCorrupted:     4 kB")
    put(tmp_path, "proc/uptime", "1234.56 2000.00")
    counters = read(Host(root=tmp_path))
    assert (counters.mce_exceptions, counters.hardware_corrupted_kib, counters.uptime_s) == (2, 4, 1234.56)


def throttle(root: Path, cpu: int, core_ms: int | None, package_ms: int | None, count: int = 0) -> None:
    folder = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
    put(root, f"{folder}/core_throttle_count", count)
    for part, value in (("core", core_ms), ("package", package_ms)):
        if value is not None:
            put(root, f"{folder}/{part}_throttle_total_time_ms", value)


def test_throttling_is_a_part_of_the_time(tmp_path: Path) -> None:
    throttle(tmp_path, 0, 1000, 500)
    throttle(tmp_path, 1, 0, 0)
    before = read(Host(root=tmp_path))
    throttle(tmp_path, 0, 2000, 4500)
    after = read(Host(root=tmp_path))
    assert before.throttle["0"] == Throttle(0, 1000)
    assert throttled_fraction(before, after, 10.0) == {"0": 0.35, "1": 0.0}


def test_throttling_without_times_is_not_judged(tmp_path: Path) -> None:
    throttle(tmp_path, 0, None, None, count=3)
    counters = read(Host(root=tmp_path))
    assert counters.throttle == {"0": Throttle(3, None)}
    assert throttled_fraction(counters, counters, 10.0) == {}


def test_nic_errors_are_increases(tmp_path: Path) -> None:
    for name, value in (("rx_crc_errors", 5), ("rx_errors", 5), ("tx_errors", 0)):
        put(tmp_path, f"sys/class/net/eth0/statistics/{name}", value)
    put(tmp_path, "sys/class/net/eth0/carrier_changes", 2)
    before = read(Host(root=tmp_path))
    put(tmp_path, "sys/class/net/eth0/statistics/rx_crc_errors", 9)
    put(tmp_path, "sys/class/net/eth0/carrier_changes", 4)
    after = read(Host(root=tmp_path))
    assert nic_errors(before, after, "eth0") == {"rx_crc_errors": 4, "carrier_changes": 2}
    assert nic_errors(before, after, "eth9") == {}


def test_ports_on_usb_are_known_as_such(tmp_path: Path) -> None:
    for name, bus in (("eth0", "0000:02:00.0"), ("enx1", "0000:00:14.0/usb1/1-4/1-4:1.0")):
        port = tmp_path / "sys/devices/pci0000:00" / bus / "net" / name
        port.mkdir(parents=True)
        (port / "device").symlink_to("../..")
        (port / "address").write_text("52:54:00:00:00:01\n")
        (tmp_path / "sys/class/net").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/class/net" / name).symlink_to(port)
    counters = read(Host(root=tmp_path))
    assert set(counters.nic_macs) == {"eth0", "enx1"}
    assert counters.usb_nics == ("enx1",)


async def test_this_machine_is_read_quickly_and_fits_into_json(host: Host) -> None:
    started = time.process_time()
    counters = await snapshot(host, limit_s=10)
    assert time.process_time() - started < 0.2  # CPU time: others load this machine
    assert json.loads(json.dumps(asdict(counters)))["uptime_s"] > 0
    assert "lo" in counters.nics


async def test_an_empty_machine_raises_nothing(tmp_path: Path) -> None:
    counters = await snapshot(Host(root=tmp_path), limit_s=10)
    assert counters.kernel_log.unreadable
    assert counters.memory == {}
    assert counters.mce_exceptions is None


async def test_a_read_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    fifo = tmp_path / "proc" / "meminfo"
    os.mkfifo(fifo)
    try:
        counters = await snapshot(Host(root=tmp_path), limit_s=0.2)
        assert "hangs" in counters.unreadable[0]
        assert counters.kernel_log.unreadable
    finally:
        os.close(os.open(fifo, os.O_WRONLY))  # lets the reading thread go


@pytest.mark.parametrize("text", ["", "MCE", "MCE: x y"])
def test_odd_interrupt_tables_are_survived(tmp_path: Path, text: str) -> None:
    put(tmp_path, "proc/interrupts", text)
    assert read(Host(root=tmp_path)).mce_exceptions in {None, 0}


def with_bmc(tmp_path: Path, stand_ins: StandIns) -> Host:
    (tmp_path / "root" / "dev").mkdir(parents=True)
    (tmp_path / "root" / "dev" / "ipmi0").touch()
    return Host(root=tmp_path / "root", tools=stand_ins.tools())


async def test_the_event_log_of_the_bmc_is_read(tmp_path: Path, only_stand_ins: StandIns) -> None:
    only_stand_ins.says("ipmitool", recording("ipmitool", "cable-pulled-sel.out"))
    counters = await snapshot(with_bmc(tmp_path, only_stand_ins), limit_s=10)
    assert counters.sel is not None
    assert counters.sel[0].text == "Power Supply #0x3b | Failure detected | Asserted"
    assert counters.sel_unreadable is None
    assert only_stand_ins.calls("ipmitool") == [["ipmitool", "sel", "list", "last", "25"]]
    json.dumps(asdict(counters))


async def test_a_hung_ipmitool_delays_nobody_and_hides_no_other_counter(
    tmp_path: Path, only_stand_ins: StandIns
) -> None:
    only_stand_ins.python("ipmitool", "import time\ntime.sleep(600)\n")
    host = with_bmc(tmp_path, only_stand_ins)
    (host.root / "proc").mkdir()
    (host.root / "proc" / "interrupts").write_text(INTERRUPTS)
    started = time.monotonic()
    counters = await snapshot(host, limit_s=1.0)
    assert time.monotonic() - started < 4.0
    assert counters.sel is None
    assert counters.sel_unreadable
    assert counters.mce_exceptions == 2
    assert not any("BMC" in one for one in counters.unreadable)


@pytest.mark.parametrize(
    ("body", "unreadable"),
    [
        ("sys.exit(1)\n", True),
        ("print('garbage')\n", True),
        ("os.kill(os.getpid(), 11)\n", True),
        ("sys.stderr.write('SEL has no entries\\n')\n", False),
    ],
)
async def test_a_bmc_that_does_not_tell_is_no_gap(
    body: str, unreadable: bool, tmp_path: Path, only_stand_ins: StandIns
) -> None:
    only_stand_ins.python("ipmitool", body)
    counters = await snapshot(with_bmc(tmp_path, only_stand_ins), limit_s=10)
    assert (counters.sel_unreadable is not None, counters.sel) == (unreadable, None if unreadable else ())


async def test_without_bmc_or_ipmitool_there_is_no_event_log(tmp_path: Path, only_stand_ins: StandIns) -> None:
    none = await snapshot(Host(root=tmp_path, tools=only_stand_ins.tools()), limit_s=10)
    missing = await snapshot(with_bmc(tmp_path, only_stand_ins), limit_s=10)
    unasked = await snapshot(Host(root=tmp_path / "root", tools=only_stand_ins.tools()), limit_s=10, bmc=False)
    for counters in (none, missing, unasked):
        assert (counters.sel, counters.sel_unreadable) == (None, None)

"""Puts together the machines of tests/fixtures/hosts that nobody here has: `python -m tests.tables.compose_hosts`.

What of them is a real recording and what was made up stands in the ORIGIN.md of each.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support import nvml
from tests.support.recordings import text
from tests.support.replay import HOSTS
from tests.support.smartctl_player import STARTED, Frame, ata_poll, ata_row, frame, played, scan_of
from tests.support.trees import Link, link, pci_function, plant

REPOSITORY = Path(__file__).parents[2]
Files = dict[str, str | bytes | Link]


def main() -> int:
    for name, files in {
        "mini-pc": mini_pc(),
        "two-socket-raid": two_socket_raid(),
        "gpu-node-h100": gpu_node_h100(),
        "arm-server": arm_server(),
    }.items():
        fresh(name)
        plant(HOSTS / name, files)
    half_unreadable()
    return 0


def fresh(name: str) -> Path:
    """The folder of a machine, empty but for its ORIGIN.md and the facts expected of it."""
    folder = HOSTS / name
    folder.mkdir(exist_ok=True)
    for part in ("proc", "sys", "dev", "etc", "run", "tools"):
        shutil.rmtree(folder / part, ignore_errors=True)
    return folder


# --- parts -----------------------------------------------------------------------------------------------------------


def tool(call: str, content: str, code: int = 0) -> Files:
    """One recorded call of a tool."""
    stem = f"tools/{call.replace('/', '_')}"
    return {f"{stem}.out": content.rstrip("\n"), **({f"{stem}.exit": str(code)} if code else {})}


def played_tool(call: str, *frames: Frame) -> Files:
    """A call that gives the first frame, then the second."""
    files: Files = {}
    for suffix, one in zip(("", " @2"), frames, strict=False):
        files |= tool(call + suffix, one["out"], one["exit"])
    return files


def cpus(cpuinfo: str, cores: Mapping[int, tuple[int, int]]) -> Files:
    """cpuinfo and topology; `cores` maps a CPU to its socket and core. `cpuinfo` describes the first CPU."""
    blocks = []
    for number, (socket, core) in cores.items():
        changes = {"processor": number, "physical id": socket, "core id": core, "apicid": number * 2}
        lines = [_changed(line, changes) for line in cpuinfo.strip().splitlines()]
        blocks.append("\n".join(lines))
    folder = "sys/devices/system/cpu"
    files: Files = {"proc/cpuinfo": "\n\n".join(blocks) + "\n"}
    everyone = f"0-{len(cores) - 1}"
    files |= {f"{folder}/{name}": everyone for name in ("present", "online", "possible")}
    for number, (socket, core) in cores.items():
        place = f"{folder}/cpu{number}/topology"
        files |= {f"{place}/physical_package_id": str(socket), f"{place}/core_id": str(core), f"{place}/die_id": "0"}
    return files


def _changed(line: str, changes: Mapping[str, int]) -> str:
    name = line.partition(":")[0]
    return f"{name}: {changes[name.strip()]}" if name.strip() in changes else line


def memory(kib: int) -> Files:
    return {
        "proc/meminfo": f"MemTotal:       {kib} kB\nMemFree:        {kib // 2} kB\nMemAvailable:   {kib // 10 * 9} kB\n"
        "HardwareCorrupted:     0 kB"
    }


def kernel(release: str, build: str, pretty: str, name: str) -> Files:
    return {
        "proc/sys/kernel/osrelease": release,
        "proc/sys/kernel/version": build,
        "proc/sys/kernel/hostname": name,
        "proc/sys/kernel/arch": "x86_64",
        "proc/cmdline": f"BOOT_IMAGE=/boot/vmlinuz-{release} root=UUID=6f1e5a34-7e0b-4a2c-9c1d-0123456789ab ro quiet",
        "proc/uptime": "86417.20 331207.44",
        "etc/os-release": f'PRETTY_NAME="{pretty}"',
        "dev/kmsg": f"6,0,0,-;Linux version {release}",
    }


def disk(name: str, place: str, sectors: int, *, rotational: bool = False, **device: str) -> Files:
    """A block device below `place` in the tree of devices; `device` are attributes of its SCSI or NVMe device."""
    folder = f"sys/devices/{place}/{name}"
    files: Files = {
        f"sys/block/{name}": Link(f"../devices/{place}/{name}"),
        f"{folder}/size": str(sectors),
        f"{folder}/removable": "0",
        f"{folder}/ro": "0",
        f"{folder}/dev": f"8:{16 * (ord(name[-1]) % 16)}",
        f"{folder}/queue/rotational": str(int(rotational)),
        f"{folder}/queue/logical_block_size": "512",
        f"{folder}/queue/physical_block_size": "512",
        f"{folder}/queue/discard_max_bytes": "0" if rotational else "2147450880",
        f"{folder}/queue/nr_requests": "64",
        f"{folder}/device": Link("../.." if place.endswith("/block") else ".."),
    }
    above = place.removesuffix("/block")
    return files | {f"sys/devices/{above}/{key}": value for key, value in device.items()}


def nic(name: str, pci: str, below: str, mac: str, driver: str, speed: int | None, firmware: str) -> Files:
    """A network interface; `speed` None: switched on, and nothing plugged in."""
    place = "/".join(part for part in ("pci0000:00", below, pci) if part)
    folder = f"sys/devices/{place}/net/{name}"
    files: Files = {
        f"sys/class/net/{name}": Link(f"../../devices/{place}/net/{name}"),
        f"{folder}/device": Link("../../../" + pci),
        f"{folder}/address": mac,
        f"{folder}/addr_assign_type": "0",
        f"{folder}/type": "1",
        f"{folder}/mtu": "1500",
        f"{folder}/flags": "0x1003",
        f"{folder}/carrier": "0" if speed is None else "1",
        f"{folder}/carrier_changes": "1" if speed is None else "2",
        f"{folder}/speed": "-1" if speed is None else str(speed),
        f"{folder}/duplex": "unknown" if speed is None else "full",
        f"{folder}/statistics/rx_errors": "0",
        f"{folder}/statistics/rx_crc_errors": "0",
        f"{folder}/statistics/tx_errors": "0",
    }
    info = f"driver: {driver}\nversion: 6.8.0-45-generic\nfirmware-version: {firmware}\nbus-info: {pci}"
    return files | tool(f"ethtool -i {name}", info) | tool(f"ethtool -P {name}", f"Permanent address: {mac}")


# --- a mini PC: no BMC, consumer disks, a CPU that sits at its limit --------------------------------------------------

N100 = text("cpuinfo", "n100.out")


def mini_pc() -> Files:
    ports = {"0000:00:1c.0": "54b8", "0000:00:1c.6": "54be", "0000:00:1d.0": "54b0", "0000:00:1d.3": "54b3"}
    slow, fast = link(1, 4, "5.0 GT/s PCIe", "8.0 GT/s PCIe"), link(4, 4)
    files: Files = {
        **cpus(N100, {number: (0, number) for number in range(4)}),
        **memory(16_152_000),
        **kernel("6.8.0-45-generic", "#45-Ubuntu SMP", "Ubuntu 24.04.1 LTS", "homeserver"),
        **_consumer_firmware(),
        **_hot_package(),
        **pci_function("0000:00:00.0", uevent="PCI_CLASS=60000\nPCI_ID=8086:461C"),
        **pci_function("0000:00:02.0", uevent="DRIVER=i915\nPCI_CLASS=30000\nPCI_ID=8086:46D1"),
        **pci_function("0000:00:14.0", uevent="DRIVER=xhci_hcd\nPCI_CLASS=C0330\nPCI_ID=8086:54ED"),
        **pci_function("0000:00:17.0", uevent="DRIVER=ahci\nPCI_CLASS=10601\nPCI_ID=8086:54D3"),
        **pci_function("0000:00:1f.0", uevent="PCI_CLASS=60100\nPCI_ID=8086:5481"),
    }
    for address, device in ports.items():
        own = fast if address in {"0000:00:1c.0", "0000:00:1d.3"} else slow
        event = f"DRIVER=pcieport\nPCI_CLASS=60400\nPCI_ID=8086:{device.upper()}"
        files |= pci_function(address, uevent=event, **own)
    # The real machine has an x8 card in a slot of four lanes, and I226 controllers on one lane each: both by design.
    for function in (0, 1):
        card = link(4, 8, "5.0 GT/s PCIe", "5.0 GT/s PCIe")
        event = "DRIVER=ixgbe\nPCI_CLASS=20000\nPCI_ID=8086:10FB"
        files |= pci_function(f"0000:01:00.{function}", "0000:00:1c.0", uevent=event, **card)
        mac = f"a8:b8:e0:05:97:d{5 + function}"
        files |= nic(f"enp1s0f{function}", f"0000:01:00.{function}", "0000:00:1c.0", mac, "ixgbe", None, "0x000161c1")
    for bus, port, speed in (("02", "0000:00:1c.6", 1000), ("03", "0000:00:1d.0", None)):
        event = "DRIVER=igc\nPCI_CLASS=20000\nPCI_ID=8086:125C"
        own = link(1, 1, "5.0 GT/s PCIe", "5.0 GT/s PCIe")
        files |= pci_function(f"0000:{bus}:00.0", port, uevent=event, **own)
        mac = f"a8:b8:e0:05:97:{bus}"
        files |= nic(f"enp{int(bus)}s0", f"0000:{bus}:00.0", port, mac, "igc", speed, "2017:888d")
    scan = scan_of(("/dev/sda", "sat"), ("/dev/nvme0", "nvme"))
    return {
        **files,
        **_consumer_ssd(),
        **nvme_disk("0000:00:1d.3", "0000:04:00.0"),
        **played_tool("smartctl --scan-open --json", scan),
    }


def _consumer_firmware() -> Files:
    folder = "sys/class/dmi/id"
    values = {
        "sys_vendor": "Default string",
        "product_name": "Default string",
        "product_serial": "Default string",
        "product_uuid": "03000200-0400-0500-0006-000700080009",
        "board_vendor": "Default string",
        "board_name": "Default string",
        "board_serial": "Default string",
        "chassis_serial": "Default string",
        "chassis_asset_tag": "To Be Filled By O.E.M.",
        "chassis_type": "35",
        "bios_vendor": "American Megatrends International, LLC.",
        "bios_version": "5.26",
        "bios_date": "09/21/2023",
    }
    module = text("dmidecode", "dell-ddr4.out").split("Handle 0x1101")[0]
    for before, after in {
        "Total Width: 72 bits": "Total Width: 64 bits",
        "Size: 32 GB": "Size: 16 GB",
        "Form Factor: DIMM": "Form Factor: SODIMM",
        "Locator: A1": "Locator: Controller0-ChannelA-DIMM0",
        "Type: DDR4": "Type: DDR5",
        "Serial Number: 29DE07DF": "Serial Number: 00000000",
        "Synchronous Registered (Buffered)": "Synchronous",
        "3200 MT/s": "4800 MT/s",
        "2666 MT/s": "4800 MT/s",
        "Manufacturer: 002C0632002C": "Manufacturer: Not Specified",
        "Part Number: 36ASF4G72PZ-3G2J3": "Part Number: Not Specified",
        "Volatile Size: 32 GB": "Volatile Size: 16 GB",
    }.items():
        module = module.replace(before, after)
    files: Files = {f"{folder}/{name}": value for name, value in values.items()}
    files["sys/firmware/dmi/tables/smbios_entry_point"] = ""
    files["sys/firmware/efi/fw_platform_size"] = "64"
    return files | tool("dmidecode --type 4,16,17", module)


def _hot_package() -> Files:
    """At 97 °C of 105, throttled before: how a fanless N100 lives under load."""
    chip = "sys/devices/platform/coretemp.0/hwmon/hwmon0"
    files: Files = {
        "sys/class/hwmon/hwmon0": Link("../../devices/platform/coretemp.0/hwmon/hwmon0"),
        f"{chip}/name": "coretemp",
        f"{chip}/temp1_label": "Package id 0",
        f"{chip}/temp1_input": "97000",
        f"{chip}/temp1_max": "105000",
        f"{chip}/temp1_crit": "105000",
        f"{chip}/temp1_crit_alarm": "0",
    }
    for cpu in range(4):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        files |= {
            f"{folder}/thermal_throttle/core_throttle_count": "0",
            f"{folder}/thermal_throttle/package_throttle_count": "4102",
            f"{folder}/thermal_throttle/package_throttle_total_time_ms": "91820",
            f"{folder}/cpufreq/scaling_governor": "powersave",
            f"{folder}/cpufreq/scaling_driver": "intel_pstate",
            f"{folder}/cpufreq/cpuinfo_min_freq": "700000",
            f"{folder}/cpufreq/cpuinfo_max_freq": "3400000",
        }
    return files


def nvme_disk(port: str, address: str) -> Files:
    """A sound NVMe disk that passes its self-test, as smartctl 7.3 and nvme-cli 2.3 show it."""
    controller = f"pci0000:00/{port}/{address}/nvme/nvme0"
    sectors, serial = 488397168, "NVME-HEALTHY-1"
    attributes = {"serial": serial, "model": "Samsung SSD 970 EVO Plus 250GB", "firmware_rev": "2B2QEXM7"}
    return {
        **pci_function(address, port, uevent="DRIVER=nvme\nPCI_CLASS=10802\nPCI_ID=144D:A808", **link(4, 4)),
        **disk("nvme0n1", controller, sectors, transport="pcie", state="live", **attributes),
        "sys/class/nvme/nvme0": Link(f"../../devices/{controller}"),
        f"sys/devices/{controller}/nvme0n1/nsid": "1",
        "dev/nvme0n1": "",
        **played_tool("smartctl --json -x -d nvme /dev/nvme0", played("nvme-healthy")),
        **tool("nvme id-ctrl /dev/nvme0 -o json", json.dumps({"vid": 5197, "oacs": 23})),
        **tool("nvme device-self-test /dev/nvme0 -s 1", "Short Device self-test started"),
        **tool("nvme self-test-log /dev/nvme0 -o json", _nvme_log([])),
        **tool("nvme self-test-log /dev/nvme0 -o json @2", _nvme_log([0])),
    }


def _consumer_ssd() -> Files:
    """A sound SSD of a maker who leaves logs out, so that smartctl ends with exit code 4."""
    place = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0"
    before = {"self_test": {"status": {"value": 0}, "polling_minutes": {"short": 1}}}
    ssd = played("ata-healthy-ssd-exit-4", ata_smart_data={**_smart_data("ata-healthy-ssd-exit-4"), **before})
    polls = ata_poll(0xF9), ata_poll(0, [ata_row(0, 3051, lba=None)])
    return {
        **disk("sda", f"{place}/block", 234441648, vendor="ATA", model="KINGSTON SA400M8", rev="T1P1", state="running"),
        f"sys/devices/{place}/vpd_pg80": b"\x00\x80\x00\x0dSSD-HEALTHY-1",
        "dev/sda": "",
        **played_tool("smartctl --json -x -d sat /dev/sda", ssd),
        **played_tool("smartctl -d sat -t short /dev/sda", STARTED),
        **played_tool("smartctl --json -c -l selftest -d sat /dev/sda", *polls),
    }


def _smart_data(case: str) -> dict[str, object]:
    data = json.loads(text("smartctl", f"{case}.out")).get("ata_smart_data", {})
    assert isinstance(data, dict)
    return data


def _nvme_log(results: list[int]) -> str:
    """nvme-cli 2.3's form: twenty entries, the unused ones with result 15."""
    unused = {"Self test result": 15}
    rows = [{"Self test result": code, "Self test code": 1, "Power on hours": 3052} for code in results]
    document = {"Current Device Self-Test Operation": 0, "Current Device Self-Test Completion": 0}
    return json.dumps({**document, "List of Valid Reports": rows + [unused] * (20 - len(rows))})


# --- a server with EDAC, a RAID controller and a BMC -----------------------------------------------------------------


def two_socket_raid() -> Files:
    base = HOSTS / "dell-xeon"
    files = copied(
        base, ("proc", "sys/devices/system", "sys/class/dmi", "sys/firmware", "sys/devices/virtual", "tools")
    )
    card = "pci0000:00/0000:00:01.0/0000:03:00.0"
    target = f"{card}/host0/target0:2:0/0:2:0:0"
    volume = played("raid-volume")
    files |= pci_function("0000:00:00.0", uevent="PCI_CLASS=60000\nPCI_ID=8086:3C00")
    files |= pci_function("0000:00:01.0", uevent="DRIVER=pcieport\nPCI_CLASS=60400\nPCI_ID=8086:3C02", **link(8, 8))
    event = "DRIVER=megaraid_sas\nPCI_CLASS=10400\nPCI_ID=1000:005D\nPCI_SUBSYS_ID=1028:1F49"
    files |= pci_function("0000:03:00.0", "0000:00:01.0", uevent=event, **link(8, 8))
    files |= disk(
        "sda", f"{target}/block", 4686086144, rotational=True, vendor="DELL", model="PERC H730 Mini", rev="4.30"
    )
    files |= {
        "sys/class/scsi_host/host0": Link(f"../../devices/{card}/host0/scsi_host/host0"),
        f"sys/devices/{card}/host0/scsi_host/host0/proc_name": "megaraid_sas",
        f"sys/devices/{target}/vpd_pg80": b"\x00\x80\x00\x100061c2b4a01c2b00",
        "sys/class/net/lo/address": "00:00:00:00:00:00",
        "sys/firmware/dmi/entries/38-0/type": "38",
        "dev/ipmi0": "",
        "dev/sda": "",
        **kernel("6.1.0-25-amd64", "#1 SMP Debian 6.1.106-3", "Debian GNU/Linux 12 (bookworm)", "store-1"),
        **_edac(),
    }
    for number in (0, 1):
        name = f"smartctl --json -x -d megaraid,{number} /dev/bus/0"
        files |= played_tool(name, played("scsi-megaraid-healthy", serial_number=f"SAS-HEALTHY-{number + 1}"))
        files |= played_tool(f"smartctl -d megaraid,{number} -t short /dev/bus/0", STARTED)
        files |= played_tool(
            f"smartctl --json -l selftest -d megaraid,{number} /dev/bus/0", _scsi_log(running=True), _scsi_log()
        )
    return {
        **files,
        **played_tool("smartctl --scan-open --json", scan_of(*[("/dev/bus/0", f"megaraid,{one}") for one in (0, 1)])),
        **played_tool("smartctl --json -x /dev/sda", volume),
        **_bmc(),
    }


def _scsi_log(*, running: bool = False) -> Frame:
    """`-l selftest` of smartctl 7.4 for a SCSI disk, which numbers its entries."""
    code = {"value": 15, "string": "Self test in progress ..."} if running else {"value": 0, "string": "Completed"}
    entry = {
        "code": {"value": 1, "string": "Background short"},
        "result": code,
        "power_on_time": {"hours": 20013, "aka": "accumulated_power_on_hours"},
    }
    return frame(
        {
            "smartctl": {"version": [7, 4], "exit_status": 0},
            "device": {"protocol": "SCSI"},
            "scsi_self_test_0": entry,
        }
    )


def _edac() -> Files:
    """Two memory controllers, in the form of sb_edac; one DIMM with a few old corrected errors."""
    files: Files = {}
    for controller in (0, 1):
        folder = f"sys/devices/system/edac/mc/mc{controller}"
        files |= {
            f"{folder}/mc_name": f"Sandy Bridge SrcID#{controller}_Ha#0",
            f"{folder}/ce_count": "3" if controller == 0 else "0",
            f"{folder}/ue_count": "0",
        }
        for dimm in range(4):
            place, count = f"{folder}/dimm{dimm}", "3" if (controller, dimm) == (0, 2) else "0"
            files |= {
                f"{place}/dimm_label": f"CPU_SrcID#{controller}_Ha#0_Chan#{dimm}_DIMM#0",
                f"{place}/dimm_ce_count": count,
                f"{place}/dimm_ue_count": "0",
                f"{place}/dimm_edac_mode": "S4ECD4ED",
                f"{place}/size": "4096",
            }
    return files


def _bmc() -> Files:
    supplies = text("ipmitool", "dell-r740xd-sdr.out")
    log = text("ipmitool", "cable-pulled-sel.out")
    return {
        **tool("ipmitool mc info", text("ipmitool", "sim-mc-info.out")),
        **tool("ipmitool lan print", text("ipmitool", "sim-lan-print.out").replace(": 0.0.0.0", ": 192.0.2.17", 1)),
        **tool("ipmitool sdr type 0x08", supplies),
        **tool("ipmitool sdr dump sdr-cache.bin", "Dumping Sensor Data Repository to 'sdr-cache.bin'"),
        **tool("ipmitool -S sdr-cache.bin sdr elist", supplies),
        **tool("ipmitool sdr elist", supplies),
        **tool("ipmitool sel elist last 50", log),
        **tool("ipmitool sel list last 25", log),
    }


# --- eight H100 ------------------------------------------------------------------------------------------------------

XEON_8480 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8
microcode\t: 0x2b0005c0
physical id\t: 0
core id\t\t: 0
apicid\t\t: 0
flags\t\t: fpu vme de pse tsc msr ht lm constant_tsc nonstop_tsc aes avx avx2 avx512f avx512_fp16 amx_tile amx_int8
address sizes\t: 46 bits physical, 57 bits virtual
"""
H100_BUSES = ("8d", "91", "95", "99", "ab", "af", "b3", "b7")
H100_AT_REST = ((32, 69), (30, 70), (33, 69), (30, 71), (33, 69), (29, 72), (32, 69), (30, 71))


def gpu_node_h100() -> Files:
    cores = {number: (number // 4, number % 4) for number in range(8)}
    node = "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SUBSYS_ID=10DE:16C1"
    gen5 = link(16, 16, "32.0 GT/s PCIe", "32.0 GT/s PCIe")
    files: Files = {
        **cpus(XEON_8480, cores),
        **memory(2_113_000_000),
        **kernel("5.15.0-118-generic", "#128-Ubuntu SMP", "Ubuntu 22.04.4 LTS", "trainer-8"),
        "sys/class/net/lo/address": "00:00:00:00:00:00",
        **pci_function("0000:00:1d.0", uevent="DRIVER=pcieport\nPCI_CLASS=60400\nPCI_ID=8086:1BBF", **link(4, 4)),
        **nvme_disk("0000:00:1d.0", "0000:01:00.0"),
        **played_tool("smartctl --scan-open --json", scan_of(("/dev/nvme0", "nvme"))),
    }
    for bus in H100_BUSES:
        port = f"0000:{int(bus, 16) - 1:02x}:00.0"
        event = "DRIVER=pcieport\nPCI_CLASS=60400\nPCI_ID=1000:C030"
        files |= pci_function(port, uevent=event, **gen5)
        files |= pci_function(f"0000:{bus}:00.0", port, uevent=node, **gen5)
    for number in range(4):
        event = "DRIVER=nvidia-nvswitch\nPCI_CLASS=68000\nPCI_ID=10DE:22A3"
        files |= pci_function(f"0000:{number + 5:02x}:00.0", uevent=event)
    return (
        files
        | tool("python -I -m probes.nvml_child 1 0.0", _nvml(1))
        | tool("python -I -m probes.nvml_child 6 2.0", _nvml(6))
    )


def _nvml(samples: int) -> str:
    """What `probes.nvml_child` prints, for the stand-in of NVIDIA's library with the facts of this machine."""
    with tempfile.TemporaryDirectory() as name:
        folder = nvml.build(Path(name))
        facts = [
            {
                "pci": f"00000000:{bus.upper()}:00.0",
                "uuid": f"GPU-{index}1111111-2222-3333-4444-555555555555",
                "serial": f"165000000000{index}",
                "temperature": str(degrees),
                "power_mw": str(watts * 1000),
            }
            for index, (bus, (degrees, watts)) in enumerate(zip(H100_BUSES, H100_AT_REST, strict=True))
        ]
        nvml.script(folder, *facts)
        done = subprocess.run(
            [sys.executable, "-m", "probes.nvml_child", str(samples), "0.1"],
            env={"LD_LIBRARY_PATH": str(folder), "PATH": "/usr/bin:/bin"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    lines = [line for said in done.stdout.splitlines() if "time" in (line := json.loads(said))]
    for number, line in enumerate(lines):
        line["time"] = 1000.0 + 2.0 * number
    return "\n".join(map(json.dumps, lines))


# --- an Arm server ---------------------------------------------------------------------------------------------------


def arm_server() -> Files:
    """The Kunpeng of huawei-arm, with an NVMe disk and a 25G card, which that recording does not show."""
    card, port = "0000:7d:00.0", "0000:00:0c.0"
    gen3 = link(4, 4)
    return {
        **copied(HOSTS / "huawei-arm", ("proc", "sys")),
        **kernel("6.1.0-25-arm64", "#1 SMP Debian 6.1.106-3", "Debian GNU/Linux 12 (bookworm)", "arm-1"),
        "proc/sys/kernel/arch": "aarch64",
        "sys/class/net/lo/address": "00:00:00:00:00:00",
        **pci_function(port, uevent="DRIVER=pcieport\nPCI_CLASS=60400\nPCI_ID=19E5:A120", **gen3),
        **pci_function(card, uevent="DRIVER=hns3\nPCI_CLASS=20000\nPCI_ID=19E5:A222"),
        **nic("enp125s0f0", card, "", "c0:bf:c0:12:34:56", "hns3", 25000, "1.9.38.9"),
        **nvme_disk(port, "0000:01:00.0"),
        **played_tool("smartctl --scan-open --json", scan_of(("/dev/nvme0", "nvme"))),
    }


# --- half of it unreadable -------------------------------------------------------------------------------------------


def half_unreadable() -> None:
    """The QEMU machine with a BMC, where every second file fails to open and every second tool does not answer."""
    folder = fresh("half-unreadable")
    plant(folder, copied(HOSTS / "qemu-bmc", ("proc", "sys", "dev", "etc", "tools")))
    files = sorted(
        str(path.relative_to(folder))
        for part in ("proc", "sys")
        for path in (folder / part).rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    errors = ("EACCES", "EIO", "EPERM")
    unreadable = {path: errors[number % 3] for number, path in enumerate(files[::2])}
    for number, path in enumerate(sorted((folder / "tools").glob("*.out"))):
        if number % 2:
            path.with_suffix(".exit").write_text("timeout\n")
            path.write_text("")
    (folder / "capture.json").write_text(json.dumps({"format": 1, "unreadable": unreadable}, indent=1) + "\n")


def copied(base: Path, parts: tuple[str, ...]) -> Files:
    """Files and links below some folders of another machine."""
    files: Files = {}
    for part in parts:
        for path in sorted((base / part).rglob("*")):
            name = str(path.relative_to(base))
            if path.is_symlink():
                files[name] = Link(str(path.readlink()))
            elif path.is_file():
                files[name] = path.read_bytes()
    return files


if __name__ == "__main__":
    sys.exit(main())

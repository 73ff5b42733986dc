"""Builds the stand-in for NVIDIA's management library, and writes the script that it plays."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
LIBRARY = "libnvidia-ml.so.1"

# An H100 as its driver describes it when all is well.
HEALTHY: Mapping[str, str] = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-11111111-2222-3333-4444-555555555555",
    "serial": "1650000000001",
    "pci": "00000000:3B:00.0",
    "vbios": "96.00.89.00.01",
    "memory_bytes": str(85520809984),
    "temperature": "38",
    "temperature_slowdown": "92",
    "temperature_shutdown": "97",
    "power_mw": "71234",
    "power_limit_mw": "700000",
    "throttle_reasons": "0x1",
    "temperature_memory_max": "95",
    "temperature_gpu_max": "87",
    "memory_temperature": "45",
    "temperature_margin": "49",
    "slowdown_margin": "-2",
    "power_limit_default_mw": "700000",
    "thermal_violation_ns": "0",
    "power_violation_ns": "0",
    "board_limit_violation_ns": "0",
    "software_thermal_ns": "0",
    "hardware_thermal_ns": "0",
    "power_brake_ns": "0",
    "pcie_replays": "0",
    "utilization": "0",
    "recovery_action": "0",
    "persistence_mode": "1",
    "mig_mode": "0",
    "compute_mode": "0",
    "fabric": "3,0,0",
    "pcie_generation": "5",
    "pcie_generation_max": "5",
    "pcie_width": "16",
    "pcie_width_max": "16",
    "clock": "345",
    "clock_max": "1980",
    "ecc_enabled": "1",
    "ecc_uncorrected": "0",
    "ecc_corrected": "0",
    "ecc_uncorrected_lifetime": "0",
    "ecc_corrected_lifetime": "3",
    "remapped_rows": "0,0,0,0",
    "remap_banks_used_up": "0",
    "sram_errors_over_limit": "0",
    "nvlinks": "18",
}

DRIVER: Mapping[str, str] = {"driver": "550.90.07", "events": "yes"}


def build(folder: Path, *flags: str) -> Path:
    """Compile the library into `folder`; the folder is what belongs on LD_LIBRARY_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wno-format-truncation",
        *flags,
        "-o",
        folder / LIBRARY,
        SOURCE,
    ]
    subprocess.run(command, check=True)
    return folder


def script(folder: Path, *gpus: Mapping[str, str], **top: str) -> None:
    """Write what the library in `folder` is to say: each GPU's facts laid over HEALTHY."""
    lines = [f"{key}={value}" for key, value in {"gpus": len(gpus), **DRIVER, **top}.items()]
    for index, facts in enumerate(gpus):
        lines += [f"{index}.{key}={value}" for key, value in {**HEALTHY, **facts}.items()]
    (folder / "nvml.script").write_text("\n".join(lines) + "\n")


def hangs(folder: Path) -> bool:
    """Whether a process stands in a call that hangs, of the library in `folder`."""
    lock = os.open(folder / "hanging", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def pci_device(
    root: Path, address: str, pci_class: str, pci_id: str, driver: str = "", *, port: str = "", width: int = 16
) -> None:
    """A PCI function in a recorded sysfs below `root`, as the kernel shows it; below `port` when there is one."""
    above = f"pci0000:00/{port}" if port else "pci0000:00"
    folder = root / "sys" / "devices" / above / address
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"PCI_CLASS={pci_class}", f"PCI_ID={pci_id}", f"PCI_SLOT_NAME={address}"]
    (folder / "uevent").write_text("\n".join([*([f"DRIVER={driver}"] if driver else []), *lines]) + "\n")
    for name, value in (("width", str(width)), ("speed", "32.0 GT/s PCIe")):
        (folder / f"current_link_{name}").write_text(value + "\n")
        (folder / f"max_link_{name}").write_text(value + "\n")
    links = root / "sys" / "bus" / "pci" / "devices"
    links.mkdir(parents=True, exist_ok=True)
    (links / address).symlink_to(f"../../../devices/{above}/{address}")

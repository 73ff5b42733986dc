"""Faults of CPU, memory, PCIe and heat, put into a running guest: by QEMU's monitor, or by the kernel's own means.

Each raises WrongTurn or NoAnswer where the fault did not take hold, as far as that can be seen.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from image.lab.scene import Scene, WrongTurn

MCE_CPU = "Haswell-noTSX"
"""A CPU whose machine checks Linux takes as a server's: broadcast, with recovery."""
CORRECTED, RECOVERABLE, FATAL = 0x9C00000000000151, 0xBD000000000000C0, 0xBE00000000000151
"""Machine check status: VAL, MISCV, ADDRV and EN; then UC with S and AR off (recoverable); then UC with PCC."""
BAD_TLP, COMPLETION_TIMEOUT, MALFORMED_TLP = 0x40, 0x4000, 0x40000
"""PCIe error bits: corrected; uncorrected, not fatal; uncorrected and fatal."""
PAGE = 4096

PCIE_CARD = (
    *("-device", "pcie-root-port,id=lab-port,chassis=9,slot=9"),
    *("-netdev", "user,id=lab-net,restrict=on"),
    *("-device", "e1000e,bus=lab-port,netdev=lab-net,mac=52:54:00:7e:71:01"),
)
"""A card behind a port that reports errors (AER)."""

SENSOR_ADDRESS = 0x18
SENSOR_CRITICAL_C = 85
SENSOR = f"""
modprobe i2c-stub chip_addr={SENSOR_ADDRESS:#x}
modprobe i2c-dev
modprobe jc42
cat >/run/lab-sensor <<'END'
import ctypes, fcntl, glob, os, sys
class Smbus(ctypes.Structure):
    _fields_ = [("write", ctypes.c_uint8), ("register", ctypes.c_uint8), ("size", ctypes.c_uint32),
                ("data", ctypes.POINTER(ctypes.c_uint16))]
bus = next(os.path.dirname(path) for path in glob.glob("/sys/class/i2c-dev/*/name") if "stub" in open(path).read())
chip = os.open("/dev/" + os.path.basename(bus), os.O_RDWR)
fcntl.ioctl(chip, 0x0706, {SENSOR_ADDRESS:#x})  # I2C_SLAVE_FORCE: the driver holds it too
def put(register, value):
    word = ctypes.c_uint16(value >> 8 | (value & 255) << 8)
    fcntl.ioctl(chip, 0x0720, Smbus(0, register, 3, ctypes.pointer(word)))  # I2C_SMBUS: write a word
def degrees(value):
    return value * 16
put(4, degrees({SENSOR_CRITICAL_C}))
now = int(sys.argv[1])
put(5, degrees(now) | (0x8000 if now >= {SENSOR_CRITICAL_C} else 0))
if sys.argv[2:] == ["new"]:
    open(bus + "/device/new_device", "w").write("jc42 {SENSOR_ADDRESS:#x}")
END
"""
"""A memory module's thermometer (JC 42.4) on a bus without wires; then: `python3 /run/lab-sensor DEGREES [new]`."""


def stressed(scene: Scene) -> None:
    """Wait until CPUStress has its load running."""
    scene.until_running("CPUStress")
    scene.sh("until pgrep -x stress-ng; do sleep 0.2; done")


def logged(scene: Scene, pattern: str, limit_s: int = 20) -> None:
    """Wait until the kernel log has a line. Raises NoAnswer."""
    scene.sh(f"for i in $(seq {limit_s * 2}); do dmesg | grep -E '{pattern}' && exit; sleep 0.5; done; exit 1")


def corrected_mce(scene: Scene, cpu: int = 0) -> None:
    """One machine check that the hardware corrected, found by the kernel's poll."""
    scene.sh("echo 1 >/sys/devices/system/machinecheck/machinecheck0/check_interval")
    scene.monitor.hmp(f"mce {cpu} 4 {CORRECTED:#x} 0 0x12345000 0x8c")
    logged(scene, f"CPU {cpu}: Machine Check: 0 Bank 4: 9c")


def corrected_mces(scene: Scene, count: int, cpu: int = 1) -> None:
    """So many of them, by the kernel's own test module, which forgets after each what it was told."""
    scene.sh(
        f"modprobe mce-inject; mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug; "
        f"cd /sys/kernel/debug/mce-inject; echo sw >flags; "
        f"for i in $(seq {count}); do echo {CORRECTED:#x} >status; echo {cpu} >cpu; echo 4 >bank; sleep 0.05; done"
    )
    logged(scene, f"CPU {cpu}: Machine Check: 0 Bank 4: 9c")


def recoverable_mce(scene: Scene) -> None:
    """An uncorrected error in a page of a process of our own, which the kernel takes out of use."""
    frame = int(
        scene.sh(
            "cat >/run/page.py <<'END'\n"
            "import ctypes, mmap, struct, time\n"
            f"page = mmap.mmap(-1, {PAGE})\n"
            "page[0] = 1\n"
            "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
            "with open('/proc/self/pagemap', 'rb') as pages:\n"
            f"    pages.seek(at // {PAGE} * 8)\n"
            "    print(struct.unpack('Q', pages.read(8))[0] & (1 << 55) - 1, flush=True)\n"
            "time.sleep(600)\n"
            "END\n"
            "setsid python3 /run/page.py >/run/page 2>/dev/null </dev/null &\n"
            "until grep . /run/page; do sleep 0.2; done"
        )
    )
    scene.monitor.hmp(f"mce -b 0 9 {RECOVERABLE:#x} 0x5 {frame * PAGE:#x} 0x8c")
    logged(scene, f"Memory failure: {frame:#x}: recovery action")


def fatal_mce(scene: Scene) -> None:
    """The kernel must stop, and says so on its console."""
    scene.monitor.hmp(f"mce -b 0 9 {FATAL:#x} 0 0x12345000 0x8c")


def poisoned_page(scene: Scene) -> None:
    """A page is broken, and the process that has it is ended."""
    script = f"import mmap; m = mmap.mmap(-1, {PAGE}); m[0] = 1; m.madvise(mmap.MADV_HWPOISON)"
    scene.sh(f'python3 -c "{script}"', check=False)
    logged(scene, "Memory failure: 0x[0-9a-f]+: recovery action")


def pcie_error(scene: Scene, *, uncorrected: int = 0, corrected: int = 0) -> str:
    """An error of the PCIE_CARD, which its port reports; its address."""
    address = scene.sh("modprobe aer_inject; basename $(readlink -f /sys/bus/pci/drivers/e1000e/0000:*)").strip()
    match = re.fullmatch(r"0000:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", address)
    if match is None:
        raise WrongTurn(f"no card behind a port: {address!r}")
    place = ", ".join(str(int(part, 16)) for part in match.groups())
    packed = f"struct.pack('<BBBxIIIIIII', {place}, {uncorrected}, {corrected}, 0, 1, 2, 3, 0)"
    scene.sh(f"python3 -c \"import struct; open('/dev/aer_inject', 'wb', buffering=0).write({packed})\"")
    logged(scene, "AER: .*error message received")
    return address


def memory_module(folder: Path, size_mib: int) -> tuple[str, ...]:
    """QEMU's arguments for one memory module of that size in the firmware's tables, whatever memory there is.

    SMBIOS 2.8, type 17; QEMU makes none of its own beside it. The array is QEMU's.
    """
    numbers = struct.pack("<BBHHHHHHBBBBBH", 17, 40, 0x1100, 0x1000, 0xFFFE, 64, 64, size_mib, 9, 0, 1, 0, 0x1A, 0x80)
    numbers += struct.pack("<HBBBBBIHHHH", 2666, 2, 3, 0, 4, 1, 0, 2666, 1200, 1200, 1200)
    strings = b"\0".join([b"DIMM_A1", b"lab", b"LABDIMM1", b"LAB-4G"])
    path = folder / "module.bin"
    path.write_bytes(numbers + strings + b"\0\0")
    return ("-smbios", f"file={path}")

"""The whole machine at once: complete where it can be read, and honest where it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import inventory
from probes.host import Host
from probes.system import System
from tests.support.replay import host_in, recorded_host
from tests.support.stand_ins import StandIns
from tests.support.trees import Link, copy_of, plant

# The wire's field names, docs/protocol.md "Inventory".
WIRE = {
    "system": {"vendor", "product", "serial", "uuid", "bios", "arch", "kernel", "image_version"},
    "cpu": {"model", "sockets", "physical_cores", "logical_cores", "microcode", "numa"},
    "memory": {"total_gib", "dimms"},
    "disks": {"name", "serial", "wwn", "model", "size_gb", "transport", "rotational", "firmware"},
    "nics": {"name", "mac", "speed_mbps", "link", "driver", "pci", "firmware"},
    "boot": {"firmware", "secure_boot", "booted_mac"},
}
SECTIONS = {*WIRE, "gpus", "psus", "bmc", "tpm", "notes"}
DMIDECODE = "dmidecode --type 4,16,17.out"


def failed(found: inventory.Inventory) -> list[str]:
    return [failure.section for failure in found.failed]


@pytest.mark.parametrize("machine", ["dell-xeon", "virtual-machine"])
async def test_a_recorded_machine_has_every_section_and_field_of_the_wire(machine: str) -> None:
    found = await inventory.collect(recorded_host(machine))
    wire = json.loads(json.dumps(asdict(found)))
    assert wire.keys() >= SECTIONS
    for section, names in WIRE.items():
        values = wire[section] if isinstance(wire[section], list) else [wire[section]]
        assert values, section
        for value in values:
            assert value.keys() >= names, section
    assert found.failed == ()


async def test_a_recorded_server_has_modules_with_the_wires_fields() -> None:
    found = await inventory.collect(recorded_host("dell-xeon"))
    assert found.memory is not None
    modules = asdict(found.memory)["dimms"]
    assert len(modules) == 8
    assert modules[0].keys() >= {"slot", "size", "speed", "part", "serial"}


async def test_each_null_of_the_wires_fields_has_its_note() -> None:
    found = await inventory.collect(recorded_host("virtual-machine"))
    assert found.disks is not None
    for name in ("serial", "wwn", "model", "firmware"):
        assert getattr(found.disks[0], name) is None
        assert any(line.startswith(f"disk vda: {name}:") for line in found.notes)
    for name in ("vendor", "product", "serial", "uuid", "bios"):
        assert any(line.startswith(f"system: {name}:") for line in found.notes)
    assert len(found.notes) == len(set(found.notes))


async def test_components_name_what_the_machine_is_made_of() -> None:
    found = inventory.components(await inventory.collect(recorded_host("dell-xeon")))
    assert found == sorted(found)
    assert {"disk:14090C05022B", "dimm:DIMM_A1/48AAE639", "nic:84:8f:69:fe:cc:40"} <= set(found)
    assert "nic:00:02:c9:03:00:f9:bf:a1" in found  # the port's GUID without its queue pair
    assert "cpu:Intel(R) Xeon(R) CPU E5-2680 0 @ 2.70GHz x 2 (16 CPUs)" in found
    assert not any("nvme0n1" in one or "sda" in one for one in found)


async def test_components_do_not_change_with_what_changes_from_boot_to_boot(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    before = inventory.components(await inventory.collect(host_in(root)))
    net = "sys/devices/pci0000:00/0000:00:01.1/0000:02:00.0/net/eth0"
    usb = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
    plant(
        root,
        {
            f"{net}/carrier": "0",
            f"{net}/mtu": "9000",
            f"{net}/speed": "-1",
            "proc/meminfo": "MemTotal: 32836000 kB",
            "sys/block/sdb": Link(f"../{usb.removeprefix('sys/')}"),
            f"{usb}/size": "1000",
            f"{usb}/removable": "1",
        },
    )
    (root / "sys/block/sda").rename(root / "sys/block/sdc")
    assert inventory.components(await inventory.collect(host_in(root))) == before


async def test_components_change_with_a_module_and_a_disk(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    before = set(inventory.components(await inventory.collect(host_in(root))))
    tables = root / "tools" / DMIDECODE
    tables.write_text(tables.read_text().replace("48AAE639", "11111111"))
    after = set(inventory.components(await inventory.collect(host_in(root))))
    assert before ^ after == {"dimm:DIMM_A1/48AAE639", "dimm:DIMM_A1/11111111"}


async def test_one_unreadable_section_does_not_cost_the_others(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    whole = await inventory.collect(host_in(root))
    plant(root, {"proc/meminfo": "\x00garbage"})
    found = await inventory.collect(host_in(root))
    assert failed(found) == ["memory"]
    assert found.memory is None
    assert any(line.startswith("memory: could not be read: ValueError") for line in found.notes)
    assert replace(found, memory=None, notes=(), failed=()) == replace(whole, memory=None, notes=(), failed=())


def crash() -> str:
    return "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (crash(), "killed by SIGSEGV"),
        ("print('Killed')", "printed no SMBIOS structure"),
        ("", "printed no SMBIOS structure, but: nothing"),
        ("sys.exit(1)", "exit code 1"),
        ("print('# dmidecode'); sys.stderr.write('/dev/mem: Permission denied'); sys.exit(1)", "Permission denied"),
    ],
)
async def test_a_dmidecode_that_lies_or_dies_is_a_failed_section(stand_ins: StandIns, body: str, message: str) -> None:
    stand_ins.python("dmidecode", body)
    found = await inventory.collect(recorded_host("dell-xeon").with_tools(stand_ins.tools()))
    assert failed(found) == ["smbios"]
    assert message in found.failed[0].message
    assert found.memory is not None
    assert (found.memory.dimms, found.memory.total_gib) == (None, 31.315)


async def test_a_missing_dmidecode_is_a_failed_section(only_stand_ins: StandIns) -> None:
    found = await inventory.collect(recorded_host("dell-xeon").with_tools(only_stand_ins.tools()))
    assert failed(found) == ["smbios"]
    assert "not installed" in found.failed[0].message


async def test_a_dmidecode_that_hangs_is_killed_and_reported(stand_ins: StandIns) -> None:
    stand_ins.python("dmidecode", "import time; time.sleep(600)")
    found = await inventory.collect(recorded_host("dell-xeon").with_tools(stand_ins.tools()), limit_s=3.0)
    assert "smbios" in failed(found)
    assert found.cpu is not None


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A machine where one attribute of a disk answers never: a pipe that nobody writes to."""
    root = copy_of("dell-xeon", tmp_path)
    size = root / "sys/devices/pci0000:00/0000:00:02.0/block/nvme0n1/size"
    size.unlink()
    os.mkfifo(size)
    yield root
    door = os.open(size, os.O_RDWR)  # lets the reader go
    os.write(door, b"1\n")
    os.close(door)


async def test_a_read_that_hangs_costs_one_section_and_no_more(hanging: Path) -> None:
    found = await inventory.collect(host_in(hanging), limit_s=1.0)
    assert found.disks is None
    assert "disks" in failed(found)
    assert "hangs" in found.failed[failed(found).index("disks")].message


async def test_the_loop_goes_on_and_a_cancel_gets_through_while_a_read_hangs(hanging: Path) -> None:
    task = asyncio.ensure_future(inventory.collect(host_in(hanging), limit_s=60.0))
    await asyncio.sleep(0.3)
    assert not task.done()
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 2.0


def spoil(root: Path, seed: int) -> int:
    """Make half of a machine's files unreadable or garbage; how many."""
    dice = random.Random(seed)
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    spoiled = [path for path in files if dice.random() < 0.5]
    for path in spoiled:
        path.unlink()
        match dice.randrange(5):
            case 0:
                path.symlink_to(path.name)  # a loop: cannot be opened, not even by root
            case 1:
                path.mkdir()  # cannot be read
            case 2:
                path.write_bytes(dice.randbytes(dice.randrange(200)))
            case 3:
                path.write_text(f"{-(2**70)}\n")
            case _:
                path.write_text("")
    return len(spoiled)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("machine", ["dell-xeon", "virtual-machine", "huawei-arm"])
async def test_half_of_the_files_unreadable_or_garbage_never_raises(tmp_path: Path, machine: str, seed: int) -> None:
    root = copy_of(machine, tmp_path)
    assert spoil(root, seed) > 10
    found = await inventory.collect(host_in(root))
    json.dumps(asdict(found)).encode()
    assert inventory.components(found) == sorted(inventory.components(found))
    for name in failed(found):
        if name != "smbios":
            assert getattr(found, name) is None


READ_FILES = [
    *("proc/cpuinfo", "proc/meminfo", "run/udev/data/b8:0", f"tools/{DMIDECODE}", "sys/class/dmi/id/chassis_type"),
    *("sys/devices/system/cpu/online", "sys/devices/system/cpu/cpu0/cache/index0/size", "proc/iomem", "etc/os-release"),
    *("sys/devices/pci0000:00/0000:00:1f.2/uevent", "sys/devices/pci0000:00/0000:00:02.0/block/nvme0n1/size"),
    *("sys/devices/pci0000:00/0000:00:01.1/0000:02:00.0/net/eth0/speed", "proc/cmdline"),
    "sys/devices/pci0000:00/0000:00:1f.2/host4/target4:0:0/4:0:0:0/vpd_pg80",
    "sys/devices/pci0000:00/0000:00:1f.2/host4/target4:0:0/4:0:0:0/vpd_pg89",
]


@pytest.fixture(scope="module")
def spoilable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of("dell-xeon", tmp_path_factory.mktemp("machine"))


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(READ_FILES), garbage=st.one_of(st.binary(max_size=700), st.text().map(str.encode)))
def test_garbage_in_any_file_never_raises(spoilable: Path, name: str, garbage: bytes) -> None:
    path = spoilable / name
    before = path.read_bytes() if path.exists() else None
    plant(spoilable, {name: garbage})
    try:
        found = asyncio.run(inventory.collect(host_in(spoilable)))
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    json.dumps(asdict(found)).encode()
    inventory.components(found)


async def test_this_machine_is_read_whole() -> None:
    found = await inventory.collect(Host())
    assert found.cpu is not None
    assert found.cpu.logical_cores == os.cpu_count()
    assert found.memory is not None
    assert found.disks
    assert isinstance(found.system, System)
    assert not {"system", "cpu", "memory", "disks", "nics", "tpm", "boot", "pci"} & set(failed(found))
    assert json.loads(json.dumps(asdict(found)))["cpu"]["model"] == found.cpu.model


async def test_the_token_on_the_kernel_command_line_is_in_no_inventory(tmp_path: Path) -> None:
    root = plant(copy_of("virtual-machine", tmp_path), {"proc/cmdline": "quiet vetting.token=sesame vetting.run_id=1"})
    assert "sesame" not in json.dumps(asdict(await inventory.collect(host_in(root))))


async def test_sections_say_nothing_when_there_is_nothing(tmp_path: Path) -> None:
    """A folder with nothing in it: every section fails or says so, and none makes something up."""
    found = await inventory.collect(host_in(tmp_path))
    assert {"cpu", "memory", "disks", "nics"} <= set(failed(found))
    assert inventory.components(found) == []

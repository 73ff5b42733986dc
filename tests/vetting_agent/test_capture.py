"""`vetting-agent capture`: what it records can be read again, tells the same, and holds no secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from probes import counters, sensors
from probes.host import Host
from probes.inventory import Inventory, collect
from probes.recorded import host_in
from probes.tools import ToolFailed
from stages import smart
from tests.support.replay import HOSTS, recorded_host
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns
from tests.support.trees import Link, copy_of, plant
from vetting_agent import capture_tree
from vetting_agent.alone import UsageError
from vetting_agent.capture import capture
from vetting_agent.capture_mask import Masker, without_secrets
from vetting_agent.capture_watch import Watch, WatchedTools

# That one's errors are played back by this very mechanism, and so cannot be captured from it.
MACHINES = sorted(folder.name for folder in HOSTS.iterdir() if folder.is_dir() and folder.name != "half-unreadable")


def call(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vetting_agent", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **({"PATH": path} if path else {})},
    )


def content(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every name, link target and file below a folder."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)), b""
        if path.is_symlink():
            yield f"{path} ->", str(path.readlink()).encode()
        elif path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def told(found: Inventory, host: Host) -> str:
    """All of an inventory; messages name the place of a recording."""
    return repr(found).replace(str(host.root), "")


@pytest.mark.parametrize("machine", MACHINES)
async def test_a_capture_of_a_machine_tells_the_same_as_the_machine(machine: str, tmp_path: Path) -> None:
    """The list of files is what probes ask for, so it cannot go stale; what escaped it would be missing here."""
    assert await capture(recorded_host(machine), tmp_path) == []
    before, after = recorded_host(machine), host_in(tmp_path)
    assert told(await collect(after), after) == told(await collect(before), before)
    assert counters.read(after) == counters.read(before)
    assert sensors.read_all(after) == sensors.read_all(before)
    size = sum(len(text) for _, text in content(tmp_path))
    assert size < 500 * 1024


def test_every_file_that_probes_open_is_seen() -> None:
    """Python's own audit events are the witness: nothing may be opened that the watch did not note."""
    program = f"""
import asyncio, os, sys
from pathlib import Path
from probes import counters, sensors
from probes.host import Host
from probes.inventory import collect
from probes.recorded import host_in
from vetting_agent.capture_watch import Watch
machine, watch, opened = host_in(Path({str(HOSTS / "dell-xeon")!r})), Watch(), set()
host = Host(watch.root(Path(str(machine.root))), machine.tools)
asyncio.run(collect(host))  # once without, for what imports open
sys.addaudithook(lambda event, arguments: opened.add(arguments[0]) if event == "open" else None)
asyncio.run(collect(host)); counters.read(host); sensors.read_all(host)
folders = ("/proc/", "/sys/", "/run/", "/etc/", "/dev/")
opened = {{os.fspath(path) for path in opened if isinstance(path, str | os.PathLike)}}
opened = {{path for path in opened if path.startswith(str(machine.root)) and "/tools/" not in path}}
assert len(opened) > 100, opened
print(*sorted(opened - watch.touched), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.slow
def test_this_machine_is_captured_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    done = call("capture", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"Recorded into .* \d+ KiB", done.stdout)
    manifest = json.loads((folder / "capture.json").read_text())
    assert manifest["masked"] is False
    shown = call("inventory", "--root", str(folder), "--json")
    assert json.loads(shown.stdout)["cpu"]["logical_cores"] == os.cpu_count()


def test_nothing_of_the_real_machine_is_read_or_run(tmp_path: Path) -> None:
    """Programs on the PATH are decoys that leave a trace, and every file that is opened is watched."""
    decoys = tmp_path / "bin"
    for name in ("smartctl", "dmidecode", "ethtool", "nvme", "ipmitool", "stress-ng", "unshare"):
        plant(decoys, {name: f"#!/bin/sh\ntouch {tmp_path}/ran-{name}"})
        (decoys / name).chmod(0o755)
    program = """
import os, sys
real = {f"/{name}/" for name in ("proc", "sys", "run", "dev")}
def witness(event, arguments):
    path = arguments[0] if event == "open" and isinstance(arguments[0], str | os.PathLike) else ""
    if any(os.path.realpath(path).startswith(folder) for folder in real) and path != "/dev/null":
        print("OPENED", path, file=sys.stderr)
    if event in ("os.posix_spawn", "os.exec", "subprocess.Popen", "os.fork"):
        print("RAN", arguments[0], file=sys.stderr)
from vetting_agent.__main__ import main
import vetting_agent.alone, probes.inventory, stages, pySMART
sys.addaudithook(witness)
sys.exit(main(sys.argv[1:]))
"""
    for arguments in (["inventory"], ["stage", "Inventory"], ["stage", "SMART"], ["stage", "PSU"], ["stage", "GPU"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, "--root", str(HOSTS / "qemu-bmc"), "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": str(decoys), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        )
        assert json.loads(done.stdout), done.stderr
        assert "OPENED" not in done.stderr
        assert "RAN" not in done.stderr
    assert list(tmp_path.glob("ran-*")) == []


@pytest.mark.parametrize("name", ["CPUStress", "Storage", "Network"])
def test_a_stage_whose_proof_is_a_load_says_so_and_does_not_pass(tmp_path: Path, name: str) -> None:
    root, evidence = str(HOSTS / "mini-pc"), str(tmp_path)
    done = call("stage", name, "--root", root, "--evidence", evidence, "--json")
    outcome = json.loads(done.stdout)
    assert (done.returncode, outcome["verdict"]) == (4, "unknown")
    assert "a recorded machine cannot be put under load" in outcome["findings"][0]["message"]


@pytest.mark.parametrize("text", ["stage SMART --root {}", "inventory --root {}"])
def test_a_folder_that_is_no_recording_is_wrong_usage(tmp_path: Path, text: str) -> None:
    done = call(*text.format(tmp_path).split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no recorded machine" in done.stderr


@pytest.mark.parametrize("occupant", ["a file", "a folder", "itself"])
def test_it_writes_only_into_a_folder_of_its_own(tmp_path: Path, occupant: str) -> None:
    folder = tmp_path / "tree"
    if occupant == "itself":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / "x").mkdir() if occupant == "a folder" else (folder / "x").write_text("mine")
    done = call("capture", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "vetting-agent capture:" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_tool_that_crashes_is_recorded_as_such(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.python("dmidecode", "import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await capture(Host(recorded_host("dell-xeon").root, stand_ins.tools()), tmp_path)
    assert (tmp_path / "tools/dmidecode --type 4,16,17.exit").read_text() == "-11\n"
    found = await collect(host_in(tmp_path))
    assert "SIGSEGV" in next(one.message for one in found.failed if one.section == "smbios")


async def test_a_file_that_cannot_be_read_is_recorded_as_its_error() -> None:
    """A real one: reading another's memory from its start is an I/O error, for root too."""
    path = f"proc/{os.getpid()}/mem"
    tree = await capture_tree.build(Path("/"), [f"/{path}"], [])
    assert tree.unreadable == {path: "EIO"}
    assert tree.files == {path: b""}


async def test_a_capture_puts_no_load_on_the_machine() -> None:
    with pytest.raises(ToolFailed, match="puts no load"):
        await WatchedTools(recorded_host("mini-pc").tools).run("stress-ng", timeout_s=1, load=True)


async def test_a_tree_too_large_to_send_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_tree, "TREE_LIMIT", 1000)
    with pytest.raises(UsageError, match="are more than"):
        await capture(recorded_host("mini-pc"), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_file_is_cut_where_it_is_too_long(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/cpuinfo": b"x" * (capture_tree.FILE_LIMIT + 5)})
    tree = await capture_tree.build(tmp_path, [str(tmp_path / "proc/cpuinfo")], [])
    assert tree.cut == ["proc/cpuinfo"]
    assert len(tree.files["proc/cpuinfo"]) == capture_tree.FILE_LIMIT


async def test_an_empty_folder_survives_git_and_stays_empty(tmp_path: Path) -> None:
    root = copy_of("mini-pc", tmp_path)
    for folder in ("sys/class/power_supply", "sys/bus/pci/slots", "sys/block"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in (root / "sys/block").iterdir():
        path.unlink()
    (tmp_path / "tree").mkdir()
    await capture(host_in(root), tmp_path / "tree")
    assert not [path for path in (tmp_path / "tree").rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert (await collect(host_in(tmp_path / "tree"))).disks == ()


async def test_links_stay_inside_and_circles_end(tmp_path: Path) -> None:
    files = {
        "sys/a": Link("/sys/b"),
        "sys/b/value": "1",
        "sys/round": Link("round"),
        "sys/out": Link("../../outside"),
        "etc/shadow": "root:secret",
        "sys/etc": Link("../etc/shadow"),
    }
    plant(tmp_path / "m", dict(files))
    plant(tmp_path, {"outside": "private"})
    touched = ["sys/a/value", "sys/round/x", "sys/out", "sys/etc", "etc/shadow", "root/.ssh/id"]
    tree = await capture_tree.build(tmp_path / "m", [str(tmp_path / "m" / path) for path in touched], [])
    assert tree.links["sys/a"] == "b"
    assert tree.files == {"sys/b/value": b"1\n"}


# --- secrets and masks -----------------------------------------------------------------------------------------------


async def test_the_runs_token_is_never_recorded(tmp_path: Path) -> None:
    line = "quiet vetting.url=https://o.example vetting.token=SECRET-42 rd.luks.password=hunter2 ip=dhcp"
    log = "6,1,2,-;Kernel command line: vetting.token=SECRET-42 quiet"
    root = plant(copy_of("virtual-machine", tmp_path), {"proc/cmdline": line, "dev/kmsg": log})
    (tmp_path / "tree").mkdir()
    await capture(host_in(root), tmp_path / "tree")
    everything = b"".join(text for _, text in content(tmp_path / "tree"))
    assert b"SECRET-42" not in everything
    assert b"hunter2" not in everything
    assert (tmp_path / "tree/proc/cmdline").read_text() == (
        "quiet vetting.url=https://o.example vetting.token=[removed] rd.luks.password=[removed] ip=dhcp\n"
    )


def test_what_only_looks_like_a_secret_stays() -> None:
    for text in (b"tokenize the input", b"Token Ring", b"Secure Boot: on", b"keyboard=de"):
        assert without_secrets(text) == text


IDENTIFYING = {
    "mini-pc": ("SSD-HEALTHY-1", "NVME-HEALTHY-1", "homeserver", "a8:b8:e0:05:97:d5", "03000200-0400-0500-0006"),
    "qemu-sata-scsi": (
        "QSATA0001",
        "QSATA0002",
        "QSAS0001",
        "52:54:00:bb:00:01",
        "6f1e5a34-7e0b-4a2c-9c1d-0123456789ab",
    ),
    "two-socket-raid": ("SAS-HEALTHY-1", "0061c2b4a01c2b00", "48AAE639", "192.0.2.17", "store-1"),
    "gpu-node-h100": ("1650000000001", "GPU-11111111-2222", "trainer-8"),
}


def all_forms(value: str) -> set[bytes]:
    """As it may stand in files: in either case, and with each two letters swapped, as ATA keeps text."""
    forms = {value.encode(), value.lower().encode(), value.upper().encode()}
    for lead in ("", " "):
        text = (lead + value).encode()
        text += b" " * (len(text) % 2)
        forms.add(b"".join(text[place + 1 : place + 2] + text[place : place + 1] for place in range(0, len(text), 2)))
    return {form for form in forms if len(form.strip()) >= 5}


@pytest.mark.parametrize("machine", sorted(IDENTIFYING))
async def test_masked_no_serial_is_left_anywhere_and_all_is_as_long_as_it_was(machine: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "masked").mkdir()
    await capture(recorded_host(machine), tmp_path / "plain")
    assert await capture(recorded_host(machine), tmp_path / "masked", mask=True) == []
    plain, masked = (
        b"\n".join(b"%b %b" % (name.encode(), text) for name, text in content(tmp_path / one))
        for one in ("plain", "masked")
    )
    for value in IDENTIFYING[machine]:
        assert any(form in plain for form in all_forms(value)), value
        assert not any(form in masked for form in all_forms(value)), value
    sizes = [
        sorted(len(text) for name, text in content(tmp_path / one) if "capture.json" not in name and "->" not in name)
        for one in ("plain", "masked")
    ]
    assert sizes[0] == sizes[1]


def shape(found: Inventory) -> object:
    """The inventory without what masks change."""
    text = json.dumps(asdict(found), default=str)
    return re.sub(r"[0-9]", "9", re.sub(r"[g-zG-Z]", "z", re.sub(r"[a-fA-F]", "a", text)))


async def test_masks_are_the_same_everywhere_in_one_capture(tmp_path: Path) -> None:
    """The kernel's serial of a disk and smartctl's must still be one, or every disk would be two."""
    await capture(recorded_host("qemu-sata-scsi"), tmp_path, mask=True)
    found = await collect(host_in(tmp_path))
    assert shape(found) == shape(await collect(recorded_host("qemu-sata-scsi")))
    context, _ = stage_context(tmp_path / "evidence", host_in(tmp_path))
    (tmp_path / "evidence").mkdir()
    outcome = await run_smart(context)
    tested = {name for name, part in outcome.coverage.items() if part == 1.0}
    serials = {f"disk:{disk.serial}" for disk in found.disks or () if disk.transport == "sata"}
    assert tested == serials
    assert len(serials) == 2


async def run_smart(context: object) -> object:
    """The stage's outcome, whether it judges by itself or apart from its run."""
    from stages.runner import StageRun

    return await StageRun(smart.STAGE, {}, context).run()  # type: ignore[arg-type]


def test_two_captures_have_different_masks() -> None:
    one, two = Masker(b"1" * 32), Masker(b"2" * 32)
    for masker in (one, two):
        masker.add([b"WD-WX12345678"])
    assert one.mask(b"WD-WX12345678") != two.mask(b"WD-WX12345678")
    assert re.fullmatch(rb"[A-Z]{2}-[A-Z]{2}\d{8}", one.mask(b"WD-WX12345678"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"Firmware Revision : 4.10.21.5", True),
        (b"ioatdma: Intel(R) QuickData 5.00", True),
        (b"0000:3b:00.0 at 10de:2330", True),
        (b"    Asset Tag: Not Specified", True),
        (b"IP Address  : 10.20.30.40", False),
        (b"fe80::5054:ff:fe12:3456", False),
        (b"2001:db8:1::7", False),
        (b"MAC Address : 3c:ec:ef:12:34:56", False),
        (b'"wwn": {"naa": 5, "oui": 3152, "id": 51516489382}', False),
        (b"uuid 4c4c4544-0043-3510-8052-b4c04f4d3732", False),
    ],
)
def test_what_is_masked_by_its_form(text: bytes, kept: bool) -> None:
    masker = Masker(b"salt" * 8)
    assert (masker.mask(text) == text) is kept
    assert len(masker.mask(text)) == len(text)
    assert masker.mask(text) == masker.mask(text)


def test_a_known_serial_is_masked_in_either_case_and_as_bytes() -> None:
    masker = Masker(b"salt" * 8)
    masker.add([b"WD-WX1A2", b"0x5000c500a1b2c3d4"])
    for text in (b"WD-WX1A2", b"wd-wx1a2", b"0X5000C500A1B2C3D4", bytes.fromhex("5000c500a1b2c3d4")):
        assert masker.mask(text) != text
        assert len(masker.mask(text)) == len(text)
    assert masker.mask(b"wd-wx1a2") == masker.mask(b"WD-WX1A2").lower()


def test_the_maker_stays_in_a_masked_mac() -> None:
    assert Masker(b"salt" * 8).mask(b"3c:ec:ef:12:34:56").startswith(b"3c:ec:ef:")


def test_a_watch_sees_a_path_however_it_is_used(tmp_path: Path) -> None:
    plant(tmp_path, {"a/b": "1", "a/c": Link("b")})
    watch = Watch()
    root = watch.root(tmp_path)
    (root / "a" / "b").stat()
    (root / "a" / "c").readlink()
    list((root / "a").iterdir())
    with os.scandir(root):
        pass
    assert {str(tmp_path / name) for name in ("a", "a/b", "a/c", "")} <= {*watch.touched, f"{tmp_path}/"} | {
        f"{path}/" for path in watch.touched
    }
    assert watch.listed == {str(tmp_path / "a")}


@pytest.mark.parametrize("head", [b'"serial": "', b'"uuid": {"value": "', b"E:ID_SERIAL="])
def test_an_endless_serial_is_learnt_no_further_than_serials_go(head: bytes) -> None:
    """A device that says a megabyte where a serial stands kept the capture busy for half a minute."""
    masker, said = Masker(b"salt" * 8), head + b"S4EV" * 250_000 + b'"\n'
    masker.learn(said)
    masked = masker.mask(said)
    assert len(masked) == len(said)
    assert b"S4EVS4EV" not in masked[: len(head) + 200]

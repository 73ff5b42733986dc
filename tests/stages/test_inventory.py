"""The Inventory stage: what it finds amiss in a machine at rest, and what it leaves in its evidence folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from probes.host import Host
from probes.inventory import Inventory, collect
from stages import inventory
from stages.inventory import LinkSeverity, Options
from stages.options import BadParameter, parse_options
from stages.outcome import Finding, Outcome, ReasonCode, Severity, Verdict
from stages.runner import StageRun
from stages.stage import ExpectedDisk, RunFacts
from tests.support.detection import detects, spares
from tests.support.judging import outcome_of
from tests.support.replay import host_in, recorded_host
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns
from tests.support.trees import Link, copy_of, link, pci_function, plant

SERIAL = "14090C05022B"
SIZE_GB = 250.059350016
CPU = "sys/devices/system/cpu"
ROOT_PORT = "0000:00:1c.0"


async def run(host: Host, evidence: Path, *expected: ExpectedDisk, options: Options | None = None) -> Outcome:
    evidence.mkdir(parents=True, exist_ok=True)
    context, _ = stage_context(evidence, host, facts=RunFacts(expected_disks=expected or None))
    options = options or Options()
    return outcome_of(inventory.STAGE, await inventory.run(context, options), options)


def found_codes(outcome: Outcome, severity: Severity = Severity.ERROR) -> list[tuple[str, str]]:
    return [(one.reason_code.value, one.component) for one in outcome.findings if one.severity is severity]


def only(outcome: Outcome, code: ReasonCode) -> Finding:
    (finding,) = [one for one in outcome.findings if one.reason_code is code]
    return finding


@spares(ReasonCode.PROBE_ERROR, "recorded Dell server, all of which can be read")
@spares(ReasonCode.DISK_MISSING, "recorded Dell server with the disk that is expected")
@spares(ReasonCode.DISK_SIZE_MISMATCH, "recorded Dell server with a disk of the expected size")
@spares(ReasonCode.CPU_OFFLINE, "recorded Dell server with 16 CPUs online")
@spares(ReasonCode.MEMORY_MISSING, "recorded Dell server: 31.3 GiB usable of eight 4 GiB modules")
async def test_a_sound_server_passes_and_leaves_its_inventory(tmp_path: Path) -> None:
    outcome = await run(recorded_host("dell-xeon"), tmp_path, ExpectedDisk(SERIAL, 250))
    assert (outcome.verdict, found_codes(outcome)) == (Verdict.PASS, [])
    assert outcome.headline == (
        "2 x Intel(R) Xeon(R) CPU E5-2680 0 @ 2.70GHz, 16 cores; 31.3 GiB RAM in 8 modules; "
        "2 disks (650 GB); 3 NICs; no GPUs"
    )
    assert {**outcome.coverage} == {
        **dict.fromkeys(("system", "cpu", "memory", "disks", "nics", "gpus", "psus", "bmc", "tpm", "boot", "pci"), 1.0),
        f"disk:{SERIAL}": 1.0,
    }
    artifact = inventory.STAGE.artifact(tmp_path)
    assert artifact is not None
    assert artifact["disks"][1]["serial"] == SERIAL
    assert f"disk:{SERIAL}" in inventory.components(tmp_path)
    assert (tmp_path / "tools").is_dir()


@spares(ReasonCode.PCIE_LINK_DEGRADED, "recorded mini PC with an x8 card in a slot of four lanes")
@spares(ReasonCode.DISK_SERIAL_AMBIGUOUS, "recorded mini PC whose two disks have a serial of their own")
async def test_a_sound_mini_pc_is_not_even_warned_of(tmp_path: Path) -> None:
    outcome = await run(recorded_host("mini-pc"), tmp_path)
    assert (outcome.verdict, found_codes(outcome), found_codes(outcome, Severity.WARNING)) == (Verdict.PASS, [], [])


async def test_it_says_in_one_line_what_the_machine_is(tmp_path: Path) -> None:
    context, listener = stage_context(tmp_path, recorded_host("virtual-machine"))
    await inventory.run(context, Options())
    assert "1 x AMD EPYC, 2 cores; 23.5 GiB RAM; 1 disk (275 GB); 1 NIC; no GPUs" in [
        text for _, text in listener.lines
    ]
    assert listener.fractions[-1] == 1.0


@detects(ReasonCode.DISK_SERIAL_AMBIGUOUS, "recorded virtual machine whose disk has no serial: a warning")
async def test_a_vm_with_a_disk_without_serial_passes_with_a_warning(tmp_path: Path) -> None:
    outcome = await run(recorded_host("virtual-machine"), tmp_path)
    assert outcome.verdict is Verdict.PASS
    assert found_codes(outcome, Severity.WARNING) == [("disk_serial_ambiguous", "disk:vda")]


@detects(ReasonCode.DISK_MISSING, "recorded Dell server of which another disk is expected")
async def test_an_expected_disk_that_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    outcome = await run(recorded_host("dell-xeon"), tmp_path, ExpectedDisk("WD-1", 4000))
    assert outcome.verdict is Verdict.FAIL
    assert found_codes(outcome) == [("disk_missing", "disk:WD-1")]
    assert outcome.message == f"Expected disk WD-1 of 4000 GB is not there; found: {SERIAL}, nvme0n1 without serial"
    assert outcome.coverage["disk:WD-1"] == 0.0


@pytest.mark.parametrize("near", ["14090c05022b", "14090C05022", "14090C05022BX"])
async def test_serials_are_compared_exactly(tmp_path: Path, near: str) -> None:
    outcome = await run(recorded_host("dell-xeon"), tmp_path, ExpectedDisk(near))
    assert found_codes(outcome) == [("disk_missing", f"disk:{near}")]


@detects(
    ReasonCode.DISK_SIZE_MISMATCH, "recorded Dell server whose 250 GB disk is expected to have 500 GB, or 1.1 % less"
)
@spares(ReasonCode.DISK_SIZE_MISMATCH, "recorded Dell server whose disk is 0.99 % larger or smaller than expected")
@pytest.mark.parametrize(
    ("size_gb", "fits"),
    [(SIZE_GB, True), (SIZE_GB / 1.0099, True), (SIZE_GB / 0.9901, True), (SIZE_GB / 1.011, False), (500, False)],
)
async def test_the_size_of_an_expected_disk_may_differ_by_one_percent(
    tmp_path: Path, size_gb: float, fits: bool
) -> None:
    outcome = await run(recorded_host("dell-xeon"), tmp_path, ExpectedDisk(SERIAL, size_gb))
    assert found_codes(outcome) == ([] if fits else [("disk_size_mismatch", f"disk:{SERIAL}")])


async def test_a_size_that_cannot_be_read_fits_nothing(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    plant(root, {"sys/devices/pci0000:00/0000:00:1f.2/host4/target4:0:0/4:0:0:0/block/sda/size": "?"})
    outcome = await run(host_in(root), tmp_path / "evidence", ExpectedDisk(SERIAL, 250))
    assert "has an unknown size" in only(outcome, ReasonCode.DISK_SIZE_MISMATCH).message


@detects(ReasonCode.DISK_SERIAL_AMBIGUOUS, "recorded Dell server, edited: two disks with one serial: a warning")
async def test_two_disks_with_one_serial_are_a_warning(tmp_path: Path) -> None:
    sound = await collect(recorded_host("dell-xeon"))
    assert sound.disks is not None
    twins = tuple(replace(disk, serial="X") for disk in sound.disks)
    judged = inventory.judge(inventory.Readings(replace(sound, disks=twins), ()), Options())
    assert [(one.severity, one.component) for one in judged.findings] == [(Severity.WARNING, "disk:X")]
    assert "nvme0n1 and sda have the same serial number X" in judged.findings[0].message


@detects(ReasonCode.CPU_OFFLINE, "recorded Dell server, edited: CPU 7 of 16 is offline")
async def test_an_offline_cpu_fails_and_is_named(tmp_path: Path) -> None:
    root = plant(copy_of("dell-xeon", tmp_path), {f"{CPU}/online": "0-6,8-15"})
    outcome = await run(host_in(root), tmp_path / "evidence")
    assert (outcome.verdict, found_codes(outcome)) == (Verdict.FAIL, [("cpu_offline", "cpu:7")])
    assert outcome.message == "1 of 16 CPUs are present but offline: 7"


async def test_cpus_of_which_nobody_says_that_they_are_online_are_unknown(tmp_path: Path) -> None:
    """Without the list of online CPUs, cpuinfo tells how many run."""
    root = plant(copy_of("dell-xeon", tmp_path), {f"{CPU}/online": "garbage"})
    assert (await run(host_in(root), tmp_path / "all")).verdict is Verdict.PASS
    cpuinfo = (root / "proc/cpuinfo").read_text().split("\n\n")
    plant(root, {"proc/cpuinfo": "\n\n".join(cpuinfo[:15]) + "\n"})
    outcome = await run(host_in(root), tmp_path / "fewer")
    assert (outcome.verdict, found_codes(outcome)) == (Verdict.UNKNOWN, [("probe_error", "cpu")])


async def test_a_module_of_unknown_size_is_told(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    table = root / "tools/dmidecode --type 4,16,17.out"
    plant(root, {"tools/dmidecode --type 4,16,17.out": table.read_text().replace("Size: 4", "Size: Unknown 4", 1)})
    found = only(await run(host_in(root), tmp_path / "evidence"), ReasonCode.PROBE_ERROR)
    assert (found.severity, found.component[:5]) == (Severity.WARNING, "dimm:")


@pytest.mark.parametrize(
    ("online", "smt", "severity"),
    [("0-7", "off", Severity.WARNING), ("0-6", "off", Severity.ERROR), ("0-7", "on", Severity.ERROR)],
)
async def test_switched_off_hyperthreading_is_no_dead_cpu(
    tmp_path: Path, online: str, smt: str, severity: Severity
) -> None:
    files = {f"{CPU}/online": online, f"{CPU}/smt/control": smt}
    outcome = await run(host_in(plant(copy_of("dell-xeon", tmp_path), dict(files))), tmp_path / "evidence")
    assert only(outcome, ReasonCode.CPU_OFFLINE).severity is severity


@detects(ReasonCode.MEMORY_MISSING, "recorded Dell server, edited: 28 GiB usable of eight 4 GiB modules")
@spares(ReasonCode.MEMORY_MISSING, "recorded Dell server, edited: less than half a module short")
@pytest.mark.parametrize(("total_gib", "fails"), [(31.3, False), (30.01, False), (30.0, True), (28.0, True)])
async def test_memory_short_by_half_a_module_or_more_fails(tmp_path: Path, total_gib: float, fails: bool) -> None:
    root = plant(copy_of("dell-xeon", tmp_path), {"proc/meminfo": f"MemTotal: {round(total_gib * 2**20)} kB"})
    outcome = await run(host_in(root), tmp_path / "evidence")
    assert found_codes(outcome) == ([("memory_missing", "memory")] if fails else [])
    if fails:
        assert f"{total_gib:.1f} GiB of memory are usable, but the 8 modules add up to 32 GiB" in outcome.message


async def test_what_the_kernel_keeps_for_itself_is_not_missing_on_large_machines(tmp_path: Path) -> None:
    """A terabyte's page tables are 16 GiB: more than half a module, and yet nothing is missing."""
    tables = "".join(
        f"Handle 0x{number:04X}, DMI type 17, 84 bytes\nMemory Device\n\tSize: 16 GB\n\tLocator: D{number}\n"
        for number in range(64)
    )
    root = copy_of("dell-xeon", tmp_path)
    plant(root, {"proc/meminfo": f"MemTotal: {1007 * 2**20} kB", "tools/dmidecode --type 4,16,17.out": tables})
    assert found_codes(await run(host_in(root), tmp_path / "one")) == [("memory_missing", "memory")]
    plant(root, {"proc/iomem": "00100000-7fffffff : System RAM\n100000000-1007fffffff : System RAM"})
    assert found_codes(await run(host_in(root), tmp_path / "two")) == []


def with_narrow_link(root: Path, width: int, speed: str = "8.0 GT/s PCIe", kind: str = "10802") -> Path:
    bridge = pci_function(ROOT_PORT, uevent="PCI_CLASS=60400\nPCI_ID=8086:1D10", **link(width, 8, speed))
    event = f"PCI_CLASS={kind}\nPCI_ID=144D:A80A"
    return plant(root, {**bridge, **pci_function("0000:05:00.0", ROOT_PORT, uevent=event, **link(width, 4, speed))})


@detects(
    ReasonCode.PCIE_LINK_DEGRADED,
    "recorded Dell server, edited: an NVMe link with 2 of 4 lanes: a warning, an error by profile",
)
@pytest.mark.parametrize(
    ("severity", "verdict"), [(LinkSeverity.WARNING, Verdict.PASS), (LinkSeverity.ERROR, Verdict.FAIL)]
)
async def test_a_narrow_link_is_a_warning_unless_the_profile_says_error(
    tmp_path: Path, severity: LinkSeverity, verdict: Verdict
) -> None:
    root = with_narrow_link(copy_of("dell-xeon", tmp_path), 2)
    outcome = await run(host_in(root), tmp_path / "evidence", options=Options(pcie_link_severity=severity))
    finding = only(outcome, ReasonCode.PCIE_LINK_DEGRADED)
    assert (outcome.verdict, finding.severity.value) == (verdict, severity.value)
    assert finding.component == "pci:0000:05:00.0"
    assert "runs with 2 lanes; it and port 0000:00:1c.0 have 4" in finding.message


@pytest.mark.parametrize(("kind", "severity"), [("10802", Severity.WARNING), ("30200", Severity.INFO)])
async def test_a_slow_link_at_rest_is_never_an_error(tmp_path: Path, kind: str, severity: Severity) -> None:
    root = with_narrow_link(copy_of("dell-xeon", tmp_path), 4, "2.5 GT/s PCIe", kind)
    outcome = await run(host_in(root), tmp_path / "evidence", options=Options(pcie_link_severity=LinkSeverity.ERROR))
    finding = only(outcome, ReasonCode.PCIE_LINK_DEGRADED)
    assert (finding.severity, outcome.verdict is Verdict.FAIL) == (severity, False)
    assert "2.5 GT/s" in finding.message


@detects(ReasonCode.PROBE_ERROR, "recorded Dell server, edited: an empty /proc/meminfo")
async def test_an_unread_section_is_unknown_and_never_a_pass(tmp_path: Path) -> None:
    root = copy_of("dell-xeon", tmp_path)
    plant(root, {"proc/meminfo": ""})
    outcome = await run(host_in(root), tmp_path / "evidence")
    assert (outcome.verdict, found_codes(outcome)) == (Verdict.UNKNOWN, [("probe_error", "memory")])
    assert outcome.coverage["memory"] == 0.0


async def test_without_a_list_of_disks_none_is_called_missing(tmp_path: Path) -> None:
    outcome = await run(recorded_host("huawei-arm"), tmp_path, ExpectedDisk("S1"))
    assert found_codes(outcome) == [("probe_error", "disks"), ("probe_error", "nics")]
    assert outcome.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "body",
    ["import os; os.kill(os.getpid(), 11)", "print('no tables')", "sys.exit(2)", "sys.stdout.buffer.write(bytes(256))"],
)
async def test_a_dmidecode_that_does_not_do_its_work_makes_it_unknown(
    tmp_path: Path, stand_ins: StandIns, body: str
) -> None:
    stand_ins.python("dmidecode", body)
    outcome = await run(recorded_host("dell-xeon").with_tools(stand_ins.tools()), tmp_path)
    assert (outcome.verdict, found_codes(outcome)) == (Verdict.UNKNOWN, [("probe_error", "smbios")])


async def test_a_nul_in_a_text_of_the_firmware_does_not_reach_the_evidence(tmp_path: Path) -> None:
    files: dict[str, str | bytes | Link] = {"sys/class/dmi/id/product_serial": b"A\x00B\n"}
    await run(host_in(plant(copy_of("dell-xeon", tmp_path), files)), tmp_path / "evidence")
    assert "\\u0000" not in (tmp_path / "evidence" / inventory.INVENTORY_FILE).read_text()


async def test_through_the_runner_on_this_machine(tmp_path: Path) -> None:
    context, _ = stage_context(tmp_path / "evidence", Host())
    outcome = await StageRun(inventory.STAGE, {"pcie_link_severity": "error"}, context).run()
    written = json.loads((tmp_path / "evidence" / "outcome.json").read_text())
    assert written["verdict"] == outcome.verdict.value
    artifact = inventory.STAGE.artifact(tmp_path / "evidence")
    assert artifact is not None
    assert artifact["cpu"]["model"]


def test_before_it_ran_there_is_no_artifact(tmp_path: Path) -> None:
    assert inventory.STAGE.artifact(tmp_path) is None
    assert inventory.components(tmp_path) == []
    (tmp_path / inventory.INVENTORY_FILE).write_text("{")
    assert inventory.STAGE.artifact(tmp_path) is None


@pytest.mark.parametrize("raw", [{"pcie_link_severity": "fatal"}, {"disk_size_tolerance_percent": -1}, {"duration": 1}])
def test_parameters_that_it_cannot_take(raw: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        parse_options(Options, "Inventory", raw)


def test_the_summary_of_a_machine_of_which_nothing_was_read() -> None:
    nothing = Inventory(*[None] * 11, notes=(), failed=())
    assert inventory.summary(nothing) == "CPU unread; memory unread; disks unread; NICs unread; GPUs unread"

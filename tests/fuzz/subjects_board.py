"""Entries for what the board's tools say: ipmitool, dmidecode, NVML, dcgmi, amd-smi, ethtool, ip."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import replace
from typing import Any

from probes import amd_gpus, bmc, dcgm, ipmi, links, memory, nvml, psus, routes, smbios
from probes.counters import Counters
from probes.json_paths import parsed
from probes.notes import Notes
from probes.psus import PsuReading
from stages import deltas_sel, gpu_case, gpu_dcgm_judge, gpu_judge, psu
from stages.outcome import Severity
from stages.psu_judge import PsuReadings
from stages.psu_samples import PsuSamples
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser, verdict_of
from tests.fuzz.subjects_disk import document, recorded
from tests.support.nvml import HEALTHY

# --- ipmitool --------------------------------------------------------------------------------------------------------


def _sdr_recordings() -> tuple[Recording, ...]:
    """Each with the number of supplies that it shows: what a profile would expect of the machine."""
    found = []
    for one in recorded("ipmitool", "-sdr"):
        count = len(psus.reading_of(ipmi.rows(one.data.decode())).supplies)
        found.append(replace(one, extra={"count": count}))
    return tuple(found)


def _sdr(mutant: Mutant) -> str:
    reading = psus.reading_of(ipmi.rows(mutant.text))
    samples = PsuSamples(readings=[reading], events_before=[])
    again = PsuSamples.of_json(samples.to_json())
    assert again.readings == samples.readings, "what is kept as evidence is not what was read"
    options = psu.Options(expected_count=(mutant.recording.extra or {})["count"])
    return str(psu.judge(PsuReadings(has_sensors=True, samples=(reading,)), options).verdict)


def _sdr_facts(mutant: Mutant) -> bool:
    """The table is whole: each line that looks like a row is one, and the last one ends."""
    lines = [line for line in mutant.text.split("\n") if "|" in line]
    return mutant.text.endswith("\n") and all(line.count("|") >= 4 for line in lines)


def _sel(mutant: Mutant) -> str:
    """Against a log that held one entry before: the first of the recording."""
    before = ipmi.sel_entries(mutant.recording.data.decode())[:1]
    new = ipmi.new_entries(before, ipmi.sel_entries(mutant.text))
    sound = PsuReading((psus.Psu("PSU1", True, "Presence detected"),))
    readings = PsuReadings(has_sensors=True, samples=(sound,), new_events=tuple(new))
    return str(psu.judge(readings, psu.Options()).verdict)


def _sel_facts(mutant: Mutant) -> bool:
    return not mutant.text.strip() or mutant.text.endswith("\n")


def _sel_excused(mutant: Mutant) -> str | None:
    if ipmi.sel_entries(mutant.text) and set(mutant.data.split(b"\n")) <= set(mutant.recording.data.split(b"\n")):
        return "whole entries of the log are gone: a log with fewer entries looks the same"
    return None


def _sel_logs() -> tuple[Recording, ...]:
    return tuple(one for one in recorded("ipmitool", "-sel") if not one.name.endswith("-info"))


def _sel_while_it_ran(mutant: Mutant) -> str:
    """The log as the counters around each stage hold it."""
    before = tuple(ipmi.sel_entries(mutant.recording.data.decode())[:1])
    try:
        after = tuple(ipmi.sel_entries(mutant.text))
    except ipmi.IpmiError:
        return "unknown"
    return verdict_of(list(deltas_sel.findings(Counters(sel=before), Counters(sel=after))))


def _sel_counters_excused(mutant: Mutant) -> str | None:
    if not ipmi.sel_entries(mutant.text):
        return "an empty log is said for information: the silence of a BMC is judged in the PSU stage"
    return _sel_excused(mutant)


def _bmc(mutant: Mutant) -> str:
    bmc._fields(mutant.text)
    return READ


def _samples_recordings() -> tuple[Recording, ...]:
    found = []
    for one in _sdr_recordings():
        samples = PsuSamples([psus.reading_of(ipmi.rows(one.data.decode()))], [], [ipmi.SelEntry(1, "x | y")])
        found.append(Recording(one.name, samples.to_json().encode(), extra=one.extra))
    return tuple(found)


def _samples(mutant: Mutant) -> str:
    samples = PsuSamples.of_json(mutant.text)
    if samples.readings:
        readings = PsuReadings(True, samples=tuple(samples.readings), new_events=tuple(samples.events_new))
        psu.judge(readings, psu.Options(expected_count=2))
    return READ


# --- SMBIOS ----------------------------------------------------------------------------------------------------------


def _smbios(mutant: Mutant) -> str:
    tables, notes = smbios.parse(mutant.text), Notes()
    modules, _ = memory._modules(tables, notes)
    json.dumps([dataclasses.asdict(module) for module in modules], allow_nan=False)
    for table in tables:
        table.text("Size")
    for address in (0, 0x1CBF46705, 2**40, 2**64):
        assert len(smbios.slots_at(tables, address)) <= len(tables)
    return READ


# --- NVML ------------------------------------------------------------------------------------------------------------


def _gpu(**changes: Any) -> dict[str, Any]:
    text = ("name", "uuid", "serial", "vbios")
    facts: dict[str, Any] = {name: {"value": HEALTHY[name]} for name in text}
    facts |= {"pci": {"value": HEALTHY["pci"]}, "remapped_rows": {"value": [0, 0, 0, 0]}}
    numbers = ("temperature", "temperature_slowdown", "pcie_width", "pcie_width_max", "ecc_uncorrected", "clock")
    facts |= {name: {"value": int(HEALTHY[name])} for name in numbers}
    facts |= {"throttle_reasons": {"value": 1}, "thermal_violation": {"value": 0.0}, "ecc_enabled": {"value": True}}
    facts |= {name: {"unsupported": True} for name in ("retired_single_bit", "retired_double_bit")}
    link = {"active": {"value": True}, "errors": {"crc_flit": {"value": 0}, "crc_data": {"value": 0}}}
    return {"index": 0, **facts, "nvlinks": [{"link": at, **link} for at in range(2)]} | changes


def _nvml(*rows: dict[str, Any], time_s: float = 5.0) -> bytes:
    sample = {"time": time_s, "driver": {"value": "550.90"}, "count": {"value": len(rows)}, "gpus": list(rows)}
    return json.dumps(sample).encode()


FIRST = nvml.parse_sample(_nvml(_gpu(), time_s=1.0).decode())


def _nvml_recordings() -> tuple[Recording, ...]:
    return (
        Recording("sound", _nvml(_gpu())),
        Recording("remap-failed", _nvml(_gpu(remapped_rows={"value": [0, 1, 0, 1]}))),
        Recording("ecc", _nvml(_gpu(ecc_uncorrected={"value": 3}))),
        Recording("lost", _nvml({"index": 0, "handle": {"error": "GPU is lost"}})),
        Recording("failure", json.dumps({"failure": "no_driver", "message": "no driver"}).encode()),
    )


def _gpu_judge(mutant: Mutant) -> str:
    """NVML's facts alone prove no load: without any other error the verdict is unknown; `pass` stands for it here."""
    sample = nvml.parse_sample(mutant.text)
    limits = gpu_case.Limits(retired_pages=63, throttled_percent=5.0, nvlink_expected=False)
    judged = gpu_judge.judge_gpus([], [], [FIRST, sample], limits)
    kept = [one for one in judged.findings if one.reason_code != "gpu_not_loaded"]
    return verdict_of(kept)


def _nvml_facts(mutant: Mutant) -> bool:
    """Each fact that is needed has a value, or the driver says in so many words that the GPU does not have it."""
    rows = document(mutant)["gpus"]
    return bool(rows) and all(
        "value" in row.get(name, {}) or row.get(name, {}).get("unsupported") is True
        for row in rows
        for name in gpu_judge.NEEDED
    )


# --- AMD's GPUs ------------------------------------------------------------------------------------------------------


def _amd_smi(mutant: Mutant) -> str:
    for _, row in amd_gpus.rows_of(parsed(mutant.text)):
        amd_gpus.facts_of(row)
    return READ


def _dcgm(mutant: Mutant) -> str:
    """Nothing passes by what DCGM says, and nothing fails."""
    overall, incidents = dcgm.health_of(parsed(mutant.text))
    findings = [*gpu_dcgm_judge.judge(dcgm.DcgmHealth(overall, incidents))]
    assert not [one for one in findings if one.severity is Severity.ERROR]
    return READ


def _dcgm_gpus(mutant: Mutant) -> str:
    dcgm.gpus_of(mutant.text)
    return READ


def _amdgpu_files(mutant: Mutant) -> str:
    for read in (amd_gpus.counts_of, amd_gpus.bad_pages_of):
        with contextlib.suppress(ValueError):
            read(mutant.text)
    return READ


def _amdgpu_recordings() -> tuple[Recording, ...]:
    return (Recording("errors", b"ue: 0\nce: 2\nde: 0\n"), *recorded("sysfs", "amdgpu-bad-pages"))


# --- ethtool and ip --------------------------------------------------------------------------------------------------


def _ethtool(mutant: Mutant) -> str:
    offer = links.parse_offer(mutant.text)
    offer.best_common_mbps()
    offer.best_own_mbps()
    return READ


def _ip_recordings() -> tuple[Recording, ...]:
    return recorded("ip")


def _ip(mutant: Mutant) -> str:
    if "addr" in mutant.recording.name:
        addresses = routes.parse_addresses(mutant.text)
        routing = routes.Routing(addresses, ())
    else:
        family = "-6" if mutant.recording.name.endswith("6") else "-4"
        routing = routes.Routing({}, tuple(routes.parse_routes(mutant.text, family)))
    for address in (routes.ipaddress.ip_address("10.0.0.1"), routes.ipaddress.ip_address("fe80::1")):
        routing.is_own(address)
        routing.source(["eth0"], address)
        routing.reaches("eth0", address)
    return READ


DCGM = ("probes/dcgm.py", "stages/gpu_dcgm_judge.py")

ENTRIES = (
    Parser(
        "ipmitool-sdr",
        ("probes/ipmi.py", "probes/psus.py", "stages/psu.py", "stages/psu_judge.py", "stages/psu_samples.py"),
        _sdr_recordings,
        _sdr,
        (ipmi.IpmiError,),
        _sdr_facts,
        share=5,
    ),
    Parser(
        "ipmitool-sel", ("probes/ipmi.py", "stages/psu_judge.py"), lambda: recorded("ipmitool", "-sel"), _sel,
        (ipmi.IpmiError,), _sel_facts, _sel_excused, share=2,
    ),
    Parser(
        "ipmitool-sel-counters", ("stages/deltas_sel.py",), _sel_logs, _sel_while_it_ran,
        (), _sel_facts, _sel_counters_excused,
    ),
    Parser("ipmitool-bmc", ("probes/bmc.py",), lambda: recorded("ipmitool", "mc-info", "lan-print", "no-device"), _bmc),
    Parser("psu-samples", ("stages/psu_samples.py",), _samples_recordings, _samples, (ValueError,), is_json=True),
    Parser(
        "dmidecode",
        ("probes/smbios.py", "probes/memory.py"),
        lambda: recorded("dmidecode"),
        _smbios,
        (smbios.UnreadableTables,),
        share=3,
    ),
    Parser(
        "nvml",
        ("probes/nvml.py", "probes/nvml_child.py", "stages/gpu_judge.py"),
        _nvml_recordings,
        _gpu_judge,
        (nvml.NvmlUnusable,),
        _nvml_facts,
        is_json=True,
        share=4,
    ),
    Parser(
        "amd-smi", ("probes/amd_gpus.py",), lambda: recorded("amd-smi"), _amd_smi, (ValueError,), is_json=True, share=2
    ),
    Parser("dcgmi", DCGM, lambda: recorded("dcgmi", "health"), _dcgm, (ValueError,), is_json=True, share=2),
    Parser("dcgmi-discovery", DCGM, lambda: recorded("dcgmi", "discovery"), _dcgm_gpus),
    Parser("amdgpu-files", ("probes/amd_gpus.py",), _amdgpu_recordings, _amdgpu_files),
    Parser("ethtool", ("probes/links.py",), lambda: recorded("ethtool"), _ethtool, (links.UnreadableOffer,), share=2),
    Parser("ip", ("probes/routes.py",), _ip_recordings, _ip, (routes.UnreadableRoutes,), is_json=True, share=2),
)  # fmt: skip

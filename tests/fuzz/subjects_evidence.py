"""Entries for what is judged again later: evidence and its archives, files of smartctl, recorded machines."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from probes import inventory, recorded, smart_parse
from probes.counters import Counters
from probes.json_paths import dig
from probes.links import LinkCounters
from probes.smart import Reading, Target
from probes.tools import ToolError
from stages import conclusion, cpu_stress, gpu, network, psu, smart, storage
from stages import inventory as inventory_stage
from stages.network_readings import FlowReading, NetworkReadings, PortReading
from stages.outcome import Outcome
from stages.psu_judge import PsuReadings
from stages.smart_judge import Case
from stages.stage import Stage
from stages.storage_readings import ReadRun, StorageReadings
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser
from tests.fuzz.subjects_answers import _cpu_recordings, cpu_readings
from tests.fuzz.subjects_board import FIRST, psus
from tests.fuzz.subjects_disk import (
    READ_PLAN,
    SUBJECT,
    Speed,
    _smart_excused,
    _smart_facts,
    _smart_recordings,
    document,
    fio,
)
from tests.fuzz.subjects_disk import recorded as recorded_of
from tests.fuzz.subjects_load import PORT, iperf
from tests.support import recordings
from tests.support.replay import HOSTS, recorded_host
from vetting_agent import capture_mask, judge_evidence, judge_smart, judge_sources
from vetting_agent.judge_sources import Execution

# --- one execution ---------------------------------------------------------------------------------------------------


def _disk(case: str) -> Case:
    folder = recordings.FOLDER / "smartctl"
    report = smart_parse.parse_report((folder / f"{case}.out").read_text(), int((folder / f"{case}.exit").read_text()))
    return Case(Reading(Target("/dev/sdx", None, disks=("sdx",)), report), expected=True)


def _read_disk(*, short: bool) -> StorageReadings:
    jobs = {
        part.name: fio.Job(part.name, 0, 0, part.count * part.block - 4096 * short, 0, 50, {}, 0)
        for part in (*READ_PLAN.edges, *READ_PLAN.zones)
    }
    run = ReadRun(SUBJECT, plan=READ_PLAN, speed=Speed(150e6, 0.02), jobs=jobs)
    return StorageReadings(found=(SUBJECT.disk,), reads=(run,))


def _port(*, errors: int) -> NetworkReadings:
    flow = FlowReading(iperf.Flow(9500.0, 10**9, 0, 1e6, 20.0, 20.0, "3.18"), 4, 10**9)
    counters = [LinkCounters(count, 0, 0, 0, 0, 0) for count in (0, errors)]
    port = PortReading(PORT, True, None, *counters, watched_s=60.0, flows={"send": flow, "receive": flow})
    return NetworkReadings((port,))


def _supplies(*, present: bool) -> PsuReadings:
    supplies = (psus.Psu("PSU1", True, "Presence detected"), psus.Psu("PSU2", present, "Presence detected"))
    return PsuReadings(has_sensors=True, samples=(psus.PsuReading(supplies),))


def _kept() -> Iterator[tuple[str, Stage[Any], Any, Any]]:
    """(name, stage, readings, options) of sound executions, and sick ones."""
    found = asyncio.run(inventory.collect(recorded_host("dell-xeon")))
    yield "inventory", inventory_stage.STAGE, inventory_stage.Readings(found, ()), inventory_stage.Options()
    for name, case in (("sound", "ata-healthy-hdd"), ("sick", "nvme-critical-warning")):
        yield f"smart-{name}", smart.STAGE, smart.Readings((_disk(case),), (), ()), smart.Options()
    for at, name in enumerate(("sound", "sick")):
        yield f"storage-{name}", storage.STAGE, _read_disk(short=bool(at)), storage.Options()
        yield f"network-{name}", network.STAGE, _port(errors=10**6 * at), network.Options()
        yield f"psu-{name}", psu.STAGE, _supplies(present=not at), psu.Options()
        answers = cpu_readings(_cpu_recordings()[at].data.decode())
        yield f"cpu-{name}", cpu_stress.STAGE, answers, cpu_stress.Options()
    yield "gpu", gpu.STAGE, gpu.Readings((), samples=(FIRST, FIRST)), gpu.Options()


@cache
def _executions() -> Mapping[str, Execution]:
    found = {}
    for name, stage, readings, options in _kept():
        before, after = Counters(uptime_s=100.0), Counters(uptime_s=200.0)
        outcome = conclusion.conclude(stage, options, readings, (), before, after)
        contents: dict[str, Any] = {
            conclusion.OPTIONS: options,
            conclusion.READINGS: readings,
            conclusion.ENDINGS: [],
            conclusion.BEFORE: before,
            conclusion.AFTER: after,
        }
        files = {file: conclusion.text_of(content).encode() for file, content in contents.items()}
        said = json.loads(conclusion.text_of(outcome)) | {"verdict": outcome.verdict.value}
        files[conclusion.OUTCOME] = json.dumps(said).encode()
        found[name] = Execution(stage.name, f"01-{stage.name}", 1, files)
    return found


def _evidence_recordings() -> tuple[Recording, ...]:
    found = []
    for name, execution in _executions().items():
        sick = json.loads(execution.files[conclusion.OUTCOME])["verdict"] != "pass"
        found += [Recording(f"{name}:{file}", data, sick=sick) for file, data in execution.files.items()]
    return tuple(found)


def _evidence(mutant: Mutant) -> str:
    name, _, file = mutant.recording.name.partition(":")
    whole = _executions()[name]
    execution = Execution(whole.stage, whole.place, 1, {**whole.files, file: mutant.data})
    return str(_printed(judge_evidence.judge(execution, {}).outcome).verdict)


def _printed(outcome: Outcome) -> Outcome:
    """As the report has it: any figure is one that JSON knows."""
    json.dumps([one.value for one in outcome.measurements], allow_nan=False)
    conclusion.text_of(outcome).encode()
    return outcome


def _evidence_facts(mutant: Mutant) -> bool:
    """Of evidence nothing may be lost at all: what is made up instead cannot be told from what was written."""
    if not mutant.only_lost or _same_json(mutant.data, mutant.recording.data):
        return True
    if any(step[0] in {"json_null", "json_empty"} for step in mutant.steps):
        return True  # of a sound machine that tells less, readings look the same
    told, before = document(mutant), json.loads(mutant.recording.data)
    if mutant.recording.name == f"inventory:{conclusion.READINGS}":
        return _judged_by(told) == _judged_by(before)
    if not mutant.recording.name.endswith(conclusion.OUTCOME):
        return False
    # What was concluded is held against what is concluded now; its words and figures are for people.
    return dig(told, "verdict") == "pass" and set(told["coverage"]) <= set(before["coverage"])


def _judged_by(readings: Any) -> Any:
    """Without what is told to people alone: why something is null, which slots are empty, what a CPU can do besides."""
    found = dig(readings, "found")
    if not isinstance(found, dict):
        return readings
    told = {
        part: {**found[part], word: None}
        for part, word in (("memory", "empty_slots"), ("cpu", "flags"))
        if isinstance(found.get(part), dict)
    }
    return {**readings, "found": {**found, **told, "notes": None}}


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


# --- archives --------------------------------------------------------------------------------------------------------


def _tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            execution = _executions()[name]
            for file, data in execution.files.items():
                entry = tarfile.TarInfo(f"{execution.place}/{file}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _archive_recordings() -> tuple[Recording, ...]:
    """Packed ones, and (`tar-`) ones that are packed after they were broken, as by somebody who means harm."""
    return tuple(
        Recording(f"{kind}-{name}", gzip.compress(_tar(name), mtime=0) if kind == "gz" else _tar(name), sick=at == 1)
        for kind in ("gz", "tar")
        for at, name in enumerate(("smart-sound", "smart-sick"))
    )


def _archived(mutant: Mutant) -> list[Execution]:
    data = gzip.compress(mutant.data, 1) if mutant.recording.name.startswith("tar") else mutant.data
    with tempfile.NamedTemporaryFile(prefix="vetting-fuzz-") as file:
        file.write(data)
        file.flush()
        return judge_sources.newest(Path(file.name))


def _archive(mutant: Mutant) -> str:
    verdicts = {str(judge_evidence.judge(one, {}).outcome.verdict) for one in _archived(mutant)}
    return "pass" if verdicts == {"pass"} else "fail"


def _archive_facts(mutant: Mutant) -> bool:
    """What was packed comes out whole; what is made up before it is packed cannot be told."""
    if mutant.recording.name.startswith("tar") and not mutant.only_lost:
        return True
    whole = _executions()[mutant.recording.name.partition("-")[2]]
    return [one.files for one in _archived(mutant)] == [whole.files]


# --- files of smartctl -----------------------------------------------------------------------------------------------


def _smart_file(mutant: Mutant) -> str:
    with tempfile.NamedTemporaryFile(prefix="vetting-fuzz-") as file:
        file.write(mutant.data)
        file.flush()
        return str(_printed(judge_smart.judge_file(Path(file.name), smart.Options())).verdict)


# --- what a capture masks --------------------------------------------------------------------------------------------

SERIAL = b"S4EVNX0R123456"


def _mask_recordings() -> tuple[Recording, ...]:
    head = b"Serial Number: " + SERIAL + b'\n"serial": "' + SERIAL.lower() + b'"\ntoken=hunter2-hunter2\n'
    return tuple(
        Recording(f"{tool}:{one.name}", head + one.data)
        for tool in ("dmidecode", "ethtool", "ip", "smartctl")
        for one in recorded_of(tool)[:4]
    )


def _mask(mutant: Mutant) -> str:
    """Nothing changes its length, and a serial that is known stands nowhere, in neither case."""
    masker = capture_mask.Masker(b"salt" * 8)
    masker.add([SERIAL])
    masker.learn(mutant.data)
    masked = masker.mask(mutant.data)
    assert len(masked) == len(mutant.data), "another length"
    assert SERIAL not in masked.upper(), "the serial is there"
    if b"token=hunter2-hunter2\n" in mutant.data:
        assert b"token=hunter2-hunter2\n" not in capture_mask.without_secrets(mutant.data), "the token is there"
    return READ


# --- recorded machines -----------------------------------------------------------------------------------------------

MACHINE = "half-unreadable"
CALL = "ethtool -P eth0"


def _machine_recordings() -> tuple[Recording, ...]:
    """The list of files that cannot be read, and each file of one tool's call."""
    folder = HOSTS / MACHINE
    files = [folder / recorded.MANIFEST, *sorted((folder / "tools").glob(f"{CALL}.*"))]
    return tuple(Recording(str(file.relative_to(folder)), file.read_bytes()) for file in files)


def _machine(mutant: Mutant) -> str:
    with tempfile.TemporaryDirectory(prefix="vetting-fuzz-") as name:
        root = Path(name)
        for place in ("proc", "sys/class/net/eth0", "tools"):
            (root / place).mkdir(parents=True)
        (root / "proc" / "uptime").write_text("1.0 1.0\n")
        for one in _machine_recordings():
            (root / one.name).write_bytes(one.data)
        (root / mutant.recording.name).write_bytes(mutant.data)
        host = recorded.open_recording(root)
        with suppress(OSError):
            host.proc("uptime").read_text()
        with suppress(ToolError):
            asyncio.run(host.tools.run(*CALL.split(), timeout_s=1.0))
    return READ


def _known(mutant: Mutant) -> bool:
    return dig(json.loads(mutant.text), "smart_status", "passed") is True and _smart_facts(mutant)


ENTRIES = (
    Parser(
        "evidence-judged",
        ("vetting_agent/judge_evidence.py", "stages/conclusion.py"),
        _evidence_recordings,
        _evidence,
        facts=_evidence_facts,
        is_json=True,
        share=5,
    ),
    Parser(
        "evidence-archives",
        ("vetting_agent/judge_sources.py",),
        _archive_recordings,
        _archive,
        (judge_sources.Refused,),
        _archive_facts,
        share=2,
    ),
    Parser(
        "smartctl-files",
        ("vetting_agent/judge_smart.py", "probes/smart_parse.py"),
        _smart_recordings,
        _smart_file,
        facts=_known,
        excused=_smart_excused,
        is_json=True,
        share=4,
    ),
    Parser("capture-mask", ("vetting_agent/capture_mask.py",), _mask_recordings, _mask),
    Parser(
        "recorded-machines",
        ("probes/recorded.py",),
        _machine_recordings,
        _machine,
        (recorded.NotARecording,),
        is_json=True,
    ),
)

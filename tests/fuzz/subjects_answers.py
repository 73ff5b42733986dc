"""Entries for what our own children and newer tools answer: CPUs' known answers, OpenDCDiag, Redfish, LLDP, optics."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from probes import link_statistics, lldp, path, redfish_power
from probes.host import Host
from probes.json_paths import dig
from probes.redfish import Client, RedfishError, Service
from stages import cpu_answers, cpu_opendcdiag, cpu_stress, cpu_stress_outcome, network_extras, psu
from stages.cpu_answers import AnswersReading
from stages.cpu_stress_judge import SatReport
from stages.cpu_stress_plan import Machine, MemoryReading, Plan, Readings
from stages.cpu_stress_plan import Options as CpuOptions
from stages.network_judge import Limits
from stages.network_readings import PortReading
from stages.psu_judge import PsuReadings, RedfishReadings
from tests.fuzz.mutate import Mutant, Recording
from tests.fuzz.parser import READ, Parser, verdict_of
from tests.fuzz.says import Says
from tests.fuzz.subjects_disk import document, recorded, result
from tests.fuzz.subjects_load import PORT
from tests.support.redfish_service import BAY1, BAY2, two_sound_supplies

# --- known answers ---------------------------------------------------------------------------------------------------

CPUS = (0, 1, 2, 3)
TASKS = {**cpu_answers.RIGHT, "functions": ("0:aa", "1:bb"), "packed": ("0:cc", "1:dd")}


def _cpu_line(cpu: int, *, ended: str = "ok", wrong: str = "") -> dict[str, Any]:
    answers = {task: dict.fromkeys(right, 4) for task, right in TASKS.items()}
    if wrong:
        answers[wrong]["0:bad"] = 1
    return {
        "cpu": cpu,
        "rounds": 8 if ended == "ok" else 0,
        "ended": ended,
        "answers": answers if ended == "ok" else {},
    }


def _cpu_recordings() -> tuple[Recording, ...]:
    sound = [_cpu_line(cpu) for cpu in CPUS]
    lists = {
        "sound": sound,
        "wrong": [*sound[:2], _cpu_line(2, wrong="hashes"), sound[3]],
        "crash": [*sound[:3], _cpu_line(3, ended="signal 4")],
        "frozen": [_cpu_line(0, ended="frozen"), *sound[1:]],
    }
    return tuple(
        Recording(name, "".join(json.dumps(line) + "\n" for line in lines).encode(), sick=name != "sound")
        for name, lines in lists.items()
    )


def cpu_readings(together: str) -> Readings:
    """All that CPUStress saw of a sound machine of four CPUs that answered so, all together."""
    sound = cpu_answers.parse(_cpu_recordings()[0].data.decode())
    return Readings(
        Machine(CPUS, CPUS, 8 << 30, "Xeon"),
        Plan((), 4.0, 2.0, 0.0, 30, 4096, 0.5),
        (),
        AnswersReading(alone=sound, together=cpu_answers.parse(together)),
        dict.fromkeys(CPUS, 1.0),
        MemoryReading(sat=SatReport(30, 31, 0, "PASS", 4096, 9000.0, 30.0, 0, (), None, ""), taken_bytes=4096 << 20),
        {},
    )


def _cpu(mutant: Mutant) -> str:
    return str(cpu_stress_outcome.judge(cpu_readings(mutant.text), CpuOptions()).verdict)


def _cpu_facts(mutant: Mutant) -> bool:
    """Each CPU came to its end with a right answer of each task, and says nothing else for those that are known."""
    lines = [json.loads(line) for line in mutant.text.splitlines()]
    tested = {dig(one, "cpu") for one in lines if dig(one, "ended") == "ok" and _all_right(dig(one, "answers"))}
    return tested >= set(CPUS)


def _all_right(answers: Any) -> bool:
    said = {task: set(answers.get(task) or ()) for task in cpu_answers.RIGHT}
    return all(given and given <= set(cpu_answers.RIGHT[task]) for task, given in said.items())


DCDIAG = b"command-line: 'opendcdiag -Y'\nversion: 0.1\ntests:\n- test: zstd1\n  result: pass\n- test: amx\n"


def _dcdiag_recordings() -> tuple[Recording, ...]:
    return (
        Recording("pass", DCDIAG + b"  result: skip\nexit: pass\n"),
        Recording("fail", DCDIAG + b"  result: fail\nexit: fail\n", 1, sick=True),
        Recording("fail-and-no-code", DCDIAG + b"  result: fail\nexit: fail\n", sick=True),
    )


def _dcdiag(mutant: Mutant) -> str:
    read = cpu_opendcdiag.reading(result(mutant, "opendcdiag"))
    return verdict_of(list(cpu_opendcdiag.findings(read)))


def _dcdiag_facts(mutant: Mutant) -> bool:
    return "exit: pass" in " ".join(mutant.text.split()) and "result: pass" in " ".join(mutant.text.split())


VERIFIABLE = b"Verification always enabled:\n  cpu vm\nVerification enabled by --verify option:\n  matrix fp qsort\n"


def _checked(mutant: Mutant) -> str:
    host = Host(tools=Says(mutant.text))
    checked = asyncio.run(cpu_stress._checked(host))
    assert checked is None or set(checked) <= set(cpu_stress.STRESSORS)
    asyncio.run(cpu_stress._version(host))
    return READ


# --- Redfish ---------------------------------------------------------------------------------------------------------


class _Tree(Client):
    """A service that gives these texts."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        super().__init__(Service("https://bmc", "", ""), float("inf"))
        self._texts = texts

    def _exchange(self, path: str) -> tuple[int, bytes]:
        return (200, self._texts[path]) if path in self._texts else (404, b"{}")


def _trees() -> dict[str, dict[str, Any]]:
    """By name, services with two supplies that are asked by the newer resource or, `older-`, by the older one."""
    found: dict[str, dict[str, Any]] = {"newer": two_sound_supplies(), "older": two_sound_supplies()}
    del found["older"]["/redfish/v1/Chassis/1U"]["PowerSubsystem"]
    found["newer"].pop("/redfish/v1/Chassis/1U/Power")
    found["newer"]["/redfish/v1/Chassis/1U"].pop("Power", None)
    supply = {"Name": "PSU", "Status": {"State": "Enabled", "Health": "OK"}, "LineInputVoltage": 230}
    power = {"PowerSupplies": [supply | {"MemberId": "0"}, supply | {"MemberId": "1"}]}
    found["older"]["/redfish/v1/Chassis/1U/Power"] = power
    for name, status in (("failed", {"State": "Enabled", "Health": "Critical"}), ("absent", {"State": "Absent"})):
        for age in ("newer", "older"):
            tree = found[f"{age}-{name}"] = copy.deepcopy(found[age])
            sick = tree[BAY2] if age == "newer" else tree["/redfish/v1/Chassis/1U/Power"]["PowerSupplies"][1]
            sick["Status"] = status
    return found


def _redfish_recordings() -> tuple[Recording, ...]:
    found = []
    for name, tree in _trees().items():
        texts = {place: json.dumps(resource).encode() for place, resource in tree.items()}
        sick = name.endswith(("failed", "absent"))
        for place in _asked_in(texts):
            found.append(Recording(f"{name}:{place}", texts[place], sick=sick, extra={"texts": texts, "path": place}))
    return tuple(found)


def _asked_in(texts: Mapping[str, bytes]) -> list[str]:
    client = _Tree(texts)
    redfish_power._read(client)
    return list(client.answers)


def _redfish(mutant: Mutant) -> str:
    extra = mutant.recording.extra or {}
    reading = redfish_power._read(_Tree({**extra["texts"], extra["path"]: mutant.data}))
    readings = PsuReadings(has_sensors=False, redfish=RedfishReadings((reading,)))
    outcome = psu.judge(readings, psu.Options(expected_count=2))
    json.dumps([asdict(one) for one in outcome.measurements], allow_nan=False)
    return str(outcome.verdict)


def _redfish_facts(mutant: Mutant) -> bool:
    """The word on the health of each supply that this resource tells of."""
    if mutant.recording.name in {f"newer:{BAY1}", f"newer:{BAY2}"}:
        return bool(dig(document(mutant), "Status", "Health"))
    if mutant.recording.name.startswith("older") and mutant.recording.name.endswith("/Power"):
        supplies = dig(document(mutant), "PowerSupplies")
        return isinstance(supplies, list) and sum(bool(dig(one, "Status", "Health")) for one in supplies) >= 2
    return True


# --- the wire --------------------------------------------------------------------------------------------------------

LIMITS = Limits(0.001, None, 0.001, 0.001, 0.001, True, 0.001, {next(iter(PORT.macs)): "leaf3/Ethernet1/7"})


def _tlv(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


def _frame(system: bytes) -> bytes:
    header = bytes.fromhex("0180c200000e02000000000188cc")
    parts = (
        (1, b"\x04\x02\x00\x5e\x10\x00\x01"),
        (2, b"\x05Ethernet1/7"),
        (3, b"\x00\x78"),
        (5, system),
        (4, b"to r7"),
    )
    return header + b"".join(_tlv(*part) for part in parts) + _tlv(0, b"")


def _lldp_recordings() -> tuple[Recording, ...]:
    lines = {
        name: json.dumps({"port": PORT.name, "frame": _frame(system).hex()}).encode() + b"\n"
        for name, system in (("line-right", b"leaf3.example"), ("line-wrong", b"leaf4.example"))
    }
    frames = (Recording("frame-right", _frame(b"leaf3")), Recording("frame-wrong", _frame(b"leaf4"), sick=True))
    return (*frames, *(Recording(name, data, sick="wrong" in name) for name, data in lines.items()))


def _lldp(mutant: Mutant) -> str:
    """A port that has to be cabled to leaf3, by what was heard there."""
    if mutant.recording.name.startswith("frame"):
        neighbor = lldp.parse(mutant.data)
    else:
        neighbor = asyncio.run(_heard(mutant.text)).get(PORT.name)
    json.dumps(neighbor and asdict(neighbor))
    return verdict_of(network_extras.judge(PortReading(PORT, needed=True, neighbor=neighbor), LIMITS))


async def _heard(text: str) -> dict[str, lldp.Neighbor]:
    listener = lldp.Listener(Host(tools=Says(text)), (PORT.name,), limit_s=1.0)
    assert listener._task is not None
    await listener._task
    return listener.heard


def _lldp_facts(mutant: Mutant) -> bool:
    return any(b"leaf3" in frame.lower() and b"ethernet1/7" in frame.lower() for frame in _frames(mutant))


def _frames(mutant: Mutant) -> Iterator[bytes]:
    """Whatever it tells that is bytes of a frame; which of them is one is the parser's business."""
    if mutant.recording.name.startswith("frame"):
        yield mutant.data
        return
    for line in mutant.text.splitlines():
        with contextlib.suppress(ValueError):
            yield bytes.fromhex(str(dig(json.loads(line), "frame")))


def _path_recordings() -> tuple[Recording, ...]:
    sound = {"small": True, "full": True, "mtu": 1500, "claimed_by": []}
    changed = ({}, {"full": False}, {"claimed_by": ["02:00:00:00:00:01"]}, {"small": False, "full": False})
    return tuple(Recording(f"path-{at}", json.dumps(sound | one).encode()) for at, one in enumerate(changed))


def _path(mutant: Mutant) -> str:
    """What it tells is a warning at most."""
    reading = asyncio.run(path.check(Host(tools=Says(mutant.text)), "eth0", "10.0.0.1", "10.0.0.2"))
    json.dumps(reading and asdict(reading), allow_nan=False)
    network_extras.judge(PortReading(PORT, needed=True, path=reading), LIMITS)
    return READ


def _optics(mutant: Mutant) -> str:
    """As the answer to all three questions; the driver need not answer any of them."""
    read = asyncio.run(link_statistics.read(Host(tools=Says(mutant.text)), "eth0"))
    json.dumps(asdict(read), allow_nan=False)
    before = replace(read, counts=dict.fromkeys(read.counts, 0))
    port = PortReading(PORT, needed=True, statistics_before=before, statistics_after=read, watched_s=10.0)
    json.dumps([asdict(one) for one in network_extras.measured(port)], allow_nan=False)
    return verdict_of(network_extras.judge(port, replace(LIMITS, neighbors={})))


def _optics_excused(mutant: Mutant) -> str | None:
    return "a driver need not tell of flags and counters: an answer without them is that of another driver"


ENTRIES = (
    Parser(
        "cpu-answers",
        ("stages/cpu_answers.py", "stages/cpu_stress_outcome.py"),
        _cpu_recordings,
        _cpu,
        (ValueError,),
        _cpu_facts,
        share=3,
    ),
    Parser("opendcdiag", ("stages/cpu_opendcdiag.py",), _dcdiag_recordings, _dcdiag, (), _dcdiag_facts),
    Parser("stress-ng-verifiable", ("stages/cpu_stress.py",), lambda: (Recording("verifiable", VERIFIABLE),), _checked),
    Parser(
        "redfish",
        ("probes/redfish.py", "probes/redfish_power.py", "stages/psu_judge.py"),
        _redfish_recordings,
        _redfish,
        (RedfishError,),
        _redfish_facts,
        is_json=True,
        share=4,
    ),
    Parser("lldp", ("probes/lldp.py", "stages/network_extras.py"), _lldp_recordings, _lldp, (), _lldp_facts, share=2),
    Parser("path", ("probes/path.py",), _path_recordings, _path, is_json=True),
    Parser(
        "ethtool-statistics",
        ("probes/link_statistics.py", "stages/network_extras.py"),
        lambda: recorded("ethtool", "stats", "fec", "module"),
        _optics,
        excused=_optics_excused,
        share=2,
    ),
)

"""`vetting-agent capture DIR`: record this machine into a folder from which the product's probes can read it again.

The probes themselves are run, watched, and what they asked for is kept: files of the kernel, links, errors, and what
tools printed. Nothing is changed on the machine, with one exception: `--self-test` starts each disk's short self-test.
Exit codes: 0, 2 wrong usage, 4 recorded, but the recording does not tell the same as the machine (standard error says
what), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vetting_agent.alone import PASS, UNKNOWN, USAGE, UsageError, until_interrupted

if TYPE_CHECKING:
    from probes.host import Host
    from probes.inventory import Inventory
    from vetting_agent.capture_mask import Masker
    from vetting_agent.capture_tree import Tree
    from vetting_agent.capture_watch import Call

FORMAT = 1
VERSION_LIMIT_S = 5.0
COUNTERS_LIMIT_S = 15.0
VERSION_ARGUMENTS = {"ipmitool": "-V", "nvme": "version"}
IDENTITIES = {
    "system": ("serial", "uuid", "board_serial", "chassis_serial", "asset_tag", "hostname"),
    "memory.dimms": ("serial",),
    "disks": ("serial", "wwn"),
    "nics": ("mac", "current_mac"),
    "gpus": ("uuid",),
    "psus": ("serial",),
    "bmc": ("address", "mac"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `capture`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to; new or empty")
    parser.add_argument(
        "--mask-serials",
        action="store_true",
        help="replace serial numbers, MACs, UUIDs, IP addresses and the host name",
    )
    parser.add_argument(
        "--self-test", action="store_true", help="start and record each disk's short self-test, so that SMART can pass"
    )


def main(args: argparse.Namespace) -> int:
    """Record this machine; the exit code."""
    try:
        return until_interrupted(lambda: _capture(args))
    except UsageError as problem:
        print(f"vetting-agent capture: {problem}", file=sys.stderr)  # noqa: T201
        return USAGE


async def _capture(args: argparse.Namespace) -> int:
    from probes.host import Host

    folder = _empty(args.folder)
    here = Host()
    differences = await capture(here, folder, mask=args.mask_serials, self_test=args.self_test)
    for line in differences:
        print(f"The recording differs from the machine: {line}", file=sys.stderr)  # noqa: T201
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"Recorded into {folder}: {size / 1024:.0f} KiB")  # noqa: T201
    return UNKNOWN if differences else PASS


def _empty(folder: Path) -> Path:
    """The folder, made where it is not there. Raises UsageError when something is in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: a recording needs a folder of its own")
    except OSError as problem:
        raise UsageError(f"the folder cannot be made: {problem}") from None
    return folder.resolve()


async def capture(machine: Host, folder: Path, *, mask: bool = False, self_test: bool = False) -> list[str]:
    """Record `machine` into the empty `folder`; how the recording differs from it, in words. Raises UsageError."""
    from dataclasses import replace

    from probes.inventory import collect
    from probes.recorded import host_in
    from vetting_agent.capture_tree import TooLarge, build
    from vetting_agent.capture_watch import Watch, WatchedTools

    watch, tools = Watch(), WatchedTools(machine.tools)
    host = replace(machine, root=watch.root(machine.root), tools=tools, asks_kernel=False)
    found = await collect(host)
    problems = await _let_stages_read(host, self_test=self_test)
    try:
        tree = await build(machine.root, watch.touched, watch.listed)
    except TooLarge as problem:
        raise UsageError(str(problem)) from None
    calls = tools.calls.files()
    manifest = {
        "format": FORMAT,
        "masked": mask,
        "tool_versions": await _versions(machine, calls),
        "unreadable": dict(sorted(tree.unreadable.items())),
        "cut": tree.cut,
        "notes": problems,
    }
    masker = _masker(found, calls) if mask else None
    try:
        _write(folder, tree, calls, manifest, masker)
    except OSError as problem:
        raise UsageError(f"the recording could not be written: {problem}") from None
    return _differences(found, await collect(host_in(folder)), masker)


async def _let_stages_read(host: Host, *, self_test: bool) -> list[str]:
    """Have everything read that the stages which can judge a recording want; what went wrong on the way."""
    from probes import counters, sensors
    from probes.apart import apart
    from stages import STAGES
    from stages.stage import RunFacts, StageContext
    from vetting_agent.recorded_stage import AT_REST, WITHOUT_LOAD, Quiet

    problems = []
    await counters.snapshot(host, limit_s=COUNTERS_LIMIT_S)
    await apart(lambda: sensors.read_all(host), "sensors")
    for stage in STAGES:
        if stage.name not in AT_REST:
            continue
        parameters = dict(WITHOUT_LOAD.get(stage.name, {}))
        if stage.name == "SMART" and not self_test:
            parameters["self_test"] = "none"
        options = stage.options(**parameters)
        with tempfile.TemporaryDirectory(prefix="vetting-capture-") as evidence:
            context = StageContext(host, Path(evidence), RunFacts(), Quiet(), Quiet())
            try:
                await stage.run(context, options)
            except Exception as problem:  # a stage that cannot read this machine will say so when it is replayed
                problems.append(f"{stage.name}: {type(problem).__name__}: {problem}")
    return problems


async def _versions(machine: Host, calls: dict[str, Call]) -> dict[str, str]:
    """What each tool that was run says of its version, in one line."""
    from probes.recorded import PYTHON
    from probes.tools import ToolError

    versions = {}
    for tool in sorted({stem.split()[0] for stem in calls} - {PYTHON}):
        try:
            result = await machine.tools.run(
                tool, VERSION_ARGUMENTS.get(tool, "--version"), timeout_s=VERSION_LIMIT_S, accept=None
            )
        except ToolError as problem:
            versions[tool] = str(problem)
            continue
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        versions[tool] = lines[0][:200] if lines else "not told"
    return versions


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(folder: Path, tree: Tree, calls: dict[str, Call], manifest: dict[str, Any], masker: Masker | None) -> None:
    from probes.recorded import EMPTY
    from vetting_agent.capture_mask import without_secrets

    def content(raw: bytes) -> bytes:
        raw = without_secrets(raw)
        return masker.mask(raw) if masker else raw

    def name(text: str) -> str:
        return masker.text(text) if masker else text

    for place in sorted(tree.folders):
        (folder / name(place)).mkdir(parents=True, exist_ok=True)
    for place, raw in sorted(tree.files.items()):
        path = folder / name(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(raw))
    for place, target in sorted(tree.links.items()):
        path = folder / name(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(name(target))
    for place in tree.folders:
        if not any((folder / name(place)).iterdir()):
            (folder / name(place) / EMPTY).touch()
    for stem, call in sorted(calls.items()):
        _write_call(folder / "tools" / name(stem), call, content)
    text = json.dumps(manifest, indent=1) + "\n"
    (folder / "capture.json").write_bytes(content(text.encode()))


def _write_call(stem: Path, call: Call, content: Any) -> None:
    stem.parent.mkdir(exist_ok=True)
    for kind, text in ((".out", call.stdout), (".err", call.stderr)):
        if text or kind == ".out":
            stem.with_name(stem.name + kind).write_bytes(content(text.encode(errors="surrogateescape")))
    if call.ended != "0":
        stem.with_name(stem.name + ".exit").write_text(call.ended + "\n")


def _masker(found: Inventory, calls: dict[str, Call]) -> Masker:
    from vetting_agent.capture_mask import Masker

    masker = Masker(secrets.token_bytes(32))
    for call in calls.values():
        masker.learn(call.stdout.encode(errors="surrogateescape"))
    masker.add(value.encode() for value in _identities(found))
    return masker


def _identities(found: Inventory) -> Iterator[str]:
    for section, names in IDENTITIES.items():
        value: Any = found
        for part in section.split("."):
            value = getattr(value, part, None)
        for thing in value if isinstance(value, tuple) else (value,):
            yield from (text for name in names if isinstance(text := getattr(thing, name, None), str))


def _differences(machine: Inventory, recording: Inventory, masker: Masker | None) -> list[str]:
    """Sections that the recording tells otherwise than the machine did; with masks, sections lost altogether."""
    before, after = (_comparable(one) for one in (machine, recording))
    if masker is not None:
        return [f"{name} cannot be read" for name in before if before[name] and not after[name]]
    return [f"{name}: {_first_difference(before[name], after[name])}" for name in before if before[name] != after[name]]


def _comparable(found: Inventory) -> dict[str, Any]:
    """Without messages, which may name the place of the recording."""
    return {**asdict(found), "failed": tuple(one.section for one in found.failed), "notes": ()}


def _first_difference(before: Any, after: Any, where: str = "") -> str:
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        name = next(name for name in before if before[name] != after[name])
        return _first_difference(before[name], after[name], f"{where} {name}")
    if isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after):
        index = next(index for index, value in enumerate(before) if value != after[index])
        return _first_difference(before[index], after[index], f"{where} [{index}]")
    return f"{where.strip()} was {before!r:.120}, reads {after!r:.120}".strip()

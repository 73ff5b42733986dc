"""The hops on the host itself: room for evidence, the programs of the run's stages, BMC and GPU driver.

What no stage of the run needs is told and fails nothing; so is everything where the run's stages are not known.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.apart import apart
from probes.host import Host, entries_of
from probes.tools import ToolError, ToolMissing
from vetting_agent.preflight_report import HOP_LIMIT_S, WARNING, Check, Failed, Seen, none_here
from vetting_agent.signals import Hop, Signal

PROBE_BYTES = 2**20
LEAST_FREE_BYTES = 32 * 2**20
"""A stage may leave an archive of 16 MiB, and what went into it."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
VERSION_ARGUMENT = {"ip": "-V", "ipmitool": "-V", "nvme": "version", "stressapptest": "--help"}
"""Where it is not --version. stressapptest tells none; that it runs is what counts."""
VERSION_CHARACTERS = 40


@dataclass(slots=True)
class MachineHops:
    """This host. `stages`: what the run consists of, None where that is not known."""

    host: Host
    evidence: Path
    state_dir: Path
    stages: Callable[[], Sequence[str] | None]
    hop_s: float = HOP_LIMIT_S

    def checks(self) -> list[Check]:
        """In the order of the walk."""
        return [
            Check(Hop.EVIDENCE, self.evidence_space, Signal.EVIDENCE_NOT_WRITABLE),
            Check(Hop.TOOLS, self.tools, Signal.TOOL_BROKEN, 4),
            Check(Hop.BMC, self.bmc, Signal.BMC_UNREADABLE, 3),
            Check(Hop.GPU, self.gpu, Signal.GPU_DRIVER_MISSING, 3),
        ]

    async def evidence_space(self) -> Seen:
        free = await apart(lambda: writable(self.evidence, PROBE_BYTES, LEAST_FREE_BYTES), "evidence")
        await apart(lambda: writable(self.state_dir, 1, 0), "state")
        return Seen(f"{self.evidence}: {_size(free)} free")

    async def tools(self) -> Seen:
        from stages import LISTED, stage_named

        wanted = self.stages()
        names = [name for name, _, _ in LISTED if wanted is None or name in wanted]
        stages = [stage for name in names if (stage := stage_named(name)) is not None]
        tools = list(dict.fromkeys(tool for stage in stages for tool in stage.tools))
        if not tools:
            return none_here("the run's stages need none")
        found = dict(zip(tools, await asyncio.gather(*map(self._version, tools)), strict=True))
        needed = set() if wanted is None else {tool for tool in tools if self._is_needed(tool)}
        return _judged_tools(found, needed)

    async def _version(self, tool: str) -> str | Failed:
        """What the program calls itself, or what is wrong with it."""
        if self.host.tools.find(tool) is None:
            return Failed(Signal.TOOL_MISSING, f"{tool} is not on the PATH")
        try:
            argument = VERSION_ARGUMENT.get(tool, "--version")
            result = await self.host.tools.run(tool, argument, timeout_s=self.hop_s, accept=None)
        except ToolMissing as problem:
            return Failed(Signal.TOOL_MISSING, str(problem))
        except ToolError as problem:
            return Failed(Signal.TOOL_BROKEN, str(problem))
        if result.exit_code in {126, 127}:  # the loader's, or a script's whose interpreter is not there
            return Failed(Signal.TOOL_BROKEN, f"{tool} does not run: {result.last_words()}")
        return _version_in(result.stdout or result.stderr, tool)

    def _is_needed(self, tool: str) -> bool:
        """Some programs are for machines of some kind only."""
        from probes import ipmi

        match tool:
            case "nvme":
                return bool(entries_of(self.host.sys("class", "nvme")))
            case "ipmitool":
                return ipmi.present(self.host)
            case "dmidecode":
                return self.host.sys("firmware", "dmi", "tables", "DMI").exists()
            case "sg_persist" | "wipefs":
                return False
        return True

    async def bmc(self) -> Seen:
        from probes import ipmi

        if not ipmi.present(self.host):
            if ipmi.announced(self.host):
                return Seen("the firmware names one, and the kernel has no device for it", WARNING)
            return none_here("this machine has none")
        try:
            text = await ipmi.run(self.host, "mc", "info", limit_s=self.hop_s)
        except (ipmi.IpmiError, ToolError) as problem:
            return self._told("PSU", Signal.BMC_UNREADABLE, str(problem))
        firmware = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Firmware Rev")]
        return Seen(f"answers, firmware {firmware[0]}" if firmware else "answers")

    async def gpu(self) -> Seen:
        from probes import gpus, nvml
        from probes.notes import Notes

        devices = await apart(lambda: gpus.compute_devices(self.host, Notes()), "gpus")
        if not devices:
            return none_here("this machine has no compute GPU")
        bare = [one.address for one in devices if not one.driver]
        if bare:
            return self._told("GPU", Signal.GPU_DRIVER_MISSING, f"no driver for {', '.join(bare)}")
        if not any(one.vendor_id == gpus.NVIDIA for one in devices):
            return Seen(f"{len(devices)} with {', '.join(sorted({str(one.driver) for one in devices}))}")
        try:
            async with asyncio.timeout(3 * self.hop_s):
                sample = (await nvml.sample_nvml(self.host))[0]
        except (nvml.NvmlUnusable, ToolError, TimeoutError) as problem:
            return self._told("GPU", Signal.GPU_DRIVER_MISSING, str(problem) or "the driver does not answer")
        return Seen(f"{len(sample.gpus)} of {len(devices)}, NVIDIA driver {sample.driver}")

    def _told(self, stage: str, signal: Signal, text: str) -> Seen:
        """Raises Failed where the run has the stage that needs it."""
        if stage in (self.stages() or ()):
            raise Failed(signal, text)
        return Seen(text, WARNING)


def writable(folder: Path, size: int, least_free: int) -> int:
    """Write `size` bytes into the folder, or where it would be made, and take them away again; bytes free there.

    Raises Failed.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.NamedTemporaryFile(dir=place, prefix=".preflight-") as probe:
            probe.write(bytes(size))
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(place).free
    except OSError as problem:
        signal = Signal.DISK_FULL if problem.errno in NO_SPACE else Signal.EVIDENCE_NOT_WRITABLE
        raise Failed(signal, f"{place}: {problem.strerror}") from None
    if free < least_free:
        raise Failed(Signal.DISK_FULL, f"{place}: only {_size(free)} free")
    return free


def _judged_tools(found: Mapping[str, str | Failed], needed: set[str]) -> Seen:
    """Raises Failed for the first kind of trouble with what is needed."""
    wrong = {tool: one for tool, one in found.items() if isinstance(one, Failed)}
    for signal in (Signal.TOOL_MISSING, Signal.TOOL_BROKEN):
        texts = [str(one) for tool, one in wrong.items() if one.signal is signal and tool in needed]
        if texts:
            raise Failed(signal, "; ".join(texts))
    well = ", ".join(f"{tool} {one}" for tool, one in found.items() if isinstance(one, str))
    if wrong:
        return Seen(f"{'; '.join(map(str, wrong.values()))}; there are {well or 'no others'}", WARNING)
    return Seen(well)


def _version_in(text: str, tool: str) -> str:
    """The first word with a digit that could be a version, "?" without one."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for word in first.replace(",", " ").replace("-", " ").split():
        if word[:1].lower() in "v0123456789" and any(letter.isdigit() for letter in word) and word != tool:
            return word[:VERSION_CHARACTERS]
    return "?"


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"

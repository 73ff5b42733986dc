"""A `smartctl` (and `nvme`) on PATH that plays recordings device by device, with the exact exit code of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.stand_ins import StandIns

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "tools" / "smartctl"
Frame = dict[str, Any]
"""What one call does: {"out": text, "exit": code}, or {"do": "hang" | "crash"}."""

BODY = """
import signal, time
with open({plan!r}) as file:
    plan = json.load(file)
device = sys.argv[-1]
if os.path.basename(sys.argv[0]) == "nvme":
    device = next(word for word in sys.argv if word.startswith("/dev/"))
kind = sys.argv[sys.argv.index("-d") + 1] if "-d" in sys.argv else "auto"
if "--scan-open" in sys.argv:
    frames, name = plan["scan"], "scan"
else:
    one = plan["devices"].get(kind + " " + device) or plan["devices"].get(device) or {{}}
    words = sys.argv[1:]
    if sys.argv[0].endswith("nvme"):
        what = {{"id-ctrl": "id", "self-test-log": "poll"}}.get(words[0]) or ("abort" if "0xf" in words else "start")
    else:
        what = "start" if "-t" in words else "abort" if "-X" in words else "read" if "-x" in words else "poll"
    frames, name = one.get(what) or plan["otherwise"], what + kind + device
count = os.path.join(os.path.dirname({plan!r}), "count-" + name.replace("/", "_"))
with open(count, "a") as file:
    file.write("x")
number = os.path.getsize(count) - 1
frame = frames[min(number, len(frames) - 1)]
if frame.get("do") == "hang":
    time.sleep(600)
if frame.get("do") == "crash":
    sys.stdout.write('{{"json_format')
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)
sys.stdout.write(frame["out"])
sys.exit(frame["exit"])
"""


def recording(case: str) -> dict[str, Any]:
    """A recording's JSON."""
    document: dict[str, Any] = json.loads((RECORDINGS / f"{case}.out").read_text())
    return document


def exit_of(case: str) -> int:
    """The exit code that smartctl ended with."""
    return int((RECORDINGS / f"{case}.exit").read_text())


def frame(document: dict[str, Any]) -> Frame:
    """A call that prints `document` and ends with the exit status that stands in it."""
    return {"out": json.dumps(document), "exit": document["smartctl"]["exit_status"]}


def played(case: str, **changes: Any) -> Frame:
    """A call that plays a recording, with top-level fields changed."""
    return frame({**recording(case), **changes})


HANGS: Frame = {"do": "hang"}
CRASHES: Frame = {"do": "crash"}
NO_SUCH_DEVICE: Frame = {
    "out": json.dumps(
        {
            "smartctl": {
                "version": [7, 3],
                "messages": [{"string": "Smartctl open device failed: No such device", "severity": "error"}],
                "exit_status": 2,
            }
        }
    ),
    "exit": 2,
}
STARTED: Frame = {"out": "Testing has begun.\n", "exit": 0}


def half(case: str) -> Frame:
    """A call that prints the first half of a recording, with its exit code."""
    text = (RECORDINGS / f"{case}.out").read_text()
    return {"out": text[: len(text) // 2], "exit": exit_of(case)}


def scan_of(*devices: tuple[str, str]) -> Frame:
    """What --scan-open prints for these (device, type)."""
    rows = [{"name": name, "info_name": name, "type": kind, "protocol": "?"} for name, kind in devices]
    return frame({"smartctl": {"version": [7, 3], "exit_status": 0}, "devices": rows})


def ata_poll(status: int, rows: Sequence[dict[str, Any]] = ()) -> Frame:
    """`-c -l selftest` of an ATA disk: its status byte, and the rows of its log."""
    return frame(
        {
            "smartctl": {"version": [7, 3], "exit_status": 0},
            "device": {"protocol": "ATA"},
            "ata_smart_data": {"self_test": {"status": {"value": status}, "polling_minutes": {"short": 1}}},
            "ata_smart_self_test_log": {"standard": {"revision": 1, "table": list(rows), "count": len(rows)}},
        }
    )


def ata_row(status: int, hours: int, **more: Any) -> dict[str, Any]:
    """A row of an ATA self-test log."""
    return {"type": {"value": 1}, "status": {"value": status, "string": "..."}, "lifetime_hours": hours, **more}


class Player:
    """The stand-ins and their plan."""

    def __init__(self, stand_ins: StandIns) -> None:
        self._stand_ins = stand_ins
        self._plan = stand_ins.folder / "plan.json"
        self.devices: dict[str, dict[str, list[Frame]]] = {}
        self.scan: list[Frame] = []
        for name in ("smartctl", "nvme"):
            stand_ins.python(name, BODY.format(plan=str(self._plan)))

    def device(self, name: str, **frames: list[Frame]) -> None:
        """What a device ("sat /dev/sda": with its -d) does when it is read, started, polled, aborted, in turn."""
        self.devices[name] = frames
        self._write()

    def scanned(self, *devices: tuple[str, str]) -> None:
        """What the scan finds."""
        self.scan = [scan_of(*devices)]
        self._write()

    def _write(self) -> None:
        scan = self.scan or [played("scan-nothing")]
        plan = {"scan": scan, "devices": self.devices, "otherwise": [NO_SUCH_DEVICE]}
        self._plan.write_text(json.dumps(plan))

    def calls(self, name: str, word: str) -> list[list[str]]:
        """The calls of a program that had this word among their arguments."""
        return [call for call in self._stand_ins.calls(name) if word in call]

"""An AMD Instinct MI210 in a made sysfs, with the files that the amdgpu driver has of it, and amd-smi's stand-in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.support import nvml, recordings
from tests.support.stand_ins import StandIns

MI210 = ("38000", "1002:740F")
ADDRESS, PORT = "0000:0a:00.0", "0000:09:00.0"
UNIQUE_ID = "5f6e1a2b3c4d5e6f"
HEALTHY: Mapping[str, str | None] = {
    "unique_id": UNIQUE_ID,
    "vbios_version": "113-D67301-063",
    "mem_info_vram_total": "68702699520",
    "gpu_busy_percent": "0",
    "pcie_replay_count": "0",
    "product_name": "",
    "serial_number": "",
    "ras/features": "feature mask: 0x3ff",
    "ras/umc_err_count": "ue: 0\nce: 0\nde: 0",
    "ras/gfx_err_count": "ue: 0\nce: 2",
    "ras/sdma_err_count": "ue: 0\nce: 0",
    "ras/gpu_vram_bad_pages": "",
    "hwmon/hwmon7/temp1_label": "edge",
    "hwmon/hwmon7/temp1_input": "34000",
    "hwmon/hwmon7/temp1_crit": "99000",
    "hwmon/hwmon7/temp2_label": "junction",
    "hwmon/hwmon7/temp2_input": "37000",
    "hwmon/hwmon7/temp2_crit": "100000",
    "hwmon/hwmon7/temp3_label": "mem",
    "hwmon/hwmon7/temp3_input": "41000",
    "hwmon/hwmon7/temp3_crit": "94000",
    "hwmon/hwmon7/power1_average": "42000000",
    "hwmon/hwmon7/power1_cap": "300000000",
}


def in_sysfs(root: Path, changes: Mapping[str, str | None] | None = None, driver: str = "amdgpu") -> None:
    """The GPU below its port. A change to None is a file that this GPU or driver does not have."""
    nvml.pci_device(root, PORT, "60400", "1022:14DB", "pcieport")
    nvml.pci_device(root, ADDRESS, *MI210, driver, port=PORT)
    folder = root / "sys" / "bus" / "pci" / "devices" / ADDRESS
    for name, text in {**(HEALTHY if driver else {}), **(changes or {})}.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{text}\n" if text else "")


def amd_smi(stand_ins: StandIns, *, ecc: Mapping[str, int] | None = None) -> None:
    """amd-smi for that GPU: the MI210's own `static`, and the RX 6600's `metric` with other error counts."""
    metric = json.loads(recordings.text("amd-smi", "rx6600-metric.out"))
    metric[0]["ecc"].update(ecc or {})
    answers = {
        "list": json.dumps([{"gpu": 0, "bdf": ADDRESS.upper(), "uuid": "a2ff740f-0000-1000-80f6-2b3c4d5e6f70"}]),
        "static": recordings.text("amd-smi", "mi210-static.out"),
        "metric": json.dumps(metric),
    }
    stand_ins.python("amd-smi", f"print({answers!r}[sys.argv[1]])\n")

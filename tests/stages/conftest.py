"""What the tests of the GPU stage share: the stand-in of NVIDIA's library, and a machine that finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.host import Host
from tests.support import nvml
from tests.support.stand_ins import StandIns


@pytest.fixture(scope="session")
def nvml_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def library(nvml_build: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library that plays a script, where the real pynvml finds it."""
    (nvml_build / "nvml.script").unlink(missing_ok=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_build))
    return nvml_build


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns, library: Path) -> Host:
    """A machine with one H100 below a port."""
    root = tmp_path / "host"
    nvml.pci_device(root, "0000:3a:00.0", "60400", "8086:347A", "pcieport")
    nvml.pci_device(root, "0000:3b:00.0", "30200", "10DE:2330", "nvidia", port="0000:3a:00.0")
    return Host(root=root, tools=stand_ins.tools())

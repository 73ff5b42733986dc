"""The lab's disks: those that lie must do so where they are told to, and those that are full must be seen to be."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from image.lab import bad_disk, contents, rows, wiping
from image.lab.scene import Scene, WrongTurn
from stages import stamp_child

MIB = 2**20


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin as nbdkit loads it, over a blank file of 2 MiB."""
    nbdkit = ModuleType("nbdkit")
    nbdkit.set_error = lambda _errno: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nbdkit", nbdkit)
    spec = importlib.util.spec_from_file_location("bad_disk_plugin_under_test", bad_disk.PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "image").write_bytes(b"\0" * 2 * MIB)
    for name in ("file", "faults", "hits"):
        module.config(name, str(tmp_path / ("image" if name == "file" else name)))
    module.config("size", str(2 * MIB))
    return module


def break_it(folder: Path, **faults: Any) -> None:
    (folder / "faults.new").write_text(json.dumps(faults))
    (folder / "faults.new").rename(folder / "faults")


def read(plugin: Any, handle: int, offset: int, length: int = 4096) -> bytes:
    buffer = bytearray(length)
    plugin.pread(handle, buffer, offset, 0)
    return bytes(buffer)


def test_a_disk_without_faults_keeps_what_is_written(plugin: Any, tmp_path: Path) -> None:
    break_it(tmp_path)
    handle = plugin.open(False)
    plugin.pwrite(handle, b"x" * 4096, MIB, 0)
    assert read(plugin, handle, MIB) == b"x" * 4096
    assert not (tmp_path / "hits").exists()
    plugin.close(handle)


def test_each_fault_does_what_it_says_where_it_is_told_to_and_is_told_of(plugin: Any, tmp_path: Path) -> None:
    place = [MIB, 512]
    handle = plugin.open(False)
    written = b"x" * 4096
    break_it(tmp_path, eio_read=[place])
    with pytest.raises(OSError, match="eio_read"):
        read(plugin, handle, MIB - 512)
    assert read(plugin, handle, 0) == b"\0" * 4096
    break_it(tmp_path, eio_write=[place])
    with pytest.raises(OSError, match="eio_write"):
        plugin.pwrite(handle, written, MIB, 0)
    break_it(tmp_path, drop=[place])
    plugin.pwrite(handle, written, MIB, 0)
    assert read(plugin, handle, MIB) == b"\0" * 4096
    break_it(tmp_path, alter=[place])
    plugin.pwrite(handle, written, MIB, 0)
    assert read(plugin, handle, MIB) == b"y" + written[1:]
    break_it(tmp_path, real_size=MIB)
    plugin.pwrite(handle, b"z" * 4096, MIB + 8192, 0)
    assert read(plugin, handle, 8192) == b"z" * 4096
    hits = bad_disk.BadDisk(tmp_path / "image", 2 * MIB, tmp_path).hits()
    assert set(hits) == {"eio_read", "eio_write", "drop", "alter", "real_size"}
    plugin.close(handle)


def test_a_fault_that_was_never_met_makes_its_row_wrong(tmp_path: Path) -> None:
    one = bad_disk.BadDisk(tmp_path / "image", MIB, tmp_path)
    with pytest.raises(WrongTurn, match="drop"):
        one.must_have_hit("drop")


@pytest.mark.parametrize("kind", sorted(set(contents.KINDS) - {"LVM", "LUKS"}))
def test_blkid_sees_what_lies_on_a_full_disk(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = contents.full(Scene(tmp_path, tmp_path, "tcg", stack), kind)
    assert disk.file is not None
    before = wiping.sum_of(disk.file)
    with pytest.raises(WrongTurn, match="not blank"):
        wiping.must_be_all(disk.file)
    assert wiping.sum_of(disk.file) == before


def test_stamps_are_known_again_and_their_lack_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "stamped"
    file.write_bytes(stamp_child.stamps(b"n" * 16, 0, MIB))
    wiping.must_bear_stamps(file)
    with file.open("r+b") as disk:
        disk.seek(8192)
        disk.write(stamp_child.stamps(b"n" * 16, 4096, 4096))
    with pytest.raises(WrongTurn, match="8192"):
        wiping.must_bear_stamps(file)


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in rows.ROWS]
    assert len(names) == len(set(names))

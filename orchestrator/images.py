"""The image as boot loaders fetch it: the files of one flat folder, by names found there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TEMPLATE = "boot.ipxe"
NEEDED = (TEMPLATE, "vmlinuz", "initrd")


class NoImage(Exception):
    """The folder holds no image; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The outputs of `make image`."""

    folder: Path

    def check(self) -> None:
        """Raises NoImage."""
        try:
            missing = [name for name in NEEDED if name not in self.names()]
        except OSError as problem:
            raise NoImage(f"{self.folder} cannot be read: {problem.strerror}") from None
        if missing:
            raise NoImage(f"{self.folder} is no image: it has no {', '.join(missing)}")

    def names(self) -> frozenset[str]:
        """Of the plain files that may be fetched; no link leads out of the folder."""
        with os.scandir(self.folder) as entries:
            plain = (one.name for one in entries if one.is_file(follow_symlinks=False))
            return frozenset(name for name in plain if FILE_NAME.fullmatch(name))

    def file(self, name: str) -> Path | None:
        """The file of this very name, None when there is none: never a path that a caller made up."""
        return self.folder / name if FILE_NAME.fullmatch(name) and name in self.names() else None

    def template(self) -> str:
        """boot.ipxe with its gaps. Raises OSError."""
        return (self.folder / TEMPLATE).read_text()

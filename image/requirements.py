"""Prints what the agent needs from PyPI, a requirement a line, out of pyproject.toml."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str) -> list[str]:
    """The requirement lines of the text of a pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gpu"]]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]).read_text())) + "\n")

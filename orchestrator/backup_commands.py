"""`vetting-orchestrator backup` and `restore`: on the data folder itself, with a server or without."""

from __future__ import annotations

import argparse
import sqlite3
from pathlib import Path

from orchestrator.backup import BackupFailed, Manifest, make_backup
from orchestrator.cli_text import complain, say, say_json
from orchestrator.restore import RestoreFailed, restore


def main(arguments: argparse.Namespace) -> int:
    """Exit 0 when done; 1 when not, or when evidence was damaged before it was backed up."""
    file, data = Path(arguments.file), Path(arguments.data)
    making = arguments.command == "backup"
    try:
        manifest = make_backup(data, file) if making else restore(file, data)
    except (BackupFailed, RestoreFailed, OSError, sqlite3.Error) as problem:
        complain(f"vetting-orchestrator {arguments.command}: {problem}")
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        say_json(manifest)
    else:
        say(_summary(manifest, f"Backed up into {file}" if making else f"Restored into {data}"))
    for name in manifest.damaged:
        complain(f"vetting-orchestrator {arguments.command}: {name} was gone or altered before the backup")
    return 1 if manifest.damaged else 0


def _summary(manifest: Manifest, what: str) -> str:
    size = sum(one.size for one in manifest.files.values())
    files = f"{len(manifest.files)} files, {size / 1e6:.1f} MB"
    return f"{what}: {manifest.runs} runs, {files}, as of {manifest.made_at}"

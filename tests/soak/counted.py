"""Runs a module's `main` and writes the number of its asyncio tasks to a file each second.

SOAK_TASKS=FILE python -m tests.soak.counted MODULE [ARGUMENT…]
"""

from __future__ import annotations

import asyncio.tasks
import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

EVERY_S = 1.0


def alive() -> int:
    """Tasks of all loops that are not done."""
    known: Any = getattr(asyncio.tasks, "_all_tasks", None) or getattr(asyncio.tasks, "_scheduled_tasks", ())
    for _ in range(100):
        try:
            return sum(not task.done() for task in list(known))
        except RuntimeError:  # the set changed while it was copied
            continue
    return 0


def _count(file: Path) -> None:
    draft = file.with_suffix(".new")
    while True:
        draft.write_text(str(alive()))
        draft.replace(file)
        time.sleep(EVERY_S)


def main() -> int:
    file, module = Path(os.environ["SOAK_TASKS"]), importlib.import_module(sys.argv[1])
    del sys.argv[1]
    threading.Thread(target=_count, args=(file,), daemon=True).start()
    return int(module.main())


if __name__ == "__main__":
    sys.exit(main())

"""Leaks what it is told to: python -m tests.soak.leaky FOLDER [memory] [threads] [descriptors] [disk]."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

STEP_S = 0.1


def main() -> None:
    folder, leaks = Path(sys.argv[1]), sys.argv[2:]
    kept: list[object] = []
    while True:
        if "memory" in leaks:
            kept.append(os.urandom(256 * 1024))
        if "threads" in leaks:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        if "descriptors" in leaks:
            kept.append((folder / "held").open("w"))
        if "disk" in leaks:
            with (folder / "grows").open("ab") as file:
                file.write(bytes(512 * 1024))
        time.sleep(STEP_S)


if __name__ == "__main__":
    main()

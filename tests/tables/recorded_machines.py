"""Writes anew what is expected of each recorded machine: `python -m tests.tables.recorded_machines [MACHINE…]`.

Read the difference (`git diff`) before it is kept: the files are the judgement of a person, not of the code.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.support.recorded_facts import GOLDEN, facts, machines
from tests.support.replay import HOSTS


def main(names: list[str]) -> int:
    for machine in names or machines():
        with tempfile.TemporaryDirectory() as evidence:
            found = asyncio.run(facts(machine, Path(evidence)))
        (HOSTS / machine / GOLDEN).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

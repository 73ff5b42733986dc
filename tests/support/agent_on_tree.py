"""An agent process on a machine made up in a folder: FOLDER, URL of the orchestrator, ROOT of the machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.agent_rig import AgentTask
from tests.support.replay import host_in


async def _main(folder: str, url: str, root: str) -> int:
    return await AgentTask(Path(folder), url, host_in(Path(root))).ended(3600.0)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(*sys.argv[1:])))

"""`make conformance`: the kit's lines on the product's own orchestrator and agent."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from orchestrator.conformance.__main__ import main
from tests.conformance.kit import BUSY, PRODUCT, server_arguments
from tests.orchestrator.served import serving

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as served:
        print("vetting-orchestrator serve", flush=True)
        codes = [main(server_arguments(served))]
    print("\nvetting-agent run", flush=True)
    codes.append(main(["--agent", PRODUCT, *BUSY]))
    sys.exit(max(codes))

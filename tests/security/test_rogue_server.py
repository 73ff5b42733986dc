"""A real agent whose address is answered by somebody else: he gets a TLS handshake, and not one byte in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.certificates import make
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.walk.rig import Agent

ATTEMPTS = 3


async def test_a_server_with_another_certificate_gets_no_byte_of_a_real_agent(tmp_path: Path) -> None:
    """Same name, another key: what an attacker on the boot network can make."""
    true, rogue = make(), make()
    assert true.fingerprint != rogue.fingerprint
    async with FakeOrchestrator().serve(rogue.server_context(tmp_path)) as server:
        run = {"run_id": 1, "token": "rogue-must-not-see-this-token"}
        agent = Agent(tmp_path / "agent", server.url, true.fingerprint, run).start()
        assert agent.process is not None
        try:
            async with asyncio.timeout(60):
                while server.connections < ATTEMPTS:  # noqa: ASYNC110  # the server counts, and tells nobody
                    await asyncio.sleep(0.1)
        finally:
            agent.process.kill()
            await asyncio.to_thread(agent.process.wait)
    assert server.bytes_received == 0
    assert run["token"] not in agent.errors
    assert "certificate" in agent.errors or "fingerprint" in agent.errors

"""An orchestrator with a fault that the tests must find: it takes no notice of `result_id`."""

from __future__ import annotations

import sys

from msgspec.structs import replace

from orchestrator import agent_service
from orchestrator.__main__ import main
from orchestrator.agent_service import AgentService
from orchestrator.callers import Caller
from vetting_agent.wire import ResultReply, ResultRequest

_result = AgentService.result


class Forgetful(AgentService):
    """Counts each posting as a new one."""

    async def result(self, caller: Caller, request: ResultRequest) -> ResultReply:
        return await _result(self, caller, replace(request, result_id=None))


if __name__ == "__main__":
    agent_service.AgentService.result = Forgetful.result  # type: ignore[method-assign]
    sys.exit(main())

"""An adapter as docs/conformance.md describes it, for the product's own orchestrator: `… [blind] SOCKET`."""

from __future__ import annotations

import json
import sys

from orchestrator.conformance.operator import SocketOperator

question = json.load(sys.stdin)
operator = SocketOperator(sys.argv[-1])
match question.pop("act"):
    case "create_run":
        run_id, token = operator.create_run(question)
        print(json.dumps({"run_id": run_id, "token": token}))
    case "direct":
        operator.direct(question["run_id"], question["cmd"], question["stage"], question["override_flags"])
        print("{}")
    case "get":
        print("{}" if "blind" in sys.argv else json.dumps(operator.get(question["run_id"])))

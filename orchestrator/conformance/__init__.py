"""The conformance kit: tests anyone's orchestrator, or anyone's agent, against the wire protocol from outside."""

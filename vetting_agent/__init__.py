"""The agent: walks the stages and talks to the orchestrator."""

# Written here, not looked up with importlib.metadata: that costs every start 30 ms and three megabytes.
__version__ = "0.1.0"

"""The agent: walks the stages and talks to the orchestrator."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vetting-agent")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

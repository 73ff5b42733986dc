"""Agents that are none: many of them speak the real protocol to a real server, to find out how many it can serve."""

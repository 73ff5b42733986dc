"""Reads the machine. Imports nothing of stages, vetting_agent or orchestrator."""

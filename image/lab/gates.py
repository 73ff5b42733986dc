"""Stops the agent at a tool until the lab has done something to the machine: injection at the exact moment.

The tool's own time goes on meanwhile: Storage gives its first fio 20 s, and the second one its duration on top.
"""

from __future__ import annotations

from collections.abc import Mapping

from image.lab.scene import Scene

LIMIT_S = 280.0
GATE = """#!/bin/sh
# The real {tool}. Its call number {call}{counted} waits until the lab lets it through.
case " $* " in *"{pattern}"*)
    echo >>/run/lab-calls
    if [ "$(wc -l </run/lab-calls)" = {call} ]; then
        touch /run/lab-waits
        until [ -e /run/lab-go ]; do sleep 0.2; done
    fi
esac
exec /usr/{folder}/{tool} "$@"
"""
FOLDERS = {"smartctl": "sbin", "fio": "bin"}


def gate(tool: str, *, word: str = "", call: int = 1) -> Mapping[str, str]:
    """The overlay's files that make the Nth call of a tool wait; with `word`, only calls with that argument count."""
    pattern = f" {word} " if word else ""
    counted = f" with {word}" if word else ""
    text = GATE.format(tool=tool, call=call, counted=counted, pattern=pattern, folder=FOLDERS[tool])
    return {tool: text}


def until_waiting(scene: Scene) -> None:
    """The tool stands at the gate. Raises NoAnswer when it never comes."""
    scene.until("agent at work", lambda view: view.agent.instance_id is not None)
    scene.sh("until [ -e /run/lab-waits ]; do sleep 0.2; done", limit_s=LIMIT_S)


def let_through(scene: Scene) -> None:
    scene.sh("touch /run/lab-go")

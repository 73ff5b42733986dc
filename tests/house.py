"""The rules of the house as functions over source text, so that each can be shown to fail on a bad source."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("probes", "stages", "vetting_agent", "orchestrator")
MAY_IMPORT = {
    "probes": {"probes"},
    "stages": {"probes", "stages"},
    "vetting_agent": {"probes", "stages", "vetting_agent"},
    "orchestrator": {"probes", "stages", "vetting_agent", "orchestrator"},
}
THIRD_PARTY = {
    "probes": {"psutil", "pySMART", "pynvml"},
    "stages": {"iperf3"},
    "vetting_agent": {"httpx", "msgspec", "psutil", "tenacity", "rich", "wsproto"},
}
"""What each package may import beyond the standard library; the orchestrator is free. rich: `vet` alone, lazily;
wsproto: an open terminal alone."""
SPAWN_NAMES = re.compile(
    r"^(?:os\.(?:system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?)|pty\.\w+"
    r"|asyncio\.create_subprocess_\w+|asyncio\.subprocess\.create_\w+|multiprocessing\.\w+)$"
)
SPAWN_MODULES = {"subprocess", "multiprocessing", "pty"}
MAY_SPAWN = {"probes/tools.py", "probes/tool_init.py", "stages/compute_child.py"}
"""compute_child.py runs behind the door itself, and forks one worker a CPU: 256 tools would need 512 interpreters."""
MAY_NAME_ROOTS = {"probes/host.py"}
ROOT_LITERAL = re.compile(r"/(?:proc|sys)(?:/|$)")
ALLOWED_LITERALS = re.compile(r"^/proc/self/fd/")
"""A path that is handed to a tool, which reads its own /proc: no place of the machine's."""
LONGEST_FILE = 400


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def sources(package: str) -> dict[str, str]:
    """{path relative to the repository: text} of a package's Python files."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / package).rglob("*.py"))}


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, full module name) of each import, lazy ones and those for type checking included."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or "")))
    return found


def wrong_arrows(path: str, text: str) -> list[str]:
    """Imports against probes <- stages <- vetting_agent <- orchestrator, imports of tests and image, relative ones."""
    package = path.partition("/")[0]
    found = []
    for line, name in imported(_parsed(text)):
        top = name.partition(".")[0]
        if name.startswith("."):
            found.append(f"{path}:{line}: relative import {name}")
        elif top in {*PACKAGES, "tests", "image"} and top not in MAY_IMPORT[package]:
            found.append(f"{path}:{line}: {package} must not import {top}")
    return found


def strangers(path: str, text: str, standard: Iterable[str]) -> list[str]:
    """Third-party imports that the package is not allowed."""
    package = path.partition("/")[0]
    allowed = THIRD_PARTY.get(package)
    if allowed is None:
        return []
    known = {*standard, *PACKAGES, *allowed}
    return [
        f"{path}:{line}: {package} must not import {name}"
        for line, name in imported(_parsed(text))
        if name.partition(".")[0] not in known
    ]


def spawns(path: str, text: str) -> list[str]:
    """Ways to start a process outside the one door."""
    if path in MAY_SPAWN:
        return []
    tree = _parsed(text)
    found = [
        f"{path}:{line}: import of {name}"
        for line, name in imported(tree)
        if name.partition(".")[0] in SPAWN_MODULES or SPAWN_NAMES.match(name)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and SPAWN_NAMES.match(ast.unparse(node)):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and node.attr in {"subprocess_exec", "subprocess_shell"}:
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def root_literals(path: str, text: str) -> list[str]:
    """String literals that name /proc or /sys; docstrings may."""
    if path in MAY_NAME_ROOTS:
        return []
    tree = _parsed(text)
    docstrings = {id(one) for one in _docstrings(tree)}
    return [
        f"{path}:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and not re.search(r"\s", node.value)  # a sentence for a person, not a path
        and ROOT_LITERAL.match(node.value)
        and not ALLOWED_LITERALS.match(node.value)
    ]


def _docstrings(tree: ast.AST) -> list[ast.Constant]:
    """Strings that stand alone as a statement."""
    return [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]


def declares_stage(text: str) -> bool:
    """True for a file that ends in `STAGE = Stage(...)`."""
    last = _parsed(text).body[-1:]
    return any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGE" for node in last)


def unlisted_stages(files: Mapping[str, str], listed: Iterable[str]) -> list[str]:
    """Files that declare a stage whose module is in no list."""
    known = set(listed)
    return [path for path, text in files.items() if declares_stage(text) and _module(path) not in known]


def orphans(files: Mapping[str, str], entry_points: Iterable[str]) -> list[str]:
    """Files of probes and stages that nothing imports, nor starts as a script by its file or module name."""
    used: set[str] = set(entry_points)
    for path, text in files.items():
        tree = _parsed(text)
        for _, name in imported(tree):
            used |= {name, name.rpartition(".")[0]}
        names = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        folder = _module(path).rpartition(".")[0]
        used |= {name for name in names if isinstance(name, str) and name.startswith(folder + ".")}
        used |= {f"{folder}.{name[:-3]}" for name in names if isinstance(name, str) and name.endswith(".py")}
    return [
        path
        for path in files
        if path.startswith(("probes/", "stages/")) and not path.endswith("__init__.py") and _module(path) not in used
    ]


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def prints(path: str, text: str) -> list[str]:
    """Calls of print() in a module that is no command line: one with a function `main` at its top is."""
    tree = _parsed(text)
    if path.endswith("__main__.py") or any(
        isinstance(one, ast.FunctionDef) and one.name == "main" for one in tree.body
    ):
        return []
    return [
        f"{path}:{node.lineno}: print"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def too_long(path: str, text: str) -> list[str]:
    """A file that wants to be split."""
    lines = text.count("\n")
    return [f"{path}: {lines} lines"] if lines >= LONGEST_FILE else []

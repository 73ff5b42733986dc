"""The boot parameters: from flags, environment, env file or kernel command line, strongest first; checked once, here.

The kernel's command line is split as the kernel does it: a value may stand in double quotes, and the last of several
assignments counts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

from vetting_agent.errors import BadBootParameter, MissingBootParameter

PREFIX = "vetting."
NAMES = ("orchestrator", "run_id", "token", "tls_fpr", "mac")
REQUIRED = ("orchestrator", "run_id", "token")
FINGERPRINT_HEX_DIGITS = 64
MAX_RUN_ID = 2**63 - 1

ValueT = TypeVar("ValueT")


class Token:
    """A bearer token that shows itself to nobody but `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Raises ValueError, without the value in its text, unless it is printable ASCII without spaces."""
        if not value:
            raise ValueError("is empty")
        if not all("!" <= character <= "~" for character in value):
            raise ValueError("holds a character that is no printable ASCII, or a space")
        self._value = value

    def reveal(self) -> str:
        """The token itself, for the one header that carries it."""
        return self._value

    def __repr__(self) -> str:
        return "Token(hidden)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not written anywhere")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class BootParams:
    """What this boot is for."""

    orchestrator: str
    """Base URL without a trailing slash."""
    run_id: int
    token: Token
    fingerprints: tuple[str, ...] = ()
    """SHA-256 of certificates' DER, 64 lower-case hex digits each. Empty: plain http, or the system trust store."""
    mac: str | None = None
    """Lower case with colons. None: that of the interface with the route to the orchestrator."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place where parameters were looked for; `values` by parameter name, `label` by parameter name for people."""

    values: Mapping[str, str]
    label: Callable[[str], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent run`."""
    boot = parser.add_argument_group("boot parameters (else from the environment, --env-file, the kernel command line)")
    boot.add_argument("--orchestrator", metavar="URL", help="base URL of the orchestrator")
    boot.add_argument("--run-id", metavar="N", help="the run this boot is for")
    boot.add_argument("--token-file", metavar="FILE", type=Path, help="file that holds the run's bearer token")
    boot.add_argument("--tls-fpr", metavar="HEX", help="SHA-256 of the server's certificate; several joined by commas")
    boot.add_argument("--mac", metavar="MAC", help="MAC address that the boot loader booted from")
    boot.add_argument("--env-file", metavar="FILE", type=Path, help="file of VETTING_...=value lines")
    boot.add_argument("--cmdline", metavar="FILE", type=Path, help="read this file as the kernel command line")
    parser.add_argument("--authorized-keys", metavar="FILE", type=Path, help="where a hold puts its key")
    parser.add_argument("--evidence", metavar="DIR", type=Path, help="where the stages leave their evidence")
    parser.add_argument(
        "--state-dir", metavar="DIR", type=Path, help="lock and token of a run (default: a place in /run)"
    )
    parser.add_argument(
        "--allow-destructive", action="store_true", help="destructive tests also outside the live image"
    )
    parser.add_argument("--no-power", action="store_true", help="never power this host off")
    parser.add_argument("--no-hold", action="store_true", help="ask for no hold key and install none")
    parser.add_argument(
        "--memory-fraction", metavar="F", type=_fraction, default=1.0, help="part of the free memory to load"
    )


def read_params(args: argparse.Namespace, environment: Mapping[str, str], cmdline: Path) -> BootParams:
    """The boot parameters. `cmdline` is read as kernel command line unless a flag names another file.

    Raises BadBootParameter.
    """
    sources = (
        _from_flags(args),
        _from_environment(environment),
        *_from_env_file(args.env_file),
        _from_cmdline(args.cmdline or cmdline, must_exist=args.cmdline is not None),
    )
    found = {name: _find(name, sources) for name in NAMES}
    params = BootParams(
        orchestrator=_checked("orchestrator", found, _url),
        run_id=_checked("run_id", found, _run_id),
        token=_checked("token", found, Token),
        fingerprints=_checked("tls_fpr", found, fingerprints) if found["tls_fpr"] else (),
        mac=_checked("mac", found, normalised_mac) if found["mac"] else None,
    )
    if params.fingerprints and params.orchestrator.startswith("http://"):
        where = found["tls_fpr"][0] if found["tls_fpr"] else ""
        raise BadBootParameter(
            f"{PREFIX}tls_fpr: from {where}: a fingerprint makes no sense with an http:// orchestrator"
        )
    return params


_Found = Mapping[str, tuple[str, str] | None]


def _find(name: str, sources: tuple[Source, ...]) -> tuple[str, str] | None:
    """(where, value) of the strongest source that has it."""
    for source in sources:
        if name in source.values:
            return source.label(name), source.values[name]
    if name in REQUIRED:
        places = ", ".join(source.label(name) for source in sources)
        raise MissingBootParameter(f"{PREFIX}{name}: missing; it was looked for in {places}")
    return None


def _checked(name: str, found: _Found, convert: Callable[[str], ValueT]) -> ValueT:
    entry = found[name]
    assert entry is not None
    where, value = entry
    try:
        return convert(value)
    except ValueError as problem:
        raise BadBootParameter(f"{PREFIX}{name}: from {where}: {problem}") from None


# --- the sources ------------------------------------------------------------------------------------------------------


def _from_flags(args: argparse.Namespace) -> Source:
    flags = {"orchestrator": args.orchestrator, "run_id": args.run_id, "tls_fpr": args.tls_fpr, "mac": args.mac}
    values = {name: value for name, value in flags.items() if value is not None}
    if args.token_file is not None:
        values["token"] = _text(args.token_file, "token", "--token-file").strip("\r\n")

    def label(name: str) -> str:
        return f"--token-file {args.token_file or ''}".strip() if name == "token" else "--" + name.replace("_", "-")

    return Source(values, label)


def _from_environment(environment: Mapping[str, str]) -> Source:
    values = {name: environment[_variable(name)] for name in NAMES if _variable(name) in environment}
    return Source(values, lambda name: f"environment {_variable(name)}")


def _from_env_file(path: Path | None) -> tuple[Source, ...]:
    if path is None:
        return ()
    variables = parse_env_file(_text(path, "env_file", "--env-file"))
    values = {name: variables[_variable(name)] for name in NAMES if _variable(name) in variables}
    return (Source(values, lambda name: f"{_variable(name)} in {path}"),)


def _from_cmdline(path: Path, *, must_exist: bool) -> Source:
    text = _text(path, "cmdline", "--cmdline") if must_exist or path.exists() else ""
    arguments = parse_cmdline(text)
    values = {name: arguments[PREFIX + name] for name in NAMES if PREFIX + name in arguments}
    return Source(values, lambda name: f"{PREFIX}{name} in {path}")


def _variable(name: str) -> str:
    return f"VETTING_{name.upper()}"


def _text(path: Path, name: str, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise BadBootParameter(f"{PREFIX}{name}: {flag} {path} cannot be read: {reason}") from None


def parse_env_file(text: str) -> dict[str, str]:
    """NAME=value lines; `#` comments, `export`, and one pair of quotes around a value are understood."""
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        variables[name.strip()] = value
    return variables


def parse_cmdline(text: str) -> dict[str, str]:
    """The assignments of a kernel command line. Quotes may stand around the value or around the whole assignment."""
    arguments = {}
    for word in re.findall(r'(?:"[^"]*"?|[^\s"])+', text):
        name, equals, value = word.replace('"', "").partition("=")
        if equals:
            arguments[name] = value
    return arguments


# --- the values -------------------------------------------------------------------------------------------------------


def _url(value: str) -> str:
    problem = "must be a http:// or https:// URL with a host, without user name, query and fragment"
    try:
        parts = urlsplit(value)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(problem) from None
    clean = value.isascii() and value.isprintable() and " " not in value
    bare = not (parts.query or parts.fragment or "@" in parts.netloc or value.endswith(("?", "#")))
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_good or not clean or not bare:
        raise ValueError(problem)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _run_id(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", value) or not 0 < int(value) <= MAX_RUN_ID:
        raise ValueError(f"must be a positive integer, not {value[:40]!r}")
    return int(value)


def fingerprints(value: str) -> tuple[str, ...]:
    """The fingerprints in a comma list, as lower-case hex. Raises ValueError."""
    parts = [part.strip().replace(":", "").lower() for part in value.split(",")]
    for part in parts:
        if not re.fullmatch(f"[0-9a-f]{{{FINGERPRINT_HEX_DIGITS}}}", part):
            raise ValueError(
                f"each fingerprint must be a SHA-256 of {FINGERPRINT_HEX_DIGITS} hex digits, not {part[:80]!r}"
            )
    return tuple(dict.fromkeys(parts))


def normalised_mac(value: str) -> str:
    """A MAC address in lower case with colons. Raises ValueError."""
    digits = value.strip().lower()
    # PXELINUX writes 01-aa-bb-..., the 01 being the hardware type Ethernet.
    if re.fullmatch(r"01(-[0-9a-f]{2}){6}", digits):
        digits = digits[3:]
    if not re.fullmatch(r"[0-9a-f]{2}([:-]?)[0-9a-f]{2}(\1[0-9a-f]{2}){4}", digits):
        raise ValueError(f"must be a MAC address such as 52:54:00:12:34:56, not {value[:40]!r}")
    plain = re.sub("[:-]", "", digits)
    return ":".join(plain[at : at + 2] for at in range(0, 12, 2))


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 1")
    return value
